//! Many connections, slow readers and resets at any time leave nothing behind, and take no more memory than they may.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream as KernelStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use wg_embed_netstack::{TcpStream, pump::Pump};

use crate::{
    common::{Seeded, pattern},
    kernel,
    link::{Link, MTU, WAYS},
    netns::{as_root, eventually},
    sockets::{End, LIMIT, assert_same, disconnect, fill, is_reset, patient, patient_stream, read_slowly},
};

const CONNECTIONS: usize = 5000;
const THREADS: usize = 4;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Sends four bytes and expects them back, then the end.
fn ask(mut stream: impl Read + Write, n: usize) {
    let bytes = (n as u32).to_be_bytes();
    stream.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, bytes);
}

fn answer(mut stream: impl Read + Write) {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

#[test]
fn ten_thousand_connections_leave_nothing() {
    as_root(|| {
        let link = Link::new();
        let before = open_descriptors();
        // The kernel dials; the stack ends them, which leaves it in TIME-WAIT.
        let listener = link.stack_listener(0);
        let at = listener.local_addr();
        let next = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..THREADS)
            .map(|_| {
                let next = next.clone();
                link.spawn(move || {
                    while let n @ 0..CONNECTIONS = next.fetch_add(1, Relaxed) {
                        ask(patient(KernelStream::connect_timeout(&at, LIMIT).unwrap()), n);
                    }
                })
            })
            .collect();
        for _ in 0..CONNECTIONS {
            answer(patient_stream(listener.accept(Some(LIMIT)).unwrap()));
        }
        clients.into_iter().for_each(|client| client.join().unwrap());
        link.await_nothing();
        assert!(link.stack.stats().time_wait <= CONNECTIONS);
        drop(listener);

        // The stack dials, through descriptors; the kernel ends them.
        let listener = link.kernel_listener(1);
        let at = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for _ in 0..CONNECTIONS {
                answer(patient(listener.accept().unwrap().0));
            }
        });
        let pump = Pump::new().unwrap();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while let n @ 0..CONNECTIONS = next.fetch_add(1, Relaxed) {
                        let stream = link.stack_dials(at).unwrap();
                        let stream = UnixStream::from(pump.tcp_descriptor(stream).unwrap());
                        stream.set_read_timeout(Some(LIMIT)).unwrap();
                        ask(stream, n);
                    }
                });
            }
        });
        server.join().unwrap();
        eventually("no descriptor is left in the pump", || pump.is_empty());
        drop(pump);
        link.await_nothing();
        assert_eq!(open_descriptors(), before);
    });
}
#[test]
fn a_slow_reader_stops_the_writer_and_loses_nothing() {
    as_root(|| {
        let mut options = kernel::options(MTU);
        (options.receive_buffer, options.send_buffer) = (1 << 20, 1 << 20);
        let link = Link::with(MTU, options);
        let data = pattern(64 << 20);
        for way in WAYS {
            let (ours, theirs) = link.connect(way);
            theirs.set_nonblocking(true).unwrap();
            let written = fill(|bytes| (&theirs).write(bytes), &data);
            // The window grows with what is read only.
            assert!(written > 64 << 10 && link.stack.stats().memory <= 1 << 20, "{written}");
            // Probes of the closed window change nothing.
            thread::sleep(Duration::from_secs(1));
            assert!(link.stack.stats().memory <= 1 << 20);
            assert_same("the stack reads", &read_slowly(&ours, written), &data[..written]);

            let (ours, theirs) = link.connect(way);
            let written = fill(|bytes| ours.try_write(bytes), &data);
            assert!(written > 64 << 10 && link.stack.stats().memory <= 1 << 20, "{written}");
            thread::sleep(Duration::from_secs(1));
            assert_same("the kernel reads", &read_slowly(&theirs, written), &data[..written]);
            assert_eq!(ours.try_write(b"more").unwrap(), 4);
        }
        link.await_nothing();
    });
}

