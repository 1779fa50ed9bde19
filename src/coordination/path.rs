//! Paths of znodes: what ZooKeeper accepts, and how a path falls into parent and name.

/// The deepest path in levels. ZooKeeper has no such bound; here it bounds recursion over the tree.
pub const DEPTH_MAX: usize = 512;

/// Why a path is no znode's path. The rules and their order are those of ZooKeeper's `PathUtils.validatePath`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path is empty.
    #[error("a path must not be empty")]
    Empty,
    /// The path is relative.
    #[error("a path must start with '/'")]
    NotAbsolute,
    /// The path ends with a slash and is not the root.
    #[error("a path must not end with '/'")]
    TrailingSlash,
    /// Two slashes follow each other.
    #[error("a path must not hold an empty name ('//' at byte {at})")]
    EmptyName {
        /// The byte position of the second slash.
        at: usize,
    },
    /// A name is `.` or `..`.
    #[error("a path must not hold '.' or '..' as a name (at byte {at})")]
    Relative {
        /// The byte position of the name.
        at: usize,
    },
    /// A control character, a private-use character, a specials-block character, or one beyond the basic multilingual plane.
    #[error("a path must not hold the character {character:?} (at byte {at})")]
    Character {
        /// The byte position of the character.
        at: usize,
        /// The character.
        character: char,
    },
    /// More levels than [`DEPTH_MAX`].
    #[error("a path must not be deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

/// Checks a complete path.
///
/// # Errors
/// The first rule that the path breaks.
pub fn validate(path: &str) -> Result<(), PathError> {
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if path.len() == 1 {
        return Ok(());
    }
    if path.ends_with('/') {
        return Err(PathError::TrailingSlash);
    }
    let mut at = 1;
    let mut levels = 0;
    for name in path[1..].split('/') {
        match name {
            "" => return Err(PathError::EmptyName { at }),
            "." | ".." => return Err(PathError::Relative { at }),
            _ => {}
        }
        if let Some((offset, character)) = name.char_indices().find(|&(_, character)| is_refused(character)) {
            return Err(PathError::Character { at: at + offset, character });
        }
        levels += 1;
        at += name.len() + 1;
    }
    if levels > DEPTH_MAX { Err(PathError::TooDeep) } else { Ok(()) }
}

/// Java's strings hold characters beyond U+FFFF as two surrogates, which ZooKeeper refuses: so they are refused here.
fn is_refused(character: char) -> bool {
    matches!(character, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// The path of the parent and the own name; `None` for the root and for what has no slash.
pub fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    if name.is_empty() && parent.is_empty() {
        return None;
    }
    Some((if parent.is_empty() { "/" } else { parent }, name))
}

/// The names on the way from the root; none for the root itself.
pub fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

/// The path of the child `name` of `parent`.
pub fn join(parent: &str, name: &str) -> String {
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

/// ZooKeeper's own znodes, which cannot be deleted.
pub fn is_reserved(path: &str) -> bool {
    matches!(path, "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_zookeeper_accepts() {
        for path in ["/", "/a", "/a/b", "/a b/c", "/...", "/.a/b.", "/ä/\u{d7ff}/\u{f900}/\u{ffef}", "/a/..b"] {
            assert_eq!(validate(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn refuses_what_zookeeper_refuses() {
        assert_eq!(validate(""), Err(PathError::Empty));
        assert_eq!(validate("a/b"), Err(PathError::NotAbsolute));
        assert_eq!(validate("/a/"), Err(PathError::TrailingSlash));
        assert_eq!(validate("//a"), Err(PathError::EmptyName { at: 1 }));
        assert_eq!(validate("/a//b"), Err(PathError::EmptyName { at: 3 }));
        assert_eq!(validate("/a/./b"), Err(PathError::Relative { at: 3 }));
        assert_eq!(validate("/a/.."), Err(PathError::Relative { at: 3 }));
        for character in ['\0', '\u{1}', '\u{1f}', '\u{7f}', '\u{9f}', '\u{e000}', '\u{f8ff}', '\u{fff0}', '\u{ffff}', '\u{1f600}'] {
            assert_eq!(validate(&format!("/a{character}b")), Err(PathError::Character { at: 2, character }));
        }
        assert_eq!(validate(&"/a".repeat(DEPTH_MAX)), Ok(()));
        assert_eq!(validate(&"/a".repeat(DEPTH_MAX + 1)), Err(PathError::TooDeep));
    }

    #[test]
    fn splits_and_joins() {
        assert_eq!(split("/"), None);
        assert_eq!(split("a"), None);
        assert_eq!(split("/a"), Some(("/", "a")));
        assert_eq!(split("/a/b"), Some(("/a", "b")));
        assert_eq!(split("/a/"), Some(("/a", "")));
        assert_eq!((join("/", "a"), join("/a", "b")), ("/a".to_owned(), "/a/b".to_owned()));
    }
}
