//! The manager's side: recorded conversations, a tunnel of ours at the other end, and a tunnel in another process.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{CONVERSATIONS, PATIENCE, Wire, message, patient, transcript, wire};
use prost::Message;
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, mpsc},
    thread,
};
use wg_embed_manager::{
    manager::{Error, Host, Manager, Options, Peers, Process, ProcessError, merge},
    messages::{
        Log, ManagerMessage, NetworkSettingsRequest, NetworkSettingsResponse, Rpc, StartRequest, TunnelMessage,
        manager_message, tunnel_message,
    },
    speaker::{CallError, End},
    stream::encode,
};

/// Refuses settings or not, and keeps everything.
struct Recorder {
    refusal: Option<String>,
    settings: Mutex<Vec<NetworkSettingsRequest>>,
    logged: Mutex<Vec<Log>>,
    events: Mutex<mpsc::Sender<Event>>,
}

#[derive(Debug)]
enum Event {
    Peers(Peers),
    Ended(End),
}

fn recorder(refusal: Option<String>) -> (Arc<Recorder>, mpsc::Receiver<Event>) {
    let (sender, receiver) = mpsc::channel();
    let (settings, logged) = (Mutex::default(), Mutex::default());
    (Arc::new(Recorder { refusal, settings, logged, events: Mutex::new(sender) }), receiver)
}

impl Recorder {
    fn event(&self, event: Event) {
        // The test may be over.
        let _ = self.events.lock().unwrap().send(event);
    }
}

impl Host for Recorder {
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        self.settings.lock().unwrap().push(settings.clone());
        self.refusal.clone().map_or(Ok(()), Err)
    }

    fn peers_changed(&self, peers: &Peers) {
        self.event(Event::Peers(peers.clone()));
    }

    fn log(&self, line: Log) {
        self.logged.lock().unwrap().push(line);
    }

    fn ended(&self, end: End) {
        self.event(Event::Ended(end));
    }
}

fn options() -> Options {
    Options { stream: patient(), start_timeout: PATIENCE, timeout: PATIENCE }
}

/// Why the stream has ended, and the peers at that time.
fn ended(events: &mpsc::Receiver<Event>) -> (End, Peers) {
    let mut last = Peers::default();
    loop {
        match events.recv_timeout(PATIENCE).unwrap() {
            Event::Ended(end) => return (end, last),
            Event::Peers(peers) => last = peers,
        }
    }
}

/// What the recorded manager did.
fn perform(manager: &Manager, request: manager_message::Msg) -> Result<(), Error> {
    match request {
        manager_message::Msg::Start(request) => manager.start(request),
        manager_message::Msg::GetPeerUpdate(_) => manager.refresh().map(drop),
        manager_message::Msg::Wake(_) => manager.wake().map(|is_known| assert!(is_known)),
        manager_message::Msg::Stop(_) => manager.stop(),
        manager_message::Msg::NetworkSettings(_) => panic!("a response"),
    }
}

#[test]
fn recorded_conversations_are_the_same() {
    for name in CONVERSATIONS {
        let lines = transcript(name);
        let of = |by| lines.iter().skip(2).filter(move |line| line.by == by).filter_map(|line| line.bytes.as_ref());
        let sent: Vec<_> = of('M').map(|bytes| ManagerMessage::decode(message(bytes)).unwrap()).collect();
        let refusal = sent.iter().find_map(|message| match &message.msg {
            Some(manager_message::Msg::NetworkSettings(response)) if !response.success => {
                Some(response.error_message.clone())
            }
            _ => None,
        });
        let (host, events) = recorder(refusal);
        let (transport, mut raw) = wire(Wire::Pipes);
        raw.write(b"codervpn tunnel 1.3\n");
        let manager = Manager::open(transport, options(), host.clone()).unwrap();
        assert_eq!(raw.line(), b"codervpn manager 1.3\n");
        thread::scope(|scope| {
            scope.spawn(|| {
                for ManagerMessage { rpc, msg } in sent {
                    if rpc.unwrap().msg_id != 0 {
                        // What is refused is in the conversation.
                        let _ = perform(&manager, msg.unwrap());
                    }
                }
            });
            for line in &lines[2..] {
                match (line.by, &line.bytes) {
                    ('M', Some(bytes)) => assert_eq!(raw.read(bytes.len()), *bytes, "{name}"),
                    (_, Some(bytes)) => raw.write(bytes),
                    ('M', None) => assert_eq!(raw.rest(), [], "{name}"),
                    (_, None) => raw.finish(),
                }
            }
        });
        assert_eq!(ended(&events), (End::PeerClosed, manager.peers()), "{name}");
        let mut all = NetworkSettingsRequest::default();
        let (mut settings, mut logs) = (Vec::new(), 0);
        for message in of('T').map(|bytes| TunnelMessage::decode(message(bytes)).unwrap()) {
            match message.msg.unwrap() {
                tunnel_message::Msg::NetworkSettings(request) => {
                    all = merge(&all, request);
                    settings.push(all.clone());
                }
                tunnel_message::Msg::Log(_) => logs += 1,
                _ => {}
            }
        }
        assert_eq!((&*host.settings.lock().unwrap(), host.logged.lock().unwrap().len()), (&settings, logs), "{name}");
        let left: Vec<_> = manager.peers().agents().map(|agent| agent.name.clone()).collect();
        assert_eq!(left, if name == "full" { vec!["main"] } else { vec![] });
    }
}

