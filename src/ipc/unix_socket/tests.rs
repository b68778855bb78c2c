use std::{
    fs, io,
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Barrier, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use crate::{
    config::{
        Update,
        snapshot::{InterfaceSnapshot, Snapshot},
    },
    error::{ErrorKind, Result},
    ipc::{
        Dialogue, Listener, Options, Server, Stream,
        recorder::{Recorder, no_hook},
    },
    uapi::Backend,
};

const NONE: Duration = Duration::ZERO;
/// Only bounds a hang.
const SOON: Duration = Duration::from_secs(300);

/// A directory of its own for each test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wg-embed-ipc-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("wg0.sock")
    }

    fn claim(&self) -> Result<Listener> {
        Listener::claim(&self.0, "wg0", NONE)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(dir: &Dir, options: Options) -> (Server, Arc<Recorder>) {
    let backend = Arc::new(Recorder::default());
    (Server::start(dir.claim().unwrap(), backend.clone(), options, no_hook()).unwrap(), backend)
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Sends a request and reads the answer, up to the empty line.
fn ask(mut stream: &UnixStream, request: &str) -> io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    let mut reader = BufReader::new(stream);
    while !answer.ends_with("\n\n") {
        if reader.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answer)
}

fn get(path: &Path) -> String {
    ask(&connect(path), "get=1\n\n").unwrap()
}

#[test]
fn a_socket_is_private_and_goes_with_its_server() {
    let dir = Dir::new();
    let nested = dir.0.join("a/b");
    let listener = Listener::claim(&nested, "wg0", NONE).unwrap();
    let path = nested.join("wg0.sock");
    assert_eq!(listener.path(), Some(&*path));
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.mode() & 0o777, 0o600);
    // Whatever the umask takes away, it is no more than this.
    assert_eq!(fs::metadata(&nested).unwrap().mode() & 0o777 & !0o755, 0);
    let server = Server::start(listener, Arc::new(Recorder::default()), Options::default(), no_hook()).unwrap();
    assert_eq!(get(&path), "listen_port=7\nerrno=0\n\n");
    server.stop().unwrap();
    assert!(!path.exists());
    server.stop().unwrap();
}

#[test]
fn a_connection_carries_many_operations_and_connections_do_not_wait_for_one_another() {
    let dir = Dir::new();
    let (_server, backend) = start(&dir, Options::default());
    let streams: Vec<_> = (0..10).map(|_| connect(&dir.socket())).collect();
    for mark in 1..4 {
        for stream in streams.iter().rev() {
            assert_eq!(ask(stream, &format!("set=1\nfwmark={mark}\n\n")).unwrap(), "errno=0\n\n");
            assert_eq!(ask(stream, "get=1\n\n").unwrap(), "listen_port=7\nerrno=0\n\n");
        }
    }
    assert_eq!(backend.0.lock().unwrap().len(), 30);
}

