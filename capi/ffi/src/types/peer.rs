//! The C structs of a peer's configuration.

use std::{ffi::c_char, mem::offset_of, ptr};

use crate::{
    plumbing::{
        memory::borrow_up_to,
        sized::{SizedStruct, check_flags},
        text::borrow_text,
    },
    types::{key::WG_KEY_LEN, resolve::ip_address},
};
use wg_embed::{
    config::{AllowedIpUpdate, PeerEndpoint, PeerUpdate},
    error::{Error, Result},
    key::{PresharedKey, PublicKey, wiped},
    reserve,
};

/// The largest number of allowed IPs in one wg_peer_config_t.
///
/// Since: 0.1.0
pub const WG_ALLOWED_IPS_MAX: usize = 1 << 20;

/// Flags of a wg_allowed_ip_t.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_allowed_ip_flags_t {
    /// Removes the prefix from the peer instead of adding it; no-op if another peer has it.
    WG_ALLOWED_IP_REMOVE = 1,
}

pub use wg_allowed_ip_flags_t::*;

/// A prefix of IP addresses: the peer may send from them, and packets for them are sent to the peer.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct wg_allowed_ip_t {
    /// WG_IPV4 or WG_IPV6.
    pub family: u32,
    /// 0 to 32 for IPv4, 0 to 128 for IPv6. The bits of `address` behind the prefix are ignored.
    pub prefix_len: u32,
    /// The address, in network byte order. An IPv4 address is in the first four bytes.
    pub address: [u8; 16],
    /// Bitwise OR of wg_allowed_ip_flags_t.
    pub flags: u32,
}

const _: () = {
    assert!(size_of::<wg_allowed_ip_t>() == 28 && align_of::<wg_allowed_ip_t>() == 4);
    assert!(offset_of!(wg_allowed_ip_t, prefix_len) == 4 && offset_of!(wg_allowed_ip_t, address) == 8);
    assert!(offset_of!(wg_allowed_ip_t, flags) == 24);
};

impl wg_allowed_ip_t {
    fn read(&self) -> Result<AllowedIpUpdate> {
        check_flags(self.flags, WG_ALLOWED_IP_REMOVE as u32)?;
        AllowedIpUpdate::new(ip_address(self.family, self.address)?, self.prefix_len, self.flags != 0)
    }
}

/// Flags of a wg_peer_config_t: how it is applied, and which optional fields are used.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_peer_flags_t {
    /// Changes the peer only if the tunnel has it; otherwise the call succeeds as a no-op.
    WG_PEER_UPDATE_ONLY = 1,
    /// Removes all of the peer's allowed IPs before `allowed_ips` are applied.
    WG_PEER_REPLACE_ALLOWED_IPS = 2,
    /// `preshared_key` is set.
    WG_PEER_HAS_PRESHARED_KEY = 4,
    /// `persistent_keepalive` is set.
    WG_PEER_HAS_KEEPALIVE = 8,
}

pub use wg_peer_flags_t::*;

/// The configuration of a peer, for wg_set_peer(). Initialize with WG_PEER_CONFIG_INIT, then set `public_key` and the
/// fields that should change. Fields may be appended, as in wg_options_t.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_peer_config_t {
    /// sizeof(wg_peer_config_t) in the caller's header.
    pub struct_size: usize,
    /// Bitwise OR of wg_peer_flags_t. A preshared key or keepalive without its flag is WG_ERR_INVALID.
    pub flags: u32,
    /// With WG_PEER_HAS_KEEPALIVE: seconds between persistent keepalives, up to 65535; 0 turns them off.
    pub persistent_keepalive: u32,
    /// The public key of the peer.
    pub public_key: [u8; WG_KEY_LEN],
    /// With WG_PEER_HAS_PRESHARED_KEY: the preshared key, used from the next handshake on; all zeros for none.
    pub preshared_key: [u8; WG_KEY_LEN],
    /// The endpoint, in the form of `endpoint=` of wg_set_config(): "192.0.2.1:51820", `[2001:db8::1]:51820`, or a host
    /// name and a port if the tunnel has a `resolve`. NULL: unchanged.
    pub endpoint: *const c_char,
    /// Prefixes to add or remove, in this order, or NULL. A prefix of another peer is moved to this one.
    pub allowed_ips: *const wg_allowed_ip_t,
    /// The number of `allowed_ips`, up to WG_ALLOWED_IPS_MAX.
    pub allowed_ip_count: usize,
    // No padding, here or at the end: what an older caller has there would be read as the fields that follow later.
}

