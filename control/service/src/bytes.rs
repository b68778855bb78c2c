//! Memory that may contain keys.

use std::{collections::TryReserveError, io, ops::Deref};

use zeroize::{Zeroize, Zeroizing};

/// Bytes that are wiped when they are dropped or moved. Writers are limited to a maximum size.
#[derive(Debug, Default)]
pub(crate) struct WipedBytes {
    bytes: Zeroizing<Vec<u8>>,
    limit: usize,
}

impl WipedBytes {
    /// Creates an empty value, to which at most `limit` bytes can be written.
    pub(crate) fn with_limit(limit: usize) -> Self {
        Self { bytes: Zeroizing::default(), limit }
    }

    /// Appends bytes; the memory at most doubles.
    pub(crate) fn push(&mut self, more: &[u8]) -> Result<(), TryReserveError> {
        let needed = self.bytes.len().saturating_add(more.len());
        if needed > self.bytes.capacity() {
            let mut larger = Zeroizing::new(Vec::new());
            larger.try_reserve_exact(needed.max(self.bytes.capacity().saturating_mul(2)).max(256))?;
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// Wipes all bytes, and keeps memory for at most `kept` bytes.
    pub(crate) fn clear(&mut self, kept: usize) {
        self.bytes.zeroize();
        self.bytes.shrink_to(kept);
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn into_inner(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }
}

impl Deref for WipedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl io::Write for WipedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit.saturating_sub(self.bytes.len()) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.push(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