/// Whether the server has ended this connection.
fn is_ended(mut stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let result = stream.read(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    !matches!(result, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}

/// Asks, and waits until the server's thread is done with it: that it notes after the answer is sent.
fn ask_and_settle(stream: &UnixStream) {
    ask(stream, "get=1\n\n").unwrap();
    let is_busy = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.contains("(wg-uapi-client) ") && !stat.contains("(wg-uapi-client) S")
    };
    let begun = Instant::now();
    while fs::read_dir("/proc/self/task").unwrap().flatten().any(is_busy) {
        assert!(begun.elapsed() < SOON, "the server's threads are busy all the time");
        std::thread::yield_now();
    }
}

#[test]
fn the_client_that_was_idle_longest_makes_room() {
    let dir = Dir::new();
    let (_server, _) = start(&dir, Options { connections: 3, ..Options::default() });
    let clients: Vec<_> = (0..3).map(|_| connect(&dir.socket())).collect();
    for client in [2, 0, 1] {
        ask_and_settle(&clients[client]);
    }
    let mut stay = Vec::new();
    for longest in [2, 0, 1] {
        assert!(!is_ended(&clients[longest]));
        let newcomer = connect(&dir.socket());
        ask_and_settle(&newcomer);
        assert!(is_ended(&clients[longest]));
        stay.push(newcomer);
    }
    // A client that leaves makes room for others.
    drop(stay.pop());
    for _ in 0..20 {
        assert_eq!(get(&dir.socket()), "listen_port=7\nerrno=0\n\n");
    }
    assert!(!stay.iter().any(is_ended));
}

#[test]
fn what_an_ended_client_has_sent_is_not_applied() {
    let dir = Dir::new();
    let (_server, backend) = start(&dir, Options { connections: 1, ..Options::default() });
    let half = connect(&dir.socket());
    ask_and_settle(&half);
    (&half).write_all(b"set=1\nfwmark=1\n").unwrap();
    assert_eq!(get(&dir.socket()), "listen_port=7\nerrno=0\n\n");
    assert!(is_ended(&half));
    assert!(backend.0.lock().unwrap().is_empty());
}

/// A backend whose `set` lasts until the test lets it end, or ends itself.
struct Slow {
    begins: mpsc::Sender<()>,
    ends: Mutex<mpsc::Receiver<()>>,
}

impl Backend for Slow {
    fn apply(&self, _: Update) -> Result<()> {
        let _ = self.begins.send(());
        let _ = self.ends.lock().unwrap().recv();
        Ok(())
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { interface: InterfaceSnapshot::default(), peers: Box::new(std::iter::empty()) }
    }
}

/// A server with such a backend. The first of the channels tells when a `set` begins, the other one lets it end; as
/// that is the last to be declared, it is the first to be dropped, and a test that fails waits for no `set`.
fn start_slow(dir: &Dir, connections: usize) -> (Server, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((begins, begun), (end, ends)) = (mpsc::channel(), mpsc::channel());
    let backend = Arc::new(Slow { begins, ends: Mutex::new(ends) });
    let options = Options { connections, ..Options::default() };
    (Server::start(dir.claim().unwrap(), backend, options, no_hook()).unwrap(), begun, end)
}

#[test]
fn a_client_whose_request_is_worked_on_keeps_its_place() {
    let dir = Dir::new();
    let (_server, begun, end) = start_slow(&dir, 1);
    let first = connect(&dir.socket());
    (&first).write_all(b"set=1\nfwmark=1\n\n").unwrap();
    begun.recv_timeout(SOON).unwrap();
    let second = connect(&dir.socket());
    (&second).write_all(b"get=1\n\n").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!((&second).read(&mut [0]).is_err(), "it waits");
    end.send(()).unwrap();
    let mut answer = [0; 9];
    (&first).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"errno=0\n\n");
    second.set_read_timeout(Some(SOON)).unwrap();
    (&second).read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"errno=0\n\n");
}

/// However the `set` came, and however many clients leave one behind.
#[test]
fn a_client_that_has_left_a_request_behind_is_no_room() {
    for request in
        ["set=1\nfwmark=1\n\n", "set=1\nfwmark=1", "get=1\n\nset=1\nfwmark=1\n\n", "get=1\n\nset=1\nfwmark=1"]
    {
        let dir = Dir::new();
        let (_server, begun, end) = start_slow(&dir, 3);
        let idle = connect(&dir.socket());
        ask_and_settle(&idle);
        for _ in 0..2 {
            let mut leaves = connect(&dir.socket());
            leaves.write_all(request.as_bytes()).unwrap();
            if request.starts_with("get=1") {
                leaves.read_exact(&mut [0; 9]).unwrap();
            }
        }
        for _ in 0..2 {
            begun.recv_timeout(SOON).unwrap();
        }
        for _ in 0..3 {
            assert_eq!(get(&dir.socket()), "errno=0\n\n", "{request:?}");
        }
        assert!(is_ended(&idle), "{request:?}");
        drop(end);
    }
}

#[test]
fn a_client_that_stalls_loses_its_place() {
    let dir = Dir::new();
    let idle = Duration::from_millis(50);
    let (_server, backend) = start(&dir, Options { connections: 1, idle, ..Options::default() });
    let stalled = connect(&dir.socket());
    (&stalled).write_all(b"set=1\nfwmark=1\n").unwrap();
    assert_eq!(get(&dir.socket()), "listen_port=7\nerrno=0\n\n");
    assert_eq!((&stalled).read(&mut [0]).unwrap(), 0);
    assert!(backend.0.lock().unwrap().is_empty());
}

/// A dialogue that is one function.
struct Speaks<F>(F);