/// The original's tunnel would wait for ever behind a second request.
#[test]
fn requests_are_sent_one_after_the_other() {
    let (host, _events) = recorder(None);
    let (transport, mut raw) = wire(Wire::Pipes);
    raw.write(b"codervpn tunnel 1.3\n");
    let manager = Manager::open(transport, options(), host).unwrap();
    raw.line();
    thread::scope(|scope| {
        let start = scope.spawn(|| manager.start(StartRequest { coder_url: "x:".into(), ..StartRequest::default() }));
        let Some(manager_message::Msg::Start(_)) = ManagerMessage::decode(&raw.frame()[..]).unwrap().msg else {
            panic!()
        };
        let refresh = scope.spawn(|| manager.refresh());
        // The settings are asked for although a request waits, and what is read next is their response.
        let rpc = Some(Rpc { msg_id: 1, response_to: 0 });
        let msg = Some(tunnel_message::Msg::NetworkSettings(NetworkSettingsRequest::default()));
        raw.write(&encode(&TunnelMessage { rpc, msg }).unwrap());
        let response = NetworkSettingsResponse { success: true, error_message: String::new() };
        let answered = ManagerMessage::decode(&raw.frame()[..]).unwrap();
        assert_eq!(answered.msg, Some(manager_message::Msg::NetworkSettings(response)));
        raw.write(&[0, 0, 0, 8, 0x0a, 2, 16, 1, 0x2a, 2, 8, 1]);
        assert_eq!(start.join().unwrap(), Ok(()));
        let asked = ManagerMessage::decode(&raw.frame()[..]).unwrap();
        assert_eq!(asked.rpc, Some(Rpc { msg_id: 2, response_to: 0 }));
        raw.write(&[0, 0, 0, 6, 0x0a, 2, 16, 2, 0x1a, 0]);
        assert_eq!(refresh.join().unwrap(), Ok(Default::default()));
        raw.finish();
    });
    assert!(matches!(manager.stop(), Err(Error::Call(CallError::Send(_) | CallError::Ended(_)))));
}

/// A program that behaves as `body` says; it has the stream at descriptors 3 and 4.
fn program(name: &str, body: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut file = fs::File::create(&path).unwrap();
    write!(file, "#!/bin/sh\n{body}").unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Starts it. Another thread may just be starting a process that still has the file open to write.
fn start(path: &PathBuf, host: Arc<Recorder>) -> Result<Process, ProcessError> {
    loop {
        let prepare = |command: &mut std::process::Command| {
            command.env("FROM_MANAGER", "yes").stdin(Stdio::null());
        };
        match Process::start(path, None, prepare, options(), host.clone()) {
            Err(ProcessError::Start(e)) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => thread::yield_now(),
            outcome => return outcome,
        }
    }
}

/// As the original: it goes on after the stop, until a signal ends it.
#[test]
fn a_tunnel_runs_in_another_process() {
    let path = program(
        "tunnel.sh",
        r#"[ "$*" = "vpn-daemon run --rpc-read-fd 3 --rpc-write-fd 4" ] && [ "$FROM_MANAGER" = yes ] || exit 1
read -r header <&3
[ "$header" = "codervpn manager 1.3" ] || exit 1
printf 'codervpn tunnel 1.3\n' >&4
head -c 18 <&3 >/dev/null
printf '\000\000\000\010\012\002\020\001\052\002\010\001' >&4
head -c 10 <&3 >/dev/null
printf '\000\000\000\010\012\002\020\002\062\002\010\001' >&4
exec 3<&- 4>&-
exec sleep 600
"#,
    );
    let (host, events) = recorder(None);
    let process = start(&path, host).unwrap();
    // 4 bytes of length, 4 for the number, 2 and 3 for the URL, 3 for the token, and 2 around both.
    let request = StartRequest { coder_url: "a:b".into(), api_token: "t".into(), ..StartRequest::default() };
    assert_eq!(process.manager().start(request), Ok(()));
    let id = process.id();
    assert_eq!(process.stop(), Ok(()));
    assert_eq!(ended(&events), (End::PeerClosed, Peers::default()));
    let pid = rustix::process::Pid::from_raw(id as i32).unwrap();
    assert_eq!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH));
}

#[test]
fn a_process_that_is_no_tunnel_is_none() {
    let (host, _events) = recorder(None);
    let path = program("false.sh", "exit 3\n");
    assert!(matches!(start(&path, host.clone()).map(drop), Err(ProcessError::Open(_))));
    let path = program("other.sh", "printf 'hello\\n' >&4\nexec sleep 600\n");
    assert!(matches!(start(&path, host.clone()).map(drop), Err(ProcessError::Open(_))));
    let missing = PathBuf::from("/nonexistent/tunnel");
    assert!(matches!(start(&missing, host).map(drop), Err(ProcessError::Start(_))));
}
