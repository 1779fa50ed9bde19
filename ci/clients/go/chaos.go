package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Producers and a consumer of franz-go for ci/clients/cluster, which breaks the brokers meanwhile. Arguments (after the word chaos) and commands are those of
// ci/clients/python/chaos.py, without `final`.

const (
	chaosLimit     = 60 * time.Second
	valueMaxBytes  = 64
	valueHeadBytes = 12
)

var sayLock sync.Mutex

func say(format string, args ...any) {
	sayLock.Lock()
	defer sayLock.Unlock()
	fmt.Printf(format+"\n", args...)
}

func nowMs() int64 { return time.Now().UnixMilli() }

func valueSeed(producer, number uint32) uint64 {
	mixed := (uint64(producer)<<32 | uint64(number)) + 0x9e3779b97f4a7c15
	mixed = (mixed ^ mixed>>30) * 0xbf58476d1ce4e5b9
	mixed = (mixed ^ mixed>>27) * 0x94d049bb133111eb
	return mixed ^ mixed>>31
}

// encodeValue makes the record's bytes, as sim/src/broker/value.rs has them.
func encodeValue(producer, number uint32) []byte {
	seed := valueSeed(producer, number)
	length := valueHeadBytes + int(seed%valueMaxBytes)
	value := make([]byte, length)
	binary.BigEndian.PutUint32(value, producer)
	binary.BigEndian.PutUint32(value[4:], number)
	binary.BigEndian.PutUint32(value[8:], uint32(length))
	for at := valueHeadBytes; at < length; at++ {
		value[at] = byte(bits.RotateLeft64(seed, at%61)>>7) ^ byte(at)
	}
	return value
}

func decodeValue(value []byte) string {
	if len(value) < valueHeadBytes {
		return "?"
	}
	producer, number := binary.BigEndian.Uint32(value), binary.BigEndian.Uint32(value[4:])
	if string(encodeValue(producer, number)) != string(value) {
		return "?"
	}
	return fmt.Sprintf("%d %d", producer, number)
}

// load is the clients of one case.
type load struct {
	bootstrap  []string
	pace       time.Duration
	topic      string
	partitions int
	ending     atomic.Bool
	senders    sync.WaitGroup
	reader     sync.WaitGroup
	lock       sync.Mutex
	goals      map[int32]int64
	readToEnd  atomic.Bool
}

// common: a connection that hangs is given up soon, and who leads is asked at once, as an operator would set it who wants short interruptions.
func (l *load) common() []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(l.bootstrap...), kgo.DialTimeout(time.Second), kgo.RequestTimeoutOverhead(3 * time.Second), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }),
		kgo.MetadataMinAge(20 * time.Millisecond), kgo.MetadataMaxAge(time.Second), kgo.RetryTimeout(120 * time.Second), kgo.RequestRetries(1_000_000),
	}
}

func (l *load) send(number uint32, idempotent bool) {
	defer l.senders.Done()
	kind := "p"
	opts := append(l.common(), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProduceRequestTimeout(3*time.Second),
		kgo.RecordDeliveryTimeout(120*time.Second), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(100_000))
	if idempotent {
		kind = "i"
		opts = append(opts, kgo.ProducerOnDataLossDetected(func(topic string, partition int32) {
			say("B %d go producer %d: records before the next one of partition %d are lost", nowMs(), number, partition)
		}))
	} else {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		say("B %d go producer %d: %v", nowMs(), number, err)
		return
	}
	defer client.Close()
	due := time.Now()
	var outcomes sync.WaitGroup
	for at := 0; !l.ending.Load(); at++ {
		partition := int32(at % l.partitions)
		outcomes.Add(1)
		client.Produce(context.Background(), &kgo.Record{Topic: l.topic, Partition: partition, Value: encodeValue(number, uint32(at))}, func(record *kgo.Record, err error) {
			defer outcomes.Done()
			if err == nil {
				say("A %d %d %d %d %s %d", nowMs(), partition, number, at, kind, record.Offset)
				l.lock.Lock()
				l.goals[partition] = max(l.goals[partition], record.Offset)
				l.lock.Unlock()
				return
			}
			if idempotent && (errors.Is(err, kerr.OutOfOrderSequenceNumber) || errors.Is(err, kerr.UnknownProducerID) || errors.Is(err, kerr.InvalidProducerEpoch)) {
				say("B %d go producer %d record %d: %v", nowMs(), number, at, err)
			}
			say("U %d %d %d %d %s %s", nowMs(), partition, number, at, kind, strings.ReplaceAll(err.Error(), " ", "_"))
		})
		due = due.Add(l.pace)
		if late := time.Now().Add(-time.Second); due.Before(late) {
			due = late
		}
		time.Sleep(time.Until(due))
	}
	outcomes.Wait()
}

func (l *load) missing(next map[int32]int64) bool {
	l.lock.Lock()
	defer l.lock.Unlock()
	for partition, goal := range l.goals {
		if next[partition] <= goal {
			return true
		}
	}
	return false
}

func (l *load) read() {
	defer l.reader.Done()
	from := map[int32]kgo.Offset{}
	for p := range l.partitions {
		from[int32(p)] = kgo.NewOffset().At(0)
	}
	client, err := kgo.NewClient(append(l.common(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.topic: from}), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxWait(100*time.Millisecond))...)
	if err != nil {
		say("B %d go consumer: %v", nowMs(), err)
		return
	}
	defer client.Close()
	next, limit := map[int32]int64{}, time.Time{}
	for !l.readToEnd.Load() || l.missing(next) {
		if l.readToEnd.Load() && limit.IsZero() {
			limit = time.Now().Add(chaosLimit)
		}
		if !limit.IsZero() && time.Now().After(limit) {
			say("B %d go consumer: acknowledged up to %v and not read within %v: it is at %v", nowMs(), l.goals, chaosLimit, next)
			return
		}
		within, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		fetches := client.PollFetches(within)
		cancel()
		fetches.EachError(func(_ string, partition int32, err error) {
			var loss *kgo.ErrDataLoss
			if errors.As(err, &loss) || errors.Is(err, kerr.OffsetOutOfRange) {
				say("B %d go consumer, partition %d at %d: %v", nowMs(), partition, next[partition], err)
			}
		})
		fetches.EachRecord(func(record *kgo.Record) {
			say("R %d %d %d %s", nowMs(), record.Partition, record.Offset, decodeValue(record.Value))
			next[record.Partition] = record.Offset + 1
		})
	}
}

func chaos(bootstrap, paceMs string) {
	pace, err := strconv.Atoi(paceMs)
	must(err)
	var l *load
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		words := strings.Fields(commands.Text())
		switch words[0] {
		case "begin":
			partitions, number := get(strconv.Atoi(words[2])), get(strconv.Atoi(words[3]))
			l = &load{bootstrap: strings.Split(bootstrap, ","), pace: time.Duration(pace) * time.Millisecond, topic: words[1], partitions: partitions, goals: map[int32]int64{}}
			l.senders.Add(2)
			go l.send(uint32(number), true)
			go l.send(uint32(number)+1, false)
			l.reader.Add(1)
			go l.read()
		case "end":
			l.ending.Store(true)
			l.senders.Wait()
			l.readToEnd.Store(true)
			l.reader.Wait()
			say("done")
		}
	}
}
