//! A library in Rust that has one function for C, and uses the core for it.
#![allow(unsafe_code)]

use wg_embed::{key::PrivateKey, random::SystemRandom};

/// Returns how many bytes the public key of a new private key has.
#[unsafe(no_mangle)]
pub extern "C" fn foreign_key_len() -> usize {
    PrivateKey::generate_with(&SystemRandom).public_key().as_bytes().len()
}
