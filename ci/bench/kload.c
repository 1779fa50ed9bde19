// kload: one small client for any broker that speaks Kafka's protocol, over librdkafka. It prints one line of JSON.
// `ci/bench/brokers.py` builds it and runs it against Ottla and Apache Kafka in turn.
//
//   kload create  -b HOSTS -t TOPIC [-p PARTITIONS] [-R FACTOR] [-X topic.setting=value …]   until every partition has all its replicas
//   kload delete  -b HOSTS -t TOPIC
//   kload produce -b HOSTS -t TOPIC -n COUNT -s BYTES [-X client.setting=value …]            counts every delivery report
//   kload consume -b HOSTS -t TOPIC -n COUNT                                                 all partitions from the beginning, no group
//   kload latency -b HOSTS -t TOPIC -s BYTES -r RATE -d SECONDS [-w WARM_UP]                 end to end, from when each send was due
//   kload ready   -b HOSTS -t TOPIC [-R FACTOR] [-T LIMIT_S]                                 when a produce was first acknowledged, ns since 1970
#include "client.h"
#include <pthread.h>
#include <sys/prctl.h>

enum { POOL_BYTES = 4 << 20, BATCH = 10000 };

static const char *topic;
static long count = 1000000, value_bytes = 1024, rate = 1000, seconds = 10, warm_up_s = 2, limit_s = 60;
static int partitions = 1, factor = 1;
static volatile long acked, failed, consumed;
static char *pool;

static void on_delivery(rd_kafka_t *client, const rd_kafka_message_t *message, void *opaque) {
  (void)client, (void)opaque;
  if (!message->err) {
    acked++;
    return;
  }
  failed++;
  snprintf(last_error, sizeof last_error, "%s", rd_kafka_err2str(message->err));
}

static int partition_count(rd_kafka_t *client, int wanted_replicas) {
  const struct rd_kafka_metadata *metadata;
  rd_kafka_topic_t *handle = rd_kafka_topic_new(client, topic, NULL);
  int found = -1;
  if (!rd_kafka_metadata(client, 0, handle, &metadata, 5000)) {
    if (metadata->topic_cnt == 1) {
      found = metadata->topics[0].partition_cnt;
      for (int p = 0; p < metadata->topics[0].partition_cnt; p++) {
        const struct rd_kafka_metadata_partition *one = &metadata->topics[0].partitions[p];
        if (one->leader < 0 || one->isr_cnt < wanted_replicas) found = -1;
      }
    }
    rd_kafka_metadata_destroy(metadata);
  }
  rd_kafka_topic_destroy(handle);
  return found;
}

// Creates or deletes the topic; 0 if it was done.
static int administer(int is_creation, int is_quiet) {
  char why[512];
  size_t result_count;
  const rd_kafka_topic_result_t **results;
  rd_kafka_t *client = client_of(RD_KAFKA_PRODUCER, NULL, 0);
  rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
  rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_ANY);
  rd_kafka_AdminOptions_set_request_timeout(options, 20000, why, sizeof why);
  if (is_creation) {
    rd_kafka_NewTopic_t *new_topic = rd_kafka_NewTopic_new(topic, partitions, factor, why, sizeof why);
    if (!new_topic) die(why);
    for (int i = 0; i < setting_count; i++) rd_kafka_NewTopic_set_config(new_topic, keys[i], values[i]);
    rd_kafka_CreateTopics(client, &new_topic, 1, options, queue);
  } else {
    rd_kafka_DeleteTopic_t *old_topic = rd_kafka_DeleteTopic_new(topic);
    rd_kafka_DeleteTopics(client, &old_topic, 1, options, queue);
  }
  rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 30000);
  if (!event || rd_kafka_event_error(event)) {
    if (!is_quiet) fprintf(stderr, "kload: %s\n", event ? rd_kafka_event_error_string(event) : "no answer");
    return 1;
  }
  results = is_creation ? rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &result_count)
                        : rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &result_count);
  for (size_t i = 0; i < result_count; i++) {
    rd_kafka_resp_err_t error = rd_kafka_topic_result_error(results[i]);
    if (!error || error == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) continue;
    if (!is_quiet) fprintf(stderr, "kload: %s: %s\n", topic, rd_kafka_err2str(error));
    return 1;
  }
  for (int i = 0; is_creation && i < 400 && partition_count(client, factor) != partitions; i++) usleep(25000);
  return 0;
}

// Half random, half a constant, in runs of 32 bytes: lz4 makes about half of it.
static void fill_pool(void) {
  uint64_t state = 0x9E3779B97F4A7C15ull;
  pool = malloc(POOL_BYTES + (1 << 20));
  for (long i = 0; i < POOL_BYTES + (1 << 20); i += 32) {
    if ((i / 32) & 1) {
      memcpy(pool + i, "the quick brown fox jumps over t", 32);
      continue;
    }
    for (int j = 0; j < 32; j += 8) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      memcpy(pool + i + j, &state, 8);
    }
  }
}

