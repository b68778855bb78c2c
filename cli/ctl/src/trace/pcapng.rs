//! The part of the pcapng format (draft-ietf-opsawg-pcapng) that packets need.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use super::socket::Packet;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

/// `LINKTYPE_LINUX_SLL2`: packets behind a header of the system.
///
/// Not `LINKTYPE_RAW`: libpcap before 1.10.5 reads only one interface of that type in a file.
const LINKTYPE: u32 = 276;

/// Options of an interface: its name, a description, and the unit of time stamps.
const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_TSRESOL: u16 = 9;

/// Option of a packet: its flags, of which the lowest two bits are the direction.
const EPB_FLAGS: u16 = 2;

/// The interface in the file that a packet belongs to.
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) description: &'static str,
}

/// Writes a file, in little endian.
pub(super) struct Writer<W: Write>(W);

impl<W: Write> Writer<W> {
    /// Writes the header and the interfaces, which packets refer to by their position.
    pub(super) fn new(out: W, interfaces: &[Interface]) -> io::Result<Self> {
        let mut writer = Self(out);
        let mut body = Vec::new();
        // The byte order, version 1.0, a section of unknown length.
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend([1, 0, 0, 0]);
        body.extend(u64::MAX.to_le_bytes());
        writer.block(SECTION_HEADER, &body)?;
        for interface in interfaces {
            let mut body = Vec::new();
            body.extend(LINKTYPE.to_le_bytes());
            body.extend(0_u32.to_le_bytes());
            option(&mut body, IF_NAME, interface.name.as_bytes())?;
            option(&mut body, IF_DESCRIPTION, interface.description.as_bytes())?;
            // Nanoseconds.
            option(&mut body, IF_TSRESOL, &[9])?;
            body.extend([0; 4]);
            writer.block(INTERFACE_DESCRIPTION, &body)?;
        }
        writer.flush()?;
        Ok(writer)
    }

    pub(super) fn packet(&mut self, interface: u32, packet: &Packet) -> io::Result<()> {
        let since = packet.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let header = header(packet);
        let len = u32::try_from(header.len() + packet.bytes.len()).map_err(io::Error::other)?;
        let mut body = Vec::with_capacity(packet.bytes.len() + 64);
        let [high, low] = [nanos >> 32, nanos & 0xffff_ffff].map(|half| u32::try_from(half).unwrap_or_default());
        for word in [interface, high, low, len, len] {
            body.extend(word.to_le_bytes());
        }
        body.extend_from_slice(&header);
        body.extend_from_slice(&packet.bytes);
        pad(&mut body);
        let direction: u32 = if packet.is_outgoing() { 2 } else { 1 };
        option(&mut body, EPB_FLAGS, &direction.to_le_bytes())?;
        body.extend([0; 4]);
        self.block(ENHANCED_PACKET, &body)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }

    /// Writes a block, which has its length in front and behind.
    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(body.len() + 12).map_err(io::Error::other)?.to_le_bytes();
        for part in [&kind.to_le_bytes(), &len, body, &len] {
            self.0.write_all(part)?;
        }
        Ok(())
    }
}

/// Returns the header of `LINKTYPE_LINUX_SLL2`, in big endian.
fn header(packet: &Packet) -> [u8; 20] {
    let mut header = [0; 20];
    header[..2].copy_from_slice(&packet.protocol.to_be_bytes());
    header[4..8].copy_from_slice(&packet.interface.to_be_bytes());
    header[8..10].copy_from_slice(&packet.hardware.to_be_bytes());
    header[10] = packet.kind;
    header
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) -> io::Result<()> {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).map_err(io::Error::other)?.to_le_bytes());
    body.extend_from_slice(value);
    pad(body);
    Ok(())
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn blocks_have_their_length_in_front_and_behind() {
        let interface = Interface { name: "wg0".into(), description: "inner packets" };
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, &[interface]).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos((7 << 32) + 5);
        let packet = Packet { time, protocol: 0x800, interface: 3, hardware: 0xfffe, kind: 4, bytes: vec![0x45; 21] };
        writer.packet(0, &packet).unwrap();
        let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < out.len() {
            let len = word(at + 4) as usize;
            assert_eq!((word(at + len - 4) as usize, len % 4), (len, 0));
            kinds.push((word(at), at));
            at += len;
        }
        assert_eq!(kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [SECTION_HEADER, 1, 6]);
        let packet = kinds[2].1 + 8;
        assert_eq!([0, 4, 8, 12, 16].map(|offset| word(packet + offset)), [0, 7, 5, 41, 41]);
        let expected = [8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xfe, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x45];
        assert_eq!(out[packet + 20..packet + 41], expected);
    }
}
