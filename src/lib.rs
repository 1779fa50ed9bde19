//! Ottla: a distributed, replicated, append-only log that speaks the Kafka protocol, with ZooKeeper-style coordination.
//!
//! The same types run as the production broker and, bound to a simulated world, under a seed. This page is the architecture: what is where, what
//! happens to a record, and where to change what.
//!
//! # Map
//!
//! Dependencies point downwards.
//!
//! | module | what it is |
//! |---|---|
//! | `cli`, [`production`] | the command line; the broker and the coordinator bound to tokio, once |
//! | [`broker`] | connections, dispatch, one handler file per family of APIs |
//! | [`group`], [`controller`] | consumer groups; topics, their placement and configuration: pure cores with thin edges |
//! | [`replication`] | the partitions this broker holds: leaders, followers and the controller's orders as pure cores; fetchers; high watermarks |
//! | [`internal_topic`] | load, fence, append for the broker's own topics |
//! | [`log`] | one partition on disk: segments, indexes, producer state, epochs, recovery, retention, flushing |
//! | [`coordination`] | the znode tree, sessions, watches; consensus over one member or several; its durable log; ZooKeeper's protocol, server and client |
//! | [`purgatory`] | requests that wait for a high watermark |
//! | [`client`] | a small Kafka client over the runtime: the command line and simulated workloads use it |
//! | [`record`], [`wire`] | record batches read in place; the Kafka protocol's frames and hot codecs |
//! | [`config`], [`codec`] | `server.properties`, `coordinator.properties` and topic keys, typed; the frames of our own persistent formats |
//! | [`runtime`] | THE boundary: clock, timers, tasks, entropy, sockets, files |
//!
//! A pure module takes `(&mut self, event, now) -> actions`: no I/O, no clock, no randomness, no mention of `R`. Property tests and the simulator drive the
//! code that ships. There is no process-global mutable state: simulated brokers would share it.
//!
//! # The life of a record
//!
//! 1. **In.** [`broker::connection`] reads as much as the socket has into one chunk of a bounded budget ([`broker::buffers`]) and cuts frames from
//!    it without copying. [`wire::produce`] finds each partition's batches in the frame; [`record::validate`] checks them in place: length, magic, CRC-32C,
//!    timestamps, producer epoch and sequence. No record is decoded unless a topic's configuration demands it.
//! 2. **Append.** [`log`] gives the batch its offsets by writing 16 new bytes in front of the rest of it, in one vectored write. The page cache has it now.
//! 3. **Flush.** Appends that arrive while the file is being flushed share the next flush. When it is done the durable end moves, the high watermark
//!    with it, and the waiting produce request ([`purgatory`]) is answered. A flush that fails is final: the broker stops rather than acknowledge
//!    what may be lost. With replicas the followers fetch it, flush it and fetch on, and the high watermark is what all in-sync ones have on disk ([`replication`]).
//! 4. **Out.** A fetch finds its position by the sparse index and hands file, position and length to the socket (`sendfile`); small ranges are read and
//!    sent with the header. A fetch that finds too little waits for the high watermark.
//! 5. **Gone.** By size, by age, or by request: the log's start moves durably first, then segments are renamed, then unlinked.
//!
//! # What is durable when
//!
//! By default (`flush.messages=1`) an acknowledged record is on disk. Topics, configurations and producer id blocks are on disk before they are answered;
//! group offsets are records like any other. After an unclean stop, recovery reads from the last checkpoint on, keeps the longest valid prefix, and tells a
//! torn tail, which it cuts, from rot in the middle, which it refuses to touch.
//!
//! # Who decides
//!
//! The tree of znodes says who leads what; the controller alone writes that ([`controller`]), by pure rules, with a compare-and-set and fenced by its epoch. Every broker follows the tree by
//! watches and gives its replicas their roles: an order is obeyed once, in the order of leader and partition epochs, whoever brings it. `docs/replication.md` has the reasons.
//!
//! # Where to change what
//!
//! * A new API: a row in [`wire::api`], an arm in [`broker::dispatch`], a file in [`broker::handlers`].
//! * A new configuration key: a line in `config/broker.rs`, `config/coordination.rs` or `config/topic.rs`; `DescribeConfigs` and the checks follow.
//! * A new kind of I/O: a function in [`runtime`] with its contract, both sides, and a test in `tests/contract.rs`.
//! * A bug found by the simulator: its seed in `ci/seeds.txt` and a named scenario in `sim/`.

pub mod broker;
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
pub mod codec;
pub mod config;
pub mod controller;
pub mod coordination;
pub mod group;
pub mod internal_topic;
pub mod log;
pub mod production;
pub mod purgatory;
pub mod record;
pub mod replication;
pub mod runtime;
pub mod topic_partition;
pub mod wire;
