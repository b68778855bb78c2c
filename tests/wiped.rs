//! Secrets do not stay in memory that is given back: an allocator looks at every block on its way out.
//!
//! What it cannot see is the stack, where computing with a secret or moving it may leave a copy behind: tests/key_copies and
//! tests/c/secrets.c look there. Secrets that live for longer than one call are on the heap, as here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unsafe_code,
    reason = "a test that cannot go on should stop where it is, and an allocator is unsafe by nature"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::{Cell, RefCell},
    sync::Arc,
    time::Duration,
};

use wg_embed::{
    key::{PresharedKey, PrivateKey},
    noise::{
        handshake::{Handshake, Identity, OpenedInitiation},
        message::INITIATION_LEN,
        session::Session,
    },
    random::Random,
    time::Instant,
};

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static FREED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

struct Watch;

// SAFETY: allocates with the system's allocator and reads blocks only while they are its own.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // Not while the record itself is written, or the thread is ending.
        if WATCHING.try_with(|w| w.replace(false)).unwrap_or(false) {
            // SAFETY: the block is live until it is handed on below.
            let read = |at| unsafe { block.wrapping_add(at).read_volatile() };
            let copy = (0..layout.size()).map(read).collect();
            FREED.with_borrow_mut(|freed| freed.push(copy));
            WATCHING.set(true);
        }
        // SAFETY: the caller's contract is this one's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watch = Watch;

/// What was in the blocks that `call` gave back.
fn freed_by(call: impl FnOnce()) -> Vec<Vec<u8>> {
    WATCHING.set(true);
    call();
    WATCHING.set(false);
    FREED.take()
}

fn contains(blocks: &[Vec<u8>], secret: &[u8]) -> bool {
    blocks.iter().any(|b| b.windows(secret.len()).any(|w| w == secret))
}

/// Fills with one byte.
struct Constant(u8);

impl Random for Constant {
    fn fill(&self, out: &mut [u8]) {
        out.fill(self.0);
    }
}

/// The ephemeral private keys that `Constant` leads to.
fn ephemeral(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes([byte; 32])
}

const WALL: Duration = Duration::from_secs(1_700_000_000);

struct End {
    identity: Identity,
    handshake: Handshake,
}

fn ends() -> (End, End) {
    let (a, b) = (Identity::new(PrivateKey::from_bytes([0x11; 32])), Identity::new(PrivateKey::from_bytes([0x22; 32])));
    let (to_b, to_a) = (Handshake::new(*b.public()), Handshake::new(*a.public()));
    let end = |identity, mut handshake: Handshake| {
        handshake.set_preshared(PresharedKey::from_bytes([0x33; 32]));
        End { identity, handshake }
    };
    (end(a, to_b), end(b, to_a))
}

fn initiate(a: &mut End) -> [u8; INITIATION_LEN] {
    a.handshake.create_initiation(&a.identity, 1, WALL, &Constant(0x44)).unwrap()
}

/// Ends a handshake on both sides; the sessions.
fn shake(a: &mut End, b: &mut End) -> (Arc<Session>, Arc<Session>) {
    let m1 = initiate(a);
    let opened = OpenedInitiation::open(&m1, &b.identity).unwrap();
    let now = Instant::from_nanos(1);
    assert!(b.handshake.consume_initiation(opened, &m1, &b.identity, now));
    let m2 = b.handshake.create_response(2, &Constant(0x55)).unwrap();
    assert!(a.handshake.consume_response(&m2, &a.identity));
    (a.handshake.begin_session(now).unwrap(), b.handshake.begin_session(now).unwrap())
}

/// All bytes of a value.
fn bytes_of<T>(value: &T) -> Vec<u8> {
    let start = std::ptr::from_ref(value).cast::<u8>();
    // SAFETY: within the value, which is live; volatile, so that padding is read as whatever is there.
    (0..size_of::<T>()).map(|at| unsafe { start.wrapping_add(at).read_volatile() }).collect()
}

#[test]
fn the_allocator_sees_what_is_not_wiped() {
    let secret = [0x99; 32];
    assert!(contains(&freed_by(|| drop(std::hint::black_box(Box::new(secret)))), &secret));
}