static int produce(void) {
  rd_kafka_t *client = client_of(RD_KAFKA_PRODUCER, on_delivery, 1);
  rd_kafka_topic_t *handle = rd_kafka_topic_new(client, topic, NULL);
  fill_pool();
  if (partition_count(client, 0) < 1) die("no metadata of the topic");
  double cpu_before = cpu_s();
  int64_t began = now_ns(), deadline;
  for (long i = 0, offset = 0; i < count; i++) {
    offset = (offset + value_bytes + 64) & (POOL_BYTES - 1) & ~31L;
    while (rd_kafka_produce(handle, RD_KAFKA_PARTITION_UA, 0, pool + offset, value_bytes, NULL, 0, NULL) == -1) {
      if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
        failed++;
        break;
      }
      rd_kafka_poll(client, 5);
    }
    if ((i & 1023) == 0) rd_kafka_poll(client, 0);
  }
  deadline = now_ns() + 120000000000LL;
  while (acked + failed < count && now_ns() < deadline) rd_kafka_poll(client, 10);
  printf("{\"messages\": %ld, \"bytes\": %ld, \"elapsed_s\": %.4f, \"failed\": %ld, \"client_cpu_s\": %.3f, \"error\": \"%s\"}\n", acked, acked * value_bytes,
         (now_ns() - began) / 1e9, count - acked, cpu_s() - cpu_before, acked < count ? last_error : "");
  fflush(stdout);
  _exit(acked == count ? 0 : 1);
}

static rd_kafka_t *consumer_of_all(int64_t start) {
  rd_kafka_t *client = client_of(RD_KAFKA_CONSUMER, NULL, 0);
  rd_kafka_poll_set_consumer(client);
  int found = partition_count(client, 0);
  if (found < 1) die("no metadata of the topic");
  rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(found);
  for (int p = 0; p < found; p++) rd_kafka_topic_partition_list_add(all, topic, p)->offset = start;
  rd_kafka_assign(client, all);
  return client;
}

static int consume(void) {
  static rd_kafka_message_t *messages[BATCH];
  double cpu_before = cpu_s();
  int64_t began = now_ns(), last = began;
  rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(consumer_of_all(RD_KAFKA_OFFSET_BEGINNING));
  long bytes = 0;
  while (consumed < count && now_ns() - last < 20000000000LL) {
    ssize_t got = rd_kafka_consume_batch_queue(queue, 200, messages, BATCH);
    for (ssize_t i = 0; i < got; i++) {
      if (messages[i]->err) {
        failed++;
        snprintf(last_error, sizeof last_error, "%s", rd_kafka_message_errstr(messages[i]));
      } else {
        consumed++;
        bytes += messages[i]->len;
      }
      rd_kafka_message_destroy(messages[i]);
    }
    if (got > 0) last = now_ns();
  }
  printf("{\"messages\": %ld, \"bytes\": %ld, \"elapsed_s\": %.4f, \"failed\": %ld, \"client_cpu_s\": %.3f, \"error\": \"%s\"}\n", consumed, bytes, (last - began) / 1e9,
         failed, cpu_s() - cpu_before, last_error);
  fflush(stdout);
  _exit(consumed >= count && !failed ? 0 : 1);
}

static int64_t *latencies, measure_from;
static long latency_count, wanted;
static volatile int is_over;

static void *receive(void *consumer) {
  while (!is_over && consumed < wanted) {
    rd_kafka_message_t *message = rd_kafka_consumer_poll(consumer, 100);
    if (!message) continue;
    int64_t now = now_ns(), due;
    if (!message->err && message->len >= 8) {
      memcpy(&due, message->payload, 8);
      consumed++;
      if (due >= measure_from) latencies[latency_count++] = now - due;
    }
    rd_kafka_message_destroy(message);
  }
  return NULL;
}

