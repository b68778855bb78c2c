//! Filters of the firewall, in the Windows Filtering Platform (WFP).
#![allow(unsafe_code)]

use std::{os::windows::ffi::OsStrExt, ptr};

use ipnet::IpNet;
use wg_embed::{
    error::Result,
    random::{Random, SystemRandom},
};
use windows_sys::{
    Win32::{
        Foundation::HANDLE,
        NetworkManagement::WindowsFilteringPlatform::*, // Some 50 names.
        System::Rpc::RPC_C_AUTHN_DEFAULT,
    },
    core::GUID,
};

use super::{addresses::check, wide};
use crate::firewall::{Action, Condition, Filter, Layer};

/// Filters that are in force. Windows removes them when this is dropped, or when the process ends.
pub(super) struct Filters {
    engine: HANDLE,
}

/// The identity of a program, in memory of WFP.
struct Program(*mut FWP_BYTE_BLOB);

impl Program {
    /// Returns that of the executable file of this process.
    fn own() -> Result<Self> {
        let failed = |error| wg_embed::Error::io("cannot find the path of this program", error);
        let path: Vec<u16> = std::env::current_exe().map_err(failed)?.as_os_str().encode_wide().chain([0]).collect();
        let mut id = ptr::null_mut();
        // SAFETY: the path ends with a zero, and there is room for a pointer.
        let code = unsafe { FwpmGetAppIdFromFileName0(path.as_ptr(), &raw mut id) };
        check(code, || "the firewall does not find this program".into())?;
        Ok(Self(id))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: it is from WFP, and no longer used.
        unsafe { FwpmFreeMemory0((&raw mut self.0).cast()) };
    }
}

impl Filters {
    /// Adds all filters or none, for the interface with this LUID.
    pub(super) fn add(filters: &[Filter], luid: u64) -> Result<Self> {
        let program = Program::own()?;
        let filters_are = Self::open()?;
        let engine = filters_are.engine;
        // SAFETY: the engine is open.
        check(unsafe { FwpmTransactionBegin0(engine, 0) }, || "the firewall is busy".into())?;
        let sublayer = add_sublayer(engine)?;
        for filter in filters {
            add_filter(engine, filter, sublayer, &program, luid)?;
        }
        // Without it, closing the engine takes everything back.
        // SAFETY: the engine is open, and in a transaction.
        check(unsafe { FwpmTransactionCommit0(engine) }, || "the firewall does not take the filters".into())?;
        Ok(filters_are)
    }

    /// Opens WFP for filters that end with the session.
    fn open() -> Result<Self> {
        let mut name = wide("wg-embed");
        let session = FWPM_SESSION0 {
            displayData: FWPM_DISPLAY_DATA0 { name: name.as_mut_ptr(), description: ptr::null_mut() },
            flags: FWPM_SESSION_FLAG_DYNAMIC,
            ..FWPM_SESSION0::default()
        };
        let mut engine = ptr::null_mut();
        let service = RPC_C_AUTHN_DEFAULT as u32;
        // SAFETY: the session and its name are live, and there is room for the handle.
        let code = unsafe { FwpmEngineOpen0(ptr::null(), service, ptr::null(), &raw const session, &raw mut engine) };
        check(code, || "cannot open the firewall".into())?;
        Ok(Self { engine })
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        // SAFETY: it is open, and closed once.
        unsafe { FwpmEngineClose0(self.engine) };
    }
}

/// Adds a layer of its own for the filters, in which only their weights decide, and returns its key.
fn add_sublayer(engine: HANDLE) -> Result<GUID> {
    let mut bytes = [0; 16];
    SystemRandom.fill(&mut bytes);
    let key = GUID::from_u128(u128::from_ne_bytes(bytes));
    let mut name = wide("wg-embed");
    let sublayer = FWPM_SUBLAYER0 {
        subLayerKey: key,
        displayData: FWPM_DISPLAY_DATA0 { name: name.as_mut_ptr(), description: ptr::null_mut() },
        weight: u16::MAX,
        ..FWPM_SUBLAYER0::default()
    };
    // SAFETY: the engine is open, the sublayer and its name are live.
    let code = unsafe { FwpmSubLayerAdd0(engine, &raw const sublayer, ptr::null_mut()) };
    check(code, || "the firewall does not take a sublayer".into())?;
    Ok(key)
}

