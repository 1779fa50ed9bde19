//! The integration tests: real sockets, real processes, real clients. One binary; a module per subject.

mod contract_tokio;
