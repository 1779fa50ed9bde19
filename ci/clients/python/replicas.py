"""Single steps of confluent-kafka (librdkafka) for ci/clients/replication. What each did is printed as one line of JSON.

  produce BOOTSTRAP TOPIC PARTITION COUNT BYTES ACKS   so many records of so many bytes: how many were acknowledged, and the errors
  read BOOTSTRAP TOPIC PARTITION [RACK]                from the beginning to the end: how many records, and how many bytes came from each broker
"""

import json
import sys
import time

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

LIMIT_S = 60


def produce(bootstrap, topic, partition, count, size, acks):
    errors, acked = {}, 0
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 2, "acks": acks, "linger.ms": 5, "message.timeout.ms": LIMIT_S * 1000, "topic.metadata.refresh.fast.interval.ms": 50})

    def told(error, _):
        nonlocal acked
        if error is None:
            acked += 1
        else:
            errors[error.name()] = errors.get(error.name(), 0) + 1

    for number in range(int(count)):
        producer.produce(topic, (b"%08d" % number).ljust(int(size), b"x"), partition=int(partition), on_delivery=told)
        producer.poll(0)
    left = producer.flush(LIMIT_S)
    return {"acked": acked, "errors": errors, "left": left}


def read(bootstrap, topic, partition, rack=""):
    received, records, ended = {}, 0, False

    def statistics(text):
        for broker in json.loads(text)["brokers"].values():
            if broker["nodeid"] > 0:
                received[broker["nodeid"]] = max(received.get(broker["nodeid"], 0), broker["rxbytes"])

    consumer = Consumer({"bootstrap.servers": bootstrap, "log_level": 2, "group.id": "none", "client.rack": rack, "enable.auto.commit": False, "enable.partition.eof": True,
                         "statistics.interval.ms": 100, "stats_cb": statistics, "fetch.message.max.bytes": 65536, "queued.max.messages.kbytes": 256})
    consumer.assign([TopicPartition(topic, int(partition), 0)])
    limit = time.monotonic() + LIMIT_S
    # One more look at the statistics after the last record.
    after = None
    while after is None or time.monotonic() < after:
        if time.monotonic() > limit:
            raise SystemExit(f"not at the end within {LIMIT_S} s, after {records} records; {received}")
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            records += 1
        elif message is not None and message.error().code() == KafkaError._PARTITION_EOF:
            ended = True
        if ended and after is None:
            after = time.monotonic() + 0.5
    consumer.close()
    return {"records": records, "received": received}


print(json.dumps({"produce": produce, "read": read}[sys.argv[1]](*sys.argv[2:])))
