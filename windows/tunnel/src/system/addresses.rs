//! The interface of the tunnel: its addresses, routes, MTU, metric and name servers.
#![allow(unsafe_code)]

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use wg_embed::{
    bind::Family,
    error::{Error, ErrorKind, Result},
};
use windows_sys::{
    Win32::{
        Foundation::{ERROR_NOT_FOUND, ERROR_OBJECT_ALREADY_EXISTS, NO_ERROR, WIN32_ERROR},
        NetworkManagement::{
            IpHelper::{
                ConvertInterfaceLuidToGuid, DNS_INTERFACE_SETTINGS, DNS_INTERFACE_SETTINGS_VERSION1, DNS_SETTING_IPV6,
                DNS_SETTING_NAMESERVER, DNS_SETTING_SEARCHLIST, IP_ADDRESS_PREFIX, MIB_IPFORWARD_ROW2,
                MIB_IPINTERFACE_ROW, MIB_UNICASTIPADDRESS_ROW,
            },
            Ndis::NET_LUID_LH,
        },
        Networking::WinSock::{
            AF_INET, AF_INET6, IN_ADDR, IN_ADDR_0, IN6_ADDR, IN6_ADDR_0, IpDadStatePreferred, RouterDiscoveryDisabled,
            SOCKADDR_IN, SOCKADDR_IN6, SOCKADDR_INET,
        },
    },
    core::GUID,
};

use super::{functions::Functions, wide};

/// How long to wait for the interface of a new adapter.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time between two looks for it.
const PAUSE: Duration = Duration::from_millis(50);

/// An interface.
#[derive(Clone, Copy)]
pub(super) struct Interface {
    luid: u64,
}

impl Interface {
    pub(super) const fn new(luid: u64) -> Self {
        Self { luid }
    }

    pub(super) const fn luid(self) -> u64 {
        self.luid
    }

    const fn row_luid(self) -> NET_LUID_LH {
        NET_LUID_LH { Value: self.luid }
    }

    /// Sets the MTU, and whether routes of this interface come first. Waits until the interface is there for the
    /// family: that of a new adapter comes later.
    pub(super) fn set(self, functions: &Functions, family: Family, mtu: u32, first: bool) -> Result<()> {
        self.change(functions, family, Some(mtu), first, PATIENCE)
    }

