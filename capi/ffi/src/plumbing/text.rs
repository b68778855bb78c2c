//! Text from C, and memory that C frees by wg_free().

use std::{
    alloc::{Layout, alloc, dealloc},
    ffi::{CStr, CString, c_char},
    ptr::{self, NonNull},
};
use zeroize::Zeroize;

use wg_embed::error::{Error, ErrorKind, Result};

/// The bytes for the size in front of memory that C owns: the alignment of `malloc`.
const HEADER: usize = 16;

/// Borrows text of C. `name` says which argument it is.
///
/// # Safety
/// `text` is NULL or ends with a zero byte, and does not change while it is borrowed.
pub(crate) unsafe fn borrow_text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    if text.is_null() {
        return Err(Error::new(ErrorKind::Null, format!("{name} is NULL")));
    }
    // SAFETY: it is not NULL, and the caller says the rest.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Error::invalid(format!("{name} is not UTF-8")))
}

/// Converts text for C, without zero bytes.
pub fn c_text(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes = text.into();
    bytes.retain(|b| *b != 0);
    CString::new(bytes).unwrap_or_default()
}

/// Text for C in an array: truncated between characters if it is too long, and padded with zeros.
pub(crate) fn fixed_text<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    let fits = (0..=text.len().min(N - 1)).rev().find(|end| text.is_char_boundary(*end));
    let text = &text[..fits.unwrap_or(0)];
    for (to, from) in array.iter_mut().zip(text.bytes().filter(|byte| *byte != 0)) {
        *to = from as c_char;
    }
    array
}

/// A copy of `text` that C owns and gives back with [`wg_free`](crate::wg_free).
pub(crate) fn give_text(text: &str) -> Result<NonNull<c_char>> {
    give_bytes(text.as_bytes()).map(NonNull::cast)
}

/// A copy of `bytes`, with a zero behind it, that C owns and gives back with [`wg_free`](crate::wg_free). Its size lies
/// in front of it, so that it can be wiped.
pub(crate) fn give_bytes(bytes: &[u8]) -> Result<NonNull<u8>> {
    let short = || Error::new(ErrorKind::Resources, "there is no memory for the text");
    let size = bytes.len().checked_add(HEADER + 1).ok_or_else(short)?;
    let layout = Layout::from_size_align(size, HEADER).map_err(|_| short())?;
    // SAFETY: the size is not zero.
    let block = NonNull::new(unsafe { alloc(layout) }).ok_or_else(short)?;
    // SAFETY: the block begins with HEADER bytes, aligned as a `usize` is.
    unsafe { block.cast::<usize>().write(size) };
    // SAFETY: the block is longer than HEADER.
    let body = unsafe { block.add(HEADER) };
    // SAFETY: behind the header there is room for the bytes and a zero; the block has no other user yet.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), body.as_ptr(), bytes.len()) };
    // SAFETY: the zero is the block's last byte.
    let end = unsafe { body.add(bytes.len()) };
    // SAFETY: as above.
    unsafe { end.write(0) };
    Ok(body)
}

/// Wipes and frees text of [`give_text`].
///
/// # Safety
/// It was made by [`give_text`], and is not used any more.
pub(crate) unsafe fn free_text(text: NonNull<c_char>) {
    // SAFETY: `give_text` made the block, with a header in front.
    let block = unsafe { text.cast::<u8>().sub(HEADER) };
    // SAFETY: the header is the block's size.
    let size = unsafe { block.cast::<usize>().read() };
    // SAFETY: the block is `size` initialized bytes, and ours alone again.
    let bytes = unsafe { std::slice::from_raw_parts_mut(block.as_ptr(), size) };
    bytes.zeroize();
    // SAFETY: `give_text` checked this size and alignment.
    let layout = unsafe { Layout::from_size_align_unchecked(size, HEADER) };
    // SAFETY: it was allocated with this layout, and is freed once, by the caller's contract.
    unsafe { dealloc(block.as_ptr(), layout) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wg_free;

    #[test]
    fn text_comes_back_as_it_went() {
        for text in ["", "x", "private_key=00\n"] {
            let given = give_text(text).unwrap();
            // SAFETY: it was just made, and is freed below.
            assert_eq!(unsafe { borrow_text(given.as_ptr(), "text") }.unwrap(), text);
            // SAFETY: as above.
            unsafe { wg_free(given.as_ptr().cast()) };
        }
        // SAFETY: NULL is allowed.
        unsafe { wg_free(ptr::null_mut()) };
    }

    #[test]
    fn bad_text_is_refused_by_name() {
        // SAFETY: NULL is allowed.
        let null = unsafe { borrow_text(ptr::null(), "uapi") }.unwrap_err();
        assert_eq!((null.kind(), null.to_string().as_str()), (ErrorKind::Null, "uapi is NULL"));
        // SAFETY: the text is constant.
        let bytes = unsafe { borrow_text(c"a\xff".as_ptr(), "uapi") }.unwrap_err();
        assert_eq!((bytes.kind(), bytes.to_string().as_str()), (ErrorKind::Invalid, "uapi is not UTF-8"));
    }

    #[test]
    fn text_fits_into_its_array() {
        let text = |array: [c_char; 5]| array.map(|c| c as u8);
        assert_eq!(text(fixed_text("")), [0; 5]);
        assert_eq!(text(fixed_text("a\0bc")), *b"abc\0\0");
        assert_eq!(text(fixed_text("abcd")), *b"abcd\0");
        assert_eq!(text(fixed_text("abcde")), *b"abcd\0");
        assert_eq!(text(fixed_text("abc\u{df}")), *b"abc\0\0", "not half a character");
    }

    #[test]
    fn zeros_do_not_cut_text_off() {
        assert_eq!(c_text("a\0b").as_bytes(), b"ab");
    }
}
