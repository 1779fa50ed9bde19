//! The controller's task: one session after the other, the image that follows the tree, the changes that are asked for.
//!
//! Within a session the task reads the whole tree once and watches what it read; an event says which part to read anew (`follow`). Whatever casts doubt on
//! the image (a lost connection with a change under way, a write that met another's, the loss of the controllership) has it read anew as a whole.
//! A session that expired is followed by another one, under which the broker registers again: with a new epoch, and without the controllership, which it
//! contends for like everybody else. While the service is away the last image stands: what is produced and fetched needs no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::changes::{Change, Changes, delete_in_parts, fenced};
use super::elections::{Cluster, Plants};
use super::follow::{self, Part};
use super::image::{BrokerInfo, MetadataImage, TopicImage};
use super::load::{Found, Load, find_and_watch, read_broker_configs, read_brokers, read_directories, read_troubles};
use super::registration::{cluster_id, contend, create_persistent, find, register};
use super::troubles::{self, Troubles};
use super::znodes::{self, ConfigEntity, ZnodeError};
use super::{ControllerConfig, Queued, StartError};
use crate::coordination::client::{Session, State, Watcher};
use crate::coordination::op::{ANY_VERSION, ErrorCode, Failure, Operation};
use crate::runtime::{Instant, Runtime, Timer};

/// How long a change waits for a service that is away, its time in the queue included: less than clients wait (`request.timeout.ms`, 30 s), so that they
/// hear of it. While the service is there a change takes what it takes.
pub(super) const CHANGE_PATIENCE: Duration = Duration::from_secs(20);

/// Between two attempts to get a footing in the tree that failed for a reason that may last.
const RETRY: Duration = Duration::from_secs(5);

/// Between two attempts that met another's write.
const RETRY_SOON: Duration = Duration::from_millis(50);

/// A timer that is not to fire.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// How long a notice of changed settings is kept, as in Kafka: everybody has read it by then.
const NOTICE_MS: i64 = 15 * 60_000;

/// Why the task cannot go on as it does.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// What is known of the tree is in doubt.
    Doubt,
    /// The session has ended.
    Expired,
    /// The controller is to stop.
    Stopped,
    /// Something that does not pass by itself.
    Failed(StartError),
}

impl From<Failure> for Interrupted {
    fn from(failure: Failure) -> Self {
        match failure.code {
            ErrorCode::SessionExpired => Self::Expired,
            ErrorCode::ConnectionLoss | ErrorCode::BadVersion | ErrorCode::NodeExists | ErrorCode::NoNode | ErrorCode::NotEmpty => {
                tracing::debug!(%failure, "the metadata is read anew");
                Self::Doubt
            }
            _ => Self::Failed(failure.into()),
        }
    }
}

impl From<StartError> for Interrupted {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Coordination(failure) => failure.into(),
            error => Self::Failed(error),
        }
    }
}

impl From<ZnodeError> for Interrupted {
    fn from(error: ZnodeError) -> Self {
        Self::Failed(error.into())
    }
}

/// The task's state besides what changes need.
pub(super) struct Task<R: Runtime> {
    pub(super) changes: Changes<R>,
    pub(super) sessions: watch::Sender<Session<R>>,
    pub(super) watcher: Watcher,
    /// Topics whose znodes are watched.
    pub(super) watched: BTreeSet<Arc<str>>,
    /// The last notice of changed settings that was heeded; notices are numbered.
    pub(super) last_notice: Option<Arc<str>>,
    /// What must be read anew.
    pub(super) stale: BTreeSet<Part>,
    /// Who waits for the image to show all that the tree had when they asked; told once nothing is stale.
    pub(super) behind: Vec<oneshot::Sender<()>>,
    pub(super) stop: watch::Receiver<bool>,
}

