package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Classic consumer groups through franz-go's group consumer.
func groupCases() {
	for _, b := range []kgo.GroupBalancer{kgo.RangeBalancer(), kgo.RoundRobinBalancer(), kgo.StickyBalancer(), kgo.CooperativeStickyBalancer()} {
		check("group/"+b.ProtocolName()+"/join-leave", func() { joinLeave(b) })
	}
	check("group/commit-and-lag", commitAndLag)
	check("group/list-describe-delete", listDescribeDelete)
	check("group/static-member", staticMember)
}

// member is one group member that polls in its own goroutine and commits what it has read before it gives partitions up.
type member struct {
	cl         *kgo.Client
	owned      map[int32]bool
	revokedMax int
	stop       context.CancelFunc
	done       chan struct{}
}

type delivered struct {
	values map[string][]byte
	errors []string
}

func join(name, group string, seen *delivered, options ...kgo.Opt) *member {
	m := &member{owned: map[int32]bool{}, done: make(chan struct{})}
	lose := func(ctx context.Context, cl *kgo.Client, gone map[string][]int32) {
		if len(gone[name]) > 0 {
			if err := cl.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil {
				mutex.Lock()
				seen.errors = append(seen.errors, "commit when partitions go: "+err.Error())
				mutex.Unlock()
			}
		}
		mutex.Lock()
		defer mutex.Unlock()
		m.revokedMax = max(m.revokedMax, len(gone[name]))
		for _, p := range gone[name] {
			delete(m.owned, p)
		}
	}
	m.cl = client(append(options, kgo.ConsumerGroup(prefix+group), kgo.ConsumeTopics(name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.HeartbeatInterval(150*time.Millisecond), kgo.SessionTimeout(10*time.Second),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, more map[string][]int32) {
			mutex.Lock()
			defer mutex.Unlock()
			for _, p := range more[name] {
				m.owned[p] = true
			}
		}), kgo.OnPartitionsRevoked(lose), kgo.OnPartitionsLost(lose))...)
	var ctx context.Context
	ctx, m.stop = context.WithCancel(context.Background())
	go func() {
		defer close(m.done)
		for ctx.Err() == nil {
			fetches := m.cl.PollFetches(ctx)
			mutex.Lock()
			if err := fetches.Err(); err != nil && ctx.Err() == nil {
				seen.errors = append(seen.errors, err.Error())
			}
			fetches.EachRecord(func(r *kgo.Record) {
				at := fmt.Sprintf("%d@%d", r.Partition, r.Offset)
				if _, again := seen.values[at]; again {
					seen.errors = append(seen.errors, "record "+at+" was delivered twice although it was committed")
				}
				if !m.owned[r.Partition] {
					seen.errors = append(seen.errors, "record "+at+" of a partition that the member does not own")
				}
				seen.values[at] = r.Value
			})
			mutex.Unlock()
			m.cl.AllowRebalance()
		}
	}()
	return m
}

// leave commits and closes, which leaves the group unless the member is static.
func (m *member) leave() {
	m.stop()
	<-m.done
	must(m.cl.CommitUncommittedOffsets(within()))
	m.cl.CloseAllowingRebalance()
}

func (m *member) owns() string {
	mutex.Lock()
	defer mutex.Unlock()
	return sortedKeys(m.owned)
}

func (d *delivered) count() int {
	mutex.Lock()
	defer mutex.Unlock()
	expect(len(d.errors) == 0, "%s", strings.Join(d.errors, "; "))
	return len(d.values)
}

func joinLeave(b kgo.GroupBalancer) {
	group := "members-" + b.ProtocolName()
	name := topic(group, 4)
	seen := &delivered{values: map[string][]byte{}}
	var sent []*kgo.Record
	more := func(count int) {
		records := mixed(name, 4, count)
		send(nil, records)
		sent = append(sent, records...)
	}
	more(200)
	one := join(name, group, seen, kgo.Balancers(b))
	eventually("the first member owns all and has read all", func() bool { return one.owns() == "[0 1 2 3]" && seen.count() == 200 })
	two := join(name, group, seen, kgo.Balancers(b))
	eventually("two members share", func() bool {
		a, c := one.owns(), two.owns()
		return len(a) == 5 && len(c) == 5 && a != c
	})
	if strings.HasPrefix(b.ProtocolName(), "cooperative") {
		expect(one.revokedMax <= 2, "a cooperative member gave up %d partitions to give 2 away", one.revokedMax)
	}
	more(200)
	eventually("both read", func() bool { return seen.count() == 400 })
	two.leave()
	eventually("the first member owns all again", func() bool { return one.owns() == "[0 1 2 3]" })
	more(100)
	eventually("the first member reads all", func() bool { return seen.count() == 500 })
	one.leave()
	for _, r := range sent {
		at := fmt.Sprintf("%d@%d", r.Partition, r.Offset)
		expect(equal(r.Value, seen.values[at]), "value of %s differs", at)
	}
	same(int64(0), lag(group), "lag")
}

