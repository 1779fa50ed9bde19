"""Producers and a consumer of confluent-kafka (librdkafka) for ci/clients/cluster, which breaks the brokers meanwhile.

Arguments: bootstrap addresses, milliseconds between two records of a producer. Commands come line by line on standard input:

  begin TOPIC PARTITIONS ID    an idempotent producer with number ID, a plain one with ID + 1, a consumer of all partitions, a group of two members that commit
  end                          no new records; then `done` once all have an outcome and the consumer has read what was acknowledged, and what the group committed
  final TOPIC PARTITIONS       reads everything that is there: `L` and `F` lines, then `done`

What they were told goes to standard output in the lines that `ottla-sim judge` reads.
"""

import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from value import decode, encode

BOOTSTRAP, PACE_S = sys.argv[1], float(sys.argv[2]) / 1000
LIMIT_S = 60
# A connection that hangs is given up soon, and who leads is asked at once: as an operator would set it who wants short interruptions.
COMMON = {"bootstrap.servers": BOOTSTRAP, "log_level": 2, "socket.timeout.ms": 3000, "socket.connection.setup.timeout.ms": 1000, "reconnect.backoff.ms": 20,
          "reconnect.backoff.max.ms": 200, "retry.backoff.ms": 20, "retry.backoff.max.ms": 200, "topic.metadata.refresh.interval.ms": 1000,
          "topic.metadata.refresh.fast.interval.ms": 20, "broker.address.ttl": 100}
# None of these may be answered to a producer that numbers its batches and sends them in order.
IMPOSSIBLE = [KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, KafkaError.UNKNOWN_PRODUCER_ID, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError._FATAL]
lock = threading.Lock()


def now():
    return int(time.time() * 1000)


def say(line):
    with lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class Sender(threading.Thread):
    """Sends a record to one partition after the other, at its pace, until it is told to end."""

    def __init__(self, topic, partitions, number, idempotent, reached):
        super().__init__(daemon=True)
        self.topic, self.partitions, self.number, self.kind = topic, partitions, number, "i" if idempotent else "p"
        self.reached, self.ending, self.waiting = reached, False, 0
        self.producer = Producer({**COMMON, "acks": "all", "enable.idempotence": idempotent, "linger.ms": 0, "request.timeout.ms": 3000,
                                  "message.timeout.ms": 120000, "error_cb": self.error})
        self.start()

    def error(self, error):
        if error.fatal():
            say(f"B {now()} python producer {self.number}: {error}")

    def told(self, partition, at, error, message):
        self.waiting -= 1
        head = f"{now()} {partition} {self.number} {at} {self.kind}"
        if error is None:
            # Without an offset: the broker knew the batch, and no longer where it is.
            offset = -1 if message.offset() is None else message.offset()
            say(f"A {head} {offset}")
            with lock:
                self.reached[partition] = max(self.reached.get(partition, -1), offset)
            return
        if self.kind == "i" and error.code() in IMPOSSIBLE:
            say(f"B {now()} python producer {self.number} record {at}: {error.name()}")
        say(f"U {head} {error.name()}")

    def run(self):
        at, due = 0, time.monotonic()
        while not self.ending:
            partition = at % self.partitions
            self.waiting += 1
            self.producer.produce(self.topic, encode(self.number, at), partition=partition,
                                  on_delivery=lambda error, message, partition=partition, at=at: self.told(partition, at, error, message))
            at, due = at + 1, max(due + PACE_S, time.monotonic() - 1)
            # At least once, so that answers are taken however late it is.
            self.producer.poll(0)
            while (left := due - time.monotonic()) > 0:
                self.producer.poll(left)
        self.producer.flush(150)
        if self.waiting:
            say(f"B {now()} python producer {self.number}: {self.waiting} records have no outcome")


class Reader(threading.Thread):
    """Reads all partitions from the beginning, until it has all that was acknowledged once `goal` is known."""

    def __init__(self, topic, partitions):
        super().__init__(daemon=True)
        self.goal, self.wrong = None, ""
        self.consumer = Consumer({**COMMON, "group.id": f"none-{topic}", "enable.auto.commit": False, "auto.offset.reset": "error", "fetch.wait.max.ms": 100,
                                  "fetch.error.backoff.ms": 20, "enable.partition.eof": False})
        self.consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
        self.next = {p: 0 for p in range(partitions)}
        self.start()

    def missing(self):
        return {p: offset for p, offset in (self.goal or {}).items() if self.next[p] <= offset}

    def run(self):
        limit = None
        while self.goal is None or self.missing():
            limit = limit or (time.monotonic() + LIMIT_S if self.goal is not None else None)
            if limit and time.monotonic() > limit:
                say(f"B {now()} python consumer: acknowledged and not read within {LIMIT_S} s: {self.missing()}, it is at {self.next}")
                break
            for message in self.consumer.consume(500, 0.05):
                error = message.error()
                if error is None:
                    say(f"R {now()} {message.partition()} {message.offset()} {decode(message.value())}")
                    self.next[message.partition()] = message.offset() + 1
                elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE):
                    say(f"B {now()} python consumer, partition {message.partition()} at {self.next.get(message.partition())}: {error}")
        self.consumer.close()


