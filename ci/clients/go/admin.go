package main

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Topics, configs, offsets and deletions through franz-go's admin client.
func adminCases() {
	check("admin/api-versions", apiVersions)
	check("admin/topics", topics)
	check("admin/refusals", refusals)
	check("admin/configs", configs)
	check("admin/partitions-and-deletion", partitionsAndDeletion)
	check("admin/delete-records", deleteRecords)
	check("admin/offsets", offsets)
	check("admin/leader-epochs", leaderEpochs)
}

func apiVersions() {
	found := get(admin.ApiVersions(within()))
	same(1, len(found), "brokers")
	for _, broker := range found {
		must(broker.Err)
		// What a client of these APIs needs at least.
		for key, least := range map[kmsg.Key]int16{kmsg.Produce: 11, kmsg.Fetch: 16, kmsg.ListOffsets: 8, kmsg.Metadata: 12, kmsg.OffsetCommit: 9, kmsg.OffsetFetch: 9,
			kmsg.FindCoordinator: 5, kmsg.JoinGroup: 9, kmsg.Heartbeat: 4, kmsg.LeaveGroup: 5, kmsg.SyncGroup: 5, kmsg.DescribeGroups: 5, kmsg.ListGroups: 4, kmsg.ApiVersions: 3,
			kmsg.CreateTopics: 7, kmsg.DeleteTopics: 6, kmsg.DeleteRecords: 2, kmsg.InitProducerID: 5, kmsg.OffsetForLeaderEpoch: 4, kmsg.DescribeConfigs: 4,
			kmsg.CreatePartitions: 3, kmsg.DeleteGroups: 2, kmsg.IncrementalAlterConfigs: 1, kmsg.DescribeCluster: 1} {
			max, listed := broker.KeyMaxVersion(key.Int16())
			expect(listed && max >= least, "%s: version %d is needed, %d is the newest", key.Name(), least, max)
		}
		min, _ := broker.KeyMinVersion(kmsg.Produce.Int16())
		same(int16(0), min, "oldest listed version of Produce")
	}
}

func topics() {
	name := topic("described", 3, "retention.ms", "3600000")
	d := get(admin.ListTopics(within(), name))[name]
	must(d.Err)
	same(3, len(d.Partitions), "partitions")
	expect(d.ID != kadm.TopicID{}, "no topic id")
	for _, p := range d.Partitions {
		must(p.Err)
		same(fmt.Sprint(p.Replicas), fmt.Sprint(p.ISR), "in-sync replicas")
		same(p.Replicas[0], p.Leader, "leader")
	}
	cluster := get(admin.BrokerMetadata(within()))
	same(1, len(cluster.Brokers), "brokers")
	expect(cluster.Cluster != "", "no cluster id")
}

func refusals() {
	name := topic("twice", 1)
	create := func(name string, partitions int32, rf int16, configs map[string]*string) error {
		r, err := admin.CreateTopic(within(), partitions, rf, configs, name)
		if err == nil {
			err = r.Err
		}
		return err
	}
	soon := "soon"
	refused(kerr.TopicAlreadyExists, create(name, 1, 1, nil))
	refused(kerr.InvalidReplicationFactor, create(prefix+"rf", 1, 3, nil))
	refused(kerr.InvalidTopicException, create(prefix+"a/b", 1, 1, nil))
	refused(kerr.InvalidPartitions, create(prefix+"none", 0, 1, nil))
	refused(kerr.InvalidConfig, create(prefix+"c", 1, 1, map[string]*string{"retention.ms": &soon}))
	refused(kerr.UnknownTopicOrPartition, get(admin.ListTopics(within(), prefix+"absent"))[prefix+"absent"].Err)
}

