//! The look at followers that fell behind: a task that begins with the first partition that has followers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::partition::Partition;
use crate::runtime::Runtime;
use crate::topic_partition::TopicPartition;

type Partitions<R> = Arc<Mutex<BTreeMap<TopicPartition, Weak<Partition<R>>>>>;

/// The partitions that are looked at.
pub struct LagChecks<R: Runtime> {
    runtime: R,
    /// Half of `replica.lag.time.max.ms`, as in Kafka: a follower leaves after one and a half of it at the latest.
    interval: Duration,
    partitions: Partitions<R>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<R::Task<()>>>,
}

impl<R: Runtime> LagChecks<R> {
    /// None yet.
    pub fn new(runtime: R, lag_max: Duration) -> Self {
        Self {
            runtime,
            interval: (lag_max / 2).max(Duration::from_millis(1)),
            partitions: Arc::default(),
            stop: watch::Sender::new(false),
            task: Mutex::new(None),
        }
    }

    /// Looks at `partition` from now on, as long as there is one.
    pub fn watch(&self, partition: &Arc<Partition<R>>) {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).insert(partition.id().clone(), Arc::downgrade(partition));
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() && !*self.stop.borrow() {
            *task = Some(self.runtime.spawn("replica-lag", run(self.runtime.clone(), self.interval, Arc::clone(&self.partitions), self.stop.subscribe())));
        }
    }

    /// Ends the task.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            crate::runtime::Task::join(task).await;
        }
    }
}

async fn run<R: Runtime>(runtime: R, interval: Duration, partitions: Partitions<R>, mut stop: watch::Receiver<bool>) {
    loop {
        let mut timer = runtime.sleep(interval);
        tokio::select! {
            biased;
            // The end of all senders is an end too.
            _ = stop.wait_for(|stop| *stop) => return,
            () = &mut timer => {}
        }
        let mut due = Vec::new();
        partitions.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, partition| {
            let partition = partition.upgrade();
            due.extend(partition.clone());
            partition.is_some()
        });
        due.iter().for_each(|partition| partition.check_lag());
    }
}