fn add_filter(engine: HANDLE, filter: &Filter, sublayer: GUID, program: &Program, luid: u64) -> Result<()> {
    let mut name = wide(filter.name);
    let mut values = Values::new(program, luid, filter.conditions.len());
    let mut conditions: Vec<_> = filter.conditions.iter().map(|condition| values.of(*condition)).collect();
    let row = FWPM_FILTER0 {
        displayData: FWPM_DISPLAY_DATA0 { name: name.as_mut_ptr(), description: ptr::null_mut() },
        layerKey: match filter.layer {
            Layer::ConnectV4 => FWPM_LAYER_ALE_AUTH_CONNECT_V4,
            Layer::ConnectV6 => FWPM_LAYER_ALE_AUTH_CONNECT_V6,
            Layer::AcceptV4 => FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4,
            Layer::AcceptV6 => FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6,
        },
        subLayerKey: sublayer,
        weight: FWP_VALUE0 { r#type: FWP_UINT8, Anonymous: FWP_VALUE0_0 { uint8: filter.weight } },
        numFilterConditions: conditions.len() as u32,
        filterCondition: conditions.as_mut_ptr(),
        action: FWPM_ACTION0 {
            r#type: match filter.action {
                Action::Permit => FWP_ACTION_PERMIT,
                Action::Block => FWP_ACTION_BLOCK,
            },
            ..FWPM_ACTION0::default()
        },
        ..FWPM_FILTER0::default()
    };
    // SAFETY: the engine is open; the row, and what its pointers lead to, are live.
    let code = unsafe { FwpmFilterAdd0(engine, &raw const row, ptr::null_mut(), ptr::null_mut()) };
    check(code, || format!("the firewall does not take the filter \"{}\"", filter.name))
}

/// The values of a filter's conditions, to which pointers lead. None is moved once a pointer has been taken.
struct Values<'a> {
    program: &'a Program,
    luid: Box<[u64]>,
    v4: Vec<FWP_V4_ADDR_AND_MASK>,
    v6: Vec<FWP_V6_ADDR_AND_MASK>,
}

impl<'a> Values<'a> {
    /// With room for as many conditions.
    fn new(program: &'a Program, luid: u64, count: usize) -> Self {
        Self { program, luid: Box::new([luid]), v4: Vec::with_capacity(count), v6: Vec::with_capacity(count) }
    }

    fn of(&mut self, condition: Condition) -> FWPM_FILTER_CONDITION0 {
        let uint8 = |uint8| (FWP_UINT8, FWP_CONDITION_VALUE0_0 { uint8 });
        let uint16 = |uint16| (FWP_UINT16, FWP_CONDITION_VALUE0_0 { uint16 });
        let (key, (kind, value)) = match condition {
            Condition::OwnProgram => {
                (FWPM_CONDITION_ALE_APP_ID, (FWP_BYTE_BLOB_TYPE, FWP_CONDITION_VALUE0_0 { byteBlob: self.program.0 }))
            }
            Condition::TunnelInterface => {
                let uint64 = self.luid.as_mut_ptr();
                (FWPM_CONDITION_IP_LOCAL_INTERFACE, (FWP_UINT64, FWP_CONDITION_VALUE0_0 { uint64 }))
            }
            Condition::Loopback => {
                let uint32 = FWP_CONDITION_FLAG_IS_LOOPBACK;
                (FWPM_CONDITION_FLAGS, (FWP_UINT32, FWP_CONDITION_VALUE0_0 { uint32 }))
            }
            Condition::Protocol(number) => (FWPM_CONDITION_IP_PROTOCOL, uint8(number)),
            // For ICMP the ports are type and code.
            Condition::LocalPort(port) => (FWPM_CONDITION_IP_LOCAL_PORT, uint16(port)),
            Condition::IcmpType(number) => (FWPM_CONDITION_IP_LOCAL_PORT, uint16(number.into())),
            Condition::RemotePort(port) => (FWPM_CONDITION_IP_REMOTE_PORT, uint16(port)),
            Condition::IcmpCode(number) => (FWPM_CONDITION_IP_REMOTE_PORT, uint16(number.into())),
            Condition::LocalAddress(prefix) => (FWPM_CONDITION_IP_LOCAL_ADDRESS, self.prefix(prefix)),
            Condition::RemoteAddress(prefix) => (FWPM_CONDITION_IP_REMOTE_ADDRESS, self.prefix(prefix)),
        };
        FWPM_FILTER_CONDITION0 {
            fieldKey: key,
            matchType: if condition == Condition::Loopback { FWP_MATCH_FLAGS_ALL_SET } else { FWP_MATCH_EQUAL },
            conditionValue: FWP_CONDITION_VALUE0 { r#type: kind, Anonymous: value },
        }
    }

    fn prefix(&mut self, prefix: IpNet) -> (FWP_DATA_TYPE, FWP_CONDITION_VALUE0_0) {
        match prefix {
            IpNet::V4(v4) => {
                let value = FWP_V4_ADDR_AND_MASK { addr: v4.network().into(), mask: v4.netmask().into() };
                (FWP_V4_ADDR_MASK, FWP_CONDITION_VALUE0_0 { v4AddrMask: push(&mut self.v4, value) })
            }
            IpNet::V6(v6) => {
                let value = FWP_V6_ADDR_AND_MASK { addr: v6.network().octets(), prefixLength: v6.prefix_len() };
                (FWP_V6_ADDR_MASK, FWP_CONDITION_VALUE0_0 { v6AddrMask: push(&mut self.v6, value) })
            }
        }
    }
}

/// Adds a value, for which there is room, and returns its place.
fn push<T>(values: &mut Vec<T>, value: T) -> *mut T {
    debug_assert!(values.len() < values.capacity());
    values.push(value);
    values.as_mut_ptr().wrapping_add(values.len() - 1)
}
