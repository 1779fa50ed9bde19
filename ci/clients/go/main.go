// The matrix of franz-go: one JSON line per case on standard output, logs on standard error.
//
// Arguments: bootstrap address, prefix of topics and groups, and optionally a pattern of the cases to run.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"regexp"
	"runtime/debug"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const limit = 30 * time.Second

// Yesterday: retention by time must not delete what a case has just written.
var baseTimestamp = time.Now().UnixMilli() - 86_400_000

var (
	bootstrap, prefix string
	only              *regexp.Regexp
	failed            bool
	admin             *kadm.Client
	version           = "?"
)

func main() {
	if os.Args[1] == "chaos" {
		chaos(os.Args[2], os.Args[3])
		return
	}
	if os.Args[1] == "create" {
		create(os.Args[2], os.Args[3], os.Args[4])
		return
	}
	bootstrap, prefix = os.Args[1], os.Args[2]
	only = regexp.MustCompile(strings.Join(os.Args[3:], ""))
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "github.com/twmb/franz-go" {
				version = d.Version
			}
		}
	}
	admin = kadm.NewClient(client())
	adminCases()
	for _, codec := range codecs {
		for _, acks := range []string{"0", "1", "all"} {
			check(fmt.Sprintf("produce/%s/plain/acks=%s", codec.name, acks), func() { produce(codec, acks, false) })
		}
		check(fmt.Sprintf("produce/%s/idempotent/acks=all", codec.name), func() { produce(codec, "all", true) })
	}
	for _, codec := range codecs {
		check("produce/"+codec.name+"/large", func() { large(codec) })
	}
	check("produce/too-large", tooLarge)
	check("produce/many-batches-in-flight", manyInFlight)
	check("consume/seek", seek)
	groupCases()
	if failed {
		os.Exit(1)
	}
}

// check runs one case; it fails by a panic.
func check(name string, body func()) {
	if !only.MatchString(name) {
		return
	}
	from, detail := time.Now(), ""
	func() {
		defer func() {
			if e := recover(); e != nil {
				detail = fmt.Sprint(e)
				if detail == "" {
					detail = "panic"
				}
				for _, line := range strings.Split(string(debug.Stack()), "\n") {
					if strings.Contains(line, "/go/") && strings.Contains(line, "clients") && strings.Contains(line, ".go:") && !strings.Contains(line, "main.go:8") {
						detail += " < " + line[strings.LastIndex(line, "/")+1:]
					}
				}
			}
		}()
		body()
	}()
	failed = failed || detail != ""
	line, _ := json.Marshal(map[string]any{"client": "go", "version": version, "case": name, "ok": detail == "", "ms": time.Since(from).Milliseconds(), "detail": detail})
	fmt.Println(string(line))
}

func expect(holds bool, format string, args ...any) {
	if !holds {
		panic(fmt.Sprintf(format, args...))
	}
}

func same[T comparable](expected, found T, what string) {
	expect(expected == found, "%s: expected %v, found %v", what, expected, found)
}

func must(err error) {
	if err != nil {
		panic(err.Error())
	}
}

func get[T any](v T, err error) T {
	must(err)
	return v
}

// refused: the error must be this one.
func refused(with *kerr.Error, err error) {
	expect(errors.Is(err, with), "expected %s, found %v", with.Message, err)
}

func eventually(what string, holds func() bool) {
	for end := time.Now().Add(limit); !holds(); time.Sleep(20 * time.Millisecond) {
		expect(time.Now().Before(end), "not within %v: %s", limit, what)
	}
}

func within() context.Context {
	// The process is short-lived: the timer may outlive its case.
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	time.AfterFunc(limit+time.Second, cancel)
	return ctx
}

func client(options ...kgo.Opt) *kgo.Client {
	return get(kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(bootstrap), kgo.FetchMaxWait(100 * time.Millisecond), kgo.RetryTimeout(20 * time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(20 * time.Millisecond), kgo.RequestTimeoutOverhead(10 * time.Second),
	}, options...)...))
}

