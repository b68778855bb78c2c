//! DNS messages as a server makes them.

use std::net::IpAddr;

pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const SOA: u16 = 6;
pub(crate) const AAAA: u16 = 28;

pub(crate) const TRUNCATED: u16 = 0x0200;
pub(crate) const RECURSION_AVAILABLE: u16 = 0x0080;
pub(crate) const RESPONSE: u16 = 0x8000;

/// The name, as `a.b`, and the type that a message asks for.
pub(crate) fn question(query: &[u8]) -> (String, u16) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]))
}

/// A name as in a message.
pub(crate) fn name(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// The answer to a query.
pub(crate) struct Response {
    message: Vec<u8>,
}

impl Response {
    /// Without records; flags and rcode are added to those of a recursive server.
    pub(crate) fn to(query: &[u8], flags: u16) -> Self {
        let end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 5;
        let mut message = query[..end].to_vec();
        message[2..4].copy_from_slice(&(RESPONSE | RECURSION_AVAILABLE | 0x0100 | flags).to_be_bytes());
        message[6..12].fill(0);
        Self { message }
    }

    fn record(mut self, section: usize, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Self {
        let count = u16::from_be_bytes([self.message[section], self.message[section + 1]]) + 1;
        self.message[section..section + 2].copy_from_slice(&count.to_be_bytes());
        self.message.extend_from_slice(owner);
        self.message.extend_from_slice(&kind.to_be_bytes());
        self.message.extend_from_slice(&1_u16.to_be_bytes());
        self.message.extend_from_slice(&ttl.to_be_bytes());
        self.message.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        self.message.extend_from_slice(data);
        self
    }

    /// A record of the answer, its name as in a message.
    pub(crate) fn answer(self, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.record(6, owner, kind, ttl, data)
    }

    /// An address of the name that was asked for, which is pointed to.
    pub(crate) fn address(self, address: IpAddr, ttl: u32) -> Self {
        match address {
            IpAddr::V4(v4) => self.answer(&[0xc0, 12], A, ttl, &v4.octets()),
            IpAddr::V6(v6) => self.answer(&[0xc0, 12], AAAA, ttl, &v6.octets()),
        }
    }

    /// An alias.
    pub(crate) fn alias(self, from: &str, to: &str, ttl: u32) -> Self {
        self.answer(&name(from), CNAME, ttl, &name(to))
    }

    /// The SOA record of a negative answer.
    pub(crate) fn soa(self, ttl: u32, minimum: u32) -> Self {
        let mut data = [name("ns.example"), name("root.example")].concat();
        data.extend_from_slice(&[0; 16]);
        data.extend_from_slice(&minimum.to_be_bytes());
        self.record(8, &name("example"), SOA, ttl, &data)
    }

    pub(crate) fn build(self) -> Vec<u8> {
        self.message
    }
}
