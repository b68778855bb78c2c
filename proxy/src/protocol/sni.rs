//! The server's name in a TLS ClientHello (RFC 8446, RFC 6066). The bytes are passed on unchanged.

use super::Step;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: usize = 0;

/// Alerts, each in its record.
pub(super) const INTERNAL_ERROR: [u8; 7] = alert(80);
pub(super) const DECODE_ERROR: [u8; 7] = alert(50);
const UNRECOGNIZED_NAME: [u8; 7] = alert(112);

const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

pub(super) fn step(input: &[u8], out: &mut Vec<u8>) -> Step {
    match hello(input) {
        Some(Ok(hello)) => match name(&hello) {
            Some(name) => return Step::Dial(format!("{name}:443")),
            None => out.extend(UNRECOGNIZED_NAME),
        },
        // A client of another protocol does not understand alerts either.
        Some(Err(())) => {}
        None => return Step::More,
    }
    Step::End
}

/// Returns the ClientHello, reassembled from its records; `None` if it is incomplete.
fn hello(mut input: &[u8]) -> Option<Result<Vec<u8>, ()>> {
    let mut message = Vec::new();
    loop {
        if input.first().is_some_and(|kind| *kind != HANDSHAKE) {
            return Some(Err(()));
        }
        let mut reader = Reader(input);
        let record = reader.skip(3).and_then(|()| reader.part(2))?;
        message.extend(record);
        input = reader.0;
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) || record.is_empty() {
            return Some(Err(()));
        }
        let mut whole = Reader(&message);
        if let Some(body) = whole.skip(1).and_then(|()| whole.part(3)) {
            return Some(Ok(body.to_vec()));
        }
    }
}

fn name(hello: &[u8]) -> Option<String> {
    let mut reader = Reader(hello);
    reader.skip(34)?;
    for length in [1, 2, 1] {
        reader.part(length)?; // session, cipher suites, compression
    }
    let mut extensions = Reader(reader.part(2)?);
    loop {
        let kind = extensions.number(2)?;
        let body = extensions.part(2)?;
        if kind == SERVER_NAME {
            let mut list = Reader(Reader(body).part(2)?);
            if list.number(1)? != 0 {
                return None;
            }
            let name = str::from_utf8(list.part(2)?).ok()?;
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            return (!name.is_empty() && name.bytes().all(is_name)).then(|| name.to_owned());
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn skip(&mut self, length: usize) -> Option<()> {
        self.0 = self.0.get(length..)?;
        Some(())
    }

    fn number(&mut self, length: usize) -> Option<usize> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Reads a vector whose length field has `length` bytes.
    fn part(&mut self, length: usize) -> Option<&'a [u8]> {
        let length = self.number(length)?;
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(length: usize, bytes: &[u8]) -> Vec<u8> {
        [&bytes.len().to_be_bytes()[8 - length..], bytes].concat()
    }

    /// A ClientHello in records of `record` bytes.
    fn client_hello(name: &str, record: usize) -> Vec<u8> {
        let names = part(2, &[&[0][..], &part(2, name.as_bytes())].concat());
        let extensions = [&[0, 43][..], &part(2, &[3, 4]), &[0, 0], &part(2, &names)].concat();
        let body =
            [&[3; 34][..], &part(1, &[7; 32]), &part(2, &[0x13, 1]), &part(1, &[0]), &part(2, &extensions)].concat();
        let message = [&[1][..], &part(3, &body)].concat();
        message.chunks(record).flat_map(|chunk| [&[22, 3, 1][..], &part(2, chunk)].concat()).collect()
    }

    fn run(bytes: &[u8]) -> (Step, Vec<u8>) {
        let mut out = Vec::new();
        (step(bytes, &mut out), out)
    }

    #[test]
    fn the_name_in_one_or_many_records() {
        for record in [1, 50, 1000] {
            let bytes = client_hello("www.example.org", record);
            assert_eq!(run(&bytes).0, Step::Dial("www.example.org:443".into()));
            for length in 0..bytes.len() {
                assert_eq!(run(&bytes[..length]).0, Step::More, "{length}");
            }
        }
    }

    #[test]
    fn anything_else_ends() {
        assert_eq!(run(b"GET / HTTP/1.1"), (Step::End, vec![]));
        for name in ["", "a:b"] {
            assert_eq!(run(&client_hello(name, 1000)), (Step::End, UNRECOGNIZED_NAME.to_vec()));
        }
    }
}
