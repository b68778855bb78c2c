//! Each command, what is wrong with one, and several in a request.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Command, PEER, PRIVATE, answers, answers_with, error, json, one, request, request_with, result, tunnel};
use proptest::{collection::vec, prelude::*};
use wg_embed::{EndReason, Event, PublicKey, error::ErrorKind, uapi::get_text};
use wg_embed_wireproto::{Builder, Kind, Order, ReadOptions, Status, Tolerance, WriteOptions};
use wg_embed_wireproto_service::{Hub, Options, Session, call};

const SET: Command<'static> = &[
    ("cmd", b"set"),
    ("private_key", &PRIVATE),
    ("listen_port", &51820_u16.to_be_bytes()),
    ("fwmark", &7_u32.to_be_bytes()),
    ("public_key", &PEER),
    ("preshared_key", &[0x49; 32]),
    ("endpoint", b"[2001:db8::1]:5"),
    ("persistent_keepalive_interval", &25_u16.to_be_bytes()),
    ("allowed_ip", b"10.0.0.0/8"),
    ("allowed_ip", b"fd00::/8"),
];

fn text(tunnel: &wg_embed::device::Tunnel) -> String {
    get_text(tunnel.device().snapshot()).unwrap().to_string()
}

#[test]
fn set_and_get_are_those_of_the_uapi() {
    let (typed, by_text) = (tunnel(), tunnel());
    assert_eq!(result(&call(&typed, &one(SET))), b"");
    let all = text(&typed);
    let lines: String = all
        .lines()
        .filter(|line| !["protocol", "last", "tx_b", "rx_b"].iter().any(|other| line.starts_with(other)))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(result(&call(&by_text, &one(&[("cmd", b"set"), ("uapi", lines.as_bytes())]))), b"");
    assert_eq!(text(&by_text), all);
    let with_secrets = one(&[("cmd", b"get"), ("format", b"uapi"), ("secrets", &[1])]);
    assert_eq!(String::from_utf8(result(&call(&typed, &with_secrets))).unwrap(), all);
    for without in [one(&[("cmd", b"get")]), one(&[("cmd", b"get"), ("secrets", &[0])])] {
        let public = String::from_utf8(result(&call(&typed, &without))).unwrap();
        assert!(!public.contains("private_key") && !public.contains("preshared_key") && public.contains("fwmark=7\n"));
    }
}

#[test]
fn get_as_json_has_secrets_only_on_request() {
    let tunnel = tunnel();
    result(&call(&tunnel, &one(SET)));
    let public = json(&result(&call(&tunnel, &one(&[("cmd", b"get"), ("format", b"json")]))));
    assert!(public.get("private_key").is_none() && public["peers"][0].get("preshared_key").is_none());
    assert_eq!((public["listen_port"].as_u64(), public["fwmark"].as_u64()), (Some(51820), Some(7)));
    let peer = &public["peers"][0];
    assert_eq!(peer["public_key"], PublicKey::from_bytes(PEER).to_base64().as_str());
    assert_eq!(peer["endpoint"], "[2001:db8::1]:5");
    assert_eq!(peer["persistent_keepalive_interval"], 25);
    assert_eq!(peer["allowed_ips"], serde_json::json!(["10.0.0.0/8", "fd00::/8"]));
    let secrets = [("cmd", &b"get"[..]), ("format", b"json"), ("secrets", &[1])];
    let all = json(&result(&call(&tunnel, &one(&secrets))));
    let private = wg_embed::key::PrivateKey::from_bytes(PRIVATE);
    assert_eq!(all["private_key"], private.to_base64().as_str());
    assert_eq!(all["public_key"], private.public_key().to_base64().as_str());
    let preshared = wg_embed::key::PresharedKey::from_bytes([0x49; 32]);
    assert_eq!(all["peers"][0]["preshared_key"], preshared.to_base64().as_str());
}

