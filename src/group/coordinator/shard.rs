//! The groups of one partition of `__consumer_offsets`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::lock;
use crate::group::records::GroupRecord;
use crate::group::state::{AppendId, ErrorCode, Group, GroupConfig, Now, Reply, RequestId};
use crate::internal_topic::{self, InternalLog, InternalWriter, LoadError, Loaded};
use crate::runtime::Instant;

/// What an append is about.
pub(super) struct Tag {
    pub(super) cell: Arc<GroupCell>,
    pub(super) append: AppendId,
}

/// One leadership of one partition.
pub(super) struct Shard {
    pub(super) partition: i32,
    pub(super) writer: InternalWriter<Tag>,
    groups: Mutex<Groups>,
}

struct Groups {
    cells: BTreeMap<Arc<str>, Arc<GroupCell>>,
    /// The leadership is over: no group may be added.
    dead: bool,
}

/// A group and its lock. Take the cell from the shard's map, let go of the map, then lock the cell: under a cell's lock the map may be
/// locked, never the other way round.
pub(super) struct GroupCell {
    pub(super) id: Arc<str>,
    pub(super) state: Mutex<CellState>,
}

/// What a cell's lock guards.
pub(super) struct CellState {
    pub(super) group: Group,
    pub(super) waiting: BTreeMap<RequestId, oneshot::Sender<Reply>>,
    pub(super) next_request: u64,
    /// The deadline that the timer task knows of.
    pub(super) deadline: Option<Instant>,
    /// It is no longer in the shard's map.
    pub(super) gone: bool,
}

impl GroupCell {
    fn new(group: Group) -> Self {
        let id = Arc::clone(group.id());
        Self { id, state: Mutex::new(CellState { group, waiting: BTreeMap::new(), next_request: 0, deadline: None, gone: false }) }
    }
}

impl Shard {
    /// The group's cell, made if wanted.
    ///
    /// # Errors
    /// NOT_COORDINATOR if the leadership is over.
    pub(super) fn cell(&self, group_id: &str, create: bool, config: &Arc<GroupConfig>, now: impl FnOnce() -> Now) -> Result<Option<Arc<GroupCell>>, ErrorCode> {
        let mut groups = lock(&self.groups);
        if groups.dead {
            return Err(ErrorCode::NotCoordinator);
        }
        if let Some(cell) = groups.cells.get(group_id) {
            return Ok(Some(Arc::clone(cell)));
        }
        if !create {
            return Ok(None);
        }
        let id: Arc<str> = group_id.into();
        let cell = Arc::new(GroupCell::new(Group::new(Arc::clone(&id), Arc::clone(config), now())));
        groups.cells.insert(id, Arc::clone(&cell));
        Ok(Some(cell))
    }

    pub(super) fn get(&self, group_id: &str) -> Option<Arc<GroupCell>> {
        lock(&self.groups).cells.get(group_id).cloned()
    }

    pub(super) fn cells(&self) -> Vec<Arc<GroupCell>> {
        lock(&self.groups).cells.values().cloned().collect()
    }

    pub(super) fn group_count(&self) -> usize {
        lock(&self.groups).cells.len()
    }

    /// Takes a cell out of the map. Called under its lock.
    pub(super) fn forget(&self, cell: &Arc<GroupCell>) {
        let mut groups = lock(&self.groups);
        if groups.cells.get(&cell.id).is_some_and(|current| Arc::ptr_eq(current, cell)) {
            groups.cells.remove(&cell.id);
        }
    }

    /// Lets no group in any more; those that are there.
    pub(super) fn kill(&self) -> Vec<Arc<GroupCell>> {
        let mut groups = lock(&self.groups);
        groups.dead = true;
        groups.cells.values().cloned().collect()
    }
}

/// Reads the groups of a partition.
pub(super) async fn load<L: InternalLog>(
    log: &L,
    config: &Arc<GroupConfig>,
    now: Now,
    partition: i32,
    writer: InternalWriter<Tag>,
) -> Result<Shard, LoadError> {
    let mut loader = Loader { config: Arc::clone(config), now, groups: BTreeMap::new(), transactions: BTreeMap::new(), unknown_count: 0 };
    internal_topic::load(log, |loaded| loader.take(loaded)).await?;
    if loader.unknown_count > 0 {
        tracing::warn!(partition, count = loader.unknown_count, "records of group protocols that this broker does not serve were passed over");
    }
    if !loader.transactions.is_empty() {
        tracing::warn!(partition, count = loader.transactions.len(), "offsets of transactions that are still open were passed over");
    }
    let cells = loader.groups.into_iter().map(|(id, group)| (id, Arc::new(GroupCell::new(group))));
    let groups = Mutex::new(Groups { cells: cells.filter(|(_, cell)| !lock(&cell.state).group.is_vacant()).collect(), dead: false });
    Ok(Shard { partition, writer, groups })
}

/// Replays records into groups.
struct Loader {
    config: Arc<GroupConfig>,
    now: Now,
    groups: BTreeMap<Arc<str>, Group>,
    /// Offsets that were committed in transactions which have not ended, by producer id, in the log's order.
    transactions: BTreeMap<i64, Vec<GroupRecord>>,
    unknown_count: u64,
}

impl Loader {
    fn take(&mut self, loaded: Loaded) -> Result<(), String> {
        match loaded {
            Loaded::Record { key, value, transaction, .. } => match GroupRecord::decode(&key, value.as_ref()).map_err(|error| error.to_string())? {
                None => self.unknown_count += 1,
                Some(record @ GroupRecord::Offset { .. }) => match transaction {
                    Some(producer_id) => self.transactions.entry(producer_id).or_default().push(record),
                    None => {
                        self.supersede(&record);
                        self.apply(record);
                    }
                },
                Some(record) => self.apply(record),
            },
            Loaded::Marker { producer_id, committed } => {
                for record in self.transactions.remove(&producer_id).unwrap_or_default() {
                    if committed {
                        self.apply(record);
                    }
                }
            }
        }
        Ok(())
    }

    /// The log's order decides between a commit and an earlier one of a transaction that ends later: the earlier one is void.
    fn supersede(&mut self, record: &GroupRecord) {
        let GroupRecord::Offset { group, topic, partition, .. } = record else { return };
        for pending in self.transactions.values_mut() {
            pending.retain(
                |earlier| !matches!(earlier, GroupRecord::Offset { group: g, topic: t, partition: p, .. } if g == group && t == topic && p == partition),
            );
        }
    }

    fn group(&mut self, id: &str) -> &mut Group {
        let key: Arc<str> = id.into();
        self.groups.entry(Arc::clone(&key)).or_insert_with(|| Group::new(key, Arc::clone(&self.config), self.now))
    }

    fn apply(&mut self, record: GroupRecord) {
        match record {
            GroupRecord::Offset { group, topic, partition, value } => {
                if value.is_some() || self.groups.contains_key(group.as_str()) {
                    self.group(&group).load_offset(&topic, partition, value);
                }
            }
            GroupRecord::Group { group, value: Some(value) } => self.group(&group).load_generation(value),
            GroupRecord::Group { group, value: None } => {
                if let Some(group) = self.groups.get_mut(group.as_str()) {
                    group.load_removal(self.now);
                }
            }
        }
    }
}
