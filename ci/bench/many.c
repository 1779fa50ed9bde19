// many: a client for very many partitions, over librdkafka. It prints one line of JSON. `ci/bench/partitions.py` builds it and runs it.
//
//   many create -b HOSTS -n TOPICS -p PARTITIONS -R FACTOR     topics 'many-0'…; until every partition has a leader and all its replicas in sync
//   many list   -b HOSTS -n TIMES                              the whole cluster's metadata, so many times
//   many spread -b HOSTS -n TOPICS -p PARTITIONS -s BYTES -r RATE -d SECONDS [-k PID] [-X client.setting=value …]
//        records at RATE a second to all partitions in turn, a record each, acks=all; times count from when each was due. With -k the process PID is killed (-9)
//        after the first second, and the times of records due from then on are counted: a partition without a leader shows in them.
#include "client.h"
#include <signal.h>
#include <sys/prctl.h>

static long topics = 1000, value_bytes = 100, rate = 1000, seconds = 10;
static int partitions = 10, factor = 3;
static pid_t victim;
static int64_t *due_at, *took;
static volatile long acked, failed;

static void on_delivery(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
  (void)client, (void)opaque;
  long i = (long)(intptr_t)message->_private;
  if (message->err) {
    failed++;
    snprintf(last_error, sizeof last_error, "%s", rd_kafka_err2str(message->err));
    return;
  }
  acked++;
  took[i] = now_ns() - due_at[i];
}

static const char *name_of(long i) {
  static char name[32];
  snprintf(name, sizeof name, "many-%ld", i);
  return name;
}

// How many partitions of all topics have a leader and all their replicas in sync; -1 without an answer.
static int broker_count;

static long whole(rd_kafka_t *client, int64_t *elapsed) {
  const struct rd_kafka_metadata *metadata;
  int64_t began = now_ns();
  long found = 0;
  if (rd_kafka_metadata(client, 1, NULL, &metadata, 60000)) return -1;
  *elapsed = now_ns() - began;
  for (int t = 0; t < metadata->topic_cnt; t++)
    for (int p = 0; p < metadata->topics[t].partition_cnt; p++) {
      const struct rd_kafka_metadata_partition *one = &metadata->topics[t].partitions[p];
      found += strncmp(metadata->topics[t].topic, "many-", 5) == 0 && one->leader >= 0 && one->isr_cnt >= factor;
    }
  broker_count = metadata->broker_cnt;
  rd_kafka_metadata_destroy(metadata);
  return found;
}

static int create(void) {
  enum { AT_ONCE = 50 };
  char why[512];
  rd_kafka_NewTopic_t *batch[AT_ONCE];
  rd_kafka_t *client = client_of(RD_KAFKA_PRODUCER, NULL, 0);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
  rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_ANY);
  rd_kafka_AdminOptions_set_request_timeout(options, 120000, why, sizeof why);
  long refused = 0, found = 0;
  int64_t began = now_ns(), answered, elapsed, deadline;
  for (long t = 0; t < topics;) {
    size_t size = 0, result_count;
    for (; size < AT_ONCE && t < topics; t++) batch[size++] = rd_kafka_NewTopic_new(name_of(t), partitions, factor, why, sizeof why);
    rd_kafka_CreateTopics(client, batch, size, options, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 120000);
    if (!event || rd_kafka_event_error(event)) die(event ? rd_kafka_event_error_string(event) : "no answer");
    const rd_kafka_topic_result_t **results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &result_count);
    for (size_t i = 0; i < result_count; i++) {
      if (!rd_kafka_topic_result_error(results[i])) continue;
      refused++;
      snprintf(last_error, sizeof last_error, "%s", rd_kafka_err2str(rd_kafka_topic_result_error(results[i])));
    }
    rd_kafka_NewTopic_destroy_array(batch, size);
    rd_kafka_event_destroy(event);
  }
  answered = now_ns() - began;
  deadline = now_ns() + 120000000000LL;
  while ((found = whole(client, &elapsed)) < topics * partitions && !refused && now_ns() < deadline) usleep(20000);
  printf("{\"answered_s\": %.3f, \"whole_s\": %.3f, \"partitions\": %ld, \"refused\": %ld, \"error\": \"%s\"}\n", answered / 1e9, (now_ns() - began) / 1e9, found, refused, last_error);
  fflush(stdout);
  _exit(found == topics * partitions ? 0 : 1);
}

