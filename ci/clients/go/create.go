package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// create makes so many topics, one after the other, for ci/clients/replication. Each partition's leader is asked to append, by the topic's id, as soon as the topic is made: first
// by a request of its own without records, which any leader refuses and says why, then by a producer. Whoever says that it does not know the topic is printed, and so is
// what the producer was told; then how many topics there were.
func create(bootstrap, prefix, count string) {
	topics, err := strconv.Atoi(count)
	must(err)
	client := get(kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0)))
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 4*limit)
	defer cancel()
	for number := range topics {
		name := fmt.Sprintf("%s-%d", prefix, number)
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, -1, -1
		for partition := range int32(3) {
			assigned := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
			assigned.Partition, assigned.Replicas = partition, []int32{partition + 1, (partition+1)%3 + 1, (partition+2)%3 + 1}
			topic.ReplicaAssignment = append(topic.ReplicaAssignment, assigned)
		}
		request := kmsg.NewPtrCreateTopicsRequest()
		request.TimeoutMillis, request.Topics = 10_000, append(request.Topics, topic)
		created := get(request.RequestWith(ctx, client)).Topics[0]
		if err := kerr.ErrorForCode(created.ErrorCode); err != nil {
			fmt.Printf("%s: create: %v\n", name, err)
			continue
		}
		for partition := range int32(3) {
			data := kmsg.NewProduceRequestTopicPartition()
			data.Partition = partition
			asked := kmsg.NewProduceRequestTopic()
			asked.Topic, asked.TopicID, asked.Partitions = name, created.TopicID, append(asked.Partitions, data)
			produce := kmsg.NewPtrProduceRequest()
			produce.Acks, produce.TimeoutMillis, produce.Topics = -1, 10_000, append(produce.Topics, asked)
			answer := get(client.Broker(int(partition)+1).Request(ctx, produce)).(*kmsg.ProduceResponse)
			told := kerr.ErrorForCode(answer.Topics[0].Partitions[0].ErrorCode)
			if told == kerr.UnknownTopicID || told == kerr.UnknownTopicOrPartition || told == kerr.NotLeaderForPartition || told == nil {
				fmt.Printf("%s-%d: produce version %d: %v\n", name, partition, answer.Version, told)
			}
		}
		for partition := range int32(3) {
			if err := client.ProduceSync(ctx, &kgo.Record{Topic: name, Partition: partition, Value: []byte("first")}).FirstErr(); err != nil {
				fmt.Printf("%s-%d: produce: %v\n", name, partition, err)
			}
		}
	}
	fmt.Printf("%d topics\n", topics)
}
