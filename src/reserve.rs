//! Memory for small allocations when the system has none left.
//!
//! All memory whose size depends on input is reserved fallibly at its place. The rest are small blocks of fixed size,
//! most of them allocated by std (an `Arc`, a node of a tree, the text of an error), which cannot report a failure:
//! Rust then aborts the process. [`Reserve`] is a global allocator that takes these blocks from a reserve of its own if
//! the system has no memory. While a large part of the reserve is in use, [`check`] refuses new work. Work with many
//! small blocks first takes a [`Hold`] of all the memory that it may need.
//!
//! The C library and the daemon use it. Rust programs can do the same:
//! `#[global_allocator] static ALLOCATOR: wg_embed::reserve::Reserve = wg_embed::reserve::Reserve::new();`
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System, alloc, alloc_zeroed, dealloc},
    cell::{Cell, UnsafeCell},
    io,
    marker::PhantomData,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence},
};

use crate::error::{Error, Result};

/// The allocation unit of the reserve, in bytes.
const PIECE: usize = 128;
/// One bit for each piece; a block lies in the pieces of one word.
const WORDS: usize = 64;
const PIECES_PER_WORD: usize = u64::BITS as usize;
/// The largest block of the reserve.
pub const MAX_BLOCK: usize = PIECE * PIECES_PER_WORD;
/// Bytes of the reserve. They take no memory until they are used.
pub const RESERVE: usize = MAX_BLOCK * WORDS;
/// No new work is accepted while more pieces than these are in use: the rest is for work in progress.
const LOW: usize = WORDS * PIECES_PER_WORD / 8;

/// With this much address space left, any heap can grow: glibc requests 1 MiB from the system if it cannot grow in
/// place.
pub(crate) const ENOUGH: usize = 2 << 20;

/// Refuses new work while memory has run out: an eighth of the reserve is in use.
///
/// # Errors
/// `Resources` in that case.
#[inline(never)]
pub fn check() -> Result<()> {
    if is_low() { Err(Error::no_memory()) } else { Ok(()) }
}

/// Returns whether [`check`] refuses. Blocks of the reserve may be in use for long, which does not matter once the
/// system has memory again.
pub(crate) fn is_low() -> bool {
    POOL.taken.load(Ordering::Relaxed) > LOW && !has_room(ENOUGH)
}

/// Returns whether the system has this much address space left, in bytes. Free memory of the heap does not count: a
/// thread may be unable to use it, as glibc gives it another heap.
#[cfg(unix)]
#[inline(never)]
pub(crate) fn has_room(bytes: usize) -> bool {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
    // SAFETY: a new mapping, somewhere.
    let room = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
    // SAFETY: it was just mapped, and nothing points there.
    room != libc::MAP_FAILED && unsafe { libc::munmap(room, bytes) } == 0
}

/// Returns whether the system has this much memory, in bytes.
#[cfg(not(unix))]
#[inline(never)]
pub(crate) fn has_room(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

/// Tests for the memory that a new thread needs; to be called first on a thread of the app. std and `tracing` register
/// thread-local values with the C library, which aborts the process if it has no memory for that. The block is
/// freed again, and the heap then has room for these values.
#[inline(never)]
pub fn check_new_thread() -> Result<()> {
    thread_local! {
        static CHECKED: Cell<bool> = const { Cell::new(false) };
    }
    if !CHECKED.try_with(Cell::get).unwrap_or(true) {
        Vec::<u8>::new().try_reserve_exact(2 * MAX_BLOCK)?;
        let _ = CHECKED.try_with(|checked| checked.set(true));
    }
    Ok(())
}

/// Returns `len` zero bytes, without touching them, if there is memory for them.
///
/// # Errors
/// `OutOfMemory`.
#[inline(never)]
pub(crate) fn zeroed(len: usize) -> io::Result<Box<[u8]>> {
    if len == 0 {
        return Ok(Box::default());
    }
    let layout = Layout::array::<u8>(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // SAFETY: the size is not zero.
    let block = unsafe { alloc_zeroed(layout) };
    if block.is_null() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // SAFETY: it was allocated with the layout that the box frees it with, and is initialized.
    Ok(unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(block, len)) })
}

/// Appends an item.
///
/// # Errors
/// `Resources` if there is no memory for it.
pub(crate) fn push<T>(list: &mut Vec<T>, item: T) -> Result<()> {
    list.try_reserve(1)?;
    list.push(item);
    Ok(())
}

/// Returns an empty text with room for this number of bytes.
///
/// # Errors
/// `Resources` if there is no memory for them.
pub fn text(bytes: usize) -> Result<String> {
    let mut text = String::new();
    text.try_reserve_exact(bytes)?;
    Ok(text)
}

