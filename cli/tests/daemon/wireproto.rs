//! `--wireproto-socket`: the second control socket.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Output,
};

use wg_embed_wireproto::{Builder, Decoder, Event, Kind, ReadOptions, Status, WriteOptions};

use crate::{
    harness::{Daemon, Directory, Interface, NOBODY, TIMEOUT, answers, fail, mode, succeed, wait_until, wg},
    netns::{Netns, as_root},
};

/// A client of the socket.
struct Client(UnixStream);

impl Client {
    fn new(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Self(stream)
    }

    fn send(&mut self, commands: &[&[(&str, &[u8])]]) {
        let options = WriteOptions { checksum: true, ..WriteOptions::default() };
        let mut builder = Builder::new(Kind::Request, options);
        builder.group().unwrap();
        for command in commands {
            builder.record().unwrap();
            for (name, value) in *command {
                builder.pair(name, value).unwrap();
            }
        }
        self.0.write_all(&builder.finish().unwrap()).unwrap();
    }

    /// The status of the next response, and its answers.
    fn receive(&mut self) -> (Status, Vec<String>) {
        let mut decoder = Decoder::new(ReadOptions::default());
        let (mut status, mut all) = (Status::Ack, Vec::new());
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            match decoder.read(&mut &byte[..]).unwrap() {
                Some(Event::Start(head)) => {
                    let Kind::Response(found) = head.kind else { panic!("a request") };
                    status = found;
                }
                Some(Event::Record(record)) => {
                    let pair = record.pairs().iter().next().unwrap();
                    all.push(format!("{} {}", pair.name, String::from_utf8_lossy(pair.value)));
                }
                Some(Event::End) => return (status, all),
                _ => {}
            }
        }
    }

    fn call(&mut self, commands: &[&[(&str, &[u8])]]) -> (Status, Vec<String>) {
        self.send(commands);
        self.receive()
    }

    /// Whether the daemon has closed the connection, with nothing more to be read.
    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

const VERSION: &[(&str, &[u8])] = &[("cmd", b"version")];

/// A namespace, an interface in it, and a directory for its daemon's second socket.
struct Place {
    netns: Netns,
    interface: Interface,
    directory: Directory,
    socket: PathBuf,
}

fn in_place(test: impl FnOnce(Place)) {
    as_root(|| {
        let interface = Interface::new();
        let directory = Directory::new(interface.name());
        let socket = directory.0.join("control");
        test(Place { netns: Netns::new(), interface, directory, socket });
    });
}

impl Place {
    /// Runs a daemon with that socket.
    fn daemon(&self, options: &[&str]) -> Output {
        self.daemon_at(&self.socket, options)
    }

    fn daemon_at(&self, socket: &Path, options: &[&str]) -> Output {
        let socket = ["--wireproto-socket", socket.to_str().unwrap()];
        self.interface.daemon(&self.netns, &[&socket, options].concat())
    }

    fn start(&self) -> Daemon {
        succeed("start", &self.daemon(&[]));
        self.interface.running()
    }
}

#[test]
fn it_does_what_wg_does_and_ends_with_the_daemon() {
    in_place(|place| {
        let Place { netns, interface, socket, .. } = &place;
        let daemon = place.start();
        assert_eq!((mode(socket), mode(&interface.socket())), (0o600, 0o600));
        let mut client = Client::new(socket);
        let set: &[(&str, &[u8])] =
            &[("cmd", b"set"), ("fwmark", &[0, 0, 0, 9]), ("public_key", &[7; 32]), ("allowed_ip", b"10.0.0.0/8")];
        let (status, all) = client.call(&[VERSION, set, &[("cmd", b"get")]]);
        assert_eq!((status, all.len()), (Status::Ack, 3));
        assert!(all[2].contains("fwmark=9\n") && all[2].contains("allowed_ip=10.0.0.0/8\n"), "{all:?}");
        assert!(wg(netns, &format!("show {} fwmark", interface.name())).contains("0x9"));
        let (_, all) = client.call(&[&[("cmd", b"events")]]);
        assert_eq!(all, ["result {\"events\":[],\"dropped\":0,\"left\":0}"]);
        // A wrong request leaves the connection as it is; what is no request ends it.
        let (status, all) = client.call(&[&[("cmd", b"nothing")]]);
        assert!(status == Status::Nak && all[0].starts_with("error {\"error\":\"unsupported\""), "{all:?}");
        assert_eq!(client.call(&[VERSION]).0, Status::Ack);
        let mut other = Client::new(socket);
        other.0.write_all(b"get=1\n\n").unwrap();
        assert_eq!(other.receive().0, Status::Nak);
        assert!(other.is_closed());
        daemon.stop();
        assert!(client.is_closed());
        assert!(!socket.exists() && !interface.socket().exists());
    });
}