#[test]
fn a_dropped_key_is_wiped() {
    let key = Box::new(ephemeral(0x66));
    let bytes = *key.as_bytes();
    let freed = freed_by(|| drop(key));
    assert!(!freed.is_empty() && !contains(&freed, &bytes));
}

#[test]
fn an_abandoned_handshake_is_wiped() {
    let (mut a, _) = ends();
    let freed = freed_by(|| {
        let _ = initiate(&mut a);
        a.handshake.clear();
    });
    assert!(!freed.is_empty(), "the handshake under way is on the heap");
    assert!(!contains(&freed, ephemeral(0x44).as_bytes()));
}

#[test]
fn a_finished_handshake_is_wiped() {
    let (mut a, mut b) = ends();
    let freed = freed_by(|| drop(shake(&mut a, &mut b)));
    assert!(freed.len() >= 2, "one for each side");
    for secret in [ephemeral(0x44), ephemeral(0x55)] {
        assert!(!contains(&freed, secret.as_bytes()));
    }
    let statics = a.identity.private().diffie_hellman(b.identity.public()).unwrap();
    let freed = freed_by(|| drop((Box::new(a), Box::new(b))));
    for secret in [&[0x33; 32], &*statics] {
        assert!(!contains(&freed, secret));
    }
}

#[test]
fn a_dropped_session_is_wiped() {
    let (mut a, mut b) = ends();
    let (session, _) = shake(&mut a, &mut b);
    let before = bytes_of(&*session);
    let freed = freed_by(|| drop(session));
    // Half a key is enough to tell that it is still there. Nothing else in a session has no zeros for so long.
    let random = |w: &&[u8]| w.iter().all(|byte| *byte != 0);
    let keys: Vec<&[u8]> = before.windows(16).filter(random).collect();
    assert!(keys.len() >= 16, "the keys are in there");
    assert!(!keys.iter().any(|key| contains(&freed, key)));
}

#[cfg(target_os = "linux")]
#[test]
fn what_passes_the_c_functions_is_wiped() {
    use std::{
        ffi::CStr,
        os::{fd::IntoRawFd, unix::net::UnixDatagram},
        ptr,
    };
    use wg_embed::ffi::{wg_free, wg_get_config, wg_result::WG_OK, wg_set_config, wg_turn_off, wg_turn_on};

    // Constants: whatever makes text on the heap leaves copies of its own.
    const UAPI: &CStr = c"private_key=7878787878787878787878787878787878787878787878787878787878787878
public_key=0909090909090909090909090909090909090909090909090909090909090909
preshared_key=9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c
public_key=0b09090909090909090909090909090909090909090909090909090909090909
preshared_key=9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c
public_key=0c09090909090909090909090909090909090909090909090909090909090909
public_key=0d09090909090909090909090909090909090909090909090909090909090909
public_key=0e09090909090909090909090909090909090909090909090909090909090909
";
    const REFUSED: &CStr = c"preshared_key=9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c9c";
    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    let mut read = false;
    let freed = freed_by(|| {
        // SAFETY: the text ends with a zero, and the descriptor is given away.
        let handle = unsafe { wg_turn_on(ours.into_raw_fd(), UAPI.as_ptr()) };
        let mut text = ptr::null_mut();
        // SAFETY: there is room for one pointer.
        let got = unsafe { wg_get_config(handle, &raw mut text) };
        // SAFETY: the text ends with a zero.
        let set = unsafe { wg_set_config(handle, REFUSED.as_ptr()) };
        // SAFETY: it came from above.
        read = got == WG_OK && set != WG_OK && unsafe { CStr::from_ptr(text) }.count_bytes() > 200;
        // SAFETY: as above, and it is not used again.
        unsafe { wg_free(text.cast()) };
        read &= wg_turn_off(handle) == WG_OK;
    });
    assert!(read);
    for byte in [0x78, 0x9c] {
        let hex = if byte == 0x78 { "78787878787878787878" } else { "9c9c9c9c9c9c9c9c9c9c" };
        assert!(!contains(&freed, &[byte; 10]) && !contains(&freed, hex.as_bytes()));
    }
}
