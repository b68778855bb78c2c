//! New sockets on the port of the old ones, on Linux: who may have that port in the meantime, and whose it is
//! afterwards. Each test has a network namespace of its own, so it needs root, and says so if it is skipped.
#![cfg(target_os = "linux")]
#![allow(unsafe_code, clippy::unwrap_used)]

#[path = "common/at_end.rs"]
mod at_end;
mod netns;
#[path = "common/skip.rs"]
mod skip;

use at_end::set_at_end;
use netns::{Netns, as_root};
use socket2::{Domain, SockRef, Socket, Type};
use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::{
        fd::{BorrowedFd, RawFd},
        unix::fs::MetadataExt,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
};
use wg_embed::{
    bind::{BatchUdp, Bind, Endpoint, Family, Transmit, UdpBind},
    error::ErrorKind,
};

const NOBODY: libc::uid_t = 65534;

/// In a network of its own, as root.
fn in_network(test: impl FnOnce() + Send + 'static) {
    as_root(|| Netns::new().run(test));
}

/// Makes this thread another user's. libc's own wrapper would do it to all threads.
fn become_user(uid: libc::uid_t) {
    // SAFETY: takes numbers, and concerns this thread only.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, 0);
}

/// Ways to ask for a port: at which address, sharing it by which options, through which interface.
fn requests() -> Vec<(IpAddr, [bool; 2], u32)> {
    let addresses: [IpAddr; 4] = [
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let options = [[false, false], [true, false], [false, true], [true, true]];
    let all = addresses.into_iter().flat_map(|ip| options.map(|options| (ip, options)));
    all.flat_map(|(ip, options)| [0, 1].map(|interface| (ip, options, interface))).collect()
}

/// Asks for a port once.
fn request(port: u16, (ip, [address, shared], interface): (IpAddr, [bool; 2], u32)) -> io::Result<Socket> {
    let socket = Socket::new(if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }, Type::DGRAM, None)?;
    socket.set_reuse_address(address)?;
    socket.set_reuse_port(shared)?;
    match ip {
        IpAddr::V4(_) => socket.bind_device_by_index_v4(std::num::NonZeroU32::new(interface))?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.bind_device_by_index_v6(std::num::NonZeroU32::new(interface))?;
        }
    }
    socket.bind(&SocketAddr::new(ip, port).into())?;
    Ok(socket)
}

/// Keeps asking for a port as another user, in every way, until `stop`. Returns the first that was granted.
fn besiege(port: u16, stop: &AtomicBool, tries: &AtomicU64) -> Option<(IpAddr, [bool; 2], u32)> {
    become_user(NOBODY);
    while !stop.load(SeqCst) {
        for ask in requests() {
            if request(port, ask).is_ok() {
                return Some(ask);
            }
        }
        tries.fetch_add(1, SeqCst);
    }
    None
}

/// Reopens again and again while another user asks for the port, until either has had many a turn.
fn reopen_besieged(port: u16, reopen: impl Fn()) {
    let (stop, tries) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        // A namespace is a thread's, and goes to the threads that it starts.
        let thief = scope.spawn(|| besiege(port, &stop, &tries));
        let ended = set_at_end(&stop);
        let mut rounds = 0;
        while (rounds < 2000 || tries.load(SeqCst) < 200) && !thief.is_finished() {
            reopen();
            rounds += 1;
        }
        drop(ended);
        assert_eq!(thief.join().unwrap(), None, "after {rounds} rounds");
    });
}

/// As a borrowed socket: the bind has it open.
fn borrow<'a>(fd: Option<RawFd>) -> BorrowedFd<'a> {
    // SAFETY: the tests do not close what they look at.
    unsafe { BorrowedFd::borrow_raw(fd.unwrap()) }
}

fn owner(fd: Option<RawFd>) -> u32 {
    File::from(borrow(fd).try_clone_to_owned().unwrap()).metadata().unwrap().uid()
}

/// That a bind has its port for itself, and receives what comes for it.
fn is_alone_and_receives(bind: &UdpBind, port: u16) {
    for fd in [bind.fd4(), bind.fd6()] {
        let socket = borrow(fd);
        let socket = SockRef::from(&socket);
        assert_eq!((socket.reuse_address().unwrap(), socket.reuse_port().unwrap()), (false, false));
    }
    for ask in requests() {
        let refusal = request(port, ask).unwrap_err().kind();
        assert!(matches!(refusal, io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied), "{ask:?}: {refusal}");
    }
    for ip in ["127.0.0.1", "::1"] {
        receives_at(bind, SocketAddr::new(ip.parse().unwrap(), port));
    }
}