impl<F: Fn(&mut Stream) -> Result<()> + Send + Sync> Dialogue for Speaks<F> {
    fn serve(&self, stream: &mut Stream) -> Result<()> {
        self.0(stream)
    }
}

/// Serves one client at a time with this function.
fn serve_one(dir: &Dir, serve: impl Fn(&mut Stream) -> Result<()> + Send + Sync + 'static) -> Server {
    // So long that its end proves nothing.
    let idle = SOON * 10;
    let options = Options { connections: 1, idle, ..Options::default() };
    Server::start_with(dir.claim().unwrap(), Arc::new(Speaks(serve)), options, no_hook()).unwrap()
}

#[test]
fn a_reader_makes_progress_within_a_large_answer() {
    let dir = Dir::new();
    let (writes, written) = mpsc::channel();
    let answer = vec![0; 16 << 20];
    let _server = serve_one(&dir, move |stream| {
        loop {
            let count = stream.write(&answer);
            let _ = writes.send(count.as_ref().ok().copied());
            count?;
        }
    });
    let mut client = connect(&dir.socket());
    let part = || written.recv_timeout(SOON).unwrap();
    assert!(part().is_some_and(|count| count <= 4096));
    // Until the buffers are full, as long as that can be known.
    while written.recv_timeout(Duration::from_millis(300)).is_ok() {}
    client.read_exact(&mut [0; 64 << 10]).unwrap();
    assert!(part().is_some(), "there is room for a part of the answer");
}

/// Serves one client at a time. A request is one byte; a `w` waits until it is interrupted, and the channel reports its
/// beginning.
fn start_waiting(dir: &Dir) -> (Server, mpsc::Receiver<()>) {
    let (begins, begun) = mpsc::channel();
    let server = serve_one(dir, move |stream| {
        let (interrupt, interrupted) = mpsc::channel::<()>();
        stream.on_interrupt(move || drop(interrupt));
        let (work, mut request) = (stream.work(), [0]);
        while stream.read(&mut request)? > 0 {
            work.during(|| {
                if request == *b"w" {
                    work.waits(|| {
                        let _ = begins.send(());
                        assert!(interrupted.recv().is_err());
                    });
                }
            });
            stream.write_all(&request)?;
            stream.flush()?;
        }
        Ok(())
    });
    (server, begun)
}

#[test]
fn a_client_whose_request_waits_is_idle() {
    let dir = Dir::new();
    let (server, begun) = start_waiting(&dir);
    let waits = || {
        let client = connect(&dir.socket());
        (&client).write_all(b"w").unwrap();
        begun.recv_timeout(SOON).unwrap();
        client
    };
    let first = waits();
    let mut second = connect(&dir.socket());
    second.write_all(b"a").unwrap();
    second.read_exact(&mut [0]).unwrap();
    assert_eq!((&first).read(&mut [0]).unwrap(), 0);
    // One that has left does not keep its place, whatever it waits for.
    drop((second, waits()));
    let mut third = connect(&dir.socket());
    third.write_all(b"a").unwrap();
    third.read_exact(&mut [0]).unwrap();
    drop(third);
    // Nor does the server's end wait for it.
    let last = waits();
    server.stop().unwrap();
    assert_eq!((&last).read(&mut [0]).unwrap(), 0);
}

#[test]
fn stopping_ends_connections_and_applies_nothing_that_is_half_read() {
    let dir = Dir::new();
    let (server, backend) = start(&dir, Options::default());
    let idle = connect(&dir.socket());
    let half = connect(&dir.socket());
    ask(&idle, "get=1\n\n").unwrap();
    ask(&half, "get=1\n\n").unwrap();
    (&half).write_all(b"set=1\nfwmark=1\n").unwrap();
    let begun = Instant::now();
    server.stop().unwrap();
    assert!(begun.elapsed() < SOON);
    assert_eq!((&idle).read(&mut [0]).unwrap(), 0);
    let _ = (&half).read(&mut [0]);
    assert!(backend.0.lock().unwrap().is_empty());
    assert!(UnixStream::connect(dir.socket()).is_err());
}

