//! Who may do what with a znode: ZooKeeper's access control lists and the schemes `world`, `auth`, `digest` and `ip`. Pure.
//!
//! A connection has identities: its address (scheme `ip`), one per successful `addauth` (scheme `digest`), and the identity `super` if one of those was
//! the super digest. An ACL is a list of permissions, each for an identity; it allows what any of its entries allows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

/// The permissions, as bits of [`Acl::perms`].
pub mod perms {
    /// To read content, children and ACL.
    pub const READ: i32 = 1;
    /// To replace the content.
    pub const WRITE: i32 = 1 << 1;
    /// To create children.
    pub const CREATE: i32 = 1 << 2;
    /// To delete children.
    pub const DELETE: i32 = 1 << 3;
    /// To replace the ACL.
    pub const ADMIN: i32 = 1 << 4;
    /// All of them.
    pub const ALL: i32 = READ | WRITE | CREATE | DELETE | ADMIN;
}

/// The scheme of everyone.
const WORLD: &str = "world";
/// The scheme that stands for the identities of whoever sets the ACL.
const AUTH: &str = "auth";
/// The scheme of user names with passwords.
pub const DIGEST: &str = "digest";
/// The scheme of addresses.
pub const IP: &str = "ip";
/// The scheme of the one identity to which nothing is forbidden.
const SUPER: &str = "super";

/// Somebody, or in an ACL a set of somebodies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The kind of the identity.
    pub scheme: String,
    /// What the scheme makes of it: `anyone`, `user:hash`, an address or a prefix.
    pub id: String,
}

impl Identity {
    /// An identity.
    pub fn new(scheme: impl Into<String>, id: impl Into<String>) -> Self {
        Self { scheme: scheme.into(), id: id.into() }
    }

    /// A peer's address. One that an IPv6 socket shows for an IPv4 peer is the IPv4 address.
    pub fn ip(address: IpAddr) -> Self {
        Self::new(IP, address.to_canonical().to_string())
    }

    /// The identity to which nothing is forbidden.
    pub fn superuser() -> Self {
        Self::new(SUPER, "")
    }

    /// Whose it is, without what is secret about it: a digest's user name, else the id.
    pub fn user(&self) -> &str {
        if self.scheme == DIGEST { self.id.split(':').next().unwrap_or_default() } else { &self.id }
    }
}

/// One entry of an ACL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Acl {
    /// What is allowed: bits of [`perms`].
    pub perms: i32,
    /// To whom.
    pub id: Identity,
}

impl Acl {
    /// An entry.
    pub fn new(perms: i32, scheme: &str, id: &str) -> Self {
        Self { perms, id: Identity::new(scheme, id) }
    }

    /// Everything to everyone.
    pub fn open() -> Self {
        Self::new(perms::ALL, WORLD, "anyone")
    }

    /// About how many bytes it takes in the log.
    pub fn size_bytes(&self) -> usize {
        self.id.scheme.len() + self.id.id.len() + 8
    }
}

/// A znode's ACL. `None` is by far the most common one: everything to everyone.
pub type AclList = Option<Arc<[Acl]>>;

/// The ACL of `/zookeeper/config`: everyone may read it.
pub fn read_only() -> AclList {
    Some([Acl::new(perms::READ, WORLD, "anyone")].into())
}

/// The entries of an ACL.
pub fn entries(acl: &AclList) -> Vec<Acl> {
    acl.as_ref().map_or_else(|| vec![Acl::open()], |acl| acl.to_vec())
}

/// What a client's ACL means when it has these `identities`: no entry twice, `auth` replaced by those identities that prove something. `None` if the ACL is
/// invalid: empty, of an unknown scheme or with an id that the scheme refuses, or `auth` without an identity that proves something.
pub fn resolve(acl: &[Acl], identities: &[Identity]) -> Option<AclList> {
    let mut resolved: Vec<Acl> = Vec::with_capacity(acl.len());
    for (index, entry) in acl.iter().enumerate() {
        if acl[..index].contains(entry) {
            continue;
        }
        match (entry.id.scheme.as_str(), entry.id.id.as_str()) {
            (WORLD, "anyone") => resolved.push(entry.clone()),
            (AUTH, _) => {
                let before = resolved.len();
                // An address proves nothing: it may be shared.
                let proving = identities.iter().filter(|identity| identity.scheme == DIGEST);
                resolved.extend(proving.map(|identity| Acl { perms: entry.perms, id: identity.clone() }));
                if resolved.len() == before {
                    return None;
                }
            }
            (DIGEST, id) if is_digest(id) => resolved.push(entry.clone()),
            (IP, id) if prefix(id).is_some() => resolved.push(entry.clone()),
            _ => return None,
        }
    }
    match resolved.as_slice() {
        [] => None,
        [only] if *only == Acl::open() => Some(None),
        _ => Some(Some(resolved.into())),
    }
}

/// Whether the ACL allows any of the permissions `wanted` to whoever has these identities.
pub fn allows(acl: &AclList, wanted: i32, identities: &[Identity]) -> bool {
    let Some(acl) = acl else { return true };
    if identities.iter().any(|identity| identity.scheme == SUPER) {
        return true;
    }
    acl.iter().filter(|entry| entry.perms & wanted != 0).any(|entry| {
        let allowed = &entry.id;
        (allowed.scheme == WORLD && allowed.id == "anyone")
            || identities.iter().filter(|identity| identity.scheme == allowed.scheme).any(|identity| match identity.scheme.as_str() {
                IP => ip_matches(&identity.id, &allowed.id),
                _ => identity.id == allowed.id,
            })
    })
}

