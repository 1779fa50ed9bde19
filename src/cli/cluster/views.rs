//! What each broker of a cluster answers to Metadata, again and again, and which of the answers is the cluster's.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::cli::cluster::events::View;
use crate::client::{Client, ClientConfig, ClientError};
use crate::runtime::{HostPort, Instant, Runtime, Task};

/// The pause between two questions to one broker.
const PAUSE: Duration = Duration::from_millis(150);
/// Of a broker's time, the share that is left alone: a large cluster's answers are large.
const PAUSE_FACTOR: u32 = 20;
/// A broker that has not answered for so long has no say.
const FRESH: Duration = Duration::from_secs(1);
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer of one broker.
pub(crate) struct Seen {
    /// Who was asked.
    pub(crate) broker: i32,
    /// What it says of the cluster.
    pub(crate) view: View,
}

/// Asks one broker, while this is kept.
pub(crate) struct Asking<R: Runtime> {
    task: R::Task<()>,
}

impl<R: Runtime> Drop for Asking<R> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Begins to ask the broker at `address`, which is to be `broker`.
pub(crate) fn ask<R: Runtime>(runtime: &R, broker: i32, address: HostPort, seen: mpsc::Sender<Seen>) -> Asking<R> {
    let rt = runtime.clone();
    let task = runtime.spawn("cluster-view", async move {
        let mut client = client(&rt, &address);
        loop {
            let began = rt.now();
            match view(&client, &address).await {
                // Another program on its port would be nobody's broker.
                Ok(view) if view.brokers.contains(&broker) => {
                    if seen.send(Seen { broker, view }).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                // A new client knows no other broker that would answer in place of this one.
                Err(_) => client = self::client(&rt, &address),
            }
            rt.sleep(PAUSE.max((rt.now() - began) * PAUSE_FACTOR)).await;
        }
    });
    Asking { task }
}

fn client<R: Runtime>(runtime: &R, address: &HostPort) -> Client<R> {
    let mut config = ClientConfig::new(vec![address.clone()]);
    config.connection.client_id = "ottla-cluster".to_owned();
    config.connection.connect_timeout = PATIENCE;
    config.request_timeout = PATIENCE;
    Client::new(runtime.clone(), config)
}

async fn view<R: Runtime>(client: &Client<R>, address: &HostPort) -> Result<View, ClientError> {
    client.connection_to(address).await?;
    Ok(View::from(&client.metadata_once(None, false).await?))
}

/// The latest answers of all brokers.
#[derive(Default)]
pub(crate) struct Views {
    latest: BTreeMap<i32, (Instant, View)>,
}

impl Views {
    /// A broker has answered.
    pub(crate) fn saw(&mut self, now: Instant, seen: Seen) {
        self.latest.insert(seen.broker, (now, seen.view));
    }

    /// A broker's process has ended: what it said is no longer heard.
    pub(crate) fn forget(&mut self, broker: i32) {
        self.latest.remove(&broker);
    }

    /// What the cluster is: what the controller says, which is the one that most brokers take for it. One that is cut off from the others, or was paused, may
    /// still take itself for it, and is outvoted.
    pub(crate) fn cluster(&self, now: Instant) -> Option<&View> {
        let fresh: BTreeMap<i32, &View> = self.latest.iter().filter(|(_, (at, _))| now - *at <= FRESH).map(|(id, (_, view))| (*id, view)).collect();
        let mut votes: BTreeMap<i32, usize> = BTreeMap::new();
        fresh.values().for_each(|view| *votes.entry(view.controller).or_default() += 1);
        let controller = votes.into_iter().max_by_key(|(controller, count)| (*count, *controller)).map(|(controller, _)| controller)?;
        fresh.get(&controller).copied().or_else(|| fresh.values().copied().find(|view| view.controller == controller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(broker: i32, controller: i32) -> Seen {
        Seen { broker, view: View { controller, brokers: [broker, controller].into(), ..View::default() } }
    }

    #[test]
    fn the_controller_is_heard_and_who_is_cut_off_is_outvoted() {
        let start = crate::runtime::tokio::run(1, |runtime| async move { runtime.now() }).unwrap();
        let mut views = Views::default();
        assert_eq!(views.cluster(start), None);
        views.saw(start, seen(1, 1));
        assert_eq!(views.cluster(start).unwrap().brokers, [1].into());
        views.saw(start, seen(2, 3));
        views.saw(start, seen(3, 3));
        assert_eq!(views.cluster(start).unwrap().brokers, [3].into(), "1 still takes itself for it");
        views.forget(3);
        views.saw(start, seen(2, 3));
        assert_eq!(views.cluster(start).unwrap().controller, 3, "of two claims, as good as the other");
        views.forget(1);
        assert_eq!(views.cluster(start).unwrap().brokers, [2, 3].into());
        assert_eq!(views.cluster(start + 2 * FRESH), None);
    }
}