    /// Leaves the metric to Windows again. The MTU stays: there is no other one.
    pub(super) fn reset(self, functions: &Functions, family: Family) -> Result<()> {
        match self.change(functions, family, None, false, Duration::ZERO) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn change(
        self,
        functions: &Functions,
        family: Family,
        mtu: Option<u32>,
        first: bool,
        patience: Duration,
    ) -> Result<()> {
        let mut row = self.properties(functions, family, patience)?;
        row.UseAutomaticMetric = !first;
        row.Metric = 0;
        row.NlMtu = mtu.unwrap_or(row.NlMtu);
        row.RouterDiscoveryBehavior = RouterDiscoveryDisabled;
        row.DadTransmits = 0;
        row.ManagedAddressConfigurationSupported = false;
        row.OtherStatefulConfigurationSupported = false;
        // Windows refuses what it returned for IPv4.
        row.SitePrefixLength = 0;
        // SAFETY: the row is live.
        let set = unsafe { (functions.SetIpInterfaceEntry)(&raw mut row) };
        check(set, || format!("cannot set the MTU and the metric of the interface for {family}"))
    }

    /// Returns the properties for a family, once there are any.
    fn properties(self, functions: &Functions, family: Family, patience: Duration) -> Result<MIB_IPINTERFACE_ROW> {
        let begin = Instant::now();
        loop {
            let mut row = MIB_IPINTERFACE_ROW::default();
            // SAFETY: the row is live.
            unsafe { (functions.InitializeIpInterfaceEntry)(&raw mut row) };
            (row.InterfaceLuid, row.Family) = (self.row_luid(), number(family));
            // SAFETY: as above.
            match unsafe { (functions.GetIpInterfaceEntry)(&raw mut row) } {
                NO_ERROR => return Ok(row),
                ERROR_NOT_FOUND if begin.elapsed() < patience => std::thread::sleep(PAUSE),
                ERROR_NOT_FOUND => {
                    return Err(Error::new(ErrorKind::NotFound, format!("the interface has no {family}")));
                }
                code => check(code, || format!("cannot read the properties of the interface for {family}"))?,
            }
        }
    }

    pub(super) fn add_address(self, functions: &Functions, address: IpNet) -> Result<()> {
        let mut row = self.address(functions, address);
        row.DadState = IpDadStatePreferred;
        // SAFETY: the row is live.
        let created = unsafe { (functions.CreateUnicastIpAddressEntry)(&raw const row) };
        check_unless(ERROR_OBJECT_ALREADY_EXISTS, created, || format!("cannot add the address {address}"))
    }

    pub(super) fn remove_address(self, functions: &Functions, address: IpNet) -> Result<()> {
        let row = self.address(functions, address);
        // SAFETY: the row is live.
        let deleted = unsafe { (functions.DeleteUnicastIpAddressEntry)(&raw const row) };
        check_unless(ERROR_NOT_FOUND, deleted, || format!("cannot remove the address {address}"))
    }

    fn address(self, functions: &Functions, address: IpNet) -> MIB_UNICASTIPADDRESS_ROW {
        let mut row = MIB_UNICASTIPADDRESS_ROW::default();
        // SAFETY: the row is live.
        unsafe { (functions.InitializeUnicastIpAddressEntry)(&raw mut row) };
        row.InterfaceLuid = self.row_luid();
        row.Address = socket_address(address.addr());
        row.OnLinkPrefixLength = address.prefix_len();
        row
    }

    pub(super) fn add_route(self, functions: &Functions, prefix: IpNet) -> Result<()> {
        let row = self.route(functions, prefix);
        // SAFETY: the row is live.
        let created = unsafe { (functions.CreateIpForwardEntry2)(&raw const row) };
        check_unless(ERROR_OBJECT_ALREADY_EXISTS, created, || format!("cannot add the route {prefix}"))
    }

    pub(super) fn remove_route(self, functions: &Functions, prefix: IpNet) -> Result<()> {
        let row = self.route(functions, prefix);
        // SAFETY: the row is live.
        let deleted = unsafe { (functions.DeleteIpForwardEntry2)(&raw const row) };
        check_unless(ERROR_NOT_FOUND, deleted, || format!("cannot remove the route {prefix}"))
    }

    fn route(self, functions: &Functions, prefix: IpNet) -> MIB_IPFORWARD_ROW2 {
        let mut row = MIB_IPFORWARD_ROW2::default();
        // SAFETY: the row is live.
        unsafe { (functions.InitializeIpForwardEntry)(&raw mut row) };
        row.InterfaceLuid = self.row_luid();
        row.DestinationPrefix =
            IP_ADDRESS_PREFIX { Prefix: socket_address(prefix.addr()), PrefixLength: prefix.prefix_len() };
        let unspecified = match prefix {
            IpNet::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpNet::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        row.NextHop = socket_address(unspecified);
        row.Metric = 0;
        row
    }

    /// Sets the name servers and search domains of one family; empty lists remove them.
    pub(super) fn set_dns(self, all: &Functions, family: Family, servers: &[IpAddr], search: &[String]) -> Result<()> {
        let Some(set) = all.SetInterfaceDnsSettings else {
            let text = "name servers cannot be set: this needs Windows 10, version 2004, or later";
            // There is nothing to remove either.
            return if servers.is_empty() { Ok(()) } else { Err(Error::new(ErrorKind::Unsupported, text)) };
        };
        let (luid, mut guid) = (self.row_luid(), GUID::from_u128(0));
        // SAFETY: both are live.
        let found = unsafe { ConvertInterfaceLuidToGuid(&raw const luid, &raw mut guid) };
        check(found, || "cannot find the GUID of the interface".into())?;
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        let (mut servers, mut search) = (wide(&servers.join(",")), wide(&search.join(",")));
        let of_family = if family == Family::V6 { DNS_SETTING_IPV6 } else { 0 };
        let settings = DNS_INTERFACE_SETTINGS {
            Version: DNS_INTERFACE_SETTINGS_VERSION1,
            Flags: u64::from(of_family | DNS_SETTING_NAMESERVER | DNS_SETTING_SEARCHLIST),
            NameServer: servers.as_mut_ptr(),
            SearchList: search.as_mut_ptr(),
            ..DNS_INTERFACE_SETTINGS::default()
        };
        // SAFETY: the settings and the texts in them are live, and each text ends with a zero.
        check(unsafe { set(guid, &raw const settings) }, || format!("cannot set the name servers for {family}"))
    }
}

/// Returns the number of a family.
pub(super) const fn number(family: Family) -> u16 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn socket_address(address: IpAddr) -> SOCKADDR_INET {
    match address {
        IpAddr::V4(v4) => {
            let sin_addr = IN_ADDR { S_un: IN_ADDR_0 { S_addr: u32::from_ne_bytes(v4.octets()) } };
            SOCKADDR_INET { Ipv4: SOCKADDR_IN { sin_family: AF_INET, sin_addr, ..SOCKADDR_IN::default() } }
        }
        IpAddr::V6(v6) => {
            let sin6_addr = IN6_ADDR { u: IN6_ADDR_0 { Byte: v6.octets() } };
            SOCKADDR_INET { Ipv6: SOCKADDR_IN6 { sin6_family: AF_INET6, sin6_addr, ..SOCKADDR_IN6::default() } }
        }
    }
}

/// Converts an error of Windows; `context` is asked only for one.
pub(super) fn check(code: WIN32_ERROR, context: impl FnOnce() -> String) -> Result<()> {
    match code {
        NO_ERROR => Ok(()),
        code => Err(Error::io(context(), io::Error::from_raw_os_error(code as i32))),
    }
}

fn check_unless(harmless: WIN32_ERROR, code: WIN32_ERROR, context: impl FnOnce() -> String) -> Result<()> {
    if code == harmless { Ok(()) } else { check(code, context) }
}

#[cfg(test)]
mod tests;
