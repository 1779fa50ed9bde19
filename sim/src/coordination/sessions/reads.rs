//! What a read must show of a tree, and what an answer says: found by other ways than the code under test goes.

use bytes::Bytes;
use ottla::coordination::acl::{self, Identity, perms};
use ottla::coordination::jute::{JuteError, Reader};
use ottla::coordination::op::{ErrorCode, Stat};
use ottla::coordination::protocol::opcode;
use ottla::coordination::tree::Tree;

use super::request::Kind;

/// What is shown of one znode, as far as the request asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    stat: Option<Stat>,
    data: Option<Bytes>,
    names: Vec<String>,
    count: i32,
}

/// What a read shows: an error, or a part for each of its reads, which may be an error, too.
pub type Shown = Result<Vec<Result<Part, i32>>, i32>;

/// All paths below `path`, and it, in order.
pub fn walk(tree: &Tree, path: &str, each: &mut impl FnMut(&str)) {
    each(path);
    for name in tree.children(path).map(|(names, _)| names).unwrap_or_default() {
        walk(tree, &format!("{}/{name}", if path == "/" { "" } else { path }), each);
    }
}

/// The ephemeral znodes of a session, in order.
pub fn ephemerals(tree: &Tree, session: i64) -> Vec<String> {
    let mut found = Vec::new();
    walk(tree, "/", &mut |path| {
        if tree.stat(path).is_some_and(|stat| stat.ephemeral_owner == session) {
            found.push(path.to_owned());
        }
    });
    found.sort();
    found
}