#[test]
fn peers_stats_and_version() {
    let tunnel = tunnel();
    assert_eq!(result(&call(&tunnel, &one(&[("cmd", b"peers")]))), b"[]");
    result(&call(&tunnel, &one(SET)));
    result(&call(&tunnel, &one(&[("cmd", b"set"), ("public_key", &[9; 32])])));
    let all = json(&result(&call(&tunnel, &one(&[("cmd", b"peers")]))));
    assert_eq!(all.as_array().unwrap().len(), 2);
    let mine = json(&result(&call(&tunnel, &one(&[("cmd", b"peers"), ("public_key", &PEER)]))));
    assert_eq!(mine, serde_json::json!([all[0]]));
    assert_eq!(mine[0]["has_session"], false);
    assert_eq!(error(&call(&tunnel, &one(&[("cmd", b"peers"), ("public_key", &[3; 32])]))).0, "not_found");
    let stats = json(&result(&call(&tunnel, &one(&[("cmd", b"stats")]))));
    assert_eq!((stats["peers"].as_u64(), stats["mtu"].as_u64()), (Some(2), Some(1420)));
    assert_eq!(stats["counters"].as_object().unwrap().len(), tunnel.device().counters().len());
    assert!(stats["memory"]["total"].as_u64().unwrap() > 0);
    let version = json(&result(&call(&tunnel, &one(&[("cmd", b"version"), ("id", b"\xff")]))));
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn events_wait_for_each_client_from_its_first_question_on() {
    let tunnel = tunnel();
    let ask = one(&[("cmd", b"events")]);
    assert_eq!(error(&call(&tunnel, &ask)).0, "unsupported");
    let hub = Arc::new(Hub::default());
    let client = || Session::new(Options { events: 2, ..Options::default() }, Some(hub.clone()));
    let (first, second) = (client(), client());
    hub.note(&Event::SocketsRecovered(1));
    let take = |session: &Session| json(&result(&session.call(&tunnel, &ask)));
    assert_eq!(take(&first), serde_json::json!({"events": [], "dropped": 0, "left": 0}));
    for port in 2..5 {
        hub.note(&Event::SocketsRecovered(port));
    }
    assert_eq!(take(&second)["dropped"], 0);
    let answer = take(&first);
    assert_eq!(answer["dropped"], 1);
    assert_eq!(answer["events"][0], serde_json::json!({"event": "sockets_recovered", "port": 3}));
    hub.note(&Event::EndpointChanged(PublicKey::from_bytes(PEER), "1.2.3.4:5".parse().unwrap()));
    hub.note(&Event::Ended(EndReason::failed(ErrorKind::Closed, "gone")));
    let one_at_most = one(&[("cmd", b"events"), ("max", &1_u32.to_be_bytes())]);
    let answer = json(&result(&second.call(&tunnel, &one_at_most)));
    assert_eq!((answer["left"].as_u64(), answer["events"][0]["endpoint"].as_str()), (Some(1), Some("1.2.3.4:5")));
    assert_eq!(error(&second.call(&tunnel, &one(SET))), ("closed".into(), "the tunnel has ended: gone".into()));
    assert!(!text(&tunnel).contains("fwmark"));
}

#[test]
fn events_may_be_waited_for() {
    let (tunnel, hub) = (tunnel(), Arc::new(Hub::default()));
    let ask = |wait: u32| one(&[("cmd", b"events"), ("wait", &wait.to_be_bytes())]);
    let session = Session::new(Options { wait: Duration::from_secs(3600), ..Options::default() }, Some(hub.clone()));
    let take = |session: &Session, wait| json(&result(&session.call(&tunnel, &ask(wait))));
    assert_eq!(take(&session, 1)["events"], serde_json::json!([]));
    std::thread::scope(|scope| {
        // It answers with the event, not only when the time is up.
        let waiting = scope.spawn(|| take(&session, u32::MAX));
        // Other calls of the client are not held up.
        assert!(json(&result(&session.call(&tunnel, &one(&[("cmd", b"version")]))))["name"].is_string());
        hub.note(&Event::SocketsRecovered(7));
        assert_eq!(waiting.join().unwrap()["events"][0]["port"], 7);
    });
    // The caller knows of the wait, and can end it for this client.
    let waiting = Session::new(*session.options(), Some(hub.clone()));
    let close = |wait: &mut dyn FnMut()| {
        waiting.close();
        wait();
    };
    let two = request(&[&[&[("cmd", b"events"), ("wait", &u32::MAX.to_be_bytes())], &[("cmd", b"version")]]]);
    for _ in 0..2 {
        let (status, all) = answers(&waiting.call_waiting(&tunnel, &two, &close));
        assert_eq!((status, json(&all[0].1)["events"].as_array().unwrap().len()), (Status::Ack, 0));
        assert!(json(&all[1].1)["name"].is_string());
    }
    // Also one that has not asked for events yet.
    let closed = Session::new(*session.options(), Some(hub.clone()));
    closed.close();
    assert_eq!(take(&closed, u32::MAX)["events"], serde_json::json!([]));
    // The limit is for all commands of a request together.
    let wait = Duration::from_millis(200);
    let session = Session::new(Options { wait, ..Options::default() }, Some(hub));
    let command: Command<'_> = &[("cmd", b"events"), ("wait", &u32::MAX.to_be_bytes())];
    let began = Instant::now();
    assert_eq!(answers(&session.call(&tunnel, &request(&[&[command; 1000]]))).1.len(), 1000);
    assert!((wait..wait * 900).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(error(&call(&tunnel, &ask(0))).0, "unsupported");
}

#[test]
fn a_set_that_fails_changes_nothing_and_the_others_are_carried_out() {
    let tunnel = tunnel();
    let bad: Command<'_> = &[("cmd", b"set"), ("fwmark", &9_u32.to_be_bytes()), ("public_key", b"short")];
    let mark: Command<'_> = &[("cmd", b"set"), ("fwmark", &8_u32.to_be_bytes())];
    let version: Command<'_> = &[("cmd", b"version")];
    let (status, all) = answers(&call(&tunnel, &request(&[&[mark, bad], &[version]])));
    assert_eq!(status, Status::Nak);
    let names: Vec<_> = all.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["result", "error", "result"]);
    assert_eq!(text(&tunnel), "fwmark=8\n");
    // Each answer has the copy of its command.
    for ((_, _, copy), command) in all.iter().zip([mark, bad, version]) {
        assert!(copy.iter().map(|(name, value)| (name.as_str(), &value[..])).eq(command.iter().copied()));
    }
    let (status, all) = answers(&call(&tunnel, &request(&[&[version, version]])));
    assert_eq!((status, all.len()), (Status::Ack, 2));
}

#[test]
fn what_is_wrong_with_a_command_is_an_answer() {
    let tunnel = tunnel();
    for (command, name, complaint) in [
        (&[("cmd", &b"ping"[..])][..], "unsupported", "there is no such command"),
        (&[("cmd", b"")], "unsupported", "there is no such command"),
        (&[("", b"get")], "invalid", "the first field is not \"cmd\""),
        (&[("id", b""), ("cmd", b"get")], "invalid", "the first field is not \"cmd\""),
        (&[("cmd", b"get"), ("format", b"xml")], "invalid", "format: "),
        (&[("cmd", b"get"), ("secrets", b"true")], "invalid", "secrets: "),
        (&[("cmd", b"get"), ("secrets", &[1]), ("secrets", &[0])], "invalid", "secrets: twice"),
        (&[("cmd", b"get"), ("id", b""), ("id", b"")], "invalid", "id: twice"),
        (&[("cmd", b"stats"), ("x", b"")], "invalid", "x: there is no such field"),
        (&[("cmd", b"version"), ("cmd", b"version")], "invalid", "cmd: there is no such field"),
        (&[("cmd", b"peers"), ("public_key", b"x")], "invalid", "public_key: 1 bytes, not 32"),
        (&[("cmd", b"events"), ("max", b"1")], "invalid", "max: 1 bytes, not 4"),
        (&[("cmd", b"events"), ("wait", b"1")], "invalid", "wait: 1 bytes, not 4"),
        (&[("cmd", b"set")], "invalid", "there is nothing to set"),
        (&[("cmd", b"set"), ("uapi", b"listen_port")], "protocol", "uapi: line 1: not of the form key=value"),
        (&[("cmd", b"set"), ("public_key", &PEER), ("endpoint", b"example.com:1")], "invalid", "field 2: endpoint"),
    ] {
        let (found, said) = error(&call(&tunnel, &one(command)));
        assert_eq!(found, name, "{command:?}: {said}");
        assert!(said.contains(complaint), "{command:?}: {said}");
    }
    assert_eq!(text(&tunnel), "");
}

#[test]
fn a_request_that_cannot_be_read_is_refused_as_a_whole() {
    let tunnel = tunnel();
    let options = WriteOptions { checksum: true, ..WriteOptions::default() };
    let set = [("cmd", &b"set"[..]), ("fwmark", &[0, 0, 0, 1])];
    let good = request_with(&[&[&set]], options);
    let mut damaged = good.clone();
    let last = damaged.len() - 3;
    damaged[last] ^= 2;
    let mut version = good.clone();
    version[9] = 2;
    for (bytes, name) in [
        (&damaged[..], "protocol"),
        (&version, "unsupported"),
        (&good[..good.len() - 1], "protocol"),
        (&[good.clone(), vec![0]].concat(), "protocol"),
        (&call(&tunnel, &one(&[("cmd", b"version")])), "protocol"),
        (b"", "protocol"),
        (b"get=1\n\n", "protocol"),
    ] {
        let response = call(&tunnel, bytes);
        assert_eq!(error(&response).0, name, "{bytes:?}");
        assert_eq!(answers(&response).1[0].2, [(String::new(), Vec::new())], "there is no record to copy");
    }
    assert_eq!(text(&tunnel), "");
    result(&call(&tunnel, &good));
    assert_eq!(text(&tunnel), "fwmark=1\n");
}

#[test]
fn a_response_has_the_order_of_its_request() {
    let tunnel = tunnel();
    let little =
        request_with(&[&[&[("cmd", b"version")]]], WriteOptions { order: Order::Little, ..WriteOptions::default() });
    assert_eq!(error(&call(&tunnel, &little)).0, "too_large", "it is a large number in the other order");
    let reading = ReadOptions { order: Order::Little, ..ReadOptions::default() };
    for options in
        [Options { order: Order::Little, ..Options::default() }, Options { any_order: true, ..Options::default() }]
    {
        let response = Session::new(options, None).call(&tunnel, &little);
        assert_eq!(answers_with(&response, &reading).0, Status::Ack);
    }
    let both = ReadOptions { tolerance: Tolerance { other_order: true, ..Tolerance::default() }, ..reading };
    let refused = Session::new(Options { order: Order::Little, ..Options::default() }, None).call(&tunnel, b"");
    assert_eq!(answers_with(&refused, &both).0, Status::Nak);
}

#[test]
fn limits_are_kept_and_nothing_is_done_beyond_them() {
    let tunnel = tunnel();
    let mark: Command<'_> = &[("cmd", b"set"), ("fwmark", &[0, 0, 0, 1])];
    let three = request(&[&[mark, mark], &[mark]]);
    let with = |options: Options| Session::new(options, None).call(&tunnel, &three);
    for (options, complaint) in [
        (Options { commands: 2, ..Options::default() }, "3 commands are more than 2"),
        (Options { request: three.len() - 1, ..Options::default() }, "more than the limit"),
        (Options { response: 1000, ..Options::default() }, "the response would exceed its limit"),
    ] {
        let (name, text) = error(&with(options));
        assert!(name == "too_large" && text.contains(complaint), "{name}: {text}");
    }
    assert_eq!(text(&tunnel), "");
    assert_eq!(answers(&with(Options { request: three.len(), commands: 3, ..Options::default() })).0, Status::Ack);
}

#[test]
fn an_answer_that_does_not_fit_is_an_error_and_the_others_are_there() {
    let tunnel = tunnel();
    let many: String = (0_u32..200).fold("public_key=".to_owned() + &"ab".repeat(32) + "\n", |text, n| {
        text + &format!("allowed_ip=10.0.{n}.0/24\n")
    });
    result(&call(&tunnel, &one(&[("cmd", b"set"), ("uapi", many.as_bytes())])));
    let commands: [Command<'_>; 5] = [
        &[("cmd", b"version")],
        &[("cmd", b"get")],
        &[("cmd", b"get"), ("format", b"json")],
        &[("cmd", b"peers")],
        &[("cmd", b"version")],
    ];
    let options = Options { response: 5000, ..Options::default() };
    let response = Session::new(options, None).call(&tunnel, &request(&[&commands]));
    assert!(response.len() <= 5000);
    let (status, all) = answers(&response);
    assert_eq!(status, Status::Nak);
    let names: Vec<_> = all.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["result", "error", "error", "error", "result"]);
    assert!(all[1..4].iter().all(|(_, value, _)| json(value)["error"] == "too_large"));
}

fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = prop_oneof![
        Just("cmd".to_owned()),
        Just("uapi".to_owned()),
        Just("public_key".to_owned()),
        Just("endpoint".to_owned()),
        Just("fwmark".to_owned()),
        ".{0,8}",
    ];
    let value = prop_oneof![
        prop::sample::select(vec!["get", "set", "stats", "events", "peers", "version", "fwmark=1\n"])
            .prop_map(|text| text.as_bytes().to_vec()),
        vec(any::<u8>(), 0..40),
        any::<[u8; 32]>().prop_map(Vec::from),
    ];
    let first = value.clone().prop_map(|value| ("cmd".to_owned(), value));
    (first, vec((name, value), 0..5)).prop_map(|(first, mut others)| {
        others.insert(0, first);
        others
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Any commands: there is an answer for each, in its place, with its copy; and a limit is never passed.
    #[test]
    fn each_command_has_its_answer(groups in vec(vec(fields(), 1..4), 1..4), response in 0_usize..8000, order: bool) {
        let tunnel = tunnel();
        let order = if order { Order::Big } else { Order::Little };
        let mut builder = Builder::new(Kind::Request, WriteOptions { order, ..WriteOptions::default() });
        for group in &groups {
            builder.group().unwrap();
            for command in group {
                builder.record().unwrap();
                for (name, value) in command {
                    builder.pair(name, value).unwrap();
                }
            }
        }
        let bytes = builder.finish().unwrap();
        let options = Options { response, order, ..Options::default() };
        let answered = Session::new(options, Some(Arc::default())).call(&tunnel, &bytes);
        let (status, answers) = answers_with(&answered, &ReadOptions { order, ..ReadOptions::default() });
        let commands: Vec<_> = groups.iter().flatten().collect();
        if answers[0].2 == [(String::new(), Vec::new())] {
            prop_assert_eq!((status, answers.len()), (Status::Nak, 1));
            prop_assert_eq!(&json(&answers[0].1)["error"], "too_large");
        } else {
            prop_assert!(answered.len() <= response);
            prop_assert_eq!(answers.len(), commands.len());
            prop_assert_eq!(status == Status::Nak, answers.iter().any(|(name, ..)| name == "error"));
            for ((_, _, copy), command) in answers.iter().zip(commands) {
                prop_assert_eq!(copy, command);
            }
        }
    }
}
