//! ZooKeeper sessions over the simulated network: the real server on every member, and clients of their own hosts, whose every answer is judged.
//!
//! | file | what |
//! |---|---|
//! | [`oracle`] | the tree of its own that the committed transactions are applied to, and what answers must be |
//! | [`reads`] | what a read must show, and what an answer says |
//! | [`lifetimes`] | ephemeral znodes, and the lock that is made of them |
//! | [`watches`] | what a session's watches must be told |
//! | [`client`] | a recorded client: session, connection, requests under way |
//! | [`request`] | requests and their bytes |
//! | [`habits`] | what clients do |

pub mod client;
pub mod habits;
pub mod lifetimes;
pub mod oracle;
pub mod reads;
pub mod request;
pub mod watches;
