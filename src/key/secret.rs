//! Secret bytes.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::KEY_LEN;

/// Secret bytes, which are wiped when dropped, compared in constant time, and redacted by `Debug`.
///
/// `Zeroizing` wipes as well, but compilers unroll its loop at each place where a value may go out of scope, which took
/// 22 KB.
#[derive(Clone)]
pub struct Secret<const N: usize = KEY_LEN>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Creates a secret from bytes.
    #[must_use]
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }
}

impl<const N: usize> Default for Secret<N> {
    /// Returns all zeros.
    fn default() -> Self {
        Self([0; N])
    }
}

impl<const N: usize> Deref for Secret<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> DerefMut for Secret<N> {
    fn deref_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl<const N: usize> Eq for Secret<N> {}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl<const N: usize> ZeroizeOnDrop for Secret<N> {}

#[inline(never)]
fn wipe(bytes: &mut [u8]) {
    bytes.zeroize();
}
