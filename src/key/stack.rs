//! Wipes keys from the stack. Moving a value leaves a copy that no destructor wipes, and computing with a key spills
//! parts of it; so the stack that was used is wiped afterwards. Otherwise parts of keys could also get elsewhere:
//! moving a value with unused bytes, such as an enum, to the heap copies their former contents.

#![allow(unsafe_code)]

#[cfg(any(all(target_arch = "x86_64", not(windows)), target_arch = "aarch64"))]
use std::arch::asm;
use std::{cell::Cell, hint::black_box};

/// The greatest depth of stack, in bytes, that handling a key uses. tests/key_copies and tests/c/secrets.c measure it,
/// also in builds without optimization.
const DEPTH: usize = 48 * 1024;

/// The greatest depth of stack, in bytes, that moving a key, or sealing and opening packets, uses. Frames are larger
/// without optimization.
const SMALL_DEPTH: usize = if cfg!(debug_assertions) { 16 * 1024 } else { 8 * 1024 };

/// Runs `body` and then wipes the stack that it used. Its result must not be secret.
///
/// Within such a body only the smaller depth is wiped at once, before more is moved to the heap: the whole depth would
/// reach too far down, and a thread of the app may have little stack. The outermost call wipes the rest.
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

/// Runs `body` like [`wiped`], for a body that only reads, moves or copies a key.
pub(crate) fn wiped_moves<R>(body: impl FnOnce() -> R) -> R {
    let result = below(body);
    wipe::<SMALL_DEPTH>();
    result
}

/// Wipes the stack below the caller, after keys were moved there, or packets sealed and opened.
pub(crate) fn wipe_below() {
    wipe::<SMALL_DEPTH>();
}

/// Runs `body` in a frame of its own, which [`wipe`] covers afterwards.
#[inline(never)]
fn below<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[inline(never)]
fn wipe<const N: usize>() {
    black_box(&mut [0_u8; N]);
    clear_vector_registers();
}

/// Clears the registers that copies of keys pass through. Code that runs next may save them on the stack, as the
/// dynamic linker does for the first call of a function. On Windows some of them belong to the caller.
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

/// As above. The lower halves of registers 8 to 15 belong to the caller.
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