/// Returns a copy of a text.
///
/// # Errors
/// `Resources` if there is no memory for it.
pub(crate) fn copy(original: &str) -> Result<String> {
    let mut copy = text(original.len())?;
    copy.push_str(original);
    Ok(copy)
}

/// Collects items until the first error.
///
/// # Errors
/// The first error of an item, or `Resources` if there is no memory.
pub fn collect<T>(items: impl ExactSizeIterator<Item = Result<T>>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(items.len())?;
    for item in items {
        all.push(item?);
    }
    Ok(all)
}

/// A global allocator with a reserve for small blocks; everything else is allocated by `A`.
#[derive(Debug, Default)]
pub struct Reserve<A = System>(A);

impl Reserve {
    /// Creates a reserve over the system's allocator.
    #[must_use]
    pub const fn new() -> Self {
        Self(System)
    }
}

impl<A> Reserve<A> {
    /// Creates a reserve over another allocator.
    #[must_use]
    pub const fn over(allocator: A) -> Self {
        Self(allocator)
    }
}

/// The program's allocator is a [`Reserve`].
static IS_USED: AtomicBool = AtomicBool::new(false);

/// Allocates a block if the system has no memory.
#[cold]
fn spare(layout: Layout) -> *mut u8 {
    let block = HOLD.try_with(Cell::get).ok().flatten().map_or(ptr::null_mut(), |slot| slot.alloc(layout));
    if block.is_null() { POOL.alloc(layout) } else { block }
}

/// Takes back a block that is not the system's.
#[inline(never)]
fn take_back(block: *mut u8, layout: Layout) -> bool {
    if POOL.owns(block) {
        POOL.dealloc(block, layout);
        return true;
    }
    hold_of(block).inspect(|slot| slot.release()).is_some()
}

/// Returns the hold that this block, which is in use, belongs to.
#[inline]
fn hold_of(block: *mut u8) -> Option<&'static Slot> {
    if HOLDS_IN_USE.load(Ordering::Relaxed) == 0 { None } else { search_holds(block) }
}

/// Not inlined: compilers unroll the loop, and one copy is enough.
#[inline(never)]
fn search_holds(block: *mut u8) -> Option<&'static Slot> {
    HOLDS.iter().find(|slot| slot.owns(block))
}

