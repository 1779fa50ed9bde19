//! The node's linearizable reads: the index that each must wait for, asked of the leader, and asked again when nothing is heard.

use tokio::sync::oneshot;

use super::super::consensus::Consensus;
use super::super::origin::GIVE_UP_TICKS;
use super::{Node, READ_AGAIN_TICKS, Read, lost};
use crate::codec;
use crate::coordination::op::Failure;
use crate::plant;
use crate::runtime::Runtime;

impl<R: Runtime, C: Consensus> Node<R, C> {
    /// Answers when this member has all that was answered anywhere before now.
    pub(super) fn begin_read(&mut self, answer: oneshot::Sender<Result<(), Failure>>) {
        if plant!(&self.rt, "stale-read-without-readindex") {
            let _ = answer.send(Ok(()));
            return;
        }
        let id = self.next_read;
        self.next_read += 1;
        self.reads.insert(id, Read { answers: vec![answer], index: None, age_ticks: 0, asked_ticks: 0 });
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
            for answer in done.into_iter().filter_map(|id| self.reads.remove(&id)).flat_map(|read| read.answers) {
                let _ = answer.send(Ok(()));
            }
        }
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
        for answer in over.into_iter().filter_map(|id| self.reads.remove(&id)).flat_map(|read| read.answers) {
            let _ = answer.send(Err(lost()));
        }
        for id in again {
            // Under a new number: a late answer to the old question is as true for it, but the library takes a question once.
            if let Some(read) = self.reads.remove(&id) {
                let id = self.next_read;
                self.next_read += 1;
                self.reads.insert(id, Read { asked_ticks: 0, ..read });
                self.ask_to_read(id);
            }
        }
    }
}
