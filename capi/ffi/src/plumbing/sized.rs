//! Structs that grow with the library.

use std::ptr;

use wg_embed::error::{Error, ErrorKind, Result};

/// The largest valid `struct_size`: no struct of this library will ever be larger.
const MAX_SIZE: usize = 4096;

/// A struct that begins with its size in the caller's header.
///
/// # Safety
/// The type is `repr(C)`, begins with a `usize`, has no padding, and any bytes are a valid value, except that pointers
/// to functions must be NULL or valid.
pub(crate) unsafe trait SizedStruct: Copy {
    /// Its sizes in released headers, that of 0.1.0 first and that of this version last. Fields that are appended after
    /// a release also need a new size here: any other number below the last would cut a field, or silently drop one.
    const SIZES: &'static [usize];
}

/// Returns the size of a caller's struct.
///
/// # Safety
/// `theirs` is NULL or points to as many readable bytes as the `usize` at its beginning says.
pub(crate) unsafe fn struct_size<T: SizedStruct>(theirs: *const T, name: &str) -> Result<usize> {
    if theirs.is_null() {
        return Err(Error::new(ErrorKind::Null, format!("{name} is NULL")));
    }
    // SAFETY: it is not NULL, and begins with a `usize`; C may have put it at any address.
    let size = unsafe { theirs.cast::<usize>().read_unaligned() };
    let newer = size_of::<T>()..=MAX_SIZE;
    if !newer.contains(&size) && !T::SIZES.contains(&size) {
        return Err(Error::invalid(format!("{name}: struct_size is {size}")));
    }
    Ok(size)
}

/// Copies a struct over the caller's, which is `size` bytes long: as much as fits. The rest of the caller's becomes
/// zero.
///
/// # Safety
/// `theirs` points to `size` writable bytes.
pub(crate) unsafe fn write_sized<T: SizedStruct>(ours: &T, theirs: *mut T, size: usize) {
    let known = size.min(size_of::<T>());
    // SAFETY: both have `known` bytes, those of ours are initialized, as there is no padding, and they do not overlap,
    // as ours is not the caller's.
    unsafe { ptr::copy_nonoverlapping(ptr::from_ref(ours).cast::<u8>(), theirs.cast::<u8>(), known) };
    // SAFETY: within the `size` bytes, or at their end.
    let rest = unsafe { theirs.cast::<u8>().add(known) };
    // SAFETY: the bytes up to `size` are writable, says the caller.
    unsafe { ptr::write_bytes(rest, 0, size - known) };
}

/// A struct of a caller.
#[derive(Debug)]
pub(crate) struct Received<T> {
    pub(crate) value: T,
    /// An error if the struct sets unknown fields. It must then be refused, but its resources must be released.
    pub(crate) unknown_fields: Result<()>,
}

/// Copies a caller's struct over the defaults.
///
/// # Safety
/// As for [`read_sized_into`].
pub(crate) unsafe fn read_sized<T: SizedStruct + Default>(theirs: *const T, name: &str) -> Result<Received<T>> {
    let mut value = T::default();
    // SAFETY: the caller's contract is the same.
    let unknown_fields = unsafe { read_sized_into(theirs, &mut value, name) }?;
    Ok(Received { value, unknown_fields })
}

/// Copies a caller's struct over `ours`, which is not moved: there may be a key in it. Returns
/// [`Received::unknown_fields`].
///
/// # Safety
/// `theirs` is NULL or points to as many readable bytes as the `usize` at its beginning says. Functions in there are
/// NULL or functions of their types.
pub(crate) unsafe fn read_sized_into<T: SizedStruct>(theirs: *const T, ours: &mut T, name: &str) -> Result<Result<()>> {
    // SAFETY: the caller's contract is the same.
    let size = unsafe { struct_size(theirs, name) }?;
    // SAFETY: that many bytes are readable, says the caller.
    let bytes = unsafe { std::slice::from_raw_parts(theirs.cast::<u8>(), size) };
    let known = size.min(size_of::<T>());
    let unknown_fields = match bytes[known..].iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => {
            let text = format!("{name}: a field is set that this version of the library does not know");
            Err(Error::new(ErrorKind::Unsupported, text))
        }
    };
    // SAFETY: both have `known` bytes, and any bytes are a `T`.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), ptr::from_mut(ours).cast::<u8>(), known) };
    Ok(unknown_fields)
}

/// Refuses unknown flags.
pub(crate) fn check_flags(flags: u32, known: u32) -> Result<()> {
    if flags & !known != 0 {
        return Err(Error::invalid(format!("flags is {flags:#x}, which has unknown bits")));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A struct that has grown twice.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        struct_size: usize,
        first: usize,
        second: usize,
        third: usize,
    }

    const WORD: usize = size_of::<usize>();
    const DEFAULT: Grown = Grown { struct_size: 4 * WORD, first: 1, second: 2, third: 3 };

    impl Default for Grown {
        fn default() -> Self {
            DEFAULT
        }
    }

    // SAFETY: four integers of one size.
    unsafe impl SizedStruct for Grown {
        const SIZES: &'static [usize] = &[2 * WORD, 3 * WORD, 4 * WORD];
    }

    /// What becomes of a struct of this size, in which all is 7, and then `tail`.
    fn read(size: usize, tail: u8) -> Result<Received<Grown>> {
        let mut words = [7; MAX_SIZE / WORD + 1];
        words[0] = size;
        // SAFETY: the words are initialized, and any bytes are words.
        let bytes = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), size_of_val(&words)) };
        bytes[4 * WORD..].fill(tail);
        // SAFETY: as many bytes are readable as any size that is taken.
        unsafe { read_sized(words.as_ptr().cast::<Grown>(), "it") }
    }

    #[test]
    fn sizes_of_released_headers_and_larger_ones_are_taken_and_no_others() {
        for size in 0..=MAX_SIZE + WORD {
            let is_size = [2 * WORD, 3 * WORD].contains(&size) || (4 * WORD..=MAX_SIZE).contains(&size);
            match read(size, 0) {
                Ok(_) => assert!(is_size, "{size} was taken"),
                Err(err) => {
                    assert!(!is_size, "{size} was refused");
                    assert_eq!(
                        (err.kind(), err.to_string()),
                        (ErrorKind::Invalid, format!("it: struct_size is {size}"))
                    );
                }
            }
        }
    }

    #[test]
    fn an_older_caller_gets_the_defaults_of_what_it_does_not_have() {
        let Received { value: old, unknown_fields } = read(2 * WORD, 9).unwrap();
        assert_eq!(old, Grown { struct_size: 2 * WORD, first: 7, ..DEFAULT });
        unknown_fields.unwrap();
        let Received { value: old, unknown_fields } = read(3 * WORD, 9).unwrap();
        assert_eq!(old, Grown { struct_size: 3 * WORD, first: 7, second: 7, ..DEFAULT });
        unknown_fields.unwrap();
    }

    #[test]
    fn a_newer_caller_must_not_set_what_is_not_known_here() {
        let Received { value: new, unknown_fields } = read(4 * WORD + 1, 0).unwrap();
        assert_eq!(new, Grown { struct_size: 4 * WORD + 1, first: 7, second: 7, third: 7 });
        unknown_fields.unwrap();
        for size in [4 * WORD + 1, MAX_SIZE] {
            assert_eq!(read(size, 1).unwrap().unknown_fields.unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
}