impl<R: Runtime> Task<R> {
    /// A broker at its start, with the image that it begins with.
    pub(super) async fn start(
        rt: R,
        session: Session<R>,
        config: ControllerConfig,
        stop: watch::Receiver<bool>,
    ) -> Result<(Self, watch::Receiver<Session<R>>, watch::Receiver<Arc<MetadataImage>>), StartError> {
        let (images, image_receiver) = watch::channel(Arc::new(MetadataImage { controller_id: -1, ..MetadataImage::default() }));
        let (sessions, session_receiver) = watch::channel(session.clone());
        let patience = config.connection_timeout;
        let changes = Changes { rt, session: session.clone(), reign: None, config, images, is_doubtful: AtomicBool::new(false), reigning: Mutex::default() };
        let watcher = session.watcher();
        let mut task = Self { changes, sessions, watcher, watched: BTreeSet::new(), last_notice: None, stale: BTreeSet::new(), behind: Vec::new(), stop };
        loop {
            match task.settle().await {
                Ok(()) => return Ok((task, session_receiver, image_receiver)),
                Err(Interrupted::Failed(error)) => return Err(error),
                Err(Interrupted::Stopped | Interrupted::Expired) => return Err(Failure::new(ErrorCode::SessionExpired, "").into()),
                // The connection may be lost, or another broker starts too.
                Err(Interrupted::Doubt) => {
                    task.changes.rt.sleep(RETRY_SOON).await;
                    session.connected(patience).await?;
                }
            }
        }
    }

    fn image(&self) -> Arc<MetadataImage> {
        self.changes.image()
    }

    /// Brokers that are on their way out, those whose disk is another than it was, and what brokers say of their replicas.
    fn judged_apart(&self, brokers: &BTreeMap<i32, BrokerInfo>) -> (BTreeSet<i32>, BTreeSet<i32>, Arc<Troubles>) {
        let reigning = self.changes.reigning();
        (reigning.leaving(brokers), reigning.wiped(brokers), reigning.troubles())
    }

    /// Gets a footing in the tree: the layout, the registration, the controllership if it is free, the whole image. Does what is not done yet.
    async fn settle(&mut self) -> Result<(), Interrupted> {
        let (rt, session) = (self.changes.rt.clone(), self.changes.session.clone());
        let config = &self.changes.config;
        let known = self.image();
        let expected = if known.cluster_id.is_empty() { config.expected_cluster_id.clone() } else { Some(known.cluster_id.clone()) };
        // First of all: a broker that comes back to another tree must not write to it.
        if expected.is_some() {
            cluster_id(&rt, &session, expected.as_deref()).await?;
        }
        create_persistent(&session).await?;
        let cluster_id = cluster_id(&rt, &session, expected.as_deref()).await?;
        let (broker, reign) = register(&rt, &session, config).await?;
        let reign = match reign {
            Some(reign) => Some(reign),
            None => contend(&rt, &session, broker.id).await?,
        };
        if self.changes.reign != reign {
            match reign {
                Some(reign) => tracing::info!(broker = broker.id, controller_epoch = reign.epoch, "this broker is the controller"),
                None => tracing::info!(broker = broker.id, "another broker is the controller"),
            }
        }
        self.changes.reign = reign;
        self.changes.is_doubtful.store(false, Ordering::Relaxed);
        self.watcher = session.watcher();
        self.stale.clear();

        let mut image = MetadataImage { cluster_id, controller_id: -1, ..MetadataImage::default() };
        image.controller_epoch = znodes::decode_controller_epoch(&session.get(znodes::CONTROLLER_EPOCH).await?.data)?;
        match find_and_watch(&session, znodes::CONTROLLER, &self.watcher).await? {
            Some(view) => image.controller_id = znodes::decode_controller(&view.data)?,
            None => drop(self.stale.insert(Part::Controller)),
        }
        image.brokers = read_brokers(&session, &self.watcher).await?.into_iter().map(|(id, (broker, _))| (id, broker)).collect();
        // The notices before the settings: what is changed from here on is told.
        let (notices, _) = session.children_and_watch(znodes::CONFIG_CHANGES, &self.watcher).await?;
        self.last_notice = notices.last().cloned();
        image.broker_configs = read_broker_configs(&session).await?;
        let (marked, _) = session.children_and_watch(znodes::DELETE_TOPICS, &self.watcher).await?;
        self.delete_marked(&marked).await?;
        let (names, _) = session.children_and_watch(znodes::TOPICS, &self.watcher).await?;
        if reign.is_some() {
            let directories = read_directories(&session).await?;
            let told = read_troubles(&session, &self.watcher).await?;
            let mut reigning = self.changes.reigning();
            reigning.directories = directories;
            reigning.take_troubles(told);
        }
        let (leaving, wiped, troubles) = self.judged_apart(&image.brokers);
        let (brokers, plants) = (&image.brokers, Plants::of(&rt));
        let cluster = Cluster { brokers, leaving: &leaving, wiped: &wiped, troubles: &troubles, here: troubles::NONE, plants };
        let load = Load { rt: &rt, session: &session, watcher: &self.watcher, reign, cluster, rules: &*self.changes.config.rules };
        let (mut topics, mut units) = (BTreeMap::new(), Vec::new());
        for (name, found) in load.topics(&names, |name| known.topic(name).cloned()).await? {
            if let Found::Topic(read) = found {
                units.extend(read.units);
                topics.insert(name, read.image);
            }
        }
        load.complete(&mut topics, units).await?;
        if reign.is_some() {
            self.changes.remember_directories(&image.brokers).await?;
        }
        self.watched = names.into_iter().collect();
        for (name, topic) in topics {
            image.put_topic(shared(known.topic(&name), topic));
        }
        if *known != image {
            self.changes.images.send_replace(Arc::new(image));
        }
        Ok(())
    }