/// The ACL as whoever may read but not administer it sees it: without the hashes of passwords.
pub fn redacted(acl: Vec<Acl>) -> Vec<Acl> {
    let redact = |mut entry: Acl| {
        if entry.id.scheme == DIGEST
            && let Some((user, _)) = entry.id.id.split_once(':')
        {
            entry.id.id = format!("{user}:x");
        }
        entry
    };
    acl.into_iter().map(redact).collect()
}

/// The id of scheme `digest` for the credentials `user:password`: the user, and Base64 of the SHA-1 of all of it.
pub fn digest(credentials: &str) -> String {
    let user = credentials.split(':').next().unwrap_or_default();
    format!("{user}:{}", STANDARD.encode(Sha1::digest(credentials.as_bytes())))
}

/// Two parts, as Java's `split` counts them: it drops empty ones from the end.
fn is_digest(id: &str) -> bool {
    id.trim_end_matches(':').split(':').count() == 2
}

/// An address or a prefix `address/bits`, as a number with its length in bits.
fn prefix(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(width);
    (bits <= width).then_some((address, bits))
}

fn ip_matches(address: &str, allowed: &str) -> bool {
    let (Some((allowed, bits)), Ok(address)) = (prefix(allowed), address.parse::<IpAddr>()) else { return false };
    let masked_v4 = |address: Ipv4Addr| u32::from(address).checked_shr(32 - bits).unwrap_or(0);
    let masked_v6 = |address: Ipv6Addr| u128::from(address).checked_shr(128 - bits).unwrap_or(0);
    match (allowed, address) {
        (IpAddr::V4(allowed), IpAddr::V4(address)) => masked_v4(allowed) == masked_v4(address),
        (IpAddr::V6(allowed), IpAddr::V6(address)) => masked_v6(allowed) == masked_v6(address),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Identity {
        Identity::ip(text.parse().unwrap())
    }

    #[test]
    fn digests_are_zookeepers() {
        // The example of ZooKeeper's guide to the super user, and of its DigestAuthenticationProvider's command.
        assert_eq!(digest("super:admin"), "super:xQJmxLMiHGwaqBvst5y6rkB6HQs=");
        assert!(is_digest("user:hash") && is_digest(":hash") && !is_digest("user:") && !is_digest("user") && !is_digest("a:b:c"));
    }

    #[test]
    fn addresses_match_prefixes_of_their_own_kind() {
        let allows = |allowed: &str, address: &str| allows(&Some([Acl::new(perms::READ, IP, allowed)].into()), perms::READ, &[ip(address)]);
        assert!(allows("10.1.2.3", "10.1.2.3") && !allows("10.1.2.3", "10.1.2.4"));
        assert!(allows("10.1.0.0/16", "10.1.255.4") && !allows("10.1.0.0/16", "10.2.0.0") && allows("0.0.0.0/0", "1.2.3.4"));
        assert!(allows("10.1.2.3", "::ffff:10.1.2.3"), "as an IPv6 socket shows an IPv4 peer");
        assert!(allows("2001:db8::/32", "2001:db8::1") && !allows("2001:db8::/32", "2001:db9::1") && !allows("::/0", "1.2.3.4"));
        assert_eq!((prefix("10.0.0.0/33"), prefix("10.0.0"), prefix("10.0.0.1/x")), (None, None, None));
    }

    #[test]
    fn an_acl_is_checked_and_auth_is_replaced() {
        let bob = Identity::new(DIGEST, digest("bob:x"));
        let identities = [ip("127.0.0.1"), bob.clone()];
        assert_eq!(resolve(&[Acl::open()], &identities), Some(None));
        assert_eq!(resolve(&[Acl::open(), Acl::open()], &identities), Some(None), "no entry twice");
        let auth = Acl::new(perms::ALL, AUTH, "");
        assert_eq!(resolve(std::slice::from_ref(&auth), &identities), Some(Some([Acl { perms: perms::ALL, id: bob }].into())));
        assert_eq!(resolve(&[auth], &identities[..1]), None, "an address is no authentication");
        assert_eq!(resolve(&[], &identities), None);
        for (scheme, id) in [("world", "someone"), ("digest", "bob"), ("ip", "here"), ("x509", "cn"), ("super", "")] {
            assert_eq!(resolve(&[Acl::open(), Acl::new(1, scheme, id)], &identities), None, "{scheme}:{id}");
        }
    }

    #[test]
    fn any_entry_allows_and_the_superuser_needs_none() {
        let acl: AclList = Some([Acl::new(perms::READ, WORLD, "anyone"), Acl::new(perms::ALL, DIGEST, "bob:hash")].into());
        let bob = Identity::new(DIGEST, "bob:hash");
        assert!(allows(&acl, perms::READ, &[]) && !allows(&acl, perms::WRITE, &[]) && allows(&acl, perms::WRITE, &[bob]));
        assert!(!allows(&acl, perms::WRITE, &[Identity::new(DIGEST, "bob:other")]) && allows(&acl, perms::WRITE, &[Identity::superuser()]));
        assert!(allows(&acl, perms::READ | perms::ADMIN, &[]), "any of the permissions");
        assert_eq!(redacted(entries(&acl))[1].id.id, "bob:x");
        assert_eq!(Identity::new(DIGEST, "bob:hash").user(), "bob");
    }
}