fn receives_at(bind: &UdpBind, at: SocketAddr) {
    let peer = UdpSocket::bind(if at.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    peer.send_to(b"x", at).unwrap();
    let mut batch = wg_embed::bind::RecvBatch::new(4, 65_535);
    netns::eventually("the datagram came", || bind.recv(&mut batch).unwrap() == 1);
    let report = bind.send(&[Transmit::new(Endpoint::new(at), b"y")]);
    assert_eq!(report.sent, 1);
    netns::eventually("the datagram came back", || bind.recv(&mut batch).unwrap() == 1);
}

#[test]
fn another_user_does_not_get_the_port_of_a_bind() {
    in_network(|| {
        for bind in [UdpBind::new().unwrap(), UdpBind::new().unwrap().with_portable_driver()] {
            let port = bind.open(0).unwrap();
            reopen_besieged(port, || assert_eq!(bind.open(port).unwrap(), port));
            is_alone_and_receives(&bind, port);
        }
    });
}

#[test]
fn another_user_does_not_get_the_port_of_udp_without_a_tunnel() {
    in_network(|| {
        let udp = BatchUdp::open(0).unwrap();
        let port = udp.port().unwrap();
        reopen_besieged(port, || assert_eq!(udp.reopen(port).unwrap(), port));
    });
}

#[test]
fn another_user_does_not_get_the_port_when_sockets_are_bound_to_another_interface() {
    in_network(|| {
        // Without this permission new sockets are needed to bind a family to another interface.
        become_unprivileged();
        let udp = BatchUdp::open(0).unwrap();
        let port = udp.port().unwrap();
        let turn = AtomicU64::new(0);
        reopen_besieged(port, || {
            let index = (turn.fetch_add(1, SeqCst) % 2) as u32;
            for family in [Family::V4, Family::V6] {
                udp.set_interface(family, index, false).unwrap();
            }
            assert_eq!(udp.port(), Some(port));
        });
    });
}

/// Drops what root may do, on this thread, but stays root: also able to become another user.
fn become_unprivileged() {
    const CAP_SETUID: u32 = 7;
    #[repr(C)]
    struct Header(u32, i32);
    let header = Header(0x2008_0522, 0);
    let data = [[1_u32 << CAP_SETUID, 1 << CAP_SETUID, 0], [0; 3]];
    // SAFETY: a header of version 3 and two sets of three words, of this thread.
    assert_eq!(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }, 0);
}

#[test]
fn a_process_that_is_another_user_by_then_reopens_one_after_the_other() {
    in_network(|| {
        for bind in [UdpBind::new().unwrap(), UdpBind::new().unwrap().with_portable_driver()] {
            let port = bind.open(0).unwrap();
            assert_eq!((owner(bind.fd4()), owner(bind.fd6())), (0, 0));
            let bind = thread::spawn(move || {
                become_user(NOBODY);
                for _ in 0..3 {
                    assert_eq!(bind.open(port).unwrap(), port);
                    assert_eq!((owner(bind.fd4()), owner(bind.fd6())), (NOBODY, NOBODY));
                    is_alone_and_receives(&bind, port);
                }
                bind
            });
            drop(bind.join().unwrap());
        }
    });
}

#[test]
fn sockets_that_were_given_to_the_other_user_are_reopened_without_a_gap() {
    in_network(|| {
        let bind = UdpBind::new().unwrap();
        let port = bind.open(0).unwrap();
        for fd in [bind.fd4(), bind.fd6()] {
            std::os::unix::fs::fchown(borrow(fd), Some(NOBODY), None).unwrap();
        }
        let test = move || {
            become_user(NOBODY);
            // While there are copies of the old ones, no other socket could have the port after them.
            let _copies = [bind.fd4(), bind.fd6()].map(|fd| borrow(fd).try_clone_to_owned().unwrap());
            assert_eq!(bind.open(port).unwrap(), port);
            assert_eq!((owner(bind.fd4()), owner(bind.fd6())), (NOBODY, NOBODY));
        };
        thread::spawn(test).join().unwrap();
    });
}

#[test]
fn what_another_user_may_not_do_closes_nothing() {
    in_network(|| {
        let bind = UdpBind::new().unwrap();
        // A port for those with permission.
        let port = bind.open(700).unwrap();
        let marked = UdpBind::new().unwrap();
        marked.set_mark(7).unwrap();
        let marked_port = marked.open(0).unwrap();
        let refuses = Arc::new(AtomicBool::new(false));
        let refused = refuses.clone();
        let hooked = UdpBind::new().unwrap().with_socket_hook(Box::new(move |_, _| match refused.load(SeqCst) {
            true => Err(io::ErrorKind::Other.into()),
            false => Ok(()),
        }));
        let hooked_port = hooked.open(0).unwrap();
        refuses.store(true, SeqCst);
        let test = move || {
            become_user(NOBODY);
            for (bind, port) in [(bind, port), (marked, marked_port), (hooked, hooked_port)] {
                for _ in 0..2 {
                    bind.open(port).unwrap_err();
                    is_alone_and_receives(&bind, port);
                }
            }
        };
        thread::spawn(test).join().unwrap();
    });
}

