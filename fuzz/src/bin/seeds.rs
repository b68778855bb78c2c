//! `seeds DIRECTORY` writes a few inputs for each target below `DIRECTORY/TARGET`, from which a fuzzer goes on.

use std::{env, fs, io, net::IpAddr, path::Path};

use wg_embed_fuzz::{ip, packet};
use wg_embed_wireproto::{Kind, NewRecord, Order, Pair, Status, WriteOptions, encode};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn main() -> io::Result<()> {
    let Some(directory) = env::args_os().nth(1) else {
        return Err(io::Error::other("usage: seeds DIRECTORY"));
    };
    let targets = [
        ("netstack_ingress", ingress()),
        ("netstack_fragments", fragments()),
        ("netstack_dns", dns()),
        ("wireproto", wireproto()),
        ("wireproto_service", service()),
        ("manager_stream", manager()),
    ];
    for (target, seeds) in targets {
        let directory = Path::new(&directory).join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}

/// Records of `kind` and a length.
fn records<'a>(all: impl IntoIterator<Item = (u8, &'a [u8])>) -> Vec<u8> {
    let mut input = Vec::new();
    for (kind, bytes) in all {
        input.extend([kind, bytes.len() as u8]);
        input.extend_from_slice(bytes);
    }
    input
}

/// A TCP segment from port 9 to `port`.
fn segment(port: u16, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let words = 5 + options.len() as u8 / 4;
    let head = [0, 9, high, low, 0, 0, 0, 1, 0, 0, 0, 0, words << 4, flags, 4, 0, 0, 0, 0, 0];
    [&head, options, data].concat()
}

/// A datagram from port 9 to `port`.
fn datagram(port: u16, data: &[u8]) -> Vec<u8> {
    let ([high, low], len) = (port.to_be_bytes(), 8 + data.len() as u8);
    [&[0, 9, high, low, 0, len, 0, 0], data].concat()
}

fn ingress() -> Vec<Vec<u8>> {
    const REPAIRED: u8 = 2;
    const AS_IT_IS: u8 = 1;
    let mut seeds = Vec::new();
    for (peer, own, other, icmp, quoted_at) in
        [("10.0.0.1", "10.0.0.2", "192.0.2.1", 1, 28), ("fd00::1", "fd00::2", "2001:db8::1", 58, 48)]
    {
        let (peer, own, other): (IpAddr, IpAddr, IpAddr) = (ip(peer), ip(own), ip(other));
        let (request, unreachable, too_big) = if icmp == 1 { (8, [3, 3], [3, 4]) } else { (128, [1, 4], [2, 0]) };
        let syn = segment(80, 2, &[2, 4, 5, 120, 4, 2, 1, 1, 3, 3, 7, 0], &[]);
        let quoted = packet(own, peer, UDP, &datagram(7, b"quoted"));
        let to_peer = |payload: &[u8]| packet(peer, own, icmp, payload);
        for payloads in [
            vec![packet(peer, own, TCP, &syn), packet(peer, own, TCP, &segment(80, 16, &[], b"data"))],
            vec![packet(peer, other, TCP, &syn), packet(peer, other, TCP, &segment(80, 17, &[], &[]))],
            vec![packet(peer, own, UDP, &datagram(7, b"hello")), packet(peer, other, UDP, &datagram(53, b"hello"))],
            vec![to_peer(&[&[request, 0, 0, 0, 0, 7, 0, 1][..], b"ping"].concat())],
            vec![to_peer(&[&unreachable[..], &[0; 6], &quoted].concat())],
            vec![to_peer(&[&too_big[..], &[0, 0, 0, 0, 5, 0], &quoted].concat())],
        ] {
            assert!(payloads.iter().all(|packet| packet.len() > quoted_at - 8 && packet.len() < 256));
            let packets = payloads.iter().map(|packet| (REPAIRED, &packet[..]));
            // Time passes: a record without bytes.
            let mut input = records(packets);
            input.extend([0, 40, 0, 255]);
            seeds.push(input);
        }
        seeds.push(records([(AS_IT_IS, &packet(peer, own, UDP, &[0; 8])[..])]));
    }
    seeds
}

fn fragments() -> Vec<Vec<u8>> {
    const PIECE: u8 = 1;
    const TIME: u8 = 0;
    const FALSE_END: u8 = 0x41;
    [20, 21]
        .into_iter()
        .flat_map(|number| {
            let (first, rest) = ([PIECE, number, 0, 60], [PIECE, number, 60, 255]);
            [
                [first, rest].concat(),
                [rest, first].concat(),
                [first, [PIECE, number, 60, 60], [PIECE, number, 120, 255]].concat(),
                [first, first, [PIECE, number, 59, 255], rest].concat(),
                [[FALSE_END, number, 60, 20], first, rest].concat(),
                [first, [TIME, 31, 0, 0], [TIME, 31, 0, 0], rest].concat(),
                [first, [PIECE, number - 2, 0, 60], rest, [PIECE, number - 2, 60, 255]].concat(),
            ]
        })
        .collect()
}

