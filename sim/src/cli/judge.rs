//! `judge`: the history of real clients on real brokers, before the judge of the simulated ones.
//!
//! A history is a text file, one line for each thing that a client was told; fields are separated by spaces, times are in ms. Only the order of lines about one
//! producer matters, and their numbers tell it; and that of lines about one group, which one client must write.
//!
//! | line | what |
//! |---|---|
//! | `T topic` | the topic that all partitions below belong to |
//! | `A time partition producer number kind offset` | a record was acknowledged at an offset, −1 if that was not told; `kind` is `i` for an idempotent producer, `p` for a plain one that retries by itself |
//! | `U time partition producer number kind reason` | a record was sent, and what became of it is not known |
//! | `R time partition offset producer number` | a consumer read a record; `?` in place of its two numbers: bytes that are no whole record |
//! | `G time partition group ticket offset` | a commit of a consumer group goes out; tickets are all different |
//! | `K time ticket` | a commit was acknowledged |
//! | `X time reason` | what became of a commit is not known |
//! | `W time ticket` | a client asks what is committed |
//! | `O time partition group ticket offset` | and is told, −1 for nothing |
//! | `B time client what` | a client was told what no broker may tell it |
//! | `L partition start end` | in the end a partition has these offsets |
//! | `F partition offset producer number` | in the end a record is there; `?` as above |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{EXIT_CORRECTNESS, EXIT_NOT_COUNTED};
use ottla_sim::clients::history::{FinalLog, History, Outcome, Place, Violation};
use ottla_sim::clients::value::ValueId;

/// A plain producer that retries by itself does not say how often: as often as it may double a record.
const RESENT_MANY: u32 = 100;

#[derive(Args)]
pub(super) struct JudgeArgs {
    /// The history.
    file: PathBuf,
    /// Fewer acknowledged records than this, or fewer of either kind of producer than a tenth of it, prove nothing and are a failure.
    #[arg(long, default_value_t = 1)]
    at_least: u64,
}

/// What a history was found to be.
struct Judged {
    violations: Vec<Violation>,
    acked: [u64; 2],
    unknown: u64,
    read: u64,
    kept: u64,
    committed: u64,
}

pub(super) fn run(arguments: &JudgeArgs) -> Result<u8, String> {
    let shown = arguments.file.display();
    let text = read(&arguments.file).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let judged = judge(&text).map_err(|why| format!("{shown}: {why}"))?;
    let Judged { violations, acked: [plain, idempotent], unknown, read, kept, committed } = judged;
    println!(
        "{} acknowledged ({idempotent} idempotent), {unknown} unknown, {kept} in the logs, {read} read, {committed} committed by groups, {} promises broken",
        plain + idempotent,
        violations.len()
    );
    violations.iter().for_each(|violation| println!("{violation}"));
    if !violations.is_empty() {
        return Ok(EXIT_CORRECTNESS);
    }
    let least = arguments.at_least;
    if plain + idempotent < least || plain.min(idempotent) < least / 10 {
        println!("too little happened: at least {least} acknowledged records were expected, {} of each kind", least / 10);
        return Ok(EXIT_NOT_COUNTED);
    }
    Ok(0)
}

