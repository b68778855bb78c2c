//! Two tunnels in one process, without root and without a network: `cargo run --release --example demo`.
//!
//! Everything goes through the C functions, as an app would call them. Each tunnel's interface is one end of a
//! socketpair, where an app on a phone has the descriptor of its VPN service; the other end is ours. The tunnels reach
//! each other over real UDP sockets on the loopback address.

#![allow(unsafe_code, reason = "the C functions are unsafe to call")]

use std::{
    error::Error,
    ffi::{CStr, CString, c_char},
    os::{fd::IntoRawFd, unix::net::UnixDatagram},
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use wg_embed_ffi::{
    wg_free, wg_get_config, wg_keys_derive_public, wg_keys_generate_preshared, wg_keys_generate_private,
    wg_keys_to_hex, wg_last_error, wg_result_t, wg_set_config, wg_turn_off, wg_turn_on, wg_version_string,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The MTU of a tunnel over Ethernet, with room for IPv6 outside.
const PACKET: usize = 1420;
/// IPv4 header and sequence number.
const HEADER: usize = 24;
/// Sent each way.
const PACKETS: usize = 140_000;
/// Packets on their way at once: a socketpair holds about this many.
const WINDOW: usize = 64;

fn main() -> Result<()> {
    println!("wg-embed {}\n", text_of(wg_version_string()));
    let (a, b) = (Node::new([10, 0, 0, 1])?, Node::new([10, 0, 0, 2])?);
    let preshared = hex_of(|key| {
        // SAFETY: `key` has room for 32 bytes.
        unsafe { wg_keys_generate_preshared(key) }
    })?;
    a.meet(&b, &preshared)?;
    b.meet(&a, &preshared)?;
    println!("two tunnels, on UDP ports {} and {} of 127.0.0.1", a.port()?, b.port()?);

    let start = Instant::now();
    a.send(&b, 0)?;
    let mut packet = [0; PACKET];
    b.receive(&mut packet)?;
    println!("handshake and first packet: {:.2} ms\n", start.elapsed().as_secs_f64() * 1e3);

    let start = Instant::now();
    let (there, back) = (Flow::default(), Flow::default());
    thread::scope(|s| -> Result<()> {
        let jobs = [
            s.spawn(|| there.send_all(&a, &b).map_err(|e| e.to_string())),
            s.spawn(|| there.receive_all(&a, &b).map_err(|e| e.to_string())),
            s.spawn(|| back.send_all(&b, &a).map_err(|e| e.to_string())),
            s.spawn(|| back.receive_all(&b, &a).map_err(|e| e.to_string())),
        ];
        while jobs.iter().any(|j| !j.is_finished()) {
            thread::sleep(Duration::from_millis(250));
            let megabytes = |f: &Flow| f.received.load(Relaxed) * PACKET / 1_000_000;
            println!(
                "{:5.2} s   {:4} MB there   {:4} MB back",
                start.elapsed().as_secs_f64(),
                megabytes(&there),
                megabytes(&back)
            );
        }
        for job in jobs {
            job.join().map_err(|_| "a thread has panicked")??;
        }
        Ok(())
    })?;
    let (time, bytes) = (start.elapsed().as_secs_f64(), 2 * PACKETS * PACKET);
    println!("\n{} MB in {time:.2} s, every byte as it was sent", bytes / 1_000_000);
    println!("{:.2} Gbit/s, both ways together, sealed and opened in this process", bytes as f64 * 8.0 / time / 1e9);
    println!("sent again: {}", there.sent_again.load(Relaxed) + back.sent_again.load(Relaxed));
    if let Some(kilobytes) = resident() {
        println!("memory: {:.1} MiB resident, this program included", kilobytes as f64 / 1024.0);
    }
    println!("\nthe first tunnel, as wg_get_config() has it:\n");
    for line in a.config()?.lines() {
        println!("    {}", redacted(line));
    }
    a.off()?;
    b.off()
}

/// One tunnel, and our end of its interface.
struct Node {
    handle: i32,
    interface: UnixDatagram,
    address: [u8; 4],
    public_key: String,
}

impl Node {
    fn new(address: [u8; 4]) -> Result<Self> {
        let (interface, theirs) = UnixDatagram::pair()?;
        interface.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut private = [0; 32];
        // SAFETY: there is room for 32 bytes.
        check(unsafe { wg_keys_generate_private(private.as_mut_ptr()) })?;
        let public_key = hex_of(|key| {
            // SAFETY: both are 32 bytes.
            unsafe { wg_keys_derive_public(private.as_ptr(), key) }
        })?;
        let uapi = CString::new(format!("private_key={}\nlisten_port=0\n", hex(&private)?))?;
        // SAFETY: the text ends with a zero; the descriptor is the tunnel's from here on.
        let handle = unsafe { wg_turn_on(theirs.into_raw_fd(), uapi.as_ptr()) };
        if handle < 0 {
            return Err(last_error().into());
        }
        Ok(Self { handle, interface, address, public_key })
    }

    /// Makes `other` a peer.
    fn meet(&self, other: &Self, preshared: &str) -> Result<()> {
        let [a, b, c, d] = other.address;
        let uapi = CString::new(format!(
            "public_key={}\npreshared_key={preshared}\nendpoint=127.0.0.1:{}\nallowed_ip={a}.{b}.{c}.{d}/32\n",
            other.public_key,
            other.port()?
        ))?;
        // SAFETY: the text ends with a zero.
        check(unsafe { wg_set_config(self.handle, uapi.as_ptr()) })
    }

    fn config(&self) -> Result<String> {
        let mut text = ptr::null_mut();
        // SAFETY: `text` is room for one pointer.
        check(unsafe { wg_get_config(self.handle, &raw mut text) })?;
        let copy = text_of(text);
        // SAFETY: it is ours, and was not freed.
        unsafe { wg_free(text.cast()) };
        Ok(copy)
    }

    fn port(&self) -> Result<u16> {
        let config = self.config()?;
        Ok(config.lines().find_map(|l| l.strip_prefix("listen_port=")).ok_or("no port")?.parse()?)
    }

    /// Hands packet number `number` for `to` to the tunnel.
    fn send(&self, to: &Self, number: usize) -> Result<()> {
        self.interface.send(&packet(self.address, to.address, number))?;
        Ok(())
    }

    fn receive(&self, into: &mut [u8]) -> Result<usize> {
        Ok(self.interface.recv(into)?)
    }

    fn off(self) -> Result<()> {
        check(wg_turn_off(self.handle))
    }
}

/// One direction: packets go out in order, and again if one does not arrive.
#[derive(Default)]
struct Flow {
    /// Packets that have arrived without a gap.
    received: AtomicUsize,
    sent_again: AtomicUsize,
}

impl Flow {
    fn send_all(&self, from: &Node, to: &Node) -> Result<()> {
        let mut next = 0;
        let mut news = (0, Instant::now());
        loop {
            let received = self.received.load(Relaxed);
            if received == PACKETS {
                return Ok(());
            }
            if received != news.0 {
                news = (received, Instant::now());
            } else if news.1.elapsed() > Duration::from_millis(100) {
                self.sent_again.fetch_add(next - received, Relaxed);
                (next, news.1) = (received, Instant::now());
            }
            if next < PACKETS.min(received + WINDOW) {
                from.send(to, next)?;
                next += 1;
            } else {
                thread::yield_now();
            }
        }
    }

    fn receive_all(&self, from: &Node, to: &Node) -> Result<()> {
        let mut buffer = [0; PACKET];
        let mut expected = 0;
        let deadline = Instant::now() + Duration::from_secs(60);
        while expected < PACKETS {
            if Instant::now() > deadline {
                return Err("the packets do not arrive".into());
            }
            let Ok(len) = to.interface.recv(&mut buffer) else { continue };
            let number = usize::try_from(u32::from_be_bytes(buffer[20..HEADER].try_into()?))?;
            if buffer[..len] != packet(from.address, to.address, number)[..] {
                return Err(format!("packet {number} was changed on its way").into());
            }
            if number == expected {
                expected += 1;
                self.received.store(expected, Relaxed);
            }
        }
        Ok(())
    }
}

/// An IPv4 packet of an experimental protocol (253, RFC 3692) with a number, and a text that depends on it.
fn packet(from: [u8; 4], to: [u8; 4], number: usize) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    packet[..4].copy_from_slice(&[0x45, 0, (PACKET >> 8) as u8, PACKET as u8]);
    (packet[8], packet[9]) = (64, 253);
    packet[12..16].copy_from_slice(&from);
    packet[16..20].copy_from_slice(&to);
    packet[20..HEADER].copy_from_slice(&(number as u32).to_be_bytes());
    let mut word = number as u64 ^ 0x9e37_79b9_7f4a_7c15;
    for bytes in packet[HEADER..].chunks_mut(8) {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.copy_from_slice(&word.to_be_bytes()[..bytes.len()]);
    }
    packet
}

fn check(result: wg_result_t) -> Result<()> {
    if result == wg_result_t::WG_OK { Ok(()) } else { Err(last_error().into()) }
}

fn last_error() -> String {
    text_of(wg_last_error())
}

fn text_of(text: *const c_char) -> String {
    // SAFETY: the library's texts end with a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A key that a C function writes, in hex.
fn hex_of(write: impl FnOnce(*mut u8) -> wg_result_t) -> Result<String> {
    let mut key = [0; 32];
    check(write(key.as_mut_ptr()))?;
    hex(&key)
}

fn hex(key: &[u8; 32]) -> Result<String> {
    let mut text = [0; 65];
    // SAFETY: 32 bytes in, room for 65 characters out.
    check(unsafe { wg_keys_to_hex(key.as_ptr(), text.as_mut_ptr()) })?;
    Ok(text_of(text.as_ptr()))
}

/// A line of the configuration without its secret.
fn redacted(line: &str) -> String {
    match line.split_once('=') {
        Some((name @ ("private_key" | "preshared_key"), _)) => format!("{name}=(redacted)"),
        _ => line.to_owned(),
    }
}

/// Resident memory of this process in KiB, where the system tells.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}
