//! The locations of peers and alternatives: the addresses of a host name, and the IPv6 address that corresponds to an
//! IPv4 one, without I/O; `names.rs` carries out the decisions.

pub(super) mod candidates;
pub(super) mod inquiry;
pub(super) mod location;
pub(super) mod name;
pub(super) mod nat64;