#[allow(clippy::disallowed_methods, reason = "the harness's own file")]
fn read(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

/// A record's outcome as a client told it.
struct Sent {
    partition: i32,
    is_idempotent: bool,
    outcome: Outcome,
}

fn judge(text: &str) -> Result<Judged, String> {
    let mut topic = String::new();
    let mut history = History::default();
    let mut sends: BTreeMap<ValueId, Sent> = BTreeMap::new();
    let mut logs: BTreeMap<Place, FinalLog> = BTreeMap::new();
    let (mut acked, mut unknown, mut read, mut committed) = ([0, 0], 0, 0, 0);
    let (mut commits, mut asked) = (BTreeMap::new(), BTreeMap::new());
    for (at, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split(' ').collect();
        let wrong = |what: &str| format!("line {}: {what}: {line}", at + 1);
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i64>().ok()).ok_or_else(|| wrong(&format!("field {index} is no number")));
        let value = |index: usize| match fields.get(index) {
            Some(&"?") => Ok::<_, String>(None),
            _ => {
                let id = |at| u32::try_from(number(at)?).map_err(|_| wrong("a producer or number is out of range"));
                Ok(Some(ValueId { producer: id(index)?, number: id(index + 1)? }))
            }
        };
        let place = |index: usize| Ok::<_, String>((topic.clone(), number(index)? as i32));
        match fields[0] {
            "T" => topic = fields.get(1).ok_or_else(|| wrong("no topic"))?.to_string(),
            kind @ ("A" | "U") => {
                let id = value(3)?.ok_or_else(|| wrong("nobody sent it"))?;
                let is_idempotent = match fields.get(5) {
                    Some(&"i") => true,
                    Some(&"p") => false,
                    _ => return Err(wrong("the kind of producer is neither i nor p")),
                };
                let outcome = if kind == "A" { Outcome::Acked { base_offset: number(6)? } } else { Outcome::Unknown };
                match outcome {
                    Outcome::Acked { .. } => acked[usize::from(is_idempotent)] += 1,
                    _ => unknown += 1,
                }
                let twice = sends.insert(id, Sent { partition: number(2)? as i32, is_idempotent, outcome }).is_some();
                if twice {
                    return Err(wrong("this record's outcome was told before: two producers have one number, or a client reports twice"));
                }
            }
            "R" => {
                read += 1;
                history.read(&place(2)?, number(3)?, value(4)?);
            }
            "G" => {
                let group = fields.get(3).ok_or_else(|| wrong("no group"))?;
                let ticket = history.commit(group, -1, &place(2)?, number(5)?);
                commits.insert(number(4)?, ticket);
            }
            "K" => {
                let ticket = commits.remove(&number(2)?).ok_or_else(|| wrong("no commit has this ticket"))?;
                committed += 1;
                history.committed(ticket, true);
            }
            "X" => {}
            "W" => drop(asked.insert(number(2)?, history.before_offset_fetch())),
            "O" => {
                let group = fields.get(3).ok_or_else(|| wrong("no group"))?;
                let began = *asked.get(&number(4)?).ok_or_else(|| wrong("nobody asked under this ticket"))?;
                history.offset_fetched(group, &place(2)?, began, number(5)?);
            }
            "B" => history.broken("sequence", fields[2..].join(" ")),
            "L" => {
                let (start_offset, end_offset) = (number(2)?, number(3)?);
                let log = logs.entry(place(1)?).or_default();
                (log.start_offset, log.end_offset, log.readable_end_offset) = (start_offset, end_offset, end_offset);
            }
            "F" => logs.entry(place(1)?).or_default().records.push((number(2)?, value(3)?)),
            _ => return Err(wrong("no such kind of line")),
        }
    }
    for (id, sent) in sends {
        let place = (topic.clone(), sent.partition);
        if !logs.contains_key(&place) {
            return Err(format!("{place:?} was written, and its last read is missing"));
        }
        if let Outcome::Acked { base_offset: ..0 } = sent.outcome
            && !logs[&place].records.iter().any(|(_, value)| *value == Some(id))
        {
            history.broken("lost-write", format!("{id:?} was acknowledged in {place:?} and is not there"));
        }
        let ticket = history.send(place, vec![id], sent.is_idempotent, 0);
        if !sent.is_idempotent {
            (0..RESENT_MANY).for_each(|_| history.resend(ticket));
        }
        history.sent(ticket, sent.outcome);
    }
    let kept = logs.values().map(|log| log.records.len() as u64).sum();
    let violations = history.finish(&logs);
    Ok(Judged { violations, acked, unknown, read, kept, committed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(text: &str) -> Vec<&'static str> {
        judge(text).unwrap().violations.iter().map(|violation| violation.check).collect()
    }

    #[test]
    fn what_clients_were_promised_is_found_or_missed() {
        let good = "T t\nA 5 0 1 0 i 0\nA 6 0 1 1 i 1\nU 9 0 2 0 p NOT_LEADER\nR 7 0 0 1 0\nL 0 0 3\nF 0 0 1 0\nF 0 1 1 1\nF 0 2 2 0\n";
        let judged = judge(good).unwrap();
        assert_eq!(judged.violations, []);
        assert_eq!((judged.acked, judged.unknown, judged.kept, judged.read), ([0, 2], 1, 3, 1));
        assert_eq!(checks(&good.replace("F 0 1 1 1\n", "").replace("F 0 2 2 0", "F 0 1 2 0").replace("L 0 0 3", "L 0 0 2")), ["lost-write"]);
        assert_eq!(checks(&good.replace("F 0 2 2 0", "F 0 2 1 0")), ["duplicate"]);
        assert_eq!(checks(&good.replace("A 6 0 1 1 i 1", "A 6 0 1 1 i -1")), Vec::<&str>::new());
        assert_eq!(checks(&good.replace("A 6 0 1 1 i 1", "A 6 0 1 1 i -1\nA 6 0 1 2 i -1")), ["lost-write"]);
        assert_eq!(checks(&good.replace("R 7 0 0 1 0", "R 7 0 0 1 1")), ["inconsistent-offset"]);
        assert_eq!(checks(&good.replace("F 0 2 2 0", "F 0 2 ?")), ["phantom"]);
        assert_eq!(checks(&good.replace("R 7 0 0 1 0", "B 7 java out of order")), ["sequence"]);
        assert_eq!(checks("T t\nU 5 0 1 0 i x\nU 6 0 1 1 i x\nL 0 0 2\nF 0 0 1 1\nF 0 1 1 0\n"), ["order"]);
        let group = "T t\nG 1 0 g 1 5\nK 2 1\nG 3 0 g 2 9\nK 4 2\nW 5 3\nO 6 0 g 3 9\n";
        assert_eq!((checks(group), judge(group).unwrap().committed), (Vec::new(), 2));
        assert_eq!(checks(&group.replace("O 6 0 g 3 9", "O 6 0 g 3 5")), ["group-offset"]);
        assert_eq!(checks(&group.replace("O 6 0 g 3 9", "O 6 0 g 3 -1")), ["group-offset"]);
        assert_eq!(checks(&group.replace("K 4 2\n", "X 4 TIMED_OUT\n").replace("O 6 0 g 3 9", "O 6 0 g 3 5")), Vec::<&str>::new(), "either is possible");
        // A plain producer's retry may come twice.
        assert_eq!(checks("T t\nA 5 0 1 0 p 1\nL 0 0 2\nF 0 0 1 0\nF 0 1 1 0\n"), Vec::<&str>::new());
    }

    #[test]
    fn a_history_that_cannot_be_judged_is_refused_with_its_line() {
        assert!(judge("T t\nA 5 0 1 0 x 0\n").err().unwrap().starts_with("line 2: "));
        assert!(judge("T t\nA 5 0 1 0 i 0\nA 5 0 1 0 i 1\n").err().unwrap().contains("told before"));
        assert!(judge("T t\nA 5 0 1 0 i 0\n").err().unwrap().contains("last read is missing"));
    }
}