func topic(name string, partitions int32, configs ...string) string {
	name = prefix + name
	values := map[string]*string{}
	for i := 0; i < len(configs); i += 2 {
		values[configs[i]] = &configs[i+1]
	}
	r := get(admin.CreateTopic(within(), partitions, 1, values, name))
	must(r.Err)
	waitFor(name, int(partitions))
	return name
}

// waitFor: Kafka lists a leader before the partition's log is there; asks what only the log itself can tell.
func waitFor(name string, partitions int) {
	eventually("topic "+name, func() bool {
		l, err := admin.ListEndOffsets(within(), name)
		return err == nil && l.Error() == nil && len(l[name]) == partitions
	})
}

// pattern gives bytes that compress, but are not all the same.
func pattern(seed int64, length int) []byte {
	chunk := make([]byte, 64)
	rand.New(rand.NewSource(seed)).Read(chunk)
	return bytes.Repeat(chunk, length/64+1)[:length]
}

// mixed gives records of every habit: sizes, null and empty keys and values, headers of all kinds.
func mixed(name string, partitions, count int) []*kgo.Record {
	var records []*kgo.Record
	for i := 0; i < count; i++ {
		r := &kgo.Record{Topic: name, Partition: int32(i % partitions), Timestamp: time.UnixMilli(baseTimestamp + int64(i)),
			Key: []byte(fmt.Sprintf("key-%d", i)), Value: pattern(int64(i), i*37%3000)}
		switch i % 7 {
		case 0:
			r.Key = nil
		case 1:
			r.Key = []byte{}
		}
		switch i % 11 {
		case 0:
			r.Value = nil
		case 1:
			r.Value = []byte{}
		}
		for h := 0; h < i%4; h++ {
			header := kgo.RecordHeader{Key: fmt.Sprintf("h%d", h%2), Value: []byte(fmt.Sprintf("value-%d", i))}
			if h == 1 {
				header.Value = []byte{}
			} else if h == 2 {
				header.Value = nil
			}
			r.Headers = append(r.Headers, header)
		}
		records = append(records, r)
	}
	return records
}

func send(options []kgo.Opt, records []*kgo.Record) {
	cl := client(options...)
	defer cl.Close()
	must(cl.ProduceSync(within(), records...).FirstErr())
}

func allPartitions(name string, partitions int, at kgo.Offset) kgo.Opt {
	offsets := map[int32]kgo.Offset{}
	for p := 0; p < partitions; p++ {
		offsets[int32(p)] = at
	}
	return kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: offsets})
}

func read(cl *kgo.Client, count int) []*kgo.Record {
	ctx := within()
	var found []*kgo.Record
	for len(found) < count && ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() == nil {
			must(fetches.Err())
		}
		found = append(found, fetches.Records()...)
	}
	same(count, len(found), "records read")
	return found
}

func readAll(name string, partitions, count int, options ...kgo.Opt) []*kgo.Record {
	cl := client(append(options, allPartitions(name, partitions, kgo.NewOffset().AtStart()))...)
	defer cl.Close()
	return read(cl, count)
}

