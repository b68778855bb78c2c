//! A TUN interface in a network namespace, whose other side is the test's.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub, reason = "each test crate uses a part of it")]

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use wg_embed_netstack::Options;

use crate::{
    common::{B, B6},
    netns::Netns,
};

/// The addresses of the kernel, and those of the stack.
pub const KERNEL: [&str; 2] = ["10.0.0.1", "fd00::1"];
pub const STACK: [&str; 2] = [B, B6];

/// The interface's name.
pub const NAME: &str = "stack";

/// The options of a stack at the other side.
pub fn options(mtu: u16) -> Options {
    let addresses = STACK.iter().map(|address| address.parse().unwrap()).collect();
    Options { addresses, mtu, ..Options::default() }
}

/// Gives an interface the kernel's addresses, and brings it up.
pub fn bring_up(netns: &Netns, name: &str, mtu: u16) {
    netns.ip(&format!("link set {name} mtu {mtu} txqueuelen 10000 up"));
    netns.ip(&format!("address add {}/24 dev {name}", KERNEL[0]));
    // Below this there is no IPv6.
    if mtu >= 1280 {
        netns.ip(&format!("address add {}/64 dev {name} nodad", KERNEL[1]));
        netns.await_address(KERNEL[1]);
    }
}

/// The descriptor of a TUN interface, one packet at a time.
pub struct Interface(File);

impl Interface {
    /// Makes one, with the kernel's addresses.
    pub fn new(netns: &Netns, mtu: u16) -> Self {
        let fd: OwnedFd = netns.tun(NAME, libc::IFF_TUN);
        bring_up(netns, NAME, mtu);
        rustix::io::ioctl_fionbio(&fd, true).unwrap();
        Self(File::from(fd))
    }

    /// The next packet that the kernel sends.
    pub fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        match (&self.0).read(buffer) {
            Ok(len) => Some(len),
            Err(err) if err.kind() == ErrorKind::WouldBlock => None,
            Err(err) => panic!("{err}"),
        }
    }

    /// Gives the kernel a packet; returns whether it could be one.
    pub fn write(&self, packet: &[u8]) -> bool {
        (&self.0).write_all(packet).is_ok()
    }
}

impl AsRawFd for Interface {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
