//! A child of `fork()` may drop what it has of a stack, whatever other threads did at that time.
#![cfg(unix)]
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

mod common;

use std::{
    mem::ManuallyDrop,
    ptr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use common::World;
use wg_embed_netstack::dns::Family;

/// Only bounds a hang.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs `body` in a child, which must return true in time.
fn in_child(body: impl FnOnce() -> bool) {
    // SAFETY: the child runs `body` alone, which takes no lock of another thread, and ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let code = i32::from(!body());
        // SAFETY: takes no pointers.
        unsafe { libc::_exit(code) };
    }
    let end = Instant::now() + LIMIT;
    let mut status = 0;
    loop {
        // SAFETY: `status` is live.
        match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
            0 => {}
            id => break assert_eq!((id, status), (child, 0)),
        }
        if Instant::now() > end {
            // SAFETY: takes no pointers; it is our child, and was not waited for.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: `status` is live.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            panic!("the child hangs");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Drops the child's copy of it.
fn drop_copy<T>(value: &ManuallyDrop<T>) {
    // SAFETY: it is read once in the child, which ends without dropping the original.
    drop(unsafe { ptr::read(ptr::from_ref::<T>(value)) });
}

#[test]
fn dropping_in_a_child_does_not_hang_and_changes_nothing() {
    let world = World::with(|a| a.dns = vec![common::B.parse().unwrap()], |_| {});
    let (client, server) = world.connect();
    let at = "10.0.0.1:0".parse().unwrap();
    let udp = ManuallyDrop::new(world.a.stack.bind_udp(at, None).unwrap());
    let listener = ManuallyDrop::new(world.a.stack.listen_tcp(at, 8).unwrap());
    let ping = ManuallyDrop::new(world.a.stack.start_ping(common::B.parse().unwrap(), 9).unwrap());
    let client = ManuallyDrop::new(client);
    server.try_write(b"waits").unwrap();
    world.settle();
    let port = ManuallyDrop::new(world.a.stack.reserve_udp("10.0.0.1:9".parse().unwrap()).unwrap());
    let dial = ManuallyDrop::new(world.a.stack.start_dial("10.0.0.2:9", Family::Any, LIMIT).unwrap());
    let lookup = ManuallyDrop::new(world.a.stack.start_resolve("name.example", Family::Any, LIMIT).unwrap());
    let connections = world.a.stack.stats().connections;
    let (entered, wait_entered) = mpsc::channel();
    let (go_on, wait_go_on) = mpsc::channel::<()>();
    thread::scope(|scope| {
        // Under the connection's lock while the process forks.
        let reader = &client;
        scope.spawn(move || {
            reader.try_read_with(&mut |_, _| {
                entered.send(()).unwrap();
                let _ = wait_go_on.recv();
                0
            })
        });
        wait_entered.recv().unwrap();
        in_child(|| {
            drop_copy(&client);
            drop_copy(&udp);
            drop_copy(&listener);
            drop_copy(&ping);
            drop_copy(&port);
            drop_copy(&dial);
            drop_copy(&lookup);
            world.a.stack.stats().connections == connections && world.a.stack.bind_udp(port.local_addr(), None).is_err()
        });
        drop(go_on);
    });
    // All is as it was.
    client.try_write(b"still here").unwrap();
    world.settle();
    assert_eq!(common::read_all(&server).0, b"still here");
    assert_eq!(common::read_all(&client).0, b"waits");
    assert!(ping.try_reply().is_ok());
    drop((ManuallyDrop::into_inner(client), ManuallyDrop::into_inner(udp)));
    drop((ManuallyDrop::into_inner(listener), ManuallyDrop::into_inner(ping)));
    drop((ManuallyDrop::into_inner(port), ManuallyDrop::into_inner(dial), ManuallyDrop::into_inner(lookup)));
}
