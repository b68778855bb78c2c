//! Control messages: the source address, TOS byte and segment size of a datagram.

use std::net::Ipv4Addr;

/// The room for control messages of one datagram or GSO send: address, TOS byte and segment size take at most 88 bytes.
const ROOM: usize = 128;

/// A buffer for control messages.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control {
    bytes: [u8; ROOM],
    len: usize,
}

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

/// The offset of the data of a control message.
const DATA: usize = {
    // SAFETY: only computes.
    unsafe { libc::CMSG_LEN(0) as usize }
};

/// Returns the room for a message with data of `len` bytes.
const fn space(len: usize) -> usize {
    // SAFETY: only computes.
    unsafe { libc::CMSG_SPACE(len as libc::c_uint) as usize }
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; ROOM], len: 0 };

    /// Returns the number of filled bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns a pointer to the whole buffer, for the system.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.as_mut_ptr()
    }

    /// Returns the size of the buffer.
    pub(super) const fn room(&self) -> usize {
        ROOM
    }

    /// Marks the first `len` bytes as filled by the system.
    pub(super) fn filled(&mut self, len: usize) {
        self.len = len.min(ROOM);
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a message. `T` is plain old data.
    pub(super) fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let end = self.len + space(size_of::<T>());
        let room = &mut self.bytes[self.len..end];
        // SAFETY: all fields are integers.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (DATA + size_of::<T>()) as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        let at = room.as_mut_ptr();
        // SAFETY: `room` is `space` long, which counts the header.
        unsafe { at.cast::<libc::cmsghdr>().write_unaligned(header) };
        // SAFETY: the data begins inside of `room`.
        let at = unsafe { at.add(DATA) };
        // SAFETY: `space` counts the data.
        unsafe { at.cast::<T>().write_unaligned(value) };
        self.len = end;
    }

    /// Returns the messages: level, type and data.
    pub(super) fn messages(&self) -> impl Iterator<Item = (libc::c_int, libc::c_int, &[u8])> {
        let mut rest = &self.bytes[..self.len];
        std::iter::from_fn(move || {
            if rest.len() < DATA {
                return None;
            }
            // SAFETY: there is room for a header, whose fields are integers.
            let header = unsafe { rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
            #[allow(clippy::unnecessary_cast)] // The type of the length differs between C libraries.
            let data = rest.get(DATA..header.cmsg_len as usize)?;
            rest = rest.get(space(data.len())..).unwrap_or(&[]);
            Some((header.cmsg_level, header.cmsg_type, data))
        })
    }
}

/// Returns the data of a control message as a `T`, if it is long enough. `T` is plain old data.
pub(super) fn read<T: Copy>(data: &[u8]) -> Option<T> {
    // SAFETY: the length is checked, and any bytes are a valid `T`.
    (data.len() >= size_of::<T>()).then(|| unsafe { data.as_ptr().cast::<T>().read_unaligned() })
}

pub(super) const fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_read_back() {
        let mut control = Control::EMPTY;
        control.push(1, 2, 3u8);
        control.push(4, 5, 6u64);
        let got: Vec<_> = control.messages().collect();
        assert_eq!((got[0].0, got[0].1, got[0].2), (1, 2, &[3u8][..]));
        assert_eq!((got[1].0, got[1].1, read::<u64>(got[1].2)), (4, 5, Some(6)));
        assert_eq!((got.len(), read::<u64>(got[0].2)), (2, None));
    }

    #[test]
    fn is_laid_out_as_the_c_library_reads_it() {
        let mut control = Control::EMPTY;
        control.push(1, 2, 3u8);
        control.push(4, 5, 6u64);
        // SAFETY: null pointers and zero lengths are valid.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len() as _;
        // SAFETY: the header names an initialized buffer.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
        // SAFETY: `first` is the first message of that buffer.
        let second = unsafe { libc::CMSG_NXTHDR(&raw const header, first) };
        // SAFETY: not null, or else the test fails here.
        let level = unsafe { second.as_ref() }.unwrap().cmsg_level;
        assert_eq!(level, 4);
    }

    #[test]
    fn a_message_that_is_cut_off_is_none() {
        let mut control = Control::EMPTY;
        control.push(1, 2, 3u64);
        for len in 0..control.len() {
            let mut cut = control;
            cut.filled(len);
            assert_eq!(cut.messages().count(), 0);
        }
    }
}