func equal(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// sameContent: each partition holds exactly what was sent to it, in order, from offset 0 without holes.
func sameContent(sent, found []*kgo.Record) {
	split := func(records []*kgo.Record) map[int32][]*kgo.Record {
		m := map[int32][]*kgo.Record{}
		for _, r := range records {
			m[r.Partition] = append(m[r.Partition], r)
		}
		return m
	}
	expected, got := split(sent), split(found)
	same(len(expected), len(got), "partitions with records")
	for p, list := range expected {
		same(len(list), len(got[p]), fmt.Sprintf("records in partition %d", p))
		for i, s := range list {
			r := got[p][i]
			at := fmt.Sprintf("partition %d offset %d", p, r.Offset)
			same(int64(i), r.Offset, fmt.Sprintf("offset of record %d in partition %d", i, p))
			expect(equal(s.Key, r.Key), "key differs at %s", at)
			expect(equal(s.Value, r.Value), "value differs at %s", at)
			same(s.Timestamp.UnixMilli(), r.Timestamp.UnixMilli(), "timestamp at "+at)
			same(len(s.Headers), len(r.Headers), "count of headers at "+at)
			for h := range s.Headers {
				same(s.Headers[h].Key, r.Headers[h].Key, "key of a header at "+at)
				expect(equal(s.Headers[h].Value, r.Headers[h].Value), "value of header %d differs at %s", h, at)
			}
		}
	}
}

type codec struct {
	name string
	kgo  kgo.CompressionCodec
}

var codecs = []codec{{"none", kgo.NoCompression()}, {"gzip", kgo.GzipCompression()}, {"snappy", kgo.SnappyCompression()}, {"lz4", kgo.Lz4Compression()}, {"zstd", kgo.ZstdCompression()}}

func produce(c codec, acks string, idempotent bool) {
	name := topic(fmt.Sprintf("p-%s-%s-%v", c.name, acks, idempotent), 3)
	options := []kgo.Opt{kgo.ProducerBatchCompression(c.kgo), kgo.ProducerBatchMaxBytes(16_000)}
	if !idempotent {
		options = append(options, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(map[string]kgo.Acks{"0": kgo.NoAck(), "1": kgo.LeaderAck(), "all": kgo.AllISRAcks()}[acks]))
	}
	records := mixed(name, 3, 300)
	send(options, records)
	if acks != "0" {
		for i, r := range records {
			same(int64(i/3), r.Offset, "offset that the producer was told")
		}
	}
	sameContent(records, readAll(name, 3, 300))
	sameContent(records, readAll(name, 3, 300, kgo.FetchMaxPartitionBytes(1), kgo.FetchMaxBytes(1)))
}

func large(c codec) {
	name := topic("large-"+c.name, 1, "max.message.bytes", "8000000")
	var records []*kgo.Record
	for _, size := range []int{5_000_000, 1, 999_000, 2_500_000} {
		value := pattern(int64(size), size)
		rand.New(rand.NewSource(1)).Read(value[:size/2])
		records = append(records, &kgo.Record{Topic: name, Value: value, Timestamp: time.UnixMilli(baseTimestamp)})
	}
	send([]kgo.Opt{kgo.ProducerBatchCompression(c.kgo), kgo.ProducerBatchMaxBytes(6_000_000)}, records)
	sameContent(records, readAll(name, 1, 4, kgo.FetchMaxPartitionBytes(1000)))
}

func tooLarge() {
	name := topic("small", 1, "max.message.bytes", "2000")
	cl := client()
	defer cl.Close()
	value := make([]byte, 3000)
	rand.New(rand.NewSource(1)).Read(value)
	refused(kerr.MessageTooLarge, cl.ProduceSync(within(), &kgo.Record{Topic: name, Value: value}).FirstErr())
	r := &kgo.Record{Topic: name, Value: value[:1000]}
	must(cl.ProduceSync(within(), r).FirstErr())
	same(int64(0), r.Offset, "offset after a refusal")
}

func manyInFlight() {
	name := topic("in-flight", 4)
	records := mixed(name, 4, 5000)
	send([]kgo.Opt{kgo.ProducerBatchMaxBytes(5000), kgo.ProducerLinger(0)}, records)
	sameContent(records, readAll(name, 4, 5000))
}

func seek() {
	name := topic("seek", 1)
	records := mixed(name, 1, 500)
	send([]kgo.Opt{kgo.ProducerBatchMaxBytes(5000)}, records)
	for _, at := range []int64{499, 0, 250, 251, 17} {
		cl := client(allPartitions(name, 1, kgo.NewOffset().At(at)))
		fetches := cl.PollFetches(within())
		must(fetches.Err())
		same(at, fetches.Records()[0].Offset, "first offset after a seek")
		cl.Close()
	}
	// By time, and by an offset that is not there any more or not yet.
	cl := client(allPartitions(name, 1, kgo.NewOffset().AfterMilli(baseTimestamp+333)))
	same(int64(333), read(cl, 167)[0].Offset, "first offset after a time")
	cl.Close()
	cl = client(allPartitions(name, 1, kgo.NewOffset().At(1_000_000)), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	same(int64(0), read(cl, 500)[0].Offset, "first offset after an offset that was out of range")
	cl.Close()
}

func sortedKeys(m map[int32]bool) string {
	var keys []int
	for k := range m {
		keys = append(keys, int(k))
	}
	sort.Ints(keys)
	return fmt.Sprint(keys)
}

var mutex sync.Mutex
