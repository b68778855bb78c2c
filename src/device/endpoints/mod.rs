//! Where a peer is, and where else it may be: the addresses of its host name, and the IPv6 address that stands for an
//! IPv4 one. No I/O in here; `names.rs` carries out what is decided.

pub(super) mod candidates;
pub(super) mod inquiry;
pub(super) mod location;
pub(super) mod name;
pub(super) mod nat64;
