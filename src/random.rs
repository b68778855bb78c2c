//! Randomness as an argument: the protocol engine never obtains it from the operating system itself.

use std::io;

use ring::rand::SecureRandom;

/// A source of unpredictable bytes.
pub trait Random: Send + Sync {
    /// Fills `out` with random bytes.
    fn fill(&self, out: &mut [u8]);
}

impl dyn Random + '_ {
    /// Returns a random `u32`, uniform over all values.
    #[must_use]
    pub fn u32(&self) -> u32 {
        let mut b = [0; 4];
        self.fill(&mut b);
        u32::from_ne_bytes(b)
    }
}

/// The operating system's generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl SystemRandom {
    /// Fills `out` with random bytes.
    ///
    /// # Errors
    /// If the operating system's generator fails, for example because a sandbox forbids it. `out` is then not random.
    pub fn try_fill(&self, out: &mut [u8]) -> io::Result<()> {
        let failed = |_| io::Error::other("the random generator of the operating system has failed");
        ring::rand::SystemRandom::new().fill(out).map_err(failed)
    }
}

impl Random for SystemRandom {
    /// # Panics
    /// If the operating system's generator fails: without it no key can be generated.
    #[expect(
        clippy::expect_used,
        reason = "the generator cannot fail once seeded; going on would mean predictable keys"
    )]
    fn fill(&self, out: &mut [u8]) {
        self.try_fill(out).expect("the operating system has a random generator");
    }
}
