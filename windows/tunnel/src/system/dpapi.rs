//! Files that Windows has encrypted for one account, as wireguard-windows stores them.
#![allow(unsafe_code)]

use std::{io, ptr, slice};

use wg_embed::error::{Error, ErrorKind, Result};
use windows_sys::{
    Win32::{
        Foundation::LocalFree,
        Security::Cryptography::{CRYPT_INTEGER_BLOB, CRYPTPROTECT_UI_FORBIDDEN, CryptUnprotectData},
    },
    core::PWSTR,
};
use zeroize::{Zeroize, Zeroizing};

/// Memory that Windows has allocated for the caller. It is wiped when it is dropped.
struct Given(CRYPT_INTEGER_BLOB);

impl Given {
    fn bytes(&mut self) -> &mut [u8] {
        match (self.0.pbData.is_null(), self.0.cbData) {
            (true, _) | (_, 0) => &mut [],
            // SAFETY: there are as many bytes, and they belong to this.
            (false, len) => unsafe { slice::from_raw_parts_mut(self.0.pbData, len as usize) },
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        self.bytes().zeroize();
        // SAFETY: it is from Windows, and no longer used; NULL is fine.
        unsafe { LocalFree(self.0.pbData.cast()) };
    }
}

/// Decrypts the contents of a file. The account is that of the calling thread; services run as LocalSystem.
///
/// # Errors
/// `Invalid` if it was encrypted for a tunnel of another name; errors of the system, for example if it was encrypted by
/// another account.
pub fn decrypt(name: &str, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let len = u32::try_from(bytes.len()).map_err(|_| Error::invalid("the file is too large"))?;
    let input = CRYPT_INTEGER_BLOB { cbData: len, pbData: bytes.as_ptr().cast_mut() };
    let mut output = Given(CRYPT_INTEGER_BLOB { cbData: 0, pbData: ptr::null_mut() });
    let mut described: PWSTR = ptr::null_mut();
    let flags = CRYPTPROTECT_UI_FORBIDDEN;
    // SAFETY: the input is live and not written to; there is room for the results.
    let done = unsafe {
        CryptUnprotectData(
            &raw const input,
            &raw mut described,
            ptr::null(),
            ptr::null(),
            ptr::null(),
            flags,
            &raw mut output.0,
        )
    };
    if done == 0 {
        return Err(Error::io("cannot decrypt the file", io::Error::last_os_error()));
    }
    // SAFETY: it is NULL or text of Windows, and taken once.
    if unsafe { take_text(described) } != name {
        let text = format!("the file was encrypted for a tunnel of another name than {name:?}");
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    let mut plain = Zeroizing::new(Vec::new());
    plain.try_reserve_exact(output.bytes().len())?;
    plain.extend_from_slice(output.bytes());
    Ok(plain)
}

/// # Safety
/// `text` is NULL, or ends with a zero and was allocated by Windows. It is freed.
unsafe fn take_text(text: PWSTR) -> String {
    if text.is_null() {
        return String::new();
    }
    let mut len = 0;
    // SAFETY: it ends with a zero, and each one before was not.
    while unsafe { *text.wrapping_add(len) } != 0 {
        len += 1;
    }
    // SAFETY: as above.
    let copy = String::from_utf16_lossy(unsafe { slice::from_raw_parts(text, len) });
    // SAFETY: it is from Windows, and no longer used.
    unsafe { LocalFree(text.cast()) };
    copy
}

#[cfg(test)]
mod tests {
    use windows_sys::Win32::Security::Cryptography::CryptProtectData;

    use super::*;
    use crate::system::wide;

    fn encrypt(name: &str, bytes: &[u8]) -> Vec<u8> {
        let input = CRYPT_INTEGER_BLOB { cbData: bytes.len() as u32, pbData: bytes.as_ptr().cast_mut() };
        let mut output = Given(CRYPT_INTEGER_BLOB { cbData: 0, pbData: ptr::null_mut() });
        let name = wide(name);
        // SAFETY: the input and the name are live, and there is room for the result.
        let done = unsafe {
            CryptProtectData(
                &raw const input,
                name.as_ptr(),
                ptr::null(),
                ptr::null(),
                ptr::null(),
                CRYPTPROTECT_UI_FORBIDDEN,
                &raw mut output.0,
            )
        };
        assert_ne!(done, 0, "{}", io::Error::last_os_error());
        output.bytes().to_vec()
    }

    #[test]
    fn what_was_encrypted_under_this_name_is_decrypted() {
        let text = b"[Interface]\nMTU = 1300\n";
        let encrypted = encrypt("wg0", text);
        assert!(!encrypted.windows(text.len()).any(|part| part == text));
        assert_eq!(decrypt("wg0", &encrypted).unwrap().as_slice(), text);
        assert_eq!(decrypt("wg1", &encrypted).unwrap_err().kind(), ErrorKind::Invalid);
        assert!(decrypt("wg0", text).unwrap_err().to_string().contains("cannot decrypt"));
    }
}
