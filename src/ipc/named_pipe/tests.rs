use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{Listener, PIPES};
use crate::{
    error::ErrorKind,
    ipc::{
        Options, Server,
        recorder::{Recorder, no_hook},
    },
};
use client::{ask, belongs_to_the_system, is_wine, open};
use skip::skipped;

#[allow(unsafe_code, unreachable_pub)]
#[path = "../../../tests/windows/pipe.rs"]
mod client;
#[path = "../../../tests/common/skip.rs"]
mod skip;

const NONE: Duration = Duration::ZERO;

/// A name of its own for each test.
fn name() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!("{PIPES}wg-embed-test-{}-{number}", std::process::id()))
}

/// `None`, said why, if this process may not create such pipes.
fn start(path: &Path, options: Options) -> Option<(Server, Arc<Recorder>)> {
    match Listener::claim_private(path, NONE) {
        Err(error) if error.kind() == ErrorKind::Permission => {
            skipped(error);
            None
        }
        listener => {
            let backend = Arc::new(Recorder::default());
            Some((Server::start(listener.unwrap(), backend.clone(), options, no_hook()).unwrap(), backend))
        }
    }
}

const ANSWER: &str = "listen_port=7\nerrno=0\n\n";

#[test]
fn a_pipe_belongs_to_the_system_and_goes_with_its_server() {
    let path = name();
    let Some((server, _)) = start(&path, Options::default()) else {
        return;
    };
    let client = open(&path);
    assert!(belongs_to_the_system(&client));
    assert_eq!(ask(&client, "get=1\n\n").unwrap(), ANSWER);
    server.stop().unwrap();
    assert!(ask(&client, "get=1\n\n").is_err());
    drop(client);
    let error = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    drop(start(&path, Options::default()).unwrap());
}

#[test]
fn a_connection_carries_many_operations_and_connections_do_not_wait_for_one_another() {
    let path = name();
    let Some((_server, backend)) = start(&path, Options::default()) else {
        return;
    };
    let clients: Vec<_> = (0..10).map(|_| open(&path)).collect();
    for mark in 1..4 {
        for client in clients.iter().rev() {
            assert_eq!(ask(client, &format!("set=1\nfwmark={mark}\n\n")).unwrap(), "errno=0\n\n");
            assert_eq!(ask(client, "get=1\n\n").unwrap(), ANSWER);
        }
    }
    assert_eq!(backend.0.lock().unwrap().len(), 30);
}

#[test]
fn clients_that_come_at_once_are_all_served() {
    let path = name();
    let Some((_server, _)) = start(&path, Options::default()) else {
        return;
    };
    thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| (0..20).for_each(|_| assert_eq!(ask(&open(&path), "get=1\n\n").unwrap(), ANSWER)));
        }
    });
}

#[test]
fn another_client_takes_the_place_of_an_idle_one() {
    let path = name();
    let Some((_server, backend)) = start(&path, Options { connections: 1, ..Options::default() }) else {
        return;
    };
    let half = open(&path);
    std::io::Write::write_all(&mut &half, b"set=1\nfwmark=1\n").unwrap();
    assert_eq!(ask(&open(&path), "get=1\n\n").unwrap(), ANSWER);
    // What it had sent was not applied.
    assert!(ask(&half, "\n").is_err());
    assert!(backend.0.lock().unwrap().is_empty());
}

#[test]
fn a_client_that_does_nothing_is_ended() {
    let path = name();
    let Some((_server, _)) = start(&path, Options { idle: Duration::from_millis(1), ..Options::default() }) else {
        return;
    };
    let mut client = open(&path);
    let read = std::io::Read::read(&mut client, &mut [0]);
    assert!(!matches!(read, Ok(1..)), "{read:?}");
}

#[test]
fn a_refused_request_is_answered() {
    let path = name();
    let Some((_server, _)) = start(&path, Options::default()) else {
        return;
    };
    assert_eq!(ask(&open(&path), "set=1\nlisten_port=x\n\n").unwrap(), "errno=-22\n\n");
}

#[test]
fn a_name_has_one_server() {
    let path = name();
    let Some((_server, _)) = start(&path, Options::default()) else {
        return;
    };
    if is_wine() {
        return skipped("Wine does not know FILE_FLAG_FIRST_PIPE_INSTANCE");
    }
    let error = Listener::claim_private(&path, Duration::from_millis(60)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn what_is_no_pipe_is_refused() {
    let long = format!("{PIPES}{}", "x".repeat(260));
    for path in ["wg0", r"C:\wg0.sock", PIPES, r"\\other\pipe\wg0", &long] {
        assert_eq!(Listener::claim_path(Path::new(path)).unwrap_err().kind(), ErrorKind::Invalid, "{path:?}");
    }
    for name in ["", r"a\b", "a/b", "a\0b"] {
        let error = Listener::claim(Path::new(super::DIRECTORY), name, NONE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}");
    }
}
