//! The production side of the boundary: tokio's sockets and timers, the operating system's files, clocks and entropy.
//! The only file of the broker that may name them.
