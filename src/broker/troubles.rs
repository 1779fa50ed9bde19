//! Tells the controller, by way of the tree, which replicas of this broker cannot be used as they should ([`TroubleBook`](crate::replication::trouble::TroubleBook)).

use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use crate::controller::troubles::BrokerTroubles;
use crate::runtime::Runtime;

/// Between two attempts to write it down.
const RETRY: Duration = Duration::from_secs(1);

/// A wait that is not to end by itself.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3_600);

impl<R: Runtime> Broker<R> {
    /// Goes on until the broker stops. `written` is what the tree says at the start.
    pub(super) async fn tell_troubles(self: Arc<Self>, mut written: BrokerTroubles) {
        let mut stop = self.stop.subscribe();
        let mut failed_dirs = self.replicas.logs().failed_dirs();
        let book = self.replicas.troubles();
        loop {
            let to_probe = book.to_probe(self.runtime.now());
            self.replicas.probe_room(&to_probe).await;
            let (told, holds) = book.told(self.runtime.now());
            let mut pause = holds.unwrap_or(FOREVER);
            if told != written {
                match self.controller.tell_troubles(&told).await {
                    Ok(()) => {
                        tracing::info!(replicas = ?told.replicas, "told the controller which replicas cannot be used as they should");
                        written = told;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the controller could not be told which replicas cannot be used; tried again");
                        pause = pause.min(RETRY);
                    }
                }
            }
            let mut late = self.runtime.sleep(pause);
            let dir_failed = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                failed = failed_dirs.changed() => failed.is_ok(),
                () = book.changed() => false,
                () = &mut late => false,
            };
            if dir_failed {
                failed_dirs.mark_unchanged();
                self.replicas.retire_offline().await;
            }
        }
    }
}