#[test]
fn the_end_of_a_clients_stream_ends_its_set() {
    let dir = Dir::new();
    let (_server, backend) = start(&dir, Options::default());
    let mut stream = connect(&dir.socket());
    stream.write_all(b"set=1\nfwmark=5").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "errno=0\n\n");
    assert_eq!(*backend.0.lock().unwrap(), [5]);
}

#[test]
fn a_panic_ends_one_connection_only() {
    let dir = Dir::new();
    let (server, _) = start(&dir, Options { connections: 1, ..Options::default() });
    for _ in 0..3 {
        assert!(ask(&connect(&dir.socket()), "set=1\nfwmark=666\n\n").is_err());
    }
    assert_eq!(get(&dir.socket()), "listen_port=7\nerrno=0\n\n");
    server.stop().unwrap();
}

/// Serves, does something to the file, and returns why the server ended.
fn reason_after(change: impl FnOnce(&Path)) -> (String, Dir) {
    let dir = Dir::new();
    let (ends, ended) = mpsc::channel();
    let backend = Arc::new(Recorder::default());
    let hook = Box::new(move |reason| ends.send(reason).unwrap());
    let server = Server::start(dir.claim().unwrap(), backend, Options::default(), hook).unwrap();
    let open = connect(&dir.socket());
    ask(&open, "get=1\n\n").unwrap();
    change(&dir.socket());
    let reason = ended.recv_timeout(SOON).unwrap();
    assert_eq!((&open).read(&mut [0]).unwrap(), 0);
    server.stop().unwrap();
    (reason, dir)
}

#[test]
fn removing_the_file_ends_the_server() {
    assert!(reason_after(|path| fs::remove_file(path).unwrap()).0.contains("removed"));
}

#[test]
fn moving_the_file_ends_the_server() {
    let (_, dir) = reason_after(|path| fs::rename(path, path.with_extension("moved")).unwrap());
    // It is not at its place any more, so it is left alone.
    assert!(dir.socket().with_extension("moved").exists());
}

#[test]
fn whoever_replaces_the_file_keeps_theirs() {
    let (_, dir) = reason_after(|path| {
        let new = path.with_extension("new");
        fs::write(&new, "theirs").unwrap();
        fs::rename(new, path).unwrap();
    });
    assert_eq!(fs::read(dir.socket()).unwrap(), b"theirs");
}

#[test]
fn changes_that_leave_the_file_in_its_place_do_not_matter() {
    let dir = Dir::new();
    let (server, _) = start(&dir, Options::default());
    fs::set_permissions(dir.socket(), fs::Permissions::from_mode(0o660)).unwrap();
    fs::hard_link(dir.socket(), dir.0.join("other")).unwrap();
    fs::remove_file(dir.0.join("other")).unwrap();
    assert_eq!(get(&dir.socket()), "listen_port=7\nerrno=0\n\n");
    server.stop().unwrap();
    assert!(!dir.socket().exists());
}

#[test]
fn a_live_socket_is_refused() {
    let dir = Dir::new();
    let (server, _) = start(&dir, Options::default());
    let error = dir.claim().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.to_string().ends_with("wg0.sock is in use: another process listens on it"), "{error}");
    assert_eq!(get(&dir.socket()), "listen_port=7\nerrno=0\n\n");
    // Its owner gets time to go.
    let path = dir.0.clone();
    let waiting = std::thread::spawn(move || Listener::claim(&path, "wg0", SOON));
    std::thread::sleep(Duration::from_millis(100));
    server.stop().unwrap();
    assert!(waiting.join().unwrap().unwrap().path().is_some_and(Path::exists));
}

#[test]
fn a_live_socket_whose_backlog_is_full_is_refused() {
    let dir = Dir::new();
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(dir.socket()).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _waiting = UnixStream::connect(dir.socket()).unwrap();
    assert_eq!(dir.claim().unwrap_err().kind(), ErrorKind::Exists);
}

#[test]
fn a_stale_socket_is_taken_over() {
    let dir = Dir::new();
    drop(UnixListener::bind(dir.socket()).unwrap());
    assert!(dir.socket().exists());
    let (_server, _) = start(&dir, Options::default());
    assert_eq!(get(&dir.socket()), "listen_port=7\nerrno=0\n\n");
}

