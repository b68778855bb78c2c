//! The default routes of the system.
#![allow(unsafe_code)]

use std::{collections::HashMap, io, ptr, slice};

use wg_embed::{
    bind::Family,
    error::{Error, Result},
};
use windows_sys::Win32::{
    Foundation::{ERROR_BUFFER_OVERFLOW, ERROR_NO_DATA, NO_ERROR},
    NetworkManagement::{
        IpHelper::{
            FreeMibTable, GAA_FLAG_INCLUDE_ALL_INTERFACES, GAA_FLAG_SKIP_ANYCAST, GAA_FLAG_SKIP_DNS_SERVER,
            GAA_FLAG_SKIP_FRIENDLY_NAME, GAA_FLAG_SKIP_MULTICAST, GAA_FLAG_SKIP_UNICAST, GetAdaptersAddresses,
            GetIpForwardTable2, IP_ADAPTER_ADDRESSES_LH, MIB_IPFORWARD_ROW2, MIB_IPFORWARD_TABLE2,
        },
        Ndis::IfOperStatusUp,
    },
    Networking::WinSock::{AF_INET, AF_INET6, AF_UNSPEC},
};

use super::addresses::check;
use crate::outside::DefaultRoute;

/// The properties of an interface that routes depend on.
#[derive(Clone, Copy)]
struct Adapter {
    mtu: u32,
    up: bool,
    metric_v4: u32,
    metric_v6: u32,
}

/// Returns all default routes, those of interfaces that are down and of tunnels included.
///
/// # Errors
/// Errors of the system.
pub fn default_routes() -> Result<Vec<DefaultRoute>> {
    let adapters = adapters()?;
    let mut table: *mut MIB_IPFORWARD_TABLE2 = ptr::null_mut();
    // SAFETY: there is room for one pointer.
    check(unsafe { GetIpForwardTable2(AF_UNSPEC, &raw mut table) }, || "cannot read the routes".into())?;
    // SAFETY: it is there until it is freed.
    let count = unsafe { (*table).NumEntries } as usize;
    // SAFETY: as above; only the address of the first row is taken.
    let first: *const MIB_IPFORWARD_ROW2 = unsafe { &raw const (*table).Table }.cast();
    // SAFETY: there are as many rows.
    let rows = unsafe { slice::from_raw_parts(first, count) };
    let routes = rows.iter().filter_map(|row| default_route(row, &adapters)).collect();
    // SAFETY: it is from Windows, and no longer used.
    unsafe { FreeMibTable(table.cast()) };
    Ok(routes)
}

fn default_route(row: &MIB_IPFORWARD_ROW2, adapters: &HashMap<u64, Adapter>) -> Option<DefaultRoute> {
    // SAFETY: all variants begin with the family.
    let family = match unsafe { row.DestinationPrefix.Prefix.si_family } {
        AF_INET => Family::V4,
        AF_INET6 => Family::V6,
        _ => return None,
    };
    if row.DestinationPrefix.PrefixLength != 0 {
        return None;
    }
    // SAFETY: both variants are 64 bits.
    let luid = unsafe { row.InterfaceLuid.Value };
    let adapter = adapters.get(&luid)?;
    let of_interface = if family == Family::V4 { adapter.metric_v4 } else { adapter.metric_v6 };
    Some(DefaultRoute {
        family,
        luid,
        index: row.InterfaceIndex,
        metric: row.Metric.saturating_add(of_interface),
        mtu: adapter.mtu,
        up: adapter.up,
    })
}

/// Returns the interfaces by their LUIDs.
fn adapters() -> Result<HashMap<u64, Adapter>> {
    const FLAGS: u32 = GAA_FLAG_SKIP_UNICAST
        | GAA_FLAG_SKIP_ANYCAST
        | GAA_FLAG_SKIP_MULTICAST
        | GAA_FLAG_SKIP_DNS_SERVER
        | GAA_FLAG_SKIP_FRIENDLY_NAME
        | GAA_FLAG_INCLUDE_ALL_INTERFACES;
    let failed = |code| Err(Error::io("cannot read the interfaces", io::Error::from_raw_os_error(code as i32)));
    let mut size = 16 << 10;
    // Interfaces may be added between two calls.
    for _ in 0..5 {
        // As 64-bit numbers, for their alignment.
        let mut buffer = vec![0_u64; size as usize / 8 + 1];
        let list: *mut IP_ADAPTER_ADDRESSES_LH = buffer.as_mut_ptr().cast();
        // SAFETY: there is room for `size` bytes.
        match unsafe { GetAdaptersAddresses(AF_UNSPEC.into(), FLAGS, ptr::null(), list, &raw mut size) } {
            // SAFETY: it was filled in, and the buffer is live.
            NO_ERROR => return Ok(unsafe { collect(list) }),
            ERROR_NO_DATA => return Ok(HashMap::new()),
            ERROR_BUFFER_OVERFLOW => {}
            code => return failed(code),
        }
    }
    failed(ERROR_BUFFER_OVERFLOW)
}

/// # Safety
/// It is a list of Windows, in live memory.
unsafe fn collect(mut list: *const IP_ADAPTER_ADDRESSES_LH) -> HashMap<u64, Adapter> {
    let mut adapters = HashMap::new();
    // SAFETY: each is NULL or live.
    while let Some(adapter) = unsafe { list.as_ref() } {
        let IP_ADAPTER_ADDRESSES_LH { Luid, Mtu: mtu, OperStatus, Ipv4Metric, Ipv6Metric, Next, .. } = *adapter;
        let up = OperStatus == IfOperStatusUp;
        // SAFETY: both variants are 64 bits.
        let luid = unsafe { Luid.Value };
        adapters.insert(luid, Adapter { mtu, up, metric_v4: Ipv4Metric, metric_v6: Ipv6Metric });
        list = Next;
    }
    adapters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routes_of_this_system_are_read() {
        let routes = default_routes().unwrap();
        println!("{} default routes", routes.len());
        assert!(routes.iter().all(|route| route.index != 0 && route.luid != 0 && route.mtu != 0), "{routes:?}");
    }
}
