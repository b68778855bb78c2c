//! No step of a handshake leaves a secret on the stack: each is made on a thread whose stack is searched afterwards.
#![allow(
    unsafe_code,
    clippy::multiple_unsafe_ops_per_block,
    reason = "calls of the C library that belong together: only it can give a thread a stack of ours"
)]

use std::{ffi::c_void, mem::MaybeUninit, ptr, sync::Arc, time::Duration};

use wg_embed::{
    key::{PresharedKey, PrivateKey},
    noise::{
        handshake::{Handshake, Identity, OpenedInitiation},
        session::Session,
    },
    random::Random,
    time::Instant,
};

use super::{
    memory::{Found, needles},
    secrets::{self, Secrets},
};

const STACK: usize = 1 << 20;

type Step<'a> = &'a mut dyn FnMut();

extern "C" fn take(step: *mut c_void) -> *mut c_void {
    // SAFETY: it points to the one of `left_by`, which waits.
    unsafe { (*step.cast::<Step<'_>>())() };
    ptr::null_mut()
}

/// What is left of `secrets` on the stack of a thread that has made a step.
fn left_by<'a>(secrets: &'a Secrets, mut step: Step<'_>) -> Vec<Found<'a>> {
    // Not kept by the C library for another thread.
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let (mut attributes, mut thread) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the attributes are initialized first, the stack outlives the thread, and so does the step.
    unsafe {
        assert_eq!(libc::pthread_attr_init(attributes.as_mut_ptr()), 0);
        assert_eq!(libc::pthread_attr_setstack(attributes.as_mut_ptr(), stack.as_mut_ptr().cast(), STACK), 0);
        let step = ptr::from_mut(&mut step).cast();
        assert_eq!(libc::pthread_create(thread.as_mut_ptr(), attributes.as_ptr(), take, step), 0);
        assert_eq!(libc::pthread_join(thread.assume_init(), ptr::null_mut()), 0);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_ne_bytes()).collect();
    needles(&secrets.0).find(&bytes, "the stack", true)
}

/// Fills with an ephemeral key that is known.
struct First(&'static str);

impl Random for First {
    fn fill(&self, out: &mut [u8]) {
        out.copy_from_slice(&secrets::ephemeral(self.0, 0));
    }
}

#[test]
fn a_handshake_leaves_nothing_on_the_stack() {
    let [a, b, psk] = [b"a", b"b", b"c"].map(|name| secrets::random(name));
    let secrets = Secrets::of_handshakes(&a, &b, &psk);
    let [a, b] = [a, b].map(|key| Identity::new(PrivateKey::from_bytes(key)));
    let (mut to_b, mut to_a) = (Handshake::new(*b.public()), Handshake::new(*a.public()));
    [&mut to_a, &mut to_b].into_iter().for_each(|end| end.set_preshared(PresharedKey::from_bytes(psk)));
    let now = Instant::from_nanos(1);
    let (mut first, mut opened, mut second) = (None, None, None);
    let mut sessions = [None::<Arc<Session>>, None];

    let expect_nothing = |name: &str, step: Step<'_>| {
        let left: Vec<_> = left_by(&secrets, step).iter().map(|found| found.secret.to_owned()).collect();
        assert!(left.is_empty(), "{name} leaves {left:?}");
    };
    expect_nothing("the initiation", &mut || {
        first = to_b.create_initiation(&a, 1, Duration::from_secs(1), &First("a"));
    });
    let first = first.unwrap();
    expect_nothing("opening it", &mut || opened = OpenedInitiation::open(&first, &b));
    expect_nothing("taking it", &mut || {
        assert!(to_a.consume_initiation(opened.take().unwrap(), &first, &b, now));
    });
    expect_nothing("the response", &mut || second = to_a.create_response(2, &First("b")));
    let second = second.unwrap();
    expect_nothing("taking the response", &mut || assert!(to_b.consume_response(&second, &a)));
    expect_nothing("a session", &mut || sessions = [&mut to_a, &mut to_b].map(|end| end.begin_session(now)));
    assert!(sessions.iter().all(Option::is_some));
}