// SAFETY: blocks are the inner allocator's, or of memory that nothing else uses: pieces of the pool whose bits this
// call has set, or bytes of a hold behind all others. Nothing here allocates or unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Reserve<A> {
    // They are called from everywhere, and none of it is worth a copy in each place.
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !IS_USED.load(Ordering::Relaxed) {
            IS_USED.store(true, Ordering::Relaxed);
        }
        // SAFETY: the caller's contract is this one's.
        let block = unsafe { self.0.alloc(layout) };
        if block.is_null() { spare(layout) } else { block }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is this one's.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        if !block.is_null() {
            return block;
        }
        let block = spare(layout);
        if !block.is_null() {
            // SAFETY: the block has this size, and no other owner.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !take_back(block, layout) {
            // SAFETY: it is from there, and the rest is the caller's contract.
            unsafe { self.0.dealloc(block, layout) };
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_spare(block) {
            // SAFETY: it is from there, and the rest is the caller's contract.
            let moved = unsafe { self.0.realloc(block, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        // SAFETY: the size is valid with this alignment, by the caller's contract.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the size is not zero, by the caller's contract.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: two blocks, each with at least this number of bytes.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
            // SAFETY: it was allocated with this layout, and is not used any more.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[inline(never)]
fn is_spare(block: *mut u8) -> bool {
    POOL.owns(block) || hold_of(block).is_some()
}

/// The reserve.
struct Pool {
    memory: Memory,
    /// A bit for each piece that is in use.
    used: [AtomicU64; WORDS],
    /// The number of these bits.
    taken: AtomicUsize,
}

#[repr(C, align(128))]
struct Memory(UnsafeCell<[u8; RESERVE]>);

// SAFETY: a piece is accessed only by its owner, which its bit marks.
unsafe impl Sync for Memory {}

static POOL: Pool = Pool {
    memory: Memory(UnsafeCell::new([0; RESERVE])),
    used: [const { AtomicU64::new(0) }; WORDS],
    taken: AtomicUsize::new(0),
};

impl Pool {
    fn start(&self) -> *mut u8 {
        self.memory.0.get().cast()
    }

    fn owns(&self, block: *mut u8) -> bool {
        block.addr().wrapping_sub(self.start().addr()) < RESERVE
    }

    /// Returns the bits of a block at the first piece of a word, and their number. `None` if the block is too large.
    fn bits(layout: Layout) -> Option<(u64, usize)> {
        let pieces = layout.size().div_ceil(PIECE).max(1);
        let fits = pieces <= PIECES_PER_WORD && layout.align() <= PIECE;
        fits.then(|| (u64::MAX >> (PIECES_PER_WORD - pieces), pieces))
    }

    fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((bits, pieces)) = Self::bits(layout) else { return ptr::null_mut() };
        let place = |used: u64| (0..=PIECES_PER_WORD - pieces).find(|shift| used & (bits << shift) == 0);
        for (n, word) in self.used.iter().enumerate() {
            let mut used = word.load(Ordering::Relaxed);
            while let Some(shift) = place(used) {
                match word.compare_exchange_weak(used, used | bits << shift, Ordering::Acquire, Ordering::Relaxed) {
                    Ok(_) => {
                        self.taken.fetch_add(pieces, Ordering::Relaxed);
                        return self.start().wrapping_add((n * PIECES_PER_WORD + shift) * PIECE);
                    }
                    Err(now) => used = now,
                }
            }
        }
        ptr::null_mut()
    }

    fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((bits, pieces)) = Self::bits(layout) else { return };
        let piece = (block.addr() - self.start().addr()) / PIECE;
        let shift = piece % PIECES_PER_WORD;
        self.used[piece / PIECES_PER_WORD].fetch_and(!(bits << shift), Ordering::Release);
        self.taken.fetch_sub(pieces, Ordering::Relaxed);
    }
}

/// Memory that is reserved for all allocations of this thread, until it is dropped, if the system has none.
///
/// If the program's allocator is not a [`Reserve`], a hold only shows that the memory is available now: it is freed at
/// once, and another thread may take it.
#[derive(Debug)]
pub struct Hold {
    slot: Option<&'static Slot>,
    /// The thread's previous hold.
    before: Option<&'static Slot>,
    /// A hold belongs to its thread.
    thread: PhantomData<*const ()>,
}

/// The maximum number of holds, including those of which blocks are still in use.
const HOLDS_AT_ONCE: usize = 16;

static HOLDS: [Slot; HOLDS_AT_ONCE] = [const { Slot::new() }; HOLDS_AT_ONCE];
static HOLDS_IN_USE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// It has no destructor, so that it can be used even while the thread ends.
    static HOLD: Cell<Option<&'static Slot>> = const { Cell::new(None) };
}

impl Hold {
    /// Reserves this number of bytes.
    ///
    /// # Errors
    /// `Resources` if there is not enough memory.
    pub fn take(bytes: usize) -> Result<Self> {
        check()?;
        let before = HOLD.try_with(Cell::get).ok().flatten();
        let mut hold = Self { slot: None, before, thread: PhantomData };
        let layout = Slot::layout(bytes).ok_or_else(Error::no_memory)?;
        // SAFETY: the size is not zero.
        let block = unsafe { alloc(layout) };
        if block.is_null() {
            return Err(Error::no_memory());
        }
        if is_spare(block) {
            // The reserve itself must not be held; and its blocks would be indistinguishable from those of the
            // hold. SAFETY: it was allocated above, with this layout.
            unsafe { dealloc(block, layout) };
            return Err(Error::no_memory());
        }
        if IS_USED.load(Ordering::Relaxed) {
            hold.slot = HOLDS.iter().find(|slot| slot.fill(block, layout.size()));
        }
        match hold.slot {
            // SAFETY: it was allocated above, with this layout.
            None => unsafe { dealloc(block, layout) },
            slot => drop(HOLD.try_with(|hold| hold.set(slot))),
        }
        Ok(hold)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            let _ = HOLD.try_with(|hold| hold.set(self.before));
            slot.release();
        }
    }
}