const _: () = {
    const POINTER: usize = size_of::<usize>();
    assert!(size_of::<wg_peer_config_t>() == 4 * POINTER + 72);
    assert!(offset_of!(wg_peer_config_t, flags) == POINTER);
    assert!(offset_of!(wg_peer_config_t, persistent_keepalive) == POINTER + 4);
    assert!(offset_of!(wg_peer_config_t, public_key) == POINTER + 8);
    assert!(offset_of!(wg_peer_config_t, preshared_key) == POINTER + 40);
    assert!(offset_of!(wg_peer_config_t, endpoint) == POINTER + 72);
    assert!(offset_of!(wg_peer_config_t, allowed_ips) == 2 * POINTER + 72);
    assert!(offset_of!(wg_peer_config_t, allowed_ip_count) == 3 * POINTER + 72);
};

/// WG_PEER_CONFIG_INIT.
impl Default for wg_peer_config_t {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            flags: 0,
            persistent_keepalive: 0,
            public_key: [0; WG_KEY_LEN],
            preshared_key: [0; WG_KEY_LEN],
            endpoint: ptr::null(),
            allowed_ips: ptr::null(),
            allowed_ip_count: 0,
        }
    }
}

// SAFETY: as the assertions above say; it has integers and pointers only.
unsafe impl SizedStruct for wg_peer_config_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

impl wg_peer_config_t {
    /// The change that it stands for.
    ///
    /// # Safety
    /// `endpoint` is NULL or ends with a zero byte; `allowed_ips` is NULL or points to `allowed_ip_count` elements.
    pub(crate) unsafe fn read(&self, host_names: bool) -> Result<PeerUpdate> {
        const KNOWN: u32 = WG_PEER_UPDATE_ONLY as u32
            | WG_PEER_REPLACE_ALLOWED_IPS as u32
            | WG_PEER_HAS_PRESHARED_KEY as u32
            | WG_PEER_HAS_KEEPALIVE as u32;
        check_flags(self.flags, KNOWN)?;
        let has = |flag: wg_peer_flags_t| self.flags & flag as u32 != 0;
        if self.public_key == [0; WG_KEY_LEN] {
            return Err(Error::invalid("public_key is not set"));
        }
        if !has(WG_PEER_HAS_PRESHARED_KEY) && self.preshared_key.iter().fold(0, |any, byte| any | byte) != 0 {
            return Err(Error::invalid("preshared_key is set, but not WG_PEER_HAS_PRESHARED_KEY"));
        }
        if !has(WG_PEER_HAS_KEEPALIVE) && self.persistent_keepalive != 0 {
            return Err(Error::invalid("persistent_keepalive is set, but not WG_PEER_HAS_KEEPALIVE"));
        }
        let mut update = PeerUpdate::new(PublicKey::from_bytes(self.public_key));
        update.update_only = has(WG_PEER_UPDATE_ONLY);
        update.replace_allowed_ips = has(WG_PEER_REPLACE_ALLOWED_IPS);
        if has(WG_PEER_HAS_PRESHARED_KEY) {
            wiped(|| update.preshared_key = Some(Box::new(PresharedKey::from_bytes(self.preshared_key))));
        }
        if has(WG_PEER_HAS_KEEPALIVE) {
            let seconds = u16::try_from(self.persistent_keepalive);
            let range = || format!("persistent_keepalive is {}, more than 65535", self.persistent_keepalive);
            update.persistent_keepalive = Some(seconds.map_err(|_| Error::invalid(range()))?);
        }
        if !self.endpoint.is_null() {
            // SAFETY: the caller's contract is the same.
            let text = unsafe { borrow_text(self.endpoint, "endpoint") }?;
            update.endpoint = Some(PeerEndpoint::parse(text, host_names).map_err(|err| err.at("endpoint"))?);
        }
        // SAFETY: as above.
        let prefixes =
            unsafe { borrow_up_to(WG_ALLOWED_IPS_MAX, self.allowed_ips, self.allowed_ip_count, "allowed_ips") }?;
        let read = |(i, prefix): (usize, &wg_allowed_ip_t)| {
            prefix.read().map_err(|err| err.at(format_args!("allowed_ips[{i}]")))
        };
        update.allowed_ips = reserve::collect(prefixes.iter().enumerate().map(read))?;
        Ok(update)
    }
}
