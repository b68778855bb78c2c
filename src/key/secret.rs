//! Bytes that are kept to ourselves.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::KEY_LEN;

/// Secret bytes: wiped when they are dropped, compared in constant time, not shown by `Debug`.
///
/// `Zeroizing` wipes as well, but compilers unroll its loop at each place where one may go out of scope. That was 22 KB.
#[derive(Clone)]
pub struct Secret<const N: usize = KEY_LEN>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes bytes.
    #[must_use]
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }
}

impl<const N: usize> Default for Secret<N> {
    /// All zeros.
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
