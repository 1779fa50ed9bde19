// What the clients of the benchmarks share: clocks, settings, a client of librdkafka.
#define _GNU_SOURCE
#include <librdkafka/rdkafka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { SETTINGS_MAX = 32 };

static const char *hosts;
static int setting_count;
static char *keys[SETTINGS_MAX], *values[SETTINGS_MAX];
static char last_error[512];

static void die(const char *why) {
  fprintf(stderr, "%s\n", why);
  exit(1);
}

// An argument of -X.
static void add_setting(char *setting) {
  char *equals = strchr(setting, '=');
  if (!equals || setting_count == SETTINGS_MAX) die("-X setting=value");
  *equals = 0;
  keys[setting_count] = setting, values[setting_count++] = equals + 1;
}

static int64_t clock_ns(clockid_t which) {
  struct timespec t;
  clock_gettime(which, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static double cpu_s(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void on_log(const rd_kafka_t *client, int level, const char *facility, const char *text) {
  (void)client;
  if (level <= 3 && !strstr(facility, "FAIL")) fprintf(stderr, "%s: %s\n", facility, text);
}

static void on_error(rd_kafka_t *client, int error, const char *reason, void *opaque) {
  (void)client, (void)error, (void)opaque;
  snprintf(last_error, sizeof last_error, "%s", reason);
}

static void configure(rd_kafka_conf_t *conf, const char *key, const char *value) {
  char why[512];
  if (rd_kafka_conf_set(conf, key, value, why, sizeof why) != RD_KAFKA_CONF_OK) die(why);
}

typedef void (*delivered_t)(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque);

// Settings given by -X are the producer's: a consumer's are fixed.
static rd_kafka_t *client_of(rd_kafka_type_t type, delivered_t delivered, int with_settings) {
  char why[512];
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  configure(conf, "bootstrap.servers", hosts);
  configure(conf, "client.id", "kload");
  rd_kafka_conf_set_log_cb(conf, on_log);
  rd_kafka_conf_set_error_cb(conf, on_error);
  if (type == RD_KAFKA_PRODUCER) {
    configure(conf, "queue.buffering.max.messages", "1000000");
    configure(conf, "queue.buffering.max.kbytes", "262144");
    if (delivered) rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    for (int i = 0; with_settings && i < setting_count; i++) configure(conf, keys[i], values[i]);
  } else {
    configure(conf, "group.id", "kload");
    configure(conf, "enable.auto.commit", "false");
    configure(conf, "queued.min.messages", "200000");
    configure(conf, "queued.max.messages.kbytes", "65536");
  }
  rd_kafka_t *client = rd_kafka_new(type, conf, why, sizeof why);
  if (!client) die(why);
  return client;
}
