//! The Kafka protocol's edge: frames and headers, the table of APIs, the codecs of the hot path, and the guard in front of the
//! generated decoders.
//!
//! `kafka-protocol`'s structs serve the APIs off the hot path; [`produce`] and [`fetch`] are our own codecs, because the first must not
//! copy records in and the second must leave holes for records that go from file to socket. Nothing here does I/O.
pub mod api;
pub mod control;
pub mod fetch;
pub mod frame;
pub mod guard;
pub mod leader;
pub mod primitive;
pub mod produce;
pub mod schema;