#[test]
fn a_port_that_is_lost_between_two_users_is_asked_for_again() {
    in_network(|| {
        let bind = UdpBind::new().unwrap();
        let port = bind.open(0).unwrap();
        let udp = BatchUdp::open(0).unwrap();
        let udp_port = udp.port().unwrap();
        let test = move || {
            become_user(NOBODY);
            // Whoever has a copy of a socket has the port, like a thief who was quicker.
            let taken = [bind.fd4(), bind.fd6()].map(|fd| borrow(fd).try_clone_to_owned().unwrap());
            assert_eq!(bind.open(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(bind.open(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(taken);
            assert_eq!(bind.open(port).unwrap(), port);
            is_alone_and_receives(&bind, port);

            let taken = [Family::V4, Family::V6].map(|family| borrow(udp.fd(family)).try_clone_to_owned().unwrap());
            udp.reopen(udp_port).unwrap_err();
            assert_eq!(udp.port(), Some(udp_port), "it is not closed for good");
            assert!(udp.has(Family::V4) && udp.has(Family::V6));
            let to = Endpoint::new((Ipv4Addr::LOCALHOST, udp_port).into());
            let report = udp.send(&[Transmit::new(to, b"x")]).unwrap();
            assert_eq!((report.dropped, report.unreachable_mask), (1, 0), "it has nothing to do with routes");
            drop(taken);
            assert_eq!(udp.reopen(udp_port).unwrap(), udp_port);
            assert!(udp.has(Family::V4) && udp.has(Family::V6));
        };
        thread::spawn(test).join().unwrap();
    });
}

#[test]
fn who_receives_goes_on_although_there_is_a_moment_without_a_socket() {
    in_network(|| {
        let udp = BatchUdp::open(0).unwrap();
        let port = udp.port().unwrap();
        let came = AtomicU64::new(0);
        thread::scope(|scope| {
            let receivers = [Family::V4, Family::V6].map(|family| {
                let (udp, came) = (&udp, &came);
                scope.spawn(move || {
                    loop {
                        match udp.receive(family, 9, None, |_| _ = came.fetch_add(1, SeqCst)) {
                            Ok(_) => {}
                            Err(err) => return err.kind(),
                        }
                    }
                })
            });
            let reopens = || {
                let mut user = NOBODY;
                for _ in 0..200 {
                    // Every time another user, so that no two sockets may share the port.
                    user -= 1;
                    // SAFETY: takes numbers, and concerns this thread only: its real and saved user stay root.
                    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) }, 0);
                    assert_eq!(udp.reopen(port).unwrap(), port);
                    // SAFETY: as above.
                    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, 0, -1) }, 0);
                    let before = came.load(SeqCst);
                    netns::eventually("the receivers go on", || {
                        for ip in [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)] {
                            let to = Endpoint::new((ip, port).into());
                            udp.send(&[Transmit::new(to, b"x")]).unwrap();
                        }
                        came.load(SeqCst) > before
                    });
                }
            };
            let done = scope.spawn(reopens).join();
            udp.close();
            assert_eq!(receivers.map(|receiver| receiver.join().unwrap()), [ErrorKind::Closed; 2]);
            done.unwrap();
        });
    });
}

#[test]
fn who_has_the_port_at_another_interface_is_not_in_the_way() {
    let net = || {
        let net = Netns::new();
        net.ip("link add v0 type veth peer name v1");
        net.ip("link set v0 up");
        net
    };
    as_root(|| {
        net().run(|| {
            // SAFETY: the name ends with a NUL.
            let v0 = unsafe { libc::if_nametoindex(c"v0".as_ptr()) };
            let bind = UdpBind::new().unwrap();
            let port = bind.open(0).unwrap();
            for family in [Family::V4, Family::V6] {
                bind.set_interface(family, 1, false).unwrap();
            }
            let others = thread::spawn(move || {
                become_user(NOBODY);
                [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()]
                    .map(|ip| request(port, (ip, [true, true], v0)).unwrap())
            });
            let _others = others.join().unwrap();
            for _ in 0..2 {
                assert_eq!(bind.open(port).unwrap(), port);
                for ip in ["127.0.0.1", "::1"] {
                    receives_at(&bind, SocketAddr::new(ip.parse().unwrap(), port));
                }
            }
        });
    });
}