    /// Runs until the controller is stopped, or all who could ask have gone.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Queued>) {
        loop {
            let interrupted = self.serve(&mut queue).await;
            self.behind.clear();
            let mut told = None;
            let mut next = Some(interrupted);
            while let Some(interrupted) = next.take() {
                let pause = match interrupted {
                    Interrupted::Stopped => {
                        // At once if nobody serves it: it ends after its time-out then.
                        self.changes.session.close().await;
                        return;
                    }
                    Interrupted::Expired => None,
                    Interrupted::Doubt => Some(RETRY_SOON),
                    Interrupted::Failed(error) => {
                        let why = error.to_string();
                        if told.as_ref() != Some(&why) {
                            tracing::error!(%error, "the metadata cannot be followed; trying again from time to time");
                        }
                        told = Some(why);
                        Some(RETRY)
                    }
                };
                next = self.recover(pause).await.err();
            }
        }
    }

    /// Comes back after an interruption: to the same session if it lives, else with another one.
    async fn recover(&mut self, pause: Option<Duration>) -> Result<(), Interrupted> {
        let mut stop = self.stop.clone();
        let recovering = async {
            if let Some(pause) = pause {
                self.changes.rt.sleep(pause).await;
            }
            let mut states = self.changes.session.states();
            let is_over = states.wait_for(|state| state.is_final() || matches!(state, State::Connected { .. })).await.map_or(true, |state| state.is_final());
            if is_over {
                let session = &self.changes.session;
                tracing::warn!(at = %session.connector(), state = ?session.state(), "the broker's session has ended; registering again under a new one");
                let session = Session::begin(self.changes.rt.clone(), session.connector().clone(), self.changes.config.session);
                // Whatever this broker was, it is not now.
                self.changes.reign = None;
                self.sessions.send_replace(session.clone());
                self.watcher = session.watcher();
                self.changes.session = session;
                let mut states = self.changes.session.states();
                let _ = states.wait_for(|state| state.is_final() || matches!(state, State::Connected { .. })).await;
            }
            self.settle().await
        };
        tokio::select! {
            biased;
            recovered = recovering => recovered,
            _ = stop.wait_for(|stop| *stop) => Err(Interrupted::Stopped),
        }
    }

    /// Follows the tree and carries out changes, until something interrupts it.
    async fn serve(&mut self, queue: &mut mpsc::Receiver<Queued>) -> Interrupted {
        enum Next {
            Event(Option<crate::coordination::client::WatchEvent>),
            Change(Option<Queued>),
            Rebalance,
        }
        let rt = self.changes.rt.clone();
        let interval = self.changes.config.rebalance_interval.filter(|_| self.changes.reign.is_some());
        let mut rebalance = rt.timer(rt.now() + interval.unwrap_or(FOREVER));
        loop {
            while let Some(event) = self.watcher.try_next() {
                self.stale.extend(Part::of(&event.path));
            }
            if !self.stale.is_empty() {
                let patience = self.patience(None);
                let refreshed = tokio::select! {
                    biased;
                    refreshed = self.refresh() => refreshed,
                    () = patience => Err(Interrupted::Doubt),
                };
                match refreshed {
                    Ok(()) => continue,
                    Err(interrupted) => return interrupted,
                }
            }
            for behind in self.behind.drain(..) {
                // Who asked may have gone.
                let _ = behind.send(());
            }
            let next = tokio::select! {
                biased;
                event = self.watcher.next() => Next::Event(event),
                change = queue.recv() => Next::Change(change),
                () = &mut rebalance => Next::Rebalance,
            };
            match next {
                Next::Event(Some(event)) => self.stale.extend(Part::of(&event.path)),
                Next::Event(None) => return Interrupted::Expired,
                Next::Rebalance => {
                    rebalance.reset(rt.now() + interval.unwrap_or(FOREVER));
                    let patience = self.patience(None);
                    let is_done = tokio::select! {
                        biased;
                        () = self.changes.rebalance_leaders() => true,
                        () = patience => false,
                    };
                    if !is_done || self.changes.is_doubtful.load(Ordering::Relaxed) {
                        return Interrupted::Doubt;
                    }
                }
                Next::Change(None) => return Interrupted::Stopped,
                Next::Change(Some(Queued { change: Change::Shutdown { done }, .. })) => {
                    self.changes.session.close().await;
                    queue.close();
                    // What was asked before it is done; what came with it is refused.
                    drop(done);
                    return Interrupted::Stopped;
                }
                Next::Change(Some(Queued { change: Change::CatchUp { done }, until })) => {
                    let patience = self.patience(Some(until));
                    let synced = tokio::select! {
                        biased;
                        synced = self.changes.session.sync(znodes::TOPICS) => synced,
                        () = patience => Err(Failure::new(ErrorCode::ConnectionLoss, znodes::TOPICS)),
                    };
                    match synced {
                        // What was written before has been told to the watcher by now.
                        Ok(()) => self.behind.push(done),
                        Err(failure) => return failure.into(),
                    }
                }
                // Nobody waits any more, and the world has moved on.
                Next::Change(Some(queued)) if self.changes.rt.now() >= queued.until && queued.change.is_forsaken() => {}
                Next::Change(Some(queued)) => {
                    let patience = self.patience(Some(queued.until));
                    let is_done = tokio::select! {
                        biased;
                        () = self.changes.carry_out(queued.change) => true,
                        () = patience => false,
                    };
                    if !is_done || self.changes.is_doubtful.load(Ordering::Relaxed) {
                        return if self.changes.session.state() == State::Expired { Interrupted::Expired } else { Interrupted::Doubt };
                    }
                }
            }
        }
    }

    /// Ends when what is asked of the tree has taken too long and nobody serves the session, or when the controller is to stop while nobody serves its session.
    fn patience(&self, until: Option<Instant>) -> impl Future<Output = ()> + use<R> {
        let rt = self.changes.rt.clone();
        let late = rt.timer(until.unwrap_or_else(|| rt.now() + CHANGE_PATIENCE));
        let (mut stop, mut states) = (self.stop.clone(), self.changes.session.states());
        let late = away(late, states.clone());
        async move {
            let is_hopeless = async {
                let _ = stop.wait_for(|stop| *stop).await;
                let _ = states.wait_for(|state| !matches!(state, State::Connected { .. })).await;
            };
            tokio::select! {
                biased;
                () = late => {}
                () = is_hopeless => {}
            }
        }
    }

    /// Reads anew what has changed.
    async fn refresh(&mut self) -> Result<(), Interrupted> {
        let mut topics = BTreeSet::new();
        while let Some(part) = self.stale.pop_first() {
            match part {
                Part::Controller => self.controller_changed().await?,
                Part::Offline => self.troubles_changed().await?,
                Part::Brokers => self.brokers_changed().await?,
                Part::ConfigChanges => self.settings_changed().await?,
                Part::Topics => {
                    let (names, _) = self.changes.session.children_and_watch(znodes::TOPICS, &self.watcher).await?;
                    let follow::TopicNames { to_read, gone } = follow::compare(&names, &self.image(), &self.watched);
                    let there: BTreeSet<Arc<str>> = names.into_iter().collect();
                    self.watched.retain(|name| there.contains(name));
                    topics.extend(to_read);
                    topics.extend(gone);
                }
                Part::Topic(name) => drop(topics.insert(name)),
                Part::DeleteTopics => {
                    let (marked, _) = self.changes.session.children_and_watch(znodes::DELETE_TOPICS, &self.watcher).await?;
                    self.delete_marked(&marked).await?;
                }
            }
        }
        if topics.is_empty() { Ok(()) } else { self.topics_changed(topics).await }
    }

    async fn controller_changed(&mut self) -> Result<(), Interrupted> {
        let session = &self.changes.session;
        match find_and_watch(session, znodes::CONTROLLER, &self.watcher).await? {
            Some(view) => {
                let id = znodes::decode_controller(&view.data)?;
                let is_own = view.stat.ephemeral_owner == session.id();
                if is_own != self.changes.reign.is_some() {
                    // Won or lost: the tree is read anew in the other part.
                    self.changes.reign = None;
                    return Err(Interrupted::Doubt);
                }
                let epoch = znodes::decode_controller_epoch(&session.get(znodes::CONTROLLER_EPOCH).await?.data)?;
                let image = self.image();
                if (image.controller_id, image.controller_epoch) != (id, epoch) {
                    drop(image);
                    self.changes.publish(|image| (image.controller_id, image.controller_epoch) = (id, epoch));
                }
                Ok(())
            }
            None => {
                // Its broker has gone, or somebody wants another election.
                self.changes.reign = None;
                self.changes.publish(|image| image.controller_id = -1);
                Err(Interrupted::Doubt)
            }
        }
    }

    async fn brokers_changed(&mut self) -> Result<(), Interrupted> {
        let session = self.changes.session.clone();
        let read = read_brokers(&session, &self.watcher).await?;
        let own = self.changes.config.broker.id;
        match read.get(&own) {
            // Deleted by hand: registering again makes it anew.
            None => return Err(Interrupted::Doubt),
            Some((_, holder)) if *holder != session.id() => {
                let why = format!(
                    "another process has registered as broker {own} with this broker's log directory (session {holder:#x}): this one must not go on; look for a \
                     second process on the same or a copied directory"
                );
                tracing::error!(why);
                match self.changes.rt.halt(&why).await {}
            }
            Some(_) => {}
        }
        let brokers: BTreeMap<i32, _> = read.into_iter().map(|(id, (broker, _))| (id, broker)).collect();
        let image = self.image();
        if brokers == image.brokers {
            return Ok(());
        }
        let names = |brokers: &BTreeMap<i32, _>| brokers.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!(before = names(&image.brokers), now = names(&brokers), "the registered brokers have changed");
        drop(image);
        if self.changes.reign.is_some() {
            return Ok(self.changes.review(brokers).await?);
        }
        self.changes.publish(|image| image.brokers = brokers);
        Ok(())
    }

    /// As the controller, hears what brokers say of their replicas, and looks at all partitions if it is something new.
    async fn troubles_changed(&mut self) -> Result<(), Interrupted> {
        if self.changes.reign.is_none() {
            return Ok(());
        }
        let told = read_troubles(&self.changes.session, &self.watcher).await?;
        let is_new = self.changes.reigning().take_troubles(told);
        if is_new {
            let brokers = self.image().brokers.clone();
            self.changes.review(brokers).await?;
        }
        Ok(())
    }

    async fn settings_changed(&mut self) -> Result<(), Interrupted> {
        let session = self.changes.session.clone();
        let (notices, _) = session.children_and_watch(znodes::CONFIG_CHANGES, &self.watcher).await?;
        let path = |name: &str| format!("{}/{name}", znodes::CONFIG_CHANGES);
        let mut entities = BTreeSet::new();
        for name in notices.iter().filter(|name| self.last_notice.as_ref().is_none_or(|last| *name > last)) {
            if let Some(view) = find(&session, &path(name)).await? {
                entities.extend(ConfigEntity::decode_change(&view.data));
            }
        }
        self.last_notice = notices.last().cloned().or(self.last_notice.take());
        for entity in entities {
            let at = entity.path();
            let settings = match find(&session, &at).await? {
                Some(view) => znodes::decode_config(&at, &view.data)?,
                None => BTreeMap::new(),
            };
            let image = self.image();
            match entity {
                ConfigEntity::Topic(name) => {
                    if let Some(topic) = image.topic(&name).filter(|topic| topic.config != settings) {
                        let topic = Arc::new(TopicImage { config: settings, ..TopicImage::clone(topic) });
                        drop(image);
                        self.changes.publish(|image| image.put_topic(topic));
                        if self.changes.reign.is_some() {
                            self.changes.review_if_leaderless(&name).await?;
                        }
                    }
                }
                ConfigEntity::Broker(id) if image.broker_configs.get(&id) != Some(&settings) => {
                    self.changes.publish(|image| drop(image.broker_configs.insert(id, settings)))
                }
                ConfigEntity::Broker(_) => {}
            }
        }
        if self.changes.reign.is_some() {
            let now_ms = self.changes.rt.unix_ms();
            for name in &notices {
                match session.exists(&path(name)).await? {
                    Some(stat) if now_ms.saturating_sub(stat.ctime_ms) > NOTICE_MS => match session.delete(&path(name), ANY_VERSION).await {
                        Ok(()) | Err(Failure { code: ErrorCode::NoNode, .. }) => {}
                        Err(failure) => return Err(failure.into()),
                    },
                    Some(_) => break,
                    None => {}
                }
            }
        }
        Ok(())
    }

    /// Reads topics anew that are new, have changed or have gone.
    async fn topics_changed(&mut self, names: BTreeSet<Arc<str>>) -> Result<(), Interrupted> {
        let (rt, session, reign) = (self.changes.rt.clone(), self.changes.session.clone(), self.changes.reign);
        let image = self.image();
        let (leaving, wiped, troubles) = self.judged_apart(&image.brokers);
        let (brokers, plants) = (&image.brokers, Plants::of(&rt));
        let cluster = Cluster { brokers, leaving: &leaving, wiped: &wiped, troubles: &troubles, here: troubles::NONE, plants };
        let rules = self.changes.config.rules.clone();
        let load = Load { rt: &rt, session: &session, watcher: &self.watcher, reign, cluster, rules: &*rules };
        let (mut topics, mut units, mut gone) = (BTreeMap::new(), Vec::new(), Vec::new());
        for name in names {
            let known = image.topic(&name);
            match load.topic(&name, known.map(|known| &**known), reign.is_some()).await {
                Ok(Found::Gone) => {
                    self.watched.remove(&name);
                    if known.is_some() {
                        gone.push(name);
                    }
                }
                Ok(Found::NotYet | Found::AsKnown) => drop(self.watched.insert(name)),
                Ok(Found::Topic(read)) => {
                    self.watched.insert(name.clone());
                    units.extend(read.units);
                    topics.insert(name, read.image);
                }
                Err(StartError::Znode(error)) => tracing::error!(%error, topic = %name, "what was written about a topic cannot be read; it stays as it was"),
                Err(error) => return Err(error.into()),
            }
        }
        if !gone.is_empty() {
            // A tree that was emptied is no reason to delete what is on disk.
            cluster_id(&rt, &session, Some(&image.cluster_id)).await?;
        }
        load.complete(&mut topics, units).await?;
        let mut changed = Vec::new();
        for (name, topic) in topics {
            if image.topic(&name).is_none_or(|known| **known != topic) {
                changed.push(Arc::new(topic));
            }
        }
        if !changed.is_empty() || !gone.is_empty() {
            drop(image);
            self.changes.publish(|image| {
                gone.iter().for_each(|name| image.remove_topic(name));
                changed.into_iter().for_each(|topic| image.put_topic(topic));
            });
        }
        Ok(())
    }

    /// As the controller, deletes the topics that are marked for it: by Kafka's tools, or by a controller that did not come to the end.
    async fn delete_marked(&mut self, marked: &[Arc<str>]) -> Result<(), Interrupted> {
        let Some(reign) = self.changes.reign else { return Ok(()) };
        for topic in marked {
            let session = &self.changes.session;
            if !self.changes.config.delete_topic_enable {
                tracing::warn!(%topic, "the topic is marked for deletion, which delete.topic.enable=false forbids: removing the mark");
                fenced(session, reign.epoch_version, [Operation::delete(znodes::delete_topic_path(topic), ANY_VERSION)]).await?;
                continue;
            }
            tracing::info!(%topic, "deleting the topic: it is marked for deletion");
            self.changes.publish(|image| image.remove_topic(topic));
            delete_in_parts(session, reign.epoch_version, topic).await?;
        }
        Ok(())
    }
}

/// Ends when it is late and no member serves the session.
pub(super) async fn away(late: impl Future<Output = ()>, mut states: watch::Receiver<State>) {
    late.await;
    let _ = states.wait_for(|state| !matches!(state, State::Connected { .. })).await;
}

/// The image that is known, if it says the same: who follows images compares them by their address.
fn shared(known: Option<&Arc<TopicImage>>, read: TopicImage) -> Arc<TopicImage> {
    match known {
        Some(known) if **known == read => known.clone(),
        _ => Arc::new(read),
    }
}
