//! Keys on the stack. Moving a value leaves a copy behind that no destructor wipes, and computing with a key spills
//! parts of it; so the stack that was used for it is wiped afterwards. From there parts could get elsewhere as well: a
//! value with bytes that are not in use, such as an enum, takes along what happens to be in its place when it is moved
//! to the heap.

#![allow(unsafe_code)]

#[cfg(any(all(target_arch = "x86_64", not(windows)), target_arch = "aarch64"))]
use std::arch::asm;
use std::{cell::Cell, hint::black_box};

/// Bytes of stack that handling a key reaches down at most, which tests/key_copies and tests/c/secrets.c measure, in
/// builds without optimization as well.
const DEPTH: usize = 48 * 1024;

/// Bytes of stack that moving a key, and sealing and opening packets, reaches down at most.
const SMALL_DEPTH: usize = 8 * 1024;

/// Runs `body`, and then wipes the stack that it used. What it returns must not be secret.
///
/// Inside of such a body only 8 KiB are wiped at once, before more is moved to the heap: the whole depth would reach
/// far below, and a thread of the app may have little stack. The outermost call wipes the rest.
pub fn wiped<R>(body: impl FnOnce() -> R) -> R {
    thread_local! {
        static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
    }
    struct Outermost;
    impl Drop for Outermost {
        fn drop(&mut self) {
            IS_INSIDE.set(false);
        }
    }
    if IS_INSIDE.replace(true) {
        return wiped_moves(body);
    }
    let outermost = Outermost;
    let result = below(body);
    drop(outermost);
    wipe::<DEPTH>();
    result
}

/// As [`wiped`], for a body that only reads, moves or copies a key.
pub(crate) fn wiped_moves<R>(body: impl FnOnce() -> R) -> R {
    let result = below(body);
    wipe::<SMALL_DEPTH>();
    result
}

/// Wipes the stack below the caller, where keys were moved, or packets sealed and opened, before.
pub(crate) fn wipe_below() {
    wipe::<SMALL_DEPTH>();
}

/// Has a frame of its own, in the place that [`wipe`] has afterwards.
#[inline(never)]
fn below<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[inline(never)]
fn wipe<const N: usize>() {
    black_box(&mut [0_u8; N]);
    clear_vector_registers();
}

/// Clears the registers that copies of keys pass through. What runs next may save them on the stack, as the dynamic
/// linker does for a function that is called for the first time. On Windows some of them belong to the caller.
#[cfg(all(target_arch = "x86_64", not(windows)))]
fn clear_vector_registers() {
    if is_x86_feature_detected!("avx512vl") {
        // SAFETY: the processor has these instructions. They change registers that a call may change.
        unsafe {
            asm!(
                "vzeroall",
                ".irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
                "vpxord xmm\\n, xmm\\n, xmm\\n", // all 512 bits of it
                ".endr",
                clobber_abi("C"),
                options(nomem, nostack, preserves_flags)
            );
        }
    } else if is_x86_feature_detected!("avx") {
        // SAFETY: as above.
        unsafe { asm!("vzeroall", clobber_abi("C"), options(nomem, nostack, preserves_flags)) };
    } else {
        // SAFETY: as above; every processor of this kind has it.
        unsafe {
            asm!(
                ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
                "pxor xmm\\n, xmm\\n",
                ".endr",
                clobber_abi("C"),
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}

/// The same. The lower halves of 8 to 15 are the caller's.
#[cfg(target_arch = "aarch64")]
fn clear_vector_registers() {
    // SAFETY: every processor of this kind has these instructions. They change registers that a call may change.
    unsafe {
        asm!(
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31",
            "movi v\\n\\().16b, #0",
            ".endr",
            clobber_abi("C"),
            options(nomem, nostack, preserves_flags)
        );
    }
}

#[cfg(not(any(all(target_arch = "x86_64", not(windows)), target_arch = "aarch64")))]
const fn clear_vector_registers() {}
