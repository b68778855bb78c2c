//! Datagrams that wait for the address of a name.

/// The maximum number of waiting datagrams, and of their bytes. Others are lost, as UDP permits.
const MAX: usize = 32;
const MAX_BYTES: usize = 64 << 10;

/// Datagrams, each with what is needed to send it.
pub(super) struct Waiting<K> {
    all: Vec<(K, Vec<u8>)>,
    bytes: usize,
}

impl<K> Default for Waiting<K> {
    fn default() -> Self {
        Self { all: Vec::new(), bytes: 0 }
    }
}

impl<K> Waiting<K> {
    /// Keeps a datagram if there is room for it; `key` is called only then.
    pub(super) fn keep(&mut self, data: &[u8], key: impl FnOnce() -> K) {
        if self.all.len() < MAX && self.bytes + data.len() <= MAX_BYTES {
            self.bytes += data.len();
            self.all.push((key(), data.to_vec()));
        } else {
            tracing::debug!("a datagram is lost: others wait for the address of a name");
        }
    }

    /// Takes all datagrams, in the order in which they were kept.
    pub(super) fn take(&mut self) -> Vec<(K, Vec<u8>)> {
        self.bytes = 0;
        std::mem::take(&mut self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn their_number_and_bytes_are_bounded() {
        let mut waiting = Waiting::default();
        for n in 0..2 * MAX {
            waiting.keep(b"x", || n);
        }
        assert_eq!(waiting.take().len(), MAX);
        for n in 0..4 {
            waiting.keep(&[0; MAX_BYTES / 2], || n);
        }
        let keys: Vec<_> = waiting.take().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [0, 1]);
        waiting.keep(&[0; MAX_BYTES], || 5);
        waiting.keep(b"", || 6);
        assert_eq!(waiting.take().len(), 2);
    }
}
