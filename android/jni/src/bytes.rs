//! Java arrays that may contain keys.

use jni::{
    Env,
    objects::{JByteArray, JObjectArray},
    sys::jbyte,
};
use zeroize::Zeroizing;

use crate::Result;

/// A copy of an array, which is wiped when it is dropped.
pub(crate) fn copy(env: &Env<'_>, array: &JByteArray<'_>) -> Result<Zeroizing<Vec<u8>>> {
    let mut copy = Zeroizing::new(vec![0; array.len(env)?]);
    array.get_region(env, 0, signed_mut(&mut copy))?;
    Ok(copy)
}

/// Copies an array and appends a zero byte; returns nothing if it contains one, as that would truncate the text.
pub(crate) fn text(env: &Env<'_>, array: &JByteArray<'_>) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let len = array.len(env)?;
    // All at once: no copy is left behind by growing.
    let mut text = Zeroizing::new(vec![0; len.saturating_add(1)]);
    let (characters, _) = text.split_at_mut(len);
    array.get_region(env, 0, signed_mut(characters))?;
    Ok(if characters.contains(&0) { None } else { Some(text) })
}

/// Writes to the beginning of an array.
pub(crate) fn fill(env: &Env<'_>, array: &JByteArray<'_>, bytes: &[u8]) -> Result<()> {
    array.set_region(env, 0, signed(bytes))
}

/// Stores a new array in an array of arrays.
pub(crate) fn give<'l>(
    env: &mut Env<'l>,
    out: &JObjectArray<'l, JByteArray<'l>>,
    index: usize,
    bytes: &[u8],
) -> Result<()> {
    let array = env.byte_array_from_slice(bytes)?;
    out.set_element(env, index, &array)
}

/// Returns a key, if there are 32 bytes.
pub(crate) fn key(env: &Env<'_>, array: &JByteArray<'_>) -> Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    array.get_region(env, 0, signed_mut(&mut *key))?;
    Ok(key)
}

/// Returns the same bytes as Java's signed ones.
fn signed(bytes: &[u8]) -> &[jbyte] {
    // SAFETY: both are one byte, and any value of either is one of the other.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
}

fn signed_mut(bytes: &mut [u8]) -> &mut [jbyte] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}
