//! What a tunnel reports. Lists are packed as `java.io.DataInputStream` reads them.

use std::ffi::{CStr, c_char};

use jni::{
    Env,
    objects::{JByteArray, JClass, JLongArray, JObjectArray},
    sys::{jint, jlong},
};
use wg_embed_ffi::{
    self as ffi, WG_COUNTER_NAME_LEN, wg_counter_t, wg_memory_usage_t, wg_peer_stats_t,
    wg_result_t::{self, WG_OK},
    wg_stats_t,
};

use crate::{Result, bytes};

/// The fields of `wg_stats_t` in their order.
pub(crate) fn stats<'l>(env: &mut Env<'l>, _: JClass<'l>, handle: jint, out: JLongArray<'l>) -> Result<jint> {
    let mut stats = wg_stats_t {
        struct_size: size_of::<wg_stats_t>(),
        peers: 0,
        rx_bytes: 0,
        tx_bytes: 0,
        rx_packets: 0,
        tx_packets: 0,
        rx_dropped: 0,
        tx_dropped: 0,
    };
    // SAFETY: it is as large as it says.
    let result = unsafe { ffi::wg_stats(handle, &raw mut stats) };
    if result == WG_OK {
        let wg_stats_t { peers, rx_bytes, tx_bytes, rx_packets, tx_packets, rx_dropped, tx_dropped, .. } = stats;
        let fields = [peers as u64, rx_bytes, tx_bytes, rx_packets, tx_packets, rx_dropped, tx_dropped];
        out.set_region(env, 0, &fields.map(u64::cast_signed))?;
    }
    Ok(result as jint)
}

/// The fields of `wg_memory_usage_t` in their order.
pub(crate) fn memory<'l>(env: &mut Env<'l>, _: JClass<'l>, handle: jint, out: JLongArray<'l>) -> Result<jint> {
    let mut usage = wg_memory_usage_t {
        struct_size: size_of::<wg_memory_usage_t>(),
        limit: 0,
        total: 0,
        buffers: 0,
        staged: 0,
        peers: 0,
        network: 0,
    };
    // SAFETY: it is as large as it says.
    let result = unsafe { ffi::wg_memory_usage(handle, &raw mut usage) };
    if result == WG_OK {
        let wg_memory_usage_t { limit, total, buffers, staged, peers, .. } = usage;
        out.set_region(env, 0, &[limit, total, buffers, staged, peers].map(|bytes| bytes as jlong))?;
    }
    Ok(result as jint)
}

/// All peers.
pub(crate) fn peers<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    handle: jint,
    out: JObjectArray<'l, JByteArray<'l>>,
) -> Result<jint> {
    let none = wg_peer_stats_t {
        struct_size: size_of::<wg_peer_stats_t>(),
        staged_packets: 0,
        rx_bytes: 0,
        tx_bytes: 0,
        last_handshake_sec: 0,
        last_handshake_nsec: 0,
        persistent_keepalive: 0,
        has_session: 0,
        next_timer_ms: 0,
        public_key: [0; 32],
        endpoint: [0; ffi::WG_ENDPOINT_TEXT_LEN],
    };
    // SAFETY: there are as many as it is told, and the first one says how large they are.
    let read = all(none, |list, capacity, count| unsafe { ffi::wg_peers(handle, list, capacity, count) });
    give(env, &out, read, |peer, packed| {
        packed.extend(peer.public_key);
        packed.extend(peer.rx_bytes.to_be_bytes());
        packed.extend(peer.tx_bytes.to_be_bytes());
        let milliseconds = i64::from(peer.last_handshake_nsec / 1_000_000);
        packed.extend(peer.last_handshake_sec.saturating_mul(1000).saturating_add(milliseconds).to_be_bytes());
        packed.extend((peer.staged_packets as u64).to_be_bytes());
        packed.extend(peer.persistent_keepalive.to_be_bytes());
        packed.extend(peer.next_timer_ms.to_be_bytes());
        packed.push(u8::from(peer.has_session != 0));
        text(&peer.endpoint, packed);
    })
}

/// All counters.
pub(crate) fn counters<'l>(
    env: &mut Env<'l>,
    _: JClass<'l>,
    handle: jint,
    out: JObjectArray<'l, JByteArray<'l>>,
) -> Result<jint> {
    let none = wg_counter_t { name: [0; WG_COUNTER_NAME_LEN], value: 0 };
    // SAFETY: there are as many as it is told.
    let read = all(none, |list, capacity, count| unsafe { ffi::wg_counters(handle, list, capacity, count) });
    give(env, &out, read, |counter, packed| {
        text(&counter.name, packed);
        packed.extend(counter.value.to_be_bytes());
    })
}

/// All that a function has to write, which may become more from one call to the next.
fn all<T: Copy>(
    none: T,
    mut read: impl FnMut(*mut T, usize, *mut usize) -> wg_result_t,
) -> std::result::Result<Vec<T>, wg_result_t> {
    let mut list: Vec<T> = Vec::new();
    loop {
        let mut count = 0;
        match read(list.as_mut_ptr(), list.len(), &raw mut count) {
            WG_OK if count <= list.len() => {
                list.truncate(count);
                return Ok(list);
            }
            WG_OK => list.resize(count, none),
            code => return Err(code),
        }
    }
}

fn give<'l, T>(
    env: &mut Env<'l>,
    out: &JObjectArray<'l, JByteArray<'l>>,
    list: std::result::Result<Vec<T>, wg_result_t>,
    pack: impl Fn(&T, &mut Vec<u8>),
) -> Result<jint> {
    let list = match list {
        Ok(list) => list,
        Err(code) => return Ok(code as jint),
    };
    let mut packed = Vec::new();
    list.iter().for_each(|one| pack(one, &mut packed));
    bytes::give(env, out, 0, &packed)?;
    Ok(WG_OK as jint)
}

/// ASCII with its length in two bytes in front, as `readUTF` reads it.
fn text(text: &[c_char], packed: &mut Vec<u8>) {
    // SAFETY: it is filled up with zeros, of which there is one at least.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_bytes();
    packed.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
    packed.extend(text);
}
