//! How long a znode lives, and how ZooKeeper stores that in one number. Clients are told the number of a session, and 0 for all else.
//!
//! | number | the znode |
//! |---|---|
//! | 0 | lives until it is deleted |
//! | `0x8000000000000000` | is a container |
//! | `0xff0000…`: the top byte all ones, two bytes of zeros | has a time to live: the low 40 bits, in milliseconds |
//! | anything else | ends with the session of this id |

/// The longest time to live in milliseconds: 40 bits, 34 years.
pub const TTL_MAX_MS: i64 = (1 << 40) - 1;

const CONTAINER: i64 = i64::MIN;
const EXTENDED: i64 = 0xff << 56;
/// Which extended kind it is; 0 is the time to live, the only one that exists.
const KIND_MASK: i64 = 0xffff << 40;

/// How long a znode lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted.
    Persistent,
    /// As long as a session.
    Ephemeral {
        /// Which.
        session: i64,
    },
    /// Until it has lost its last child.
    Container,
    /// Until it has had no children and no change for a while.
    Ttl {
        /// How long, in milliseconds.
        ttl_ms: i64,
    },
}

impl Lifetime {
    /// A time to live; `None` unless it is from 1 to [`TTL_MAX_MS`].
    pub fn ttl(ttl_ms: i64) -> Option<Self> {
        (1..=TTL_MAX_MS).contains(&ttl_ms).then_some(Self::Ttl { ttl_ms })
    }

    /// What the number means. An extended kind that does not exist is taken for a session, as ZooKeeper does.
    pub const fn from_owner(owner: i64) -> Self {
        match owner {
            0 => Self::Persistent,
            CONTAINER => Self::Container,
            _ if owner & EXTENDED == EXTENDED && owner & KIND_MASK == 0 => Self::Ttl { ttl_ms: owner & TTL_MAX_MS },
            _ => Self::Ephemeral { session: owner },
        }
    }

    /// The number.
    pub const fn owner(self) -> i64 {
        match self {
            Self::Persistent => 0,
            Self::Ephemeral { session } => session,
            Self::Container => CONTAINER,
            Self::Ttl { ttl_ms } => EXTENDED | ttl_ms,
        }
    }

    /// Whether it ends with a session.
    pub const fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_zookeepers() {
        // As ZooKeeper's EphemeralType has them.
        assert_eq!(Lifetime::Container.owner(), i64::MIN);
        assert_eq!(Lifetime::Ttl { ttl_ms: 10_000 }.owner() as u64, 0xff00_0000_0000_2710);
        for lifetime in [Lifetime::Persistent, Lifetime::Container, Lifetime::Ttl { ttl_ms: TTL_MAX_MS }, Lifetime::Ephemeral { session: 0x100_0000 }] {
            assert_eq!(Lifetime::from_owner(lifetime.owner()), lifetime);
        }
        assert_eq!(Lifetime::ttl(0), None);
        assert_eq!(Lifetime::ttl(TTL_MAX_MS + 1), None);
        let unknown_kind = Lifetime::from_owner(EXTENDED | (1 << 40) | 5);
        assert!(unknown_kind.is_ephemeral());
    }
}