/// A place for the memory of a hold. Blocks are allocated one after another, and the memory is freed with the last
/// block.
#[derive(Debug)]
struct Slot {
    /// Odd while `start` and `len` change.
    version: AtomicUsize,
    start: AtomicPtr<u8>,
    /// 0 if there is no memory.
    len: AtomicUsize,
    /// Bytes that were allocated.
    given: AtomicUsize,
    /// The number of blocks in use, plus one for the hold itself.
    live: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            version: AtomicUsize::new(0),
            start: AtomicPtr::new(ptr::null_mut()),
            len: AtomicUsize::new(0),
            given: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
        }
    }

    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes.max(1), 16).ok()
    }

    /// Puts memory into an empty slot.
    fn fill(&self, start: *mut u8, len: usize) -> bool {
        let version = self.version.load(Ordering::Acquire);
        let is_free = version.is_multiple_of(2) && self.len.load(Ordering::Relaxed) == 0;
        if !is_free || self.version.compare_exchange(version, version + 1, Ordering::AcqRel, Ordering::Relaxed).is_err()
        {
            return false;
        }
        HOLDS_IN_USE.fetch_add(1, Ordering::Relaxed);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.given.store(0, Ordering::Relaxed);
        self.live.store(1, Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
        true
    }

    /// Returns whether this block, which is in use, lies in the slot. A slot that is being changed belongs to another
    /// thread.
    fn owns(&self, block: *mut u8) -> bool {
        let version = self.version.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let is_stable = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        is_stable && block.addr().wrapping_sub(start.addr()) < len
    }

    /// Allocates a block; to be called by the thread that has the hold.
    fn alloc(&self, layout: Layout) -> *mut u8 {
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        let given = self.given.load(Ordering::Relaxed);
        let padding = start.wrapping_add(given).align_offset(layout.align());
        let end = given.checked_add(padding).and_then(|at| at.checked_add(layout.size()));
        let Some(end) = end.filter(|end| *end <= len) else { return ptr::null_mut() };
        self.given.store(end, Ordering::Relaxed);
        self.live.fetch_add(1, Ordering::Relaxed);
        start.wrapping_add(given + padding)
    }

    /// Releases a block, or the hold itself.
    fn release(&self) {
        if self.live.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // Nothing else changes a slot that has memory.
        let version = self.version.fetch_add(1, Ordering::AcqRel);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.swap(0, Ordering::Relaxed));
        HOLDS_IN_USE.fetch_sub(1, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
        if let Some(layout) = Self::layout(len) {
            // SAFETY: it was allocated with this layout, and nothing of it is in use.
            unsafe { dealloc(start, layout) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An allocator that fails for threads that request it.
    struct Nothing;

    thread_local! {
        static EMPTY: Cell<bool> = const { Cell::new(false) };
    }

    // SAFETY: the system's allocator, or no memory.
    unsafe impl GlobalAlloc for Nothing {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's contract is this one's.
            if EMPTY.get() { ptr::null_mut() } else { unsafe { System.alloc(layout) } }
        }
        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the caller's contract is this one's.
            unsafe { System.dealloc(block, layout) };
        }
    }

    static RESERVED: Reserve<Nothing> = Reserve::over(Nothing);

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 16).unwrap()
    }

    /// One test, as there is one reserve.
    #[test]
    fn the_reserve_and_a_hold_give_blocks_that_do_not_overlap_and_take_them_back() {
        EMPTY.set(true);
        let sizes = [1, 128, 129, 1000, 5000, MAX_BLOCK];
        let mut blocks = Vec::with_capacity(RESERVE / PIECE);
        for size in sizes.into_iter().cycle() {
            // SAFETY: no size is zero.
            let block = unsafe { RESERVED.alloc(layout(size)) };
            if block.is_null() {
                break;
            }
            assert!(block.addr().is_multiple_of(16));
            // SAFETY: the block has this size.
            unsafe { block.write_bytes(blocks.len() as u8, size) };
            blocks.push((block, size));
        }
        assert!(blocks.len() > 100 && POOL.taken.load(Ordering::Relaxed) > LOW);
        assert!(check().is_ok(), "the program's own allocator has memory");
        for (n, (block, size)) in blocks.drain(..).enumerate() {
            // SAFETY: it is a block of this size, and was written.
            assert!(unsafe { std::slice::from_raw_parts(block, size) }.iter().all(|byte| *byte == n as u8));
            // SAFETY: it was allocated with this layout.
            unsafe { RESERVED.dealloc(block, layout(size)) };
        }
        assert!(check().is_ok() && POOL.taken.load(Ordering::Relaxed) == 0);

        // The program's own allocator is another one, and so it is a hold for `RESERVED` only if that is said.
        let before = IS_USED.swap(true, Ordering::Relaxed);
        assert!(Hold::take(usize::MAX / 2).is_err());
        let hold = Hold::take(1 << 20).unwrap();
        // SAFETY: the size is not zero.
        let first = unsafe { RESERVED.alloc(layout(100_000)) };
        // SAFETY: it was allocated with this layout, and the new size is not zero.
        let grown = unsafe { RESERVED.realloc(first, layout(100_000), 200_000) };
        assert!(!first.is_null() && !grown.is_null() && !POOL.owns(first) && is_spare(grown));
        // SAFETY: the size is not zero.
        assert!(unsafe { RESERVED.alloc(layout(1 << 20)) }.is_null(), "it has less than that left");
        let inner = Hold::take(64).unwrap();
        drop(inner);
        drop(hold);
        assert!(is_spare(grown), "it lives on with what lies in it");
        // SAFETY: the size is not zero.
        assert!(unsafe { RESERVED.alloc(layout(100_000)) }.is_null(), "but nothing more is given");
        // SAFETY: it was allocated with this layout.
        unsafe { RESERVED.dealloc(grown, layout(200_000)) };
        assert!(!is_spare(grown) && HOLDS_IN_USE.load(Ordering::Relaxed) == 0);
        IS_USED.store(before, Ordering::Relaxed);
        EMPTY.set(false);
    }
}