class Member(threading.Thread):
    """A member of the consumer group of a topic: it reads what it is given, commits how far it got again and again, and asks what is committed."""

    tickets = 0

    def __init__(self, topic, partitions):
        super().__init__(daemon=True)
        self.topic, self.partitions, self.group, self.ending, self.read, self.due = topic, partitions, f"group-{topic}", False, {}, 0
        self.consumer = Consumer({**COMMON, "group.id": self.group, "enable.auto.commit": False, "auto.offset.reset": "earliest", "session.timeout.ms": 6000,
                                  "heartbeat.interval.ms": 500, "fetch.wait.max.ms": 100})
        self.consumer.subscribe([topic], on_revoke=self.revoked, on_lost=self.revoked)
        self.start()

    def revoked(self, _, partitions):
        for given in partitions:
            self.read.pop(given.partition, None)

    @classmethod
    def ticket(cls):
        with lock:
            cls.tickets += 1
            return cls.tickets

    def commit(self):
        tickets = {partition: (self.ticket(), offset) for partition, offset in self.read.items()}
        self.read = {}
        for partition, (ticket, offset) in tickets.items():
            say(f"G {now()} {partition} {self.group} {ticket} {offset}")
        try:
            answered = self.consumer.commit(offsets=[TopicPartition(self.topic, p, offset) for p, (_, offset) in tickets.items()], asynchronous=False)
        except KafkaException as e:
            # Whether it was done is not known.
            return say(f"X {now()} {e.args[0].name()}")
        for told in answered:
            if told.error is None:
                say(f"K {now()} {tickets[told.partition][0]}")
        return None

    def ask(self):
        """What is committed; whether all of it was told."""
        ticket = self.ticket()
        say(f"W {now()} {ticket}")
        try:
            answered = self.consumer.committed([TopicPartition(self.topic, p) for p in range(self.partitions)], timeout=3)
        except KafkaException:
            return False
        for told in answered:
            if told.error is None:
                say(f"O {now()} {told.partition} {self.group} {ticket} {max(told.offset, -1)}")
        return all(told.error is None for told in answered)

    def run(self):
        while not self.ending:
            message = self.consumer.poll(0.05)
            if message is not None and message.error() is None:
                self.read[message.partition()] = message.offset() + 1
            if time.monotonic() >= self.due:
                self.due = time.monotonic() + 0.1
                if self.read:
                    self.commit()
                self.ask()
        limit = time.monotonic() + LIMIT_S
        while not self.ask():
            if time.monotonic() > limit:
                say(f"B {now()} python group: what it committed is not told within {LIMIT_S} s")
                break
        self.consumer.close()


def final(topic, partitions):
    """Everything that is there, by a consumer of its own."""
    consumer = Consumer({**COMMON, "group.id": f"final-{topic}", "enable.auto.commit": False, "auto.offset.reset": "error", "enable.partition.eof": False})
    ends = {}
    for p in range(partitions):
        limit = time.monotonic() + LIMIT_S
        while p not in ends:
            try:
                ends[p] = consumer.get_watermark_offsets(TopicPartition(topic, p), 5)
            except KafkaException:
                if time.monotonic() > limit:
                    raise
    consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in ends.items()])
    left, limit = {p: high - low for p, (low, high) in ends.items()}, time.monotonic() + LIMIT_S
    lines = [f"L {p} {low} {high}" for p, (low, high) in ends.items()]
    while any(count > 0 for count in left.values()) and time.monotonic() < limit:
        for message in consumer.consume(5000, 0.1):
            if message.error() is None and message.offset() < ends[message.partition()][1]:
                left[message.partition()] -= 1
                lines.append(f"F {message.partition()} {message.offset()} {decode(message.value())}")
    consumer.close()
    say("\n".join(lines))


senders, reader, members, goals = [], None, [], {}
for line in sys.stdin:
    command, *arguments = line.split()
    if command == "begin":
        topic, partitions, number = arguments[0], int(arguments[1]), int(arguments[2])
        goals = {}
        senders = [Sender(topic, partitions, number, True, goals), Sender(topic, partitions, number + 1, False, goals)]
        reader = Reader(topic, partitions)
        members = [Member(topic, partitions) for _ in range(2)]
    elif command == "end":
        for one in [*senders, *members]:
            one.ending = True
        for one in [*senders, *members]:
            one.join()
        reader.goal = goals
        reader.join()
        say("done")
    elif command == "final":
        final(arguments[0], int(arguments[1]))
        say("done")
