//! Messages: writes a query with one question, and reads its response.

use std::{net::IpAddr, time::Duration};

use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData, DnsRepr,
};

use super::name::Name;

/// The maximum size of a response over UDP, which all paths carry in one piece (the DNS flag day of 2020).
pub(super) const UDP_SIZE: u16 = 1232;
/// The maximum number of records of a response that are read.
const MAX_RECORDS: usize = 256;
/// The maximum number of aliases between a name and its addresses.
const MAX_ALIASES: usize = 16;
/// The maximum number of addresses of a response.
const MAX_ADDRESSES: usize = 32;
/// The maximum time for which a response is cached.
const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The maximum time for which a missing name or address is cached.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(15 * 60);

/// The requested address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    A,
    Aaaa,
}

impl Kind {
    fn number(self) -> DnsQueryType {
        match self {
            Self::A => DnsQueryType::A,
            Self::Aaaa => DnsQueryType::Aaaa,
        }
    }
}

/// A question in a query.
pub(super) struct Asked {
    pub(super) id: u16,
    /// The name as in the message, in random case.
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    /// Whether the message has an OPT record: RFC 6891.
    pub(super) edns: bool,
}

/// The meaning of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The addresses, valid for a time.
    Found(Vec<IpAddr>, Duration),
    /// There is no such name or no such address, which may be cached for a time (zero: not at all).
    Nothing(Duration),
    /// The server cannot or does not want to respond.
    Failed,
    /// The server does not support EDNS.
    WithoutEdns,
    /// The response did not fit, or may be forged: repeat the query over TCP.
    OverTcp,
}

impl Asked {
    /// Returns the message.
    pub(super) fn to_message(&self) -> Vec<u8> {
        let question = DnsQuestion { name: &self.name, type_: self.kind.number() };
        let repr =
            DnsRepr { transaction_id: self.id, opcode: DnsOpcode::Query, flags: DnsFlags::RECURSION_DESIRED, question };
        let mut message = vec![0; repr.buffer_len()];
        let mut packet = DnsPacket::new_unchecked(&mut message[..]);
        repr.emit(&mut packet);
        if self.edns {
            packet.set_additional_record_count(1);
            let [high, low] = UDP_SIZE.to_be_bytes();
            // The root's name, OPT, the size, version 0 without flags or options.
            message.extend_from_slice(&[0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]);
        }
        message
    }

    /// Reads a response; returns `None` if it does not belong to this question, or is malformed. Over TCP (`tcp`) it
    /// cannot be forged off-path, and its size is not limited.
    pub(super) fn read(&self, message: &[u8], tcp: bool) -> Option<Reply> {
        let packet = DnsPacket::new_checked(message).ok()?;
        let (flags, rcode) = (packet.flags(), packet.rcode());
        let answers = packet.transaction_id() == self.id
            && flags.contains(DnsFlags::RESPONSE)
            && packet.opcode() == DnsOpcode::Query;
        if !answers {
            return None;
        }
        if packet.question_count() == 0 {
            // Servers without EDNS may return only the header.
            return (rcode != DnsRcode::NoError).then(|| self.failure(rcode));
        }
        if packet.question_count() != 1 {
            return None;
        }
        let (records, question) = DnsQuestion::parse(packet.payload()).ok()?;
        let name = Name::from_labels(packet.parse_name(question.name))?;
        if question.type_ != self.kind.number() || !self.name.eq_ignore_ascii_case(name.as_bytes()) {
            return None;
        }
        if !tcp && (flags.contains(DnsFlags::TRUNCATED) || question.name != &self.name[..]) {
            return Some(Reply::OverTcp);
        }
        if !matches!(rcode, DnsRcode::NoError | DnsRcode::NXDomain) {
            return Some(self.failure(rcode));
        }
        let answers = Records { rest: records, left: packet.answer_record_count() };
        if rcode == DnsRcode::NoError {
            let knows = flags.intersects(DnsFlags::RECURSION_AVAILABLE | DnsFlags::AUTHORITATIVE);
            if packet.answer_record_count() == 0 && !knows {
                return Some(Reply::Failed); // It only knows other servers.
            }
            if let Some(reply) = self.addresses(&packet, answers.clone(), name)? {
                return Some(reply);
            }
        }
        let authorities = answers.end().map(|rest| Records { rest, left: packet.authority_record_count() });
        Some(Reply::Nothing(authorities.map_or(Duration::ZERO, negative_ttl)))
    }

