//! The reason for a refusal by the app.

use std::ffi::c_char;

use crate::types::manager::WG_MANAGER_REASON_LEN;

/// Room for it.
pub(super) struct Reason([c_char; WG_MANAGER_REASON_LEN]);

impl Reason {
    pub(super) const fn new() -> Self {
        Self([0; WG_MANAGER_REASON_LEN])
    }

    /// For the app's function.
    pub(super) fn room(&mut self) -> (*mut c_char, usize) {
        (self.0.as_mut_ptr(), self.0.len())
    }

    /// Returns the app's text, after its callback has returned `code`.
    pub(super) fn text(&self, code: i32) -> String {
        // A char of C has a sign here, and none there.
        let bytes: Vec<u8> = self.0.iter().map(|char| char.to_ne_bytes()[0]).take_while(|byte| *byte != 0).collect();
        match bytes.is_empty() {
            true => format!("the app has refused it with {code}"),
            false => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn the_text_ends_with_its_zero_byte_or_the_room() {
        let mut reason = Reason::new();
        assert_eq!(reason.text(-3), "the app has refused it with -3");
        for (to, from) in reason.0.iter_mut().zip(b"no\xff\0more") {
            *to = *from as _;
        }
        assert_eq!(reason.text(1), "no\u{fffd}");
        reason.0.fill(b'x' as _);
        assert_eq!(reason.text(1).len(), reason.0.len());
    }
}
