//! An allocator that keeps what was in the blocks which are given back to it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::{Cell, RefCell},
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
pub(crate) fn freed_by(call: impl FnOnce()) -> Vec<Vec<u8>> {
    WATCHING.set(true);
    call();
    WATCHING.set(false);
    FREED.take()
}

pub(crate) fn contains(blocks: &[Vec<u8>], secret: &[u8]) -> bool {
    blocks.iter().any(|b| b.windows(secret.len()).any(|w| w == secret))
}
