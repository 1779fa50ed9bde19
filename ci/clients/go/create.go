package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// create makes so many topics, one after the other, and produces to every partition of each at once, by the topic's id: for ci/clients/replication. What went wrong is
// printed, a line each; then how many there were.
func create(bootstrap, prefix, count string) {
	topics, err := strconv.Atoi(count)
	must(err)
	client := get(kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0)))
	defer client.Close()
	admin := kadm.NewClient(client)
	for number := range topics {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		name := fmt.Sprintf("%s-%d", prefix, number)
		if _, err := admin.CreateTopic(ctx, 6, 3, nil, name); err != nil {
			fmt.Printf("%s: create: %v\n", name, err)
		} else {
			from := time.Now()
			var records []*kgo.Record
			for partition := range int32(6) {
				records = append(records, &kgo.Record{Topic: name, Partition: partition, Value: []byte("first")})
			}
			for _, result := range client.ProduceSync(ctx, records...) {
				if result.Err != nil {
					fmt.Printf("%s-%d: produce: %v after %v\n", name, result.Record.Partition, result.Err, time.Since(from))
				}
			}
		}
		cancel()
	}
	fmt.Printf("%d topics\n", topics)
}