static int compare(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static double at(double share) { return latency_count ? latencies[(long)((latency_count - 1) * share)] / 1e6 : -1; }

static int latency(void) {
  prctl(PR_SET_TIMERSLACK, 1000UL);
  fill_pool();
  rd_kafka_t *consumer = consumer_of_all(RD_KAFKA_OFFSET_END), *client = client_of(RD_KAFKA_PRODUCER, on_delivery, 1);
  rd_kafka_topic_t *handle = rd_kafka_topic_new(client, topic, NULL);
  int found = partition_count(client, 0);
  if (found < 1) die("no metadata of the topic");
  wanted = rate * (seconds + warm_up_s);
  latencies = malloc(sizeof *latencies * (wanted + 1));
  measure_from = INT64_MAX;
  pthread_t receiver;
  pthread_create(&receiver, NULL, receive, consumer);
  sleep(2); // The consumer's first fetches are under way then.
  double cpu_before = cpu_s();
  int64_t began = now_ns(), gap = 1000000000LL / rate, deadline;
  measure_from = began + warm_up_s * 1000000000LL;
  char *value = malloc(value_bytes);
  for (long i = 0; i < wanted; i++) {
    int64_t due = began + i * gap;
    struct timespec until = {due / 1000000000LL, due % 1000000000LL};
    if (now_ns() < due) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    memcpy(value, pool + ((i * 1088) & (POOL_BYTES - 1)), value_bytes);
    memcpy(value, &due, 8);
    while (rd_kafka_produce(handle, i % found, RD_KAFKA_MSG_F_COPY, value, value_bytes, NULL, 0, NULL) == -1) {
      if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
        failed++;
        break;
      }
      rd_kafka_poll(client, 1);
    }
    rd_kafka_poll(client, 0);
  }
  deadline = now_ns() + 15000000000LL;
  while ((acked + failed < wanted || consumed < wanted) && now_ns() < deadline) rd_kafka_poll(client, 10);
  double elapsed = (now_ns() - began) / 1e9;
  is_over = 1;
  pthread_join(receiver, NULL);
  qsort(latencies, latency_count, sizeof *latencies, compare);
  printf("{\"messages\": %ld, \"bytes\": %ld, \"elapsed_s\": %.4f, \"failed\": %ld, \"client_cpu_s\": %.3f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f, "
         "\"max_ms\": %.3f, \"error\": \"%s\"}\n",
         (long)consumed, consumed * value_bytes, elapsed, wanted - consumed, cpu_s() - cpu_before, at(0.5), at(0.99), at(0.999), at(1), last_error);
  fflush(stdout);
  _exit(consumed >= wanted ? 0 : 1);
}

static int ready(void) {
  static char *const impatient[][2] = {{"reconnect.backoff.ms", "5"}, {"reconnect.backoff.max.ms", "20"}, {"retry.backoff.ms", "10"}, {"linger.ms", "0"},
                                       {"topic.metadata.refresh.fast.interval.ms", "10"}, {"topic.metadata.propagation.max.ms", "60000"}};
  int64_t deadline = now_ns() + limit_s * 1000000000LL, produced = 0;
  while (now_ns() < deadline && administer(1, 1)) usleep(5000);
  setting_count = 0;
  for (size_t i = 0; i < sizeof impatient / sizeof *impatient; i++) keys[setting_count] = impatient[i][0], values[setting_count++] = impatient[i][1];
  rd_kafka_t *client = client_of(RD_KAFKA_PRODUCER, on_delivery, 1);
  rd_kafka_topic_t *handle = rd_kafka_topic_new(client, topic, NULL);
  rd_kafka_produce(handle, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, "x", 1, NULL, 0, NULL);
  while (now_ns() < deadline && !acked && !failed) rd_kafka_poll(client, 5);
  if (acked) produced = clock_ns(CLOCK_REALTIME);
  printf("{\"produced_ns\": %ld, \"error\": \"%s\"}\n", (long)produced, produced ? "" : last_error);
  fflush(stdout);
  _exit(produced ? 0 : 1);
}

int main(int argument_count, char **arguments) {
  static const struct {
    const char *name;
    int (*run)(void);
  } commands[] = {{"produce", produce}, {"consume", consume}, {"latency", latency}, {"ready", ready}};
  int option;
  if (argument_count < 2) die("create, delete, produce, consume, latency or ready?");
  optind = 2;
  while ((option = getopt(argument_count, arguments, "b:t:n:s:r:d:w:p:R:T:X:")) != -1) {
    switch (option) {
      case 'b': hosts = optarg; break;
      case 't': topic = optarg; break;
      case 'n': count = atol(optarg); break;
      case 's': value_bytes = atol(optarg); break;
      case 'r': rate = atol(optarg); break;
      case 'd': seconds = atol(optarg); break;
      case 'w': warm_up_s = atol(optarg); break;
      case 'p': partitions = atoi(optarg); break;
      case 'R': factor = atoi(optarg); break;
      case 'T': limit_s = atol(optarg); break;
      case 'X': add_setting(optarg); break;
      default: die("no such option");
    }
  }
  if (!hosts || !topic) die("-b and -t are needed");
  if (!strcmp(arguments[1], "create")) return administer(1, 0);
  if (!strcmp(arguments[1], "delete")) return administer(0, 0);
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
    if (!strcmp(arguments[1], commands[i].name)) return commands[i].run();
  die("create, delete, produce, consume, latency or ready?");
}