    fn failure(&self, rcode: DnsRcode) -> Reply {
        match rcode {
            DnsRcode::FormErr | DnsRcode::NotImp if self.edns => Reply::WithoutEdns,
            _ => Reply::Failed,
        }
    }

    /// Returns the addresses of `name` in the answers, following its aliases: `Some(None)` if there is no address,
    /// `None` if they are malformed.
    fn addresses(&self, packet: &DnsPacket<&[u8]>, answers: Records<'_>, mut name: Name) -> Option<Option<Reply>> {
        let mut aliases = Vec::new();
        let mut found = Vec::new();
        for record in answers.take(MAX_RECORDS) {
            let record = record?;
            let owner = || Name::from_labels(packet.parse_name(record.name));
            match record.data {
                DnsRecordData::Cname(to) => {
                    aliases.push((owner()?, Name::from_labels(packet.parse_name(to))?, record.ttl))
                }
                DnsRecordData::A(address) if self.kind == Kind::A => {
                    found.push((owner()?, IpAddr::from(address), record.ttl))
                }
                DnsRecordData::Aaaa(address) if self.kind == Kind::Aaaa => {
                    found.push((owner()?, IpAddr::from(address), record.ttl))
                }
                _ => {}
            }
        }
        let mut ttl = MAX_TTL;
        for _ in 0..=MAX_ALIASES {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for (_, address, its_ttl) in found.iter().filter(|(owner, ..)| *owner == name) {
                if addresses.len() < MAX_ADDRESSES && !addresses.contains(address) {
                    addresses.push(*address);
                }
                ttl = ttl.min(seconds(*its_ttl));
            }
            if !addresses.is_empty() {
                return Some(Some(Reply::Found(addresses, ttl)));
            }
            let Some((_, to, its_ttl)) = aliases.iter().find(|(owner, ..)| *owner == name) else {
                return Some(None);
            };
            ttl = ttl.min(seconds(*its_ttl));
            name = to.clone();
        }
        Some(Some(Reply::Failed))
    }
}

/// An iterator over the records of a section. A malformed record is the last.
#[derive(Clone)]
struct Records<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Records<'a> {
    /// Returns the bytes behind the section; `None` if it is malformed.
    fn end(mut self) -> Option<&'a [u8]> {
        for record in self.by_ref() {
            record?;
        }
        Some(self.rest)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Option<DnsRecord<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let Ok((rest, record)) = DnsRecord::parse(self.rest) else {
            self.left = 0;
            return Some(None);
        };
        self.rest = rest;
        Some(Some(record))
    }
}

/// Returns how long to cache a missing name, by the SOA record: RFC 2308. Without one it is not cached.
fn negative_ttl(authorities: Records<'_>) -> Duration {
    for record in authorities.take(MAX_RECORDS).flatten() {
        if let DnsRecordData::Other(DnsQueryType::Soa, data) = record.data
            && let Some(&minimum) = data.last_chunk()
        {
            return seconds(record.ttl).min(seconds(u32::from_be_bytes(minimum))).min(MAX_NEGATIVE_TTL);
        }
    }
    Duration::ZERO
}

/// Converts a time to live; one with the first bit set is invalid: RFC 2181, 8.
fn seconds(ttl: u32) -> Duration {
    i32::try_from(ttl).map_or(Duration::ZERO, |_| Duration::from_secs(ttl.into()))
}
