//! The node's linearizable reads: the index that each must wait for, asked of the leader, and asked again when nothing is heard.

use super::super::consensus::Consensus;
use super::super::origin::GIVE_UP_TICKS;
use super::{ExportedState, Node, READ_AGAIN_TICKS, Read, Waits, lost};
use crate::codec;
use crate::coordination::storage::format::SnapshotMeta;
use crate::plant;
use crate::runtime::Runtime;

impl<R: Runtime, C: Consensus> Node<R, C> {
    /// Answers when this member has all that was answered anywhere before now.
    pub(super) fn begin_read(&mut self, waits: Waits) {
        if plant!(&self.rt, "stale-read-without-readindex") {
            self.finish_read(waits);
            return;
        }
        let id = self.next_read;
        self.next_read += 1;
        self.reads.insert(id, Read { waits, index: None, age_ticks: 0, asked_ticks: 0 });
        self.ask_to_read(id);
    }

    pub(super) fn ask_to_read(&mut self, id: u64) {
        if let Ok(context) = codec::encode(&(self.read_salt, id)) {
            self.core.read_index(context.into());
        }
    }

    pub(super) fn finish_reads(&mut self) {
        let applied = self.replicated.applied.0;
        if self.reads.values().any(|read| read.index.is_some_and(|index| index <= applied)) {
            let done: Vec<u64> = self.reads.iter().filter(|(_, read)| read.index.is_some_and(|index| index <= applied)).map(|(id, _)| *id).collect();
            for read in done.into_iter().filter_map(|id| self.reads.remove(&id)).collect::<Vec<_>>() {
                self.finish_read(read.waits);
            }
        }
    }

    /// Whoever has gone needs no answer.
    fn finish_read(&self, waits: Waits) {
        match waits {
            Waits::Answer(answer) => drop(answer.send(Ok(()))),
            Waits::Export(export) => drop(export.send(self.export())),
        }
    }

    fn export(&self) -> ExportedState {
        let (index, term) = self.replicated.applied;
        let tree = self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let meta = SnapshotMeta { index, term, conf_state: self.core.applied_conf_state().clone(), last_zxid: tree.last_zxid() };
        ExportedState { meta, state: self.replicated.to_snapshot(), tree }
    }

    pub(super) fn tick_reads(&mut self) {
        let (mut over, mut again) = (Vec::new(), Vec::new());
        for (id, read) in &mut self.reads {
            read.age_ticks += 1;
            read.asked_ticks += 1;
            if read.age_ticks >= GIVE_UP_TICKS {
                over.push(*id);
            } else if read.index.is_none() && read.asked_ticks >= READ_AGAIN_TICKS {
                again.push(*id);
            }
        }
        for read in over.into_iter().filter_map(|id| self.reads.remove(&id)).collect::<Vec<_>>() {
            if let Waits::Answer(answer) = read.waits {
                let _ = answer.send(Err(lost()));
            }
        }
        self.ask_again(again);
    }

    /// An entry of a newer term is applied: whoever leads in it answers reads from now on, and did not before. Those that have no answer yet need not wait until they
    /// would ask again.
    pub(super) fn term_has_begun(&mut self) {
        let again = self.reads.iter().filter(|(_, read)| read.index.is_none()).map(|(id, _)| *id).collect();
        self.ask_again(again);
    }

    /// Under new numbers: a late answer to the old question is as true for it, but the library takes a question once.
    fn ask_again(&mut self, ids: Vec<u64>) {
        for read in ids.into_iter().filter_map(|id| self.reads.remove(&id)).collect::<Vec<_>>() {
            let id = self.next_read;
            self.next_read += 1;
            self.reads.insert(id, Read { asked_ticks: 0, ..read });
            self.ask_to_read(id);
        }
    }
}
