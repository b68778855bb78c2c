//! SOCKS5 (RFC 1928), with user and password (RFC 1929).

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{Step, datagram::put_address};
use crate::Login;

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;
const NOTHING: u8 = 0xff;
const CONNECT: u8 = 1;
const BIND: u8 = 2;
const ASSOCIATE: u8 = 3;

/// One client.
pub(crate) struct Socks5 {
    login: Option<Login>,
    /// Whether BIND is served.
    bind: bool,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Methods,
    Login,
    Request,
}

impl Socks5 {
    pub(crate) const fn new(login: Option<Login>, bind: bool) -> Self {
        Self { login, bind, stage: Stage::Methods }
    }

    pub(super) fn step(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Step {
        loop {
            let done = match self.stage {
                Stage::Methods => self.methods(input, out),
                Stage::Login => self.check(input, out),
                Stage::Request => return request(self.bind, input, out),
            };
            match done {
                Ok(length) => drop(input.drain(..length)),
                Err(step) => return step,
            }
        }
    }

    /// Chooses a method. Returns the length of the message.
    fn methods(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Step> {
        let [version, count, rest @ ..] = input else {
            return Err(if matches!(input, [] | [VERSION]) { Step::More } else { Step::End });
        };
        if *version != VERSION {
            return Err(Step::End);
        }
        let methods = rest.get(..usize::from(*count)).ok_or(Step::More)?;
        let (wanted, next) = match self.login {
            Some(_) => (PASSWORD, Stage::Login),
            None => (NO_LOGIN, Stage::Request),
        };
        if !methods.contains(&wanted) {
            out.extend([VERSION, NOTHING]);
            return Err(Step::End);
        }
        out.extend([VERSION, wanted]);
        self.stage = next;
        Ok(2 + methods.len())
    }

    fn check(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Step> {
        if input.first().is_some_and(|version| *version != 1) {
            return Err(Step::End);
        }
        let [_, name, rest @ ..] = input else {
            return Err(Step::More);
        };
        let (name, rest) = rest.split_at_checked(usize::from(*name)).ok_or(Step::More)?;
        let (password, rest) = rest.split_first().ok_or(Step::More)?;
        let password = rest.get(..usize::from(*password)).ok_or(Step::More)?;
        if !self.login.as_ref().is_some_and(|login| login.is(name, password)) {
            out.extend([1, 1]);
            return Err(Step::End);
        }
        out.extend([1, 0]);
        self.stage = Stage::Request;
        Ok(3 + name.len() + password.len())
    }
}

fn request(bind: bool, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Step {
    if input.first().is_some_and(|version| *version != VERSION) {
        return Step::End;
    }
    let [_, command, _, kind, rest @ ..] = &input[..] else {
        return Step::More;
    };
    let (length, offset) = match (kind, rest.first()) {
        (1, _) => (4, 0),
        (4, _) => (16, 0),
        (3, Some(length)) => (usize::from(*length), 1),
        (3, None) => return Step::More,
        _ => return refuse(out, 8),
    };
    let Some((host, port)) = rest.get(offset..offset + length + 2).and_then(|part| part.split_at_checked(length))
    else {
        return Step::More;
    };
    let command = *command;
    let port = port.iter().fold(0, |port: u16, byte| port << 8 | u16::from(*byte));
    let v4 = <[u8; 4]>::try_from(host).map(Ipv4Addr::from);
    let v6 = <[u8; 16]>::try_from(host).map(Ipv6Addr::from);
    let address = match (kind, v4, v6) {
        (1, Ok(address), _) => Some(IpAddr::V4(address)),
        (4, _, Ok(address)) => Some(IpAddr::V6(address)),
        _ => None,
    };
    let step = match (command, address, str::from_utf8(host)) {
        (CONNECT, Some(address), _) => Step::Dial(SocketAddr::new(address, port).to_string()),
        (CONNECT, None, Ok(name)) if name.contains(':') => Step::Dial(format!("[{name}]:{port}")),
        (CONNECT, None, Ok(name)) => Step::Dial(format!("{name}:{port}")),
        (CONNECT, None, Err(_)) => return refuse(out, 1),
        // Its own address, as the client believes: only the address of the connection is ever used.
        (ASSOCIATE, ..) => Step::Associate(Some(port).filter(|port| *port != 0)),
        (BIND, ..) if !bind => return refuse(out, 7),
        (BIND, Some(address), _) => Step::Bind(SocketAddr::new(address, port)),
        (BIND, None, _) => return refuse(out, 8),
        _ => return refuse(out, 7),
    };
    let total = 4 + offset + length + 2;
    input.drain(..total);
    step
}

fn refuse(out: &mut Vec<u8>, code: u8) -> Step {
    out.extend(message(code, None));
    Step::End
}

fn message(code: u8, at: Option<SocketAddr>) -> Vec<u8> {
    let mut message = vec![VERSION, code, 0];
    put_address(&mut message, at.unwrap_or_else(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)));
    message
}

/// Returns the reply to a request.
pub(crate) fn reply(outcome: Result<Option<SocketAddr>, &io::Error>) -> Vec<u8> {
    let code = match outcome.map_err(io::Error::kind) {
        Ok(at) => return message(0, at),
        Err(ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable) => 3,
        Err(ErrorKind::HostUnreachable | ErrorKind::NotFound) => 4,
        Err(ErrorKind::ConnectionRefused) => 5,
        Err(ErrorKind::TimedOut) => 6,
        Err(ErrorKind::Unsupported) => 7,
        Err(_) => 1,
    };
    message(code, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(login: Option<Login>, bytes: &[u8]) -> (Step, Vec<u8>, Vec<u8>) {
        run_with(Socks5::new(login, true), bytes)
    }

    fn run_with(mut socks5: Socks5, bytes: &[u8]) -> (Step, Vec<u8>, Vec<u8>) {
        let (mut input, mut out) = (Vec::new(), Vec::new());
        let mut step = Step::More;
        for byte in bytes {
            assert_eq!(step, Step::More, "nothing is decided before the last byte");
            input.push(*byte);
            step = socks5.step(&mut input, &mut out);
        }
        (step, input, out)
    }

    fn login() -> Option<Login> {
        Some(Login::new("me", "pw"))
    }

    #[test]
    fn targets_byte_by_byte() {
        let v4 = run(None, b"\x05\x01\0\x05\x01\0\x01\x0a\0\0\x01\0\x50");
        assert_eq!(v4, (Step::Dial("10.0.0.1:80".into()), vec![], vec![5, 0]));
        let name = run(None, b"\x05\x02\x02\0\x05\x01\0\x03\x03a.b\x01\xbb");
        assert_eq!(name.0, Step::Dial("a.b:443".into()));
        let v6 = run(None, b"\x05\x01\0\x05\x01\0\x04\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01");
        assert_eq!(v6.0, Step::Dial("[fd00::1]:1".into()));
    }

    #[test]
    fn logins() {
        let good = run(login(), b"\x05\x02\0\x02\x01\x02me\x02pw\x05\x01\0\x01\x01\x01\x01\x01\0\x01");
        assert_eq!((good.0, good.2), (Step::Dial("1.1.1.1:1".into()), vec![5, 2, 1, 0]));
        let bad = run(login(), b"\x05\x01\x02\x01\x02me\x02px");
        assert_eq!((bad.0, bad.2), (Step::End, vec![5, 2, 1, 1]));
        assert_eq!(run(login(), b"\x05\x01\0").2, [5, 0xff]);
    }

    #[test]
    fn bind_and_associate() {
        let bind = run(None, b"\x05\x01\0\x05\x02\0\x01\x01\x01\x01\x01\0\x01");
        assert_eq!(bind.0, Step::Bind(([1, 1, 1, 1], 1).into()));
        for (port, expected) in [(0, None), (9, Some(9))] {
            let associate = run(None, &[5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, port]);
            assert_eq!(associate.0, Step::Associate(expected));
        }
        let at = ([10, 0, 0, 1], 258).into();
        assert_eq!(reply(Ok(Some(at))), [5, 0, 0, 1, 10, 0, 0, 1, 1, 2]);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        let unknown = run(None, b"\x05\x01\0\x05\x09\0\x01\x01\x01\x01\x01\0\x01");
        assert_eq!((unknown.0, unknown.2[3]), (Step::End, 7));
        let named = run(None, b"\x05\x01\0\x05\x02\0\x03\x01a\0\x01");
        assert_eq!((named.0, named.2[3]), (Step::End, 8));
        let bind = run_with(Socks5::new(None, false), b"\x05\x01\0\x05\x02\0\x01\x01\x01\x01\x01\0\x01");
        assert_eq!((bind.0, bind.2[3]), (Step::End, 7));
        assert_eq!(run(None, b"\x04").0, Step::End);
    }
}