fn dns() -> Vec<Vec<u8>> {
    const SILENCE: u8 = 0;
    const WHOLE: u8 = 1;
    const ANSWER: u8 = 2;
    // Flags, and the counts of answers, authorities and others.
    let head = |flags: [u8; 2], counts: [u8; 3]| vec![flags[0], flags[1], 0, counts[0], 0, counts[1], 0, counts[2]];
    let good = [0x81, 0x80];
    let record = |owner: &[u8], kind: u8, data: &[u8]| {
        [owner, &[0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8], data].concat()
    };
    let question: &[u8] = &[0xc0, 12];
    let a = record(question, 1, &[192, 0, 2, 1]);
    let aaaa = record(question, 28, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let alias = record(question, 5, b"\x01c\x07example\0");
    let target = record(b"\x01c\x07example\0", 1, &[192, 0, 2, 2]);
    let soa = record(question, 6, &[&[0, 0][..], &[0; 19], &[60]].concat());
    let loops = record(question, 5, question);
    let both = [head(good, [2, 0, 0]), a.clone(), aaaa.clone()].concat();
    let aliases = [head(good, [2, 0, 0]), alias, target].concat();
    let missing = [head([0x81, 0x83], [0, 1, 0]), soa].concat();
    let truncated = [head([0x83, 0x80], [0, 0, 0])].concat();
    let endless = [head(good, [1, 0, 0]), loops].concat();
    let refused = head([0x81, 0x85], [0, 0, 0]);
    let no_edns = head([0x81, 0x81], [0, 0, 0]);
    let forged: &[u8] = &[7; 40];
    [
        records([(ANSWER, &both[..]); 6]),
        records([(ANSWER, &aliases[..]); 6]),
        records([(ANSWER, &missing[..]); 6]),
        records([(ANSWER, &truncated[..]), (ANSWER, &truncated), (ANSWER, &both), (ANSWER, &both)]),
        records([(ANSWER, &endless[..]); 4]),
        records([(ANSWER, &refused[..]), (ANSWER, &no_edns), (ANSWER, &both), (ANSWER, &both)]),
        records([(SILENCE, &[][..]), (WHOLE, forged), (ANSWER, &both), (SILENCE, &[]), (ANSWER, &both)]),
    ]
    .to_vec()
}

fn wireproto() -> Vec<Vec<u8>> {
    let asked = [Pair::new("cmd", b"ping"), Pair::new("", &[0, 255])];
    let answered = [Pair::new("result", b"pong")];
    let mut seeds = Vec::new();
    for (little, order) in [(0, Order::Big), (1, Order::Little)] {
        for (kind, checksum) in [
            (Kind::Request, false),
            (Kind::Request, true),
            (Kind::Response(Status::Ack), true),
            (Kind::Response(Status::Nak), true),
        ] {
            let record = match kind {
                Kind::Request => NewRecord { pairs: &asked, copy: None },
                Kind::Response(_) => NewRecord { pairs: &answered, copy: Some(&asked) },
            };
            let options = WriteOptions { order, checksum, ..WriteOptions::default() };
            let message = encode(kind, &[&[record, record], &[record]], &options).unwrap();
            // Strict, and with every tolerance; in pieces of 255 bytes and of 7.
            seeds.push([&[0, little, 255], &message[..]].concat());
            seeds.push([&[0x7f, 1 - little, 7], &message[..]].concat());
        }
    }
    seeds
}

fn service() -> Vec<Vec<u8>> {
    let key: &[u8] = &[7; 32];
    let set = [
        Pair::new("cmd", b"set"),
        Pair::new("listen_port", &[0, 1]),
        Pair::new("public_key", key),
        Pair::new("endpoint", b"192.0.2.1:1"),
        Pair::new("allowed_ip", b"10.0.0.0/8"),
    ];
    let text = [Pair::new("cmd", b"set"), Pair::new("uapi", b"fwmark=1\nreplace_peers=true\n")];
    let get = [Pair::new("cmd", b"get"), Pair::new("format", b"json"), Pair::new("secrets", &[1])];
    let peers = [Pair::new("cmd", b"peers"), Pair::new("public_key", key)];
    let others = ["get", "stats", "events", "peers", "version"].map(|name| [Pair::new("cmd", name.as_bytes())]);
    let record = |pairs| NewRecord { pairs, copy: None };
    let options = WriteOptions { checksum: true, ..WriteOptions::default() };
    let all: Vec<_> = others.iter().map(|pairs| record(&pairs[..])).collect();
    let changes = [record(&set), record(&get), record(&peers), record(&text)];
    let messages = [encode(Kind::Request, &[&changes], &options), encode(Kind::Request, &[&all, &all], &options)];
    let messages = messages.map(Result::unwrap);
    let both = messages.concat();
    messages
        .iter()
        .chain([&both])
        .flat_map(|message| [[&[255, 255, 255], &message[..]].concat(), [&[7, 16, 0], &message[..]].concat()])
        .collect()
}

/// The recorded conversations: what a manager receives, and a tunnel.
fn manager() -> Vec<Vec<u8>> {
    let transcripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control/manager/tests/transcripts");
    let mut seeds = Vec::new();
    for name in ["full", "settings-refused", "start-fails", "stop-first", "frames"] {
        let text = fs::read_to_string(transcripts.join(name).with_extension("txt")).unwrap();
        for (first, sides, header) in [
            (0xfc, "T", ""),
            (0x15, "M", ""),
            (0xfe, "C", "codervpn client 1.1\n"),
            (0xff, "S", "codervpn 1.1 service\n"),
        ] {
            let mut seed = vec![first];
            seed.extend_from_slice(header.as_bytes());
            for line in text.lines() {
                let Some((by, hex)) = line.split_once("> ") else { continue };
                if by == sides && hex != "EOF" {
                    seed.extend((0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()));
                }
            }
            if seed.len() > 30 {
                seeds.push(seed);
            }
        }
    }
    assert!(seeds.len() >= 8);
    seeds
}