fn names(tree: &Tree, path: &str) -> Vec<String> {
    tree.children(path).map(|(names, _)| names.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

/// What the answer must show; none for what is no read.
pub fn expected(tree: &Tree, kind: &Kind, session: i64, identities: &[Identity]) -> Option<Shown> {
    let readable = |path: &str| {
        let stat = tree.stat(path).ok_or(ErrorCode::NoNode.code())?;
        let is_allowed = acl::allows(&tree.acl_list(path).unwrap_or_default(), perms::READ, identities);
        if is_allowed { Ok(stat) } else { Err(ErrorCode::NoAuth.code()) }
    };
    let data = |path: &str| tree.content(path).and_then(|(data, _)| data);
    let one = |part: Result<Part, i32>| part.map(|part| vec![Ok(part)]);
    Some(match kind {
        Kind::Data { path, .. } => one(readable(path).map(|stat| Part { stat: Some(stat), data: data(path), ..Part::default() })),
        Kind::Exists { path, .. } => one(readable(path).map(|stat| Part { stat: Some(stat), ..Part::default() })),
        Kind::Children { path, .. } => one(readable(path).map(|stat| Part { stat: Some(stat), names: names(tree, path), ..Part::default() })),
        Kind::Several(reads) => Ok(reads
            .iter()
            .map(|(path, of_children)| {
                let stat = readable(path)?;
                Ok(if *of_children {
                    Part { names: names(tree, path), ..Part::default() }
                } else {
                    Part { stat: Some(stat), data: data(path), ..Part::default() }
                })
            })
            .collect()),
        Kind::Ephemerals { prefix } => {
            let mut names = ephemerals(tree, session);
            names.retain(|path| prefix == "/" || path.starts_with(prefix.as_str()));
            one(Ok(Part { names, ..Part::default() }))
        }
        Kind::Count { path } => one(readable(path).map(|_| {
            let mut count = -1;
            walk(tree, path, &mut |_| count += 1);
            Part { count, ..Part::default() }
        })),
        _ => return None,
    })
}

/// What the answer shows.
///
/// # Errors
/// It is not of that form.
pub fn decode(kind: &Kind, error: i32, body: &mut Reader<'_>) -> Result<Shown, JuteError> {
    if error != 0 {
        return Ok(Err(error));
    }
    fn sorted(mut names: Vec<String>) -> Vec<String> {
        names.sort();
        names
    }
    fn content(body: &mut Reader<'_>) -> Result<Part, JuteError> {
        let data = body.buffer()?.map(Bytes::copy_from_slice);
        Ok(Part { stat: Some(body.stat()?), data, ..Part::default() })
    }
    let part = match kind {
        Kind::Data { .. } => content(body)?,
        Kind::Children { .. } => {
            let names = sorted(body.strings()?);
            Part { stat: Some(body.stat()?), names, ..Part::default() }
        }
        Kind::Several(_) => {
            let mut parts = Vec::new();
            loop {
                let (kind, is_done, _) = (body.int()?, body.bool()?, body.int()?);
                if is_done {
                    return Ok(Ok(parts));
                }
                parts.push(match kind {
                    opcode::ERROR => Err(body.int()?),
                    opcode::GET_DATA => Ok(content(body)?),
                    _ => Ok(Part { names: sorted(body.strings()?), ..Part::default() }),
                });
            }
        }
        Kind::Ephemerals { .. } => Part { names: sorted(body.strings()?), ..Part::default() },
        Kind::Count { .. } => Part { count: body.int()?, ..Part::default() },
        _ => Part { stat: Some(body.stat()?), ..Part::default() },
    };
    Ok(Ok(vec![Ok(part)]))
}

#[cfg(test)]
mod tests {
    use ottla::coordination::jute::Writer;
    use ottla::coordination::op::{Command, CreateMode, Operation, Request};

    use super::*;

    const SESSION: i64 = 7;

    fn tree() -> Tree {
        let mut tree = Tree::new();
        let create = |path: &str, mode| Request::One(Operation::Create { path: path.into(), data: Some(Bytes::from_static(b"x")), mode });
        let all = [
            Request::OpenSession { session: SESSION, timeout_ms: 3_000, password: [1; 16] },
            create("/a", CreateMode::Persistent),
            create("/a/b", CreateMode::Ephemeral),
            create("/a/c", CreateMode::Persistent),
        ];
        for (zxid, request) in (1..).zip(all) {
            let session = if zxid == 1 { 0 } else { SESSION };
            assert!(tree.apply(&Command { session, time_ms: 0, request }, zxid).outcome.is_ok());
        }
        tree
    }

    #[test]
    fn an_answer_is_read_as_it_was_written_and_differs_from_a_wrong_one() {
        let tree = tree();
        let shown = |kind: &Kind, body: &[u8]| decode(kind, 0, &mut Reader::new(body)).unwrap();
        let count = Kind::Count { path: "/a".into() };
        let expected_count = expected(&tree, &count, SESSION, &[]).unwrap();
        assert_eq!(shown(&count, &2i32.to_be_bytes()), expected_count);
        assert_ne!(shown(&count, &3i32.to_be_bytes()), expected_count);
        let mine = Kind::Ephemerals { prefix: "/a".into() };
        let mut out = Writer::default();
        out.strings(["/a/b"].into_iter());
        assert_eq!(shown(&mine, &out.finish()), expected(&tree, &mine, SESSION, &[]).unwrap());
        assert_eq!(ephemerals(&tree, SESSION + 1), Vec::<String>::new());
        let several = Kind::Several(vec![("/a".into(), true), ("/none".into(), false), ("/a/c".into(), false)]);
        let mut out = Writer::default();
        let head = |out: &mut Writer, kind: i32, is_done: bool| {
            out.int(kind);
            out.bool(is_done);
            out.int(-1);
        };
        head(&mut out, opcode::GET_CHILDREN, false);
        out.strings(["c", "b"].into_iter());
        head(&mut out, opcode::ERROR, false);
        out.int(ErrorCode::NoNode.code());
        head(&mut out, opcode::GET_DATA, false);
        out.buffer(b"x");
        out.stat(&tree.stat("/a/c").unwrap());
        head(&mut out, -1, true);
        assert_eq!(shown(&several, &out.finish()), expected(&tree, &several, SESSION, &[]).unwrap());
    }
}
