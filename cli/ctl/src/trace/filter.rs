//! Filters that run in the kernel (classic BPF), over packets that begin with their IP header.

use socket2::SockFilter;

const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF_AT_X: u16 = 0x48;
/// Sets X to four times the lower four bits of a byte.
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const IF_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

/// The offset from which the index of a packet's interface is loaded: `SKF_AD_OFF + SKF_AD_IFINDEX`.
const INTERFACE: u32 = 0xffff_f000 + 8;

const UDP: u32 = 17;

/// Accepts UDP from or to a port, except on one interface.
pub(super) fn port(port: u16, except: u32) -> Vec<SockFilter> {
    const IPV4: u8 = 6;
    const IPV6: u8 = 15;
    const ACCEPT: u8 = 21;
    const REJECT: u8 = 22;
    let port = u32::from(port);
    let line = |code, value| SockFilter::new(code, 0, 0, value);
    // The kernel counts the skipped instructions from behind the jump.
    let jump = |at: u8, code, value, [so, not]: [u8; 2]| SockFilter::new(code, so - at - 1, not - at - 1, value);
    vec![
        line(LOAD_WORD, INTERFACE),
        jump(1, IF_EQUAL, except, [REJECT, 2]),
        line(LOAD_BYTE, 0),
        line(AND, 0xf0),
        jump(4, IF_EQUAL, 0x40, [IPV4, 5]),
        jump(5, IF_EQUAL, 0x60, [IPV6, REJECT]),
        // IPv4: the protocol, no later fragment, and the ports behind a header of any length.
        line(LOAD_BYTE, 9),
        jump(7, IF_EQUAL, UDP, [8, REJECT]),
        line(LOAD_HALF, 6),
        jump(9, IF_BITS, 0x1fff, [REJECT, 10]),
        line(LOAD_HEADER_LENGTH, 0),
        line(LOAD_HALF_AT_X, 0),
        jump(12, IF_EQUAL, port, [ACCEPT, 13]),
        line(LOAD_HALF_AT_X, 2),
        jump(14, IF_EQUAL, port, [ACCEPT, REJECT]),
        // IPv6 without extension headers.
        line(LOAD_BYTE, 6),
        jump(16, IF_EQUAL, UDP, [17, REJECT]),
        line(LOAD_HALF, 40),
        jump(18, IF_EQUAL, port, [ACCEPT, 19]),
        line(LOAD_HALF, 42),
        jump(20, IF_EQUAL, port, [ACCEPT, REJECT]),
        line(RETURN, u32::from(u16::MAX)),
        line(RETURN, 0),
    ]
}
