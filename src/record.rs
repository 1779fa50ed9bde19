//! Records as Kafka stores and sends them: record batches of format v2, read in place; their records, decoded and encoded; what a leader checks
//! before it appends; and the message sets of clients from before 2017.
pub mod batch;
pub mod builder;
pub mod compression;
pub mod legacy;
pub mod records;
pub mod validate;
pub mod varint;

#[cfg(test)]
mod golden;

pub use builder::BatchBuilder;
pub use compression::{Codec, CompressionError, compress, decompress};
pub use records::{Record, RecordError, Records, records};
