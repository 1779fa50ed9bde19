//! Controller.
pub mod configs;
pub mod image;
pub mod placement;
pub mod topics;
pub mod uuid_text;
pub mod znodes;