#[test]
fn of_several_that_want_a_stale_socket_one_gets_it() {
    let dir = Dir::new();
    drop(UnixListener::bind(dir.socket()).unwrap());
    let barrier = Barrier::new(4);
    let won: Vec<_> = std::thread::scope(|scope| {
        let claims: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    dir.claim()
                })
            })
            .collect();
        claims.into_iter().map(|claim| claim.join().unwrap()).collect()
    });
    assert_eq!(won.iter().filter(|claim| claim.is_ok()).count(), 1);
    assert!(won.iter().flatten().all(|listener| !listener.is_gone()));
}

#[test]
fn what_is_not_a_stream_socket_is_left_alone() {
    let dir = Dir::new();
    let path = dir.socket();
    let refused = || {
        let error = dir.claim().unwrap_err();
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        error.kind()
    };
    fs::write(&path, "precious").unwrap();
    assert_eq!(refused(), ErrorKind::Exists);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(refused(), ErrorKind::Exists);
    fs::remove_dir(&path).unwrap();
    let elsewhere = dir.0.join("elsewhere");
    drop(UnixListener::bind(&elsewhere).unwrap());
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert_eq!(refused(), ErrorKind::Exists);
    assert!(elsewhere.exists());
    fs::remove_file(&path).unwrap();
    let _datagrams = UnixDatagram::bind(&path).unwrap();
    refused();
    assert!(path.exists());
}

#[test]
fn names_that_would_leave_the_directory_are_refused() {
    let dir = Dir::new();
    for name in ["", "../wg0", "a/b", "a\0b"] {
        assert_eq!(Listener::claim(&dir.0, name, NONE).unwrap_err().kind(), ErrorKind::Invalid, "{name:?}");
    }
    let error = Listener::claim(&dir.0, &"x".repeat(200), NONE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn an_inherited_socket_is_served_and_its_file_removed() {
    let dir = Dir::new();
    let inherited = UnixListener::bind(dir.socket()).unwrap();
    // A client is waiting already.
    let early = connect(&dir.socket());
    let listener = Listener::adopt(OwnedFd::from(inherited)).unwrap();
    let server = Server::start(listener, Arc::new(Recorder::default()), Options::default(), no_hook()).unwrap();
    assert_eq!(ask(&early, "get=1\n\n").unwrap(), "listen_port=7\nerrno=0\n\n");
    server.stop().unwrap();
    assert!(!dir.socket().exists());
}

#[test]
fn an_inherited_descriptor_must_be_a_bound_stream_socket_with_its_file() {
    let dir = Dir::new();
    let kind = |fd: OwnedFd| Listener::adopt(fd).unwrap_err().kind();
    let (stream, _other) = UnixStream::pair().unwrap();
    assert_eq!(kind(stream.into()), ErrorKind::Invalid);
    assert_eq!(kind(UnixDatagram::bind(dir.socket()).unwrap().into()), ErrorKind::Invalid);
    assert_eq!(kind(std::net::TcpListener::bind("127.0.0.1:0").unwrap().into()), ErrorKind::Invalid);
    fs::remove_file(dir.socket()).unwrap();
    let removed = UnixListener::bind(dir.socket()).unwrap();
    fs::remove_file(dir.socket()).unwrap();
    assert_eq!(kind(removed.into()), ErrorKind::NotFound);
    // Not a socket at all.
    assert!(Listener::adopt(fs::File::open("/dev/null").unwrap().into()).is_err());
}

#[test]
fn a_server_cannot_be_stopped_by_its_own_threads() {
    #[derive(Default)]
    struct Stopper(OnceLock<Server>);
    impl Backend for Stopper {
        fn apply(&self, _: Update) -> Result<()> {
            self.0.wait().stop()
        }

        fn snapshot(&self) -> Snapshot<'_> {
            Snapshot { interface: InterfaceSnapshot::default(), peers: Box::new(std::iter::empty()) }
        }
    }
    let dir = Dir::new();
    let backend = Arc::new(Stopper::default());
    let server = Server::start(dir.claim().unwrap(), backend.clone(), Options::default(), no_hook()).unwrap();
    assert!(backend.0.set(server).is_ok());
    let busy = ErrorKind::Busy.errno();
    let answer = ask(&connect(&dir.socket()), "set=1\nfwmark=1\n\n").unwrap();
    assert_eq!(answer, format!("errno=-{busy}\n\n"));
    backend.0.wait().stop().unwrap();
}