func configs() {
	name := topic("configs", 1, "retention.ms", "1000000")
	value := func(key string) string {
		r := get(get(admin.DescribeTopicConfigs(within(), name)).On(name, nil))
		must(r.Err)
		for _, c := range r.Configs {
			if c.Key == key {
				return c.MaybeValue()
			}
		}
		panic("no config " + key)
	}
	same("1000000", value("retention.ms"), "retention.ms")
	wanted := "2000000"
	must(get(get(admin.AlterTopicConfigs(within(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &wanted}}, name)).On(name, nil)).Err)
	eventually("retention.ms set", func() bool { return value("retention.ms") == wanted })
	must(get(get(admin.AlterTopicConfigs(within(), []kadm.AlterConfig{{Op: kadm.DeleteConfig, Name: "retention.ms"}}, name)).On(name, nil)).Err)
	eventually("retention.ms back to its default", func() bool { return value("retention.ms") == "604800000" })
	r, err := admin.AlterTopicConfigs(within(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "no.such.key", Value: &wanted}}, name)
	if err == nil {
		err = get(r.On(name, nil)).Err
	}
	refused(kerr.InvalidConfig, err)
}

func partitionsAndDeletion() {
	name := topic("grow", 2)
	must(get(get(admin.UpdatePartitions(within(), 5, name)).On(name, nil)).Err)
	waitFor(name, 5)
	r := get(admin.UpdatePartitions(within(), 3, name))
	refused(kerr.InvalidPartitions, r[name].Err)
	records := mixed(name, 5, 50)
	send(nil, records)
	sameContent(records, readAll(name, 5, 50))
	must(get(admin.DeleteTopic(within(), name)).Err)
	eventually("topic gone", func() bool { return !get(admin.ListTopics(within())).Has(name) })
}

func deleteRecords() {
	name := topic("trimmed", 1)
	send(nil, mixed(name, 1, 100))
	var upTo kadm.Offsets
	upTo.AddOffset(name, 0, 40, -1)
	r := get(get(admin.DeleteRecords(within(), upTo)).On(name, 0, nil))
	must(r.Err)
	same(int64(40), r.LowWatermark, "low watermark")
	same(int64(40), get(admin.ListStartOffsets(within(), name))[name][0].Offset, "first offset")
	same(int64(40), readAll(name, 1, 60)[0].Offset, "first offset read")
	var tooFar kadm.Offsets
	tooFar.AddOffset(name, 0, 101, -1)
	refused(kerr.OffsetOutOfRange, get(admin.DeleteRecords(within(), tooFar))[name][0].Err)
}

func offsets() {
	name := topic("times", 2)
	send(nil, mixed(name, 2, 100))
	same(int64(0), get(admin.ListStartOffsets(within(), name))[name][1].Offset, "first offset")
	same(int64(50), get(admin.ListEndOffsets(within(), name))[name][1].Offset, "end offset")
	same(int64(50), get(admin.ListCommittedOffsets(within(), name))[name][0].Offset, "end of committed records")
	same(int64(30), get(admin.ListOffsetsAfterMilli(within(), baseTimestamp+60, name))[name][0].Offset, "offset after a time")
	max := get(admin.ListMaxTimestampOffsets(within(), name))[name][1]
	must(max.Err)
	same(int64(49), max.Offset, "offset of the largest timestamp")
	same(baseTimestamp+99, max.Timestamp, "largest timestamp")
}

func leaderEpochs() {
	name := topic("epochs", 1)
	send(nil, mixed(name, 1, 10))
	leader := get(admin.ListTopics(within(), name))[name].Partitions[0]
	var ask kadm.OffsetForLeaderEpochRequest
	ask.Add(name, 0, leader.LeaderEpoch)
	found := get(admin.OffsetForLeaderEpoch(within(), ask))[name][0]
	must(found.Err)
	same(leader.LeaderEpoch, found.LeaderEpoch, "leader epoch")
	same(int64(10), found.EndOffset, "end offset of the leader epoch")
	// A reader who knows the leader's epoch, and one who claims an epoch that never was.
	for _, r := range readAll(name, 1, 10) {
		same(leader.LeaderEpoch, r.LeaderEpoch, "leader epoch of a record")
	}
}
