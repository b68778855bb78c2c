//! Windows: streams over handles, and a tunnel in another process.
#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

use std::{
    env,
    io::{self, Read, Write},
    os::windows::io::{FromRawHandle, OwnedHandle},
    process::Stdio,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};
use wg_embed_manager::{
    manager::{Error, Host, Manager, Options, Peers, Process},
    messages::{
        Log, ManagerSide, NetworkSettingsRequest, StartRequest, StartResponse, StopResponse, TunnelSide,
        manager_message, tunnel_message,
    },
    speaker::{self, CallError, End, Incoming, Speaker, Transport},
};

/// Longer than anything takes, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(300);

fn patient() -> speaker::Options {
    speaker::Options { handshake_timeout: Some(PATIENCE), ..speaker::Options::default() }
}

/// A speaker of a manager, and the other ends of its pipes, after the headers.
fn opened() -> (Speaker<ManagerSide>, io::PipeReader, io::PipeWriter) {
    let (our_read, mut their_write) = io::pipe().unwrap();
    let (mut their_read, our_write) = io::pipe().unwrap();
    their_write.write_all(b"codervpn tunnel 1.3\n").unwrap();
    let transport = Transport::from_handles(our_read.into(), our_write.into());
    let speaker = Speaker::open(transport, patient()).unwrap();
    let mut header = [0; 21];
    their_read.read_exact(&mut header).unwrap();
    assert_eq!(&header, b"codervpn manager 1.3\n");
    (speaker, their_read, their_write)
}

/// Fails if it takes for ever.
fn in_time(body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        body();
        done.send(()).unwrap();
    });
    ended.recv_timeout(PATIENCE).expect("it ends");
    thread.join().unwrap();
}

#[test]
fn a_blocked_read_is_interrupted() {
    let (speaker, mut their_read, their_write) = opened();
    in_time(move || {
        speaker.close();
        assert_eq!(speaker.recv(), Err(End::Closed));
        // It waits for its threads.
        drop(speaker);
    });
    // Both directions are closed, although this side has closed nothing.
    assert_eq!(their_read.read(&mut [0]).unwrap(), 0);
    drop(their_write);
}

#[test]
fn a_blocked_write_is_interrupted() {
    let (speaker, their_read, their_write) = opened();
    in_time(move || {
        // More than any pipe takes.
        let request = StartRequest { api_token: "x".repeat(4 << 20), ..StartRequest::default() };
        let called = speaker.call(manager_message::Msg::Start(request), Duration::from_millis(100));
        assert_eq!(called, Err(CallError::TimedOut));
        drop(speaker);
    });
    drop((their_read, their_write));
}

#[test]
fn the_other_sides_end_is_an_end() {
    let (speaker, their_read, their_write) = opened();
    drop(their_write);
    assert_eq!(speaker.recv(), Err(End::PeerClosed));
    drop(their_read);
}

/// Passes on the end.
struct Waiting(mpsc::Sender<End>);

impl Host for Waiting {
    fn configure(&self, _: &NetworkSettingsRequest) -> Result<(), String> {
        Ok(())
    }

    fn peers_changed(&self, _: &Peers) {}

    fn log(&self, _: Log) {}

    fn ended(&self, end: End) {
        // The test may be over.
        let _ = self.0.send(end);
    }
}

fn options() -> Options {
    Options { stream: patient(), start_timeout: PATIENCE, timeout: PATIENCE }
}

/// This program, as a tunnel: only the last test below is run, as its name has "run" in it.
fn start(sender: mpsc::Sender<End>) -> Process {
    let prepare = |command: &mut std::process::Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).env("WG_EMBED_TEST_TUNNEL", "1");
    };
    Process::start(env::current_exe().unwrap(), prepare, options(), Arc::new(Waiting(sender))).unwrap()
}

fn asked(manager: &Manager) -> Result<(), Error> {
    manager.start(StartRequest { coder_url: "a:b".into(), api_token: "t".into(), ..StartRequest::default() })
}

#[test]
fn a_tunnel_has_a_process_of_its_own() {
    let (sender, ends) = mpsc::channel();
    let process = start(sender.clone());
    assert_ne!(process.id(), std::process::id());
    assert_eq!(asked(process.manager()), Ok(()));
    assert_eq!(process.stop(), Ok(()));
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), End::PeerClosed);
    // Without a stop it ends with the stream.
    let process = start(sender);
    assert_eq!(asked(process.manager()), Ok(()));
    drop(process);
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), End::Closed);
}

/// In the other process: the tunnel.
#[test]
fn run_in_the_other_process() {
    if env::var_os("WG_EMBED_TEST_TUNNEL").is_none() {
        return;
    }
    let [read, write] = ["READ", "WRITE"].map(|name| {
        let number: usize = env::var(format!("CODER_VPN_DAEMON_RPC_{name}_HANDLE")).unwrap().parse().unwrap();
        // SAFETY: it was passed to this process, which has it for itself.
        unsafe { OwnedHandle::from_raw_handle(std::ptr::with_exposed_provenance_mut(number)) }
    });
    let speaker = Speaker::<TunnelSide>::open(Transport::from_handles(read, write), patient()).unwrap();
    loop {
        match speaker.recv() {
            Ok(Incoming::Request { id, body: manager_message::Msg::Start(_) }) => {
                let response = StartResponse { success: true, ..StartResponse::default() };
                speaker.respond(id, tunnel_message::Msg::Start(response)).unwrap();
            }
            Ok(Incoming::Request { id, body: manager_message::Msg::Stop(_) }) => {
                let response = StopResponse { success: true, ..StopResponse::default() };
                speaker.respond(id, tunnel_message::Msg::Stop(response)).unwrap();
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => return,
        }
    }
}
