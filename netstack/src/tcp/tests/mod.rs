//! Two connections joined by a simulated path, under a time that is turned by hand.

mod close;
mod goodput;
mod handshake;
mod hostile;
mod lone;
mod path;
mod random;
mod receiving;
mod sending;
mod transfer;
mod windows;
