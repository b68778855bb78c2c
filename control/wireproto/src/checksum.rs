//! CRC-32 of IEEE 802.3, sixteen bytes a step.

/// The reversed polynomial.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// Bytes a step.
const STEP: usize = 16;

/// `TABLES[n][b]`: the effect of the byte `b` on the register if `n` zeros follow it.
static TABLES: [[u32; 256]; STEP] = tables();

const fn tables() -> [[u32; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            register = if register & 1 == 1 { register >> 1 ^ POLYNOMIAL } else { register >> 1 };
            bit += 1;
        }
        tables[0][byte] = register;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < STEP {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[zeros - 1][byte];
            tables[zeros][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// A checksum of bytes that are added in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Checksum(u32);

impl Default for Checksum {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Checksum {
    /// Returns the checksum of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> u32 {
        let mut sum = Self::default();
        sum.update(bytes);
        sum.finish()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (steps, rest) = bytes.as_chunks::<STEP>();
        // The rest, and short inputs, are processed by words.
        let (words, rest) = rest.as_chunks::<4>();
        let register = steps.iter().fold(self.0, |register, step| advance(register, *step));
        let register = words.iter().fold(register, |register, word| advance(register, *word));
        self.0 = rest.iter().fold(register, |register, byte| advance(register, [*byte]) ^ register >> 8);
    }

    /// Returns the checksum of all bytes so far.
    #[must_use]
    pub const fn finish(self) -> u32 {
        !self.0
    }
}

/// Returns the register after `N` bytes, limited to the part to which these bytes are added.
#[inline(always)]
fn advance<const N: usize>(register: u32, mut bytes: [u8; N]) -> u32 {
    for (byte, of_register) in bytes.iter_mut().zip(register.to_le_bytes()) {
        *byte ^= of_register;
    }
    let tables = TABLES.iter().take(N).rev();
    bytes.iter().zip(tables).fold(0, |after, (byte, table)| after ^ table[usize::from(*byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_polynomial() {
        assert_eq!(Checksum::of(b"123456789"), 0xcbf4_3926);
        assert_eq!(Checksum::of(b""), 0);
    }

    #[test]
    fn pieces_have_the_sum_of_the_whole() {
        let bytes: Vec<u8> = (0..200_u32).map(|i| ((i * 37) >> 2) as u8).collect();
        let bit_by_bit = bytes.iter().fold(u32::MAX, |register, byte| {
            (0..8).fold(register ^ u32::from(*byte), |r, _| if r & 1 == 1 { r >> 1 ^ POLYNOMIAL } else { r >> 1 })
        });
        for at in 0..=bytes.len() {
            let mut sum = Checksum::default();
            sum.update(&bytes[..at]);
            sum.update(&bytes[at..]);
            assert_eq!(sum.finish(), !bit_by_bit, "{at}");
        }
    }
}