#[test]
fn clients_are_bounded_and_an_idle_one_makes_room() {
    in_place(|place| {
        let Place { interface, socket, .. } = &place;
        let daemon = place.start();
        let mut clients: Vec<_> = (0..20)
            .map(|_| {
                let mut client = Client::new(socket);
                assert_eq!(client.call(&[VERSION]).0, Status::Ack);
                client
            })
            .collect();
        // A thread each, for the clients of one socket and no more.
        let threads = fs::read_dir(format!("/proc/{}/task", daemon.0)).unwrap().count();
        assert!(threads <= 16 + 10, "{threads}");
        assert!(clients[0].is_closed(), "it was idle longest");
        assert_eq!(clients[19].call(&[VERSION]).0, Status::Ack);
        assert!(answers(interface));
        daemon.stop();
    });
}

#[test]
fn a_stale_socket_is_replaced_and_what_is_in_use_is_left_alone() {
    in_place(|place| {
        let Place { netns, interface, directory, socket } = &place;
        let live = UnixListener::bind(socket).unwrap();
        let error = fail("live", &place.daemon(&[]));
        assert!(error.starts_with("wg-embed: --wireproto-socket: ") && error.contains("is in use"), "{error}");
        interface.await_end(netns);
        drop(live);
        succeed("stale", &place.daemon(&[]));
        assert_eq!(Client::new(socket).call(&[VERSION]).0, Status::Ack);
        let daemon = interface.running();
        // Without it the daemon goes on.
        fs::remove_file(socket).unwrap();
        fs::write(socket, "mine").unwrap();
        assert!(answers(interface));
        daemon.stop();
        assert_eq!(fs::read(socket).unwrap(), b"mine");
        let error = fail("no socket", &place.daemon(&[]));
        assert!(error.contains("is not a socket"), "{error}");
        interface.await_end(netns);
        let missing = directory.0.join("a/b");
        let error = fail("missing", &place.daemon_at(&missing, &[]));
        assert!(error.contains("cannot listen on"), "{error}");
        interface.await_end(netns);
    });
}

#[test]
fn with_a_user_it_belongs_to_the_user_and_is_removed_at_the_end() {
    in_place(|place| {
        let Place { netns, interface, directory, socket } = &place;
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o755)).unwrap();
        succeed("start", &place.daemon(&["--user", "nobody"]));
        assert_eq!((fs::symlink_metadata(socket).unwrap().uid(), mode(socket)), (NOBODY, 0o600));
        let mut client = Client::new(socket);
        let (status, _) = client.call(&[&[("cmd", b"set"), ("fwmark", &[0, 0, 0, 9])]]);
        assert_eq!(status, Status::Ack);
        let is_daemon = |id: &i32| {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            status.contains(&format!("Uid:\t{NOBODY}"))
        };
        let daemon = Daemon(interface.processes().into_iter().find(is_daemon).unwrap());
        daemon.stop();
        assert!(!socket.exists());
        interface.await_end(netns);
        wait_until("no process is left", || interface.processes().is_empty());
    });
}
