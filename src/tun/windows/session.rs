//! A session of an adapter: two rings of packets in memory that the driver shares with this process.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    io,
    os::windows::io::BorrowedHandle,
    ptr::{self, NonNull},
    slice,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use windows_sys::Win32::Foundation::{ERROR_BUFFER_OVERFLOW, ERROR_HANDLE_EOF, ERROR_NO_MORE_ITEMS, GetLastError};

use super::wintun::{Adapter, Functions};
use crate::{
    error::{Error, Result},
    sync,
    tun::{PacketArena, PacketList},
};

/// The size of each ring in bytes: that of wireguard-go.
pub(super) const RING: u32 = 8 << 20;

/// A session. Its packets and its event end with it, and the adapter is closed after it.
pub(super) struct Session {
    handle: NonNull<c_void>,
    /// A packet that was received and did not fit into an arena. It goes first into the next one.
    held: Mutex<Option<Packet>>,
    read_drops: AtomicU64,
    /// Dropped after the session has ended.
    adapter: Adapter,
}

// SAFETY: Wintun's functions may be called on any thread, also for the same session.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

/// A packet in the ring, not yet released.
struct Packet {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the ring belongs to the session, not to a thread.
unsafe impl Send for Packet {}

impl Session {
    pub(super) fn start(adapter: Adapter) -> Result<Self> {
        // SAFETY: the adapter is open.
        let handle = unsafe { (adapter.wintun().functions().start_session)(adapter.handle(), RING) };
        let Some(handle) = NonNull::new(handle) else {
            let error = io::Error::last_os_error();
            return Err(Error::io(format!("cannot start a session of the adapter {}", adapter.name()), error));
        };
        Ok(Self { handle, held: Mutex::default(), read_drops: AtomicU64::new(0), adapter })
    }

    pub(super) const fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// The number of packets that were larger than an arena.
    pub(super) fn read_drops(&self) -> u64 {
        self.read_drops.load(Relaxed)
    }

    fn functions(&self) -> &Functions {
        self.adapter.wintun().functions()
    }

    /// The event that is set when there are packets again, or the adapter has ended.
    pub(super) fn readable(&self) -> BorrowedHandle<'_> {
        // SAFETY: the session is open.
        let event = unsafe { (self.functions().read_event)(self.handle.as_ptr()) };
        // SAFETY: the event is open as long as the session is, which is borrowed.
        unsafe { BorrowedHandle::borrow_raw(event) }
    }

    /// Moves packets into an arena, until it is full or there are no more.
    pub(super) fn read(&self, arena: &mut PacketArena) -> io::Result<()> {
        let mut held = sync::lock(&self.held);
        loop {
            let packet = match held.take() {
                Some(packet) => packet,
                None => match self.receive()? {
                    Some(packet) => packet,
                    None => return Ok(()),
                },
            };
            // SAFETY: the driver has written `packet.len` bytes there, and they are ours until the packet is released.
            let bytes = unsafe { slice::from_raw_parts(packet.start.as_ptr(), packet.len) };
            if arena.push(bytes) {
                self.release(packet);
            } else if arena.slots().is_empty() {
                // It is too large for any arena of this size, and must not block those behind it.
                self.release(packet);
                self.read_drops.fetch_add(1, Relaxed);
            } else {
                *held = Some(packet);
                return Ok(());
            }
        }
    }

    /// Takes the next packet out of the ring; `None` if there is none now.
    fn receive(&self) -> io::Result<Option<Packet>> {
        let mut len = 0;
        // SAFETY: the session is open; one number is written.
        let start = unsafe { (self.functions().receive)(self.handle.as_ptr(), &raw mut len) };
        if let Some(start) = NonNull::new(start) {
            return Ok(Some(Packet { start, len: len as usize }));
        }
        // SAFETY: it reads a number of this thread.
        match unsafe { GetLastError() } {
            ERROR_NO_MORE_ITEMS => Ok(None),
            ERROR_HANDLE_EOF => Err(io::Error::new(io::ErrorKind::NotConnected, "the adapter was disabled or removed")),
            code => Err(io::Error::from_raw_os_error(code as i32)),
        }
    }

    fn release(&self, packet: Packet) {
        // SAFETY: the session is open; the packet was received from it, and is not used any more.
        unsafe { (self.functions().release)(self.handle.as_ptr(), packet.start.as_ptr()) };
    }

    /// Copies packets into the ring, and returns how many had room.
    pub(super) fn write(&self, packets: PacketList<'_>) -> usize {
        let mut taken = 0;
        for packet in packets.iter().filter(|packet| !packet.is_empty()) {
            match self.allocate(packet.len()) {
                Ok(room) => {
                    // SAFETY: the room is as long as the packet, and no other code has it before it is sent.
                    unsafe { ptr::copy_nonoverlapping(packet.as_ptr(), room.as_ptr(), packet.len()) };
                    // SAFETY: the session is open, and all of the room was written.
                    unsafe { (self.functions().send)(self.handle.as_ptr(), room.as_ptr()) };
                    taken += 1;
                }
                // A smaller packet may still fit.
                Err(ERROR_BUFFER_OVERFLOW) => {}
                // The adapter has ended, which the next read reports.
                Err(_) => break,
            }
        }
        taken
    }

    /// Reserves room for a packet in the ring, which must then be sent: packets leave in the order of these calls.
    fn allocate(&self, len: usize) -> std::result::Result<NonNull<u8>, u32> {
        let len = u32::try_from(len).map_err(|_| ERROR_BUFFER_OVERFLOW)?;
        // SAFETY: the session is open.
        let room = unsafe { (self.functions().allocate)(self.handle.as_ptr(), len) };
        // SAFETY: it reads a number of this thread.
        NonNull::new(room).ok_or_else(|| unsafe { GetLastError() })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(packet) = sync::lock(&self.held).take() {
            self.release(packet);
        }
        // SAFETY: the session is open, all its packets are released, and nothing uses it any more.
        unsafe { (self.functions().end_session)(self.handle.as_ptr()) };
    }
}