#[test]
fn many_slow_readers_share_the_memory() {
    const MEMORY: usize = 2 << 20;
    as_root(|| {
        let link = Link::with(MTU, wg_embed_netstack::Options { memory: MEMORY, ..kernel::options(MTU) });
        let ended = AtomicBool::new(false);
        let pairs: Vec<_> = (0..20).map(|n| link.connect(WAYS[n % 4])).collect();
        let data = pattern(1 << 20);
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while !ended.load(Relaxed) {
                    let memory = link.stack.stats().memory;
                    assert!(memory <= MEMORY, "{memory}");
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let all: Vec<_> = pairs
                .iter()
                .map(|(ours, theirs)| {
                    let data = &data;
                    scope.spawn(move || {
                        (&*theirs).write_all(data).unwrap();
                        theirs.shutdown(Shutdown::Write).unwrap();
                    });
                    scope.spawn(move || {
                        (&*ours).write_all(data).unwrap();
                        ours.shutdown(Shutdown::Write).unwrap();
                    });
                    let up = scope.spawn(move || assert_same("up", &read_slowly(theirs, data.len()), data));
                    let down = scope.spawn(move || assert_same("down", &read_slowly(ours, data.len()), data));
                    [up, down]
                })
                .collect();
            all.into_iter().flatten().for_each(|reader| reader.join().unwrap());
            ended.store(true, Relaxed);
            watch.join().unwrap();
        });
        drop(pairs);
        link.await_nothing();
    });
}

/// How a connection is to go: what each side writes, and when one of them resets it, if at all.
#[derive(Clone, Copy, Debug)]
struct Plan {
    up: usize,
    down: usize,
    /// After the reader of the stack (true) or of the kernel has so many bytes.
    reset: Option<(bool, usize)>,
}

impl Plan {
    fn new(chance: &Seeded) -> Self {
        let below = |limit: u64| (chance.next() % limit) as usize;
        let (up, down) = (below(300_000), below(300_000));
        let reset = match below(4) {
            0 => None,
            1 => Some((true, below(down as u64 + 1))),
            _ => Some((false, below(up as u64 + 1))),
        };
        Self { up, down, reset }
    }
}

/// Reads until the end, an error, or `reset_at` bytes: then `reset` is called. What came is a part of `data`.
fn read_until(end: &dyn End, data: &[u8], reset_at: Option<usize>, reset: impl FnOnce()) -> bool {
    let (mut got, mut buffer) = (0, vec![0; 10_000]);
    let mut reset = Some(reset);
    loop {
        if reset_at.is_some_and(|at| got >= at)
            && let Some(reset) = reset.take()
        {
            reset();
        }
        match end.reader().read(&mut buffer) {
            Ok(0) => return got == data.len(),
            Ok(bytes) => {
                assert!(data.get(got..got + bytes) == Some(&buffer[..bytes]), "other bytes at {got}");
                got += bytes;
            }
            Err(err) => {
                assert!(is_reset(&err), "{err}");
                return false;
            }
        }
    }
}

fn write_until(end: &dyn End, data: &[u8]) {
    match end.writer().write_all(data).and_then(|()| end.end()) {
        Ok(()) => {}
        Err(err) => assert!(is_reset(&err), "{err}"),
    }
}

fn run(plan: Plan, data: &[u8], ours: &TcpStream, theirs: &KernelStream) {
    let at = |by_stack: bool| plan.reset.and_then(|(stack, at)| (stack == by_stack).then_some(at));
    let (up, down) = (&data[..plan.up], &data[..plan.down]);
    let complete = thread::scope(|scope| {
        scope.spawn(|| write_until(ours, up));
        scope.spawn(|| write_until(theirs, down));
        let kernel = scope.spawn(|| read_until(theirs, up, at(false), || disconnect(theirs)));
        let stack = read_until(ours, down, at(true), || ours.reset());
        kernel.join().unwrap() && stack
    });
    assert!(complete || plan.reset.is_some(), "{plan:?}");
}

#[test]
fn resets_at_any_time_leave_nothing() {
    as_root(|| {
        let link = Link::new();
        let data = pattern(300_000);
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while let n @ 0..400 = next.fetch_add(1, Relaxed) {
                        let (ours, theirs) = link.connect(WAYS[n % 4]);
                        run(Plan::new(&Seeded::new(n as u64)), &data, &ours, &theirs);
                    }
                });
            }
        });
        link.await_nothing();
    });
}

#[test]
fn a_backlog_that_is_full_makes_dials_wait() {
    as_root(|| {
        let link = Link::new();
        let listener = link.stack.listen_tcp(SocketAddr::new(kernel::STACK[0].parse().unwrap(), 0), 4).unwrap();
        let at = listener.local_addr();
        let clients: Vec<_> = (0..40)
            .map(|n| link.spawn(move || ask(patient(KernelStream::connect_timeout(&at, LIMIT).unwrap()), n)))
            .collect();
        eventually("some were turned away", || {
            link.stack.drops().iter().any(|drop| *drop == ("tcp_backlog_full", drop.1) && drop.1 > 0)
        });
        for _ in 0..40 {
            answer(patient_stream(listener.accept(Some(LIMIT)).unwrap()));
        }
        clients.into_iter().for_each(|client| client.join().unwrap());
        link.await_nothing();
    });
}