func lag(group string) int64 {
	l := get(admin.Lag(within(), prefix+group))[prefix+group]
	must(l.Error())
	return l.Lag.Total()
}

func commitAndLag() {
	name := topic("lag", 2)
	send(nil, mixed(name, 2, 100))
	var so kadm.Offsets
	so.Add(kadm.Offset{Topic: name, Partition: 0, At: 30, LeaderEpoch: -1, Metadata: "so far"})
	so.Add(kadm.Offset{Topic: name, Partition: 1, At: 50, LeaderEpoch: -1})
	must(admin.CommitAllOffsets(within(), prefix+"lag", so))
	found := get(admin.FetchOffsets(within(), prefix+"lag"))[name][0]
	same("so far", found.Metadata, "metadata")
	same(int64(30), found.At, "committed offset")
	same(int64(20), lag("lag"), "lag")
	seen := &delivered{values: map[string][]byte{}}
	m := join(name, "lag", seen)
	eventually("the rest is read", func() bool { return seen.count() == 20 })
	m.leave()
	same(int64(0), lag("lag"), "lag at the end")
}

func listDescribeDelete() {
	name := topic("described-group", 2)
	group := prefix + "described"
	seen := &delivered{values: map[string][]byte{}}
	m := join(name, "described", seen, kgo.ClientID("a-client"), kgo.Balancers(kgo.RangeBalancer()))
	eventually("owns all", func() bool { return m.owns() == "[0 1]" })
	send(nil, mixed(name, 2, 10))
	eventually("read", func() bool { return seen.count() == 10 })
	describe := func() kadm.DescribedGroup { return get(admin.DescribeGroups(within(), group))[group] }
	eventually("stable", func() bool { return describe().State == "Stable" })
	d := describe()
	must(d.Err)
	same("range", d.Protocol, "assignor")
	same("consumer", d.ProtocolType, "protocol type")
	same(1, len(d.Members), "members")
	same("a-client", d.Members[0].ClientID, "client id")
	expect(d.AssignedPartitions()[name] != nil && len(d.AssignedPartitions()[name]) == 2, "assignment %v", d.AssignedPartitions())
	expect(get(admin.ListGroups(within())).Groups() != nil, "no groups listed")
	_, listed := get(admin.ListGroups(within()))[group]
	expect(listed, "not listed")
	_, listed = get(admin.ListGroups(within(), "Empty"))[group]
	expect(!listed, "listed among the empty groups")
	refused(kerr.NonEmptyGroup, deleteGroup(group))
	m.leave()
	eventually("empty", func() bool { return describe().State == "Empty" })
	must(deleteGroup(group))
	same("Dead", describe().State, "state of a deleted group")
	refused(kerr.GroupIDNotFound, deleteGroup(group))
}

func deleteGroup(group string) error {
	r, err := admin.DeleteGroup(within(), group)
	if err == nil {
		err = r.Err
	}
	return err
}

func staticMember() {
	name := topic("static", 2)
	seen := &delivered{values: map[string][]byte{}}
	a := join(name, "static", seen, kgo.InstanceID("one"))
	b := join(name, "static", seen, kgo.InstanceID("two"))
	eventually("two static members share", func() bool { return len(a.owns()) == 3 && len(b.owns()) == 3 && a.owns() != b.owns() })
	had := b.owns()
	b.leave()
	b = join(name, "static", seen, kgo.InstanceID("two"))
	eventually("the static member is back", func() bool { return len(b.owns()) == 3 })
	same(had, b.owns(), "assignment after a restart")
	same(3, len(a.owns()), "partitions of the other member")
	// A static member is put out by its name.
	r := get(admin.LeaveGroup(within(), kadm.LeaveGroup(prefix+"static").Reason("test").InstanceIDs("two")))
	must(r["two"].Err)
	eventually("the other member owns all", func() bool { return a.owns() == "[0 1]" })
	a.leave()
	b.stop()
	<-b.done
	b.cl.CloseAllowingRebalance()
}