static int compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static int list(void) {
  rd_kafka_t *client = client_of(RD_KAFKA_PRODUCER, NULL, 0);
  int64_t *times = calloc(topics, sizeof *times);
  long found = 0;
  for (long i = 0; i < topics; i++) found = whole(client, &times[i]);
  qsort(times, topics, sizeof *times, compare);
  printf("{\"brokers\": %d, \"partitions\": %ld, \"median_ms\": %.2f, \"worst_ms\": %.2f}\n", broker_count, found, times[topics / 2] / 1e6, times[topics - 1] / 1e6);
  fflush(stdout);
  _exit(0);
}

static int spread(void) {
  prctl(PR_SET_TIMERSLACK, 1000UL);
  rd_kafka_t *client = client_of(RD_KAFKA_PRODUCER, on_delivery, 1);
  rd_kafka_topic_t **handles = calloc(topics, sizeof *handles);
  long wanted = rate * seconds, counted_from = victim ? rate : 0, counted = 0;
  int64_t elapsed;
  for (long t = 0; t < topics; t++) handles[t] = rd_kafka_topic_new(client, name_of(t), NULL);
  if (whole(client, &elapsed) < 0) die("no metadata");
  due_at = calloc(wanted, sizeof *due_at), took = calloc(wanted, sizeof *took);
  char *value = calloc(1, value_bytes);
  double cpu_before = cpu_s();
  int64_t began = now_ns(), gap = 1000000000LL / rate, deadline;
  for (long i = 0; i < wanted; i++) {
    due_at[i] = began + i * gap;
    struct timespec until = {due_at[i] / 1000000000LL, due_at[i] % 1000000000LL};
    if (now_ns() < due_at[i]) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    if (victim && i == rate) kill(victim, SIGKILL);
    while (rd_kafka_produce(handles[i % topics], (i / topics) % partitions, RD_KAFKA_MSG_F_COPY, value, value_bytes, NULL, 0, (void *)(intptr_t)i) == -1) {
      if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
        failed++;
        snprintf(last_error, sizeof last_error, "%s", rd_kafka_err2str(rd_kafka_last_error()));
        break;
      }
      rd_kafka_poll(client, 1);
    }
    rd_kafka_poll(client, 0);
  }
  deadline = now_ns() + 60000000000LL;
  while (acked + failed < wanted && now_ns() < deadline) rd_kafka_poll(client, 10);
  double elapsed_s = (now_ns() - began) / 1e9;
  for (long i = counted_from; i < wanted; i++)
    if (took[i]) took[counted++] = took[i];
  qsort(took, counted, sizeof *took, compare);
#define AT(share) (counted ? took[(long)((counted - 1) * (share))] / 1e6 : -1)
  printf("{\"messages\": %ld, \"bytes\": %ld, \"elapsed_s\": %.3f, \"failed\": %ld, \"client_cpu_s\": %.2f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"error\": \"%s\"}\n", (long)acked,
         acked * value_bytes, elapsed_s, wanted - acked, cpu_s() - cpu_before, AT(0.5), AT(0.99), AT(1), acked < wanted ? last_error : "");
  fflush(stdout);
  _exit(acked == wanted ? 0 : 1);
}

int main(int argument_count, char **arguments) {
  int option;
  if (argument_count < 2) die("create, list or spread?");
  optind = 2;
  while ((option = getopt(argument_count, arguments, "b:n:s:r:d:p:R:k:X:")) != -1) {
    switch (option) {
      case 'b': hosts = optarg; break;
      case 'n': topics = atol(optarg); break;
      case 's': value_bytes = atol(optarg); break;
      case 'r': rate = atol(optarg); break;
      case 'd': seconds = atol(optarg); break;
      case 'p': partitions = atoi(optarg); break;
      case 'R': factor = atoi(optarg); break;
      case 'k': victim = atoi(optarg); break;
      case 'X': add_setting(optarg); break;
      default: die("no such option");
    }
  }
  if (!hosts) die("-b is needed");
  if (!strcmp(arguments[1], "create")) return create();
  if (!strcmp(arguments[1], "list")) return list();
  if (!strcmp(arguments[1], "spread")) return spread();
  die("create, list or spread?");
}
