//! What a peer must not send, and what it may although nobody does: a stream ends or goes on as it should, and nothing
//! hangs.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{PATIENCE, Raw, Wire, open, opened, patient, transcript, wire};
use prost::Message;
use std::{
    io::{self, ErrorKind, Read, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use wg_embed_manager::{
    messages::{
        Agent, Log, ManagerMessage, ManagerSide, NetworkSettingsRequest, PeerUpdate, Rpc, StopRequest, StopResponse,
        TunnelMessage, TunnelSide, WakeRequest, manager_message, tunnel_message,
    },
    speaker::{CallError, End, Incoming, OpenError, Options, SendError, Speaker, Transport},
    stream::{FrameDecoder, FrameError, HeaderError, HeaderOrder, MAX_MESSAGE, Version, Versions, encode},
};

const BOTH: [Wire; 2] = [Wire::Pipes, Wire::Socket];

fn frame(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes()[..], message].concat()
}

fn log(message: &str) -> tunnel_message::Msg {
    tunnel_message::Msg::Log(Log { message: message.into(), ..Log::default() })
}

fn stop() -> manager_message::Msg {
    manager_message::Msg::Stop(StopRequest {})
}

/// Waits until the stream has ended.
fn end(speaker: &Speaker<TunnelSide>) -> End {
    loop {
        match speaker.recv_timeout(PATIENCE) {
            Err(end) => return end,
            Ok(Some(_)) => {}
            Ok(None) => panic!("it does not end"),
        }
    }
}

#[test]
fn headers_that_are_refused() {
    let long = format!("codervpn manager 1.{}3\n", "0".repeat(236));
    assert_eq!(long.len(), 257);
    for (header, expected) in [
        ("codervpn manager\n", HeaderError::Words),
        ("codervpn manager 1.0 x\n", HeaderError::Words),
        ("codervpn  manager 1.0\n", HeaderError::Words),
        ("codervpn manager 1.0 \n", HeaderError::Words),
        (" codervpn manager 1.0\n", HeaderError::Words),
        ("\n", HeaderError::Words),
        ("CODERVPN manager 1.0\n", HeaderError::Preamble),
        ("http manager 1.0\n", HeaderError::Preamble),
        ("codervpn Manager 1.0\n", HeaderError::UnknownRole),
        ("codervpn 1.0 2.0\n", HeaderError::UnknownRole),
        ("codervpn manager 1.0\r\n", HeaderError::Versions),
        ("codervpn manager \n", HeaderError::Versions),
        ("codervpn manager 1\n", HeaderError::Versions),
        ("codervpn manager 1.\n", HeaderError::Versions),
        ("codervpn manager .1\n", HeaderError::Versions),
        ("codervpn manager 1.0.0\n", HeaderError::Versions),
        ("codervpn manager +1.0\n", HeaderError::Versions),
        ("codervpn manager 1.-0\n", HeaderError::Versions),
        ("codervpn manager 0.9\n", HeaderError::Versions),
        ("codervpn manager 1.0,\n", HeaderError::Versions),
        ("codervpn manager ,1.0\n", HeaderError::Versions),
        ("codervpn manager 1.0,1.1\n", HeaderError::Versions),
        ("codervpn manager 2.0,1.0\n", HeaderError::Versions),
        ("codervpn manager 1.18446744073709551616\n", HeaderError::Versions),
        ("codervpn manager \u{664}.0\n", HeaderError::Versions),
        (&long, HeaderError::TooLong),
        (&"x".repeat(300), HeaderError::TooLong),
    ] {
        for kind in BOTH {
            let (opened, mut raw) = open::<TunnelSide>(kind, patient(), header);
            match opened.map(drop) {
                Err(OpenError::Header(found)) => assert_eq!(found, expected, "{header:?}"),
                other => panic!("{header:?}: {other:?}"),
            }
            // The other side can see whom it has tried to speak to.
            assert_eq!(raw.rest(), b"codervpn tunnel 1.3\n", "{header:?}");
        }
    }
}

#[test]
fn headers_of_others_are_refused_with_the_reason() {
    for (header, text) in [
        ("codervpn tunnel 1.0\n", "handshake failed: validate header: unexpected role: tunnel in place of manager"),
        ("codervpn service 1.0\n", "handshake failed: validate header: unexpected role: service in place of manager"),
        (
            "codervpn manager 2.0,3.1\n",
            "handshake failed: validate header: current supported versions \"1.3\" is not compatible with peer \
             versions \"2.0,3.1\"",
        ),
    ] {
        let (opened, _) = open::<TunnelSide>(Wire::Pipes, patient(), header);
        assert_eq!(opened.map(drop).unwrap_err().to_string(), text);
    }
}

#[test]
fn headers_that_are_accepted() {
    let long = format!("codervpn manager 1.{}3\n", "0".repeat(235));
    assert_eq!(long.len(), 256);
    for (header, version) in [
        ("codervpn manager 1.3\n", Version::V1_3),
        ("codervpn manager 1.0\n", Version::V1_0),
        ("codervpn manager 1.9\n", Version::V1_3),
        ("codervpn manager 01.002\n", Version::V1_2),
        ("codervpn manager 1.1,2.0,18446744073709551615.0\n", Version::V1_1),
        ("codervpn 1.0 manager\n", Version::V1_0),
        ("codervpn 1.2,2.0 manager\n", Version::V1_2),
        (&long, Version::V1_3),
    ] {
        for kind in BOTH {
            let (opened, _raw) = open::<TunnelSide>(kind, patient(), header);
            assert_eq!(opened.unwrap().version(), version, "{header:?}");
        }
    }
}

#[test]
fn the_header_of_the_design_can_be_sent() {
    let versions = Versions::new([Version::V1_0, Version { major: 2, minor: 5 }]).unwrap();
    let options = Options { versions, order: HeaderOrder::VersionsFirst, ..patient() };
    let (opened, mut raw) = open::<TunnelSide>(Wire::Pipes, options, "codervpn manager 2.1\n");
    assert_eq!(opened.unwrap().version(), Version { major: 2, minor: 1 });
    assert_eq!(raw.line(), b"codervpn 1.0,2.5 tunnel\n");
}

/// Writes nothing before the other half has read the end of the stream, or never.
struct Late {
    read: mpsc::Receiver<()>,
    is_blocked: bool,
    stopped: Arc<AtomicBool>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Write for Late {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The reader has been dropped when this fails. The pause gives a premature stop the time to happen.
        let _ = self.read.recv();
        thread::sleep(Duration::from_millis(20));
        while self.is_blocked && !self.stopped.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        if self.stopped.load(Ordering::Relaxed) {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        self.written.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Short(&'static [u8], #[expect(dead_code, reason = "it is dropped with it")] mpsc::Sender<()>);

impl Read for Short {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

#[test]
fn a_peer_that_has_closed_may_still_read_the_header() {
    for (header, is_blocked) in [("codervpn manager 1.0\n", false), ("", false), ("codervpn manager 1.0\n", true)] {
        let (written, stopped) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (reads, read) = mpsc::channel();
        let writer = Late { read, is_blocked, stopped: stopped.clone(), written: written.clone() };
        let transport = Transport {
            reader: Box::new(Short(header.as_bytes(), reads)),
            writer: Box::new(writer),
            stop: Arc::new(move || stopped.store(true, Ordering::Relaxed)),
        };
        match Speaker::<TunnelSide>::open(transport, patient()) {
            Ok(speaker) => assert!(!header.is_empty() && end(&speaker) == End::PeerClosed),
            Err(e) => assert!(header.is_empty() && matches!(e, OpenError::Ended(End::PeerClosed)), "{e}"),
        }
        let expected: &[u8] = if is_blocked { b"" } else { b"codervpn tunnel 1.3\n" };
        assert_eq!(*written.lock().unwrap(), expected);
    }
}

#[test]
fn a_silent_peer_is_not_waited_for() {
    for kind in BOTH {
        let (transport, _raw) = wire(kind);
        let options = Options { handshake_timeout: Some(Duration::from_millis(20)), ..Options::default() };
        let opened = Speaker::<TunnelSide>::open(transport, options);
        assert!(matches!(opened.map(drop), Err(OpenError::TimedOut)));
    }
}

/// Everything that a manager wrote, cut at every byte.
#[test]
fn streams_that_are_cut_end() {
    let lines = transcript("settings-refused");
    let bytes: Vec<_> = lines.iter().filter(|line| line.by == 'M').filter_map(|line| line.bytes.clone()).collect();
    let (header, frames) = (bytes[0].len(), bytes.concat());
    let mut boundaries: Vec<_> = vec![0];
    for part in &bytes {
        boundaries.push(boundaries.last().unwrap() + part.len());
    }
    for kind in BOTH {
        for at in 0..=frames.len() {
            let (transport, mut raw) = wire(kind);
            raw.write(&frames[..at]);
            raw.finish();
            let opened = Speaker::<TunnelSide>::open(transport, patient());
            if at < header {
                assert!(matches!(opened.map(drop), Err(OpenError::Ended(_))), "{at}");
                continue;
            }
            let expected = if boundaries.contains(&at) { End::PeerClosed } else { End::Truncated };
            assert_eq!(end(&opened.unwrap()), expected, "{at}");
            raw.rest();
        }
    }
}

#[test]
fn what_is_announced_is_limited() {
    for kind in BOTH {
        for (len, expected) in [
            (0x0100_0001, End::Frame(FrameError::TooLong { len: 0x0100_0001 })),
            (u32::MAX, End::Frame(FrameError::TooLong { len: u32::MAX as usize })),
            (0x0100_0000, End::Truncated),
        ] {
            let (speaker, mut raw) = opened::<TunnelSide>(kind);
            raw.write(&len.to_be_bytes());
            raw.finish();
            assert_eq!(end(&speaker), expected);
            assert_eq!(raw.rest(), []);
        }
    }
}

#[test]
fn memory_is_taken_for_what_has_arrived() {
    let mut decoder = FrameDecoder::new();
    assert_eq!(decoder.push(&mut &(MAX_MESSAGE as u32).to_be_bytes()[..]), Ok(None));
    let mut arrived = 0;
    for step in [1, 100, 5000, 16384].iter().cycle().take(400) {
        assert!(decoder.memory() <= 4096.max(2 * arrived), "{} bytes for {arrived}", decoder.memory());
        assert_eq!(decoder.push(&mut &vec![0; *step][..]), Ok(None));
        arrived += step;
    }
}

#[test]
fn the_longest_message_is_received() {
    let (speaker, mut raw) = opened::<TunnelSide>(Wire::Socket);
    // A field that nobody knows.
    let unknown = MAX_MESSAGE - 9;
    let mut message = vec![0x7a];
    prost::encoding::encode_varint(unknown as u64, &mut message);
    message.resize(message.len() + unknown, 7);
    message.extend([0x0a, 2, 8, 9]);
    assert_eq!(message.len(), MAX_MESSAGE);
    let writer = thread::spawn(move || {
        raw.write(&frame(&message));
        raw
    });
    // It is a request that is not known.
    let receiver = thread::spawn(move || speaker.recv());
    let mut raw = writer.join().unwrap();
    assert_eq!(raw.frame(), [0x0a, 2, 16, 9]);
    raw.finish();
    assert_eq!(receiver.join().unwrap(), Err(End::PeerClosed));
}

#[test]
fn messages_that_are_malformed_end_the_stream() {
    for message in [
        &b"\xff"[..],
        b"\x0a",
        b"\x0a\x05\x08\x01",
        b"\x0a\x01\x08",
        b"\x08\x01",
        b"\x22\x03\x12\x01\xff",
        b"\x0f",
        b"\x22\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ] {
        let (speaker, mut raw) = opened::<TunnelSide>(Wire::Pipes);
        raw.write(&frame(message));
        assert_eq!(end(&speaker), End::Malformed, "{message:02x?}");
        assert_eq!(raw.rest(), []);
    }
}

#[test]
fn what_grows_when_decoded_is_refused() {
    // 4 million agents of two bytes would be a gigabyte.
    let update = [0x12, 0].repeat(4 << 20);
    let mut message = vec![0x1a];
    prost::encoding::encode_varint(update.len() as u64, &mut message);
    message.extend(update);
    let (speaker, mut raw) = opened::<ManagerSide>(Wire::Socket);
    let writer = thread::spawn(move || {
        // It ends before it is through, or just after.
        let _ = std::io::Write::write_all(raw.writer.as_mut().unwrap(), &frame(&message));
    });
    assert_eq!(speaker.recv(), Err(End::Malformed));
    writer.join().unwrap();
}

#[test]
fn many_agents_are_not_too_many() {
    let agent = |number: u64| Agent {
        id: [number.to_be_bytes(), [7; 8]].concat(),
        name: "a".into(),
        workspace_id: vec![9; 16],
        fqdn: vec!["a.b.".into(), "a.b.me.".into()],
        ip_addrs: vec!["10.0.0.1".into()],
        last_handshake: Some(Default::default()),
        last_ping: Some(Default::default()),
    };
    let update = PeerUpdate { upserted_agents: (0..50_000).map(agent).collect(), ..PeerUpdate::default() };
    let body = tunnel_message::Msg::PeerUpdate(update);
    let bytes = encode(&TunnelMessage { rpc: None, msg: Some(body.clone()) }).unwrap();
    let (speaker, mut raw) = opened::<ManagerSide>(Wire::Socket);
    let writer = thread::spawn(move || {
        raw.write(&bytes);
        raw
    });
    assert!(speaker.recv() == Ok(Incoming::Notice(body)));
    writer.join().unwrap();
}

#[test]
fn two_requests_with_one_number_are_both_answered() {
    let (speaker, mut raw) = opened::<TunnelSide>(Wire::Pipes);
    let request = ManagerMessage { rpc: Some(Rpc { msg_id: u64::MAX, response_to: 0 }), msg: Some(stop()) };
    raw.write(&encode(&request).unwrap().repeat(2));
    for _ in 0..2 {
        let Ok(Incoming::Request { id, .. }) = speaker.recv() else { panic!() };
        speaker.respond(id, tunnel_message::Msg::PeerUpdate(PeerUpdate::default())).unwrap();
        let response = TunnelMessage::decode(&raw.frame()[..]).unwrap();
        assert_eq!(response.rpc, Some(Rpc { msg_id: 0, response_to: u64::MAX }));
    }
}

/// What `raw` receives is asked; it is answered with `answer`, whose number is added to that of the request.
fn answered(raw: &mut Raw, add: u64, body: &manager_message::Msg) {
    let request = TunnelMessage::decode(&raw.frame()[..]).unwrap();
    let rpc = Some(Rpc { msg_id: 0, response_to: request.rpc.unwrap().msg_id + add });
    raw.write(&encode(&ManagerMessage { rpc, msg: Some(body.clone()) }).unwrap());
}

fn settings() -> tunnel_message::Msg {
    tunnel_message::Msg::NetworkSettings(NetworkSettingsRequest::default())
}

#[test]
fn responses_that_nobody_waits_for_are_dropped() {
    let (speaker, mut raw) = opened::<TunnelSide>(Wire::Pipes);
    // Nobody has asked yet; then there is a second one, and one that is too late.
    raw.write(&encode(&ManagerMessage { rpc: Some(Rpc { msg_id: 0, response_to: 1 }), msg: Some(stop()) }).unwrap());
    raw.write(&frame(&[]));
    raw.write(&frame(&[0x0a, 0]));
    raw.write(&encode(&ManagerMessage { rpc: None, msg: Some(stop()) }).unwrap());
    assert_eq!(speaker.recv(), Ok(Incoming::Notice(stop())));
    assert_eq!(speaker.call(settings(), Duration::ZERO), Err(CallError::TimedOut));
    answered(&mut raw, 0, &stop());
    thread::scope(|scope| {
        let call = scope.spawn(|| speaker.call(settings(), PATIENCE));
        answered(&mut raw, 0, &stop());
        assert_eq!(call.join().unwrap(), Ok(stop()));
    });
    raw.write(&encode(&ManagerMessage { rpc: Some(Rpc { msg_id: 0, response_to: 2 }), msg: Some(stop()) }).unwrap());
    raw.finish();
    assert_eq!(end(&speaker), End::PeerClosed);
    assert_eq!((speaker.stats().unknown_responses, speaker.stats().empty_messages), (3, 2));
}

#[test]
fn a_call_that_the_peer_does_not_know_fails() {
    let (speaker, mut raw) = opened::<TunnelSide>(Wire::Pipes);
    thread::scope(|scope| {
        let call = scope.spawn(|| speaker.call(settings(), PATIENCE));
        raw.frame();
        raw.write(&frame(&[0x0a, 2, 16, 1]));
        assert_eq!(call.join().unwrap(), Err(CallError::Unknown));
    });
}

#[test]
fn calls_fail_when_the_stream_ends() {
    for kind in BOTH {
        let (speaker, mut raw) = opened::<TunnelSide>(kind);
        thread::scope(|scope| {
            let call = scope.spawn(|| speaker.call(settings(), PATIENCE));
            raw.frame();
            raw.finish();
            let error = call.join().unwrap().unwrap_err();
            assert_eq!(error.to_string(), "unexpected end");
        });
        assert_eq!(speaker.call(settings(), PATIENCE), Err(CallError::Send(SendError::Ended(End::PeerClosed))));
    }
}

/// The original waits here for ever: the response is behind a request.
#[test]
fn a_response_overtakes_requests() {
    let (speaker, mut raw) = opened::<TunnelSide>(Wire::Socket);
    thread::scope(|scope| {
        let call = scope.spawn(|| speaker.call(settings(), PATIENCE));
        let asked = TunnelMessage::decode(&raw.frame()[..]).unwrap();
        let request = ManagerMessage { rpc: Some(Rpc { msg_id: 1, response_to: 0 }), msg: Some(stop()) };
        raw.write(&encode(&request).unwrap().repeat(2000));
        let rpc = Some(Rpc { msg_id: 0, response_to: asked.rpc.unwrap().msg_id });
        raw.write(&encode(&ManagerMessage { rpc, msg: Some(stop()) }).unwrap());
        assert_eq!(call.join().unwrap(), Ok(stop()));
    });
    for _ in 0..2000 {
        assert!(matches!(speaker.recv(), Ok(Incoming::Request { .. })));
    }
}

#[test]
fn a_flood_of_requests_during_a_call_ends_the_stream() {
    let (speaker, mut raw) = opened::<TunnelSide>(Wire::Socket);
    thread::scope(|scope| {
        let call = scope.spawn(|| speaker.call(settings(), PATIENCE));
        raw.frame();
        let request = ManagerMessage { rpc: Some(Rpc { msg_id: 1, response_to: 0 }), msg: Some(stop()) };
        let flood = encode(&request).unwrap().repeat(3000);
        let _ = std::io::Write::write_all(raw.writer.as_mut().unwrap(), &flood);
        assert_eq!(call.join().unwrap(), Err(CallError::Ended(End::Overrun)));
    });
}

/// Without a call it is the other side that waits.
#[test]
fn a_flood_waits_for_whoever_receives() {
    let (speaker, mut raw) = opened::<TunnelSide>(Wire::Pipes);
    let request = ManagerMessage { rpc: Some(Rpc { msg_id: 1, response_to: 0 }), msg: Some(stop()) };
    let flood = encode(&request).unwrap().repeat(20_000);
    let writer = thread::spawn(move || {
        raw.write(&flood);
        raw
    });
    for _ in 0..20_000 {
        assert!(matches!(speaker.recv(), Ok(Incoming::Request { .. })));
    }
    writer.join().unwrap();
}

#[test]
fn a_peer_that_does_not_read_is_still_read_from() {
    for kind in BOTH {
        let (speaker, mut raw) = opened::<TunnelSide>(kind);
        let text = "x".repeat(100_000);
        thread::scope(|scope| {
            let blocked = scope.spawn(|| {
                loop {
                    if let Err(e) = speaker.notify(log(&text)) {
                        return e;
                    }
                }
            });
            // A log gives way.
            while speaker.try_notify(log("y")).unwrap() {
                thread::yield_now();
            }
            assert!(speaker.stats().skipped > 0);
            raw.write(&encode(&ManagerMessage { rpc: None, msg: Some(stop()) }).unwrap());
            assert_eq!(speaker.recv(), Ok(Incoming::Notice(stop())));
            speaker.close();
            assert_eq!(blocked.join().unwrap(), SendError::Ended(End::Closed));
        });
    }
}

#[test]
fn nothing_follows_the_last_message() {
    for kind in BOTH {
        let (speaker, mut raw) = opened::<TunnelSide>(kind);
        raw.write(
            &encode(&ManagerMessage { rpc: Some(Rpc { msg_id: 4, response_to: 0 }), msg: Some(stop()) }).unwrap(),
        );
        let Ok(Incoming::Request { id, .. }) = speaker.recv() else { panic!() };
        let response = StopResponse { success: true, error_message: String::new() };
        speaker.respond(id, tunnel_message::Msg::Stop(response)).unwrap();
        assert_eq!(speaker.notify(log("late")), Err(SendError::Ended(End::Finished)));
        assert_eq!(raw.rest(), [0, 0, 0, 8, 0x0a, 2, 16, 4, 0x32, 2, 8, 1]);
        assert_eq!(end(&speaker), End::Finished);
    }
}

/// A tunnel that has stopped does not read any more, but what it wrote last is there.
#[test]
fn the_last_message_is_received_although_writing_fails() {
    let (speaker, mut raw) = opened::<ManagerSide>(Wire::Pipes);
    raw.reader = Box::new(std::io::empty());
    while !matches!(speaker.notify(stop()), Err(SendError::Ended(End::PeerClosed))) {
        thread::yield_now();
    }
    raw.write(&encode(&TunnelMessage { rpc: None, msg: Some(log("last")) }).unwrap());
    raw.finish();
    assert_eq!(speaker.recv(), Ok(Incoming::Notice(log("last"))));
    assert_eq!(speaker.recv(), Err(End::PeerClosed));
}

#[test]
fn an_older_tunnel_is_not_woken() {
    let wake = manager_message::Msg::Wake(WakeRequest {});
    for (header, is_known) in [("codervpn tunnel 1.2\n", false), ("codervpn tunnel 1.3\n", true)] {
        let (speaker, mut raw) = open::<ManagerSide>(Wire::Pipes, patient(), header);
        let speaker = speaker.unwrap();
        raw.line();
        let outcome = speaker.call(wake.clone(), Duration::ZERO);
        let unsupported = CallError::Send(SendError::Unsupported { since: Version::V1_3 });
        assert_eq!(outcome, Err(if is_known { CallError::TimedOut } else { unsupported }));
    }
}
