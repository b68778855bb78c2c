//! What the functions of Windows are called with, recorded by functions in their place.

use std::cell::{Cell, RefCell};

use super::*;
use crate::{
    applied::System,
    plan::Step,
    system::{Windows, functions::Functions},
};

thread_local! {
    static CALLS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// What the next function that creates something returns.
    static ANSWER: Cell<WIN32_ERROR> = const { Cell::new(NO_ERROR) };
    /// How often the interface is not there yet.
    static ABSENT: Cell<u32> = const { Cell::new(0) };
}

fn record(call: String) -> WIN32_ERROR {
    CALLS.with_borrow_mut(|calls| calls.push(call));
    NO_ERROR
}

fn recorded() -> Vec<String> {
    CALLS.take()
}

fn address_of(address: &SOCKADDR_INET) -> IpAddr {
    // SAFETY: all variants begin with the family.
    match unsafe { address.si_family } {
        AF_INET => {
            // SAFETY: it is of this family.
            let IN_ADDR { S_un } = unsafe { address.Ipv4 }.sin_addr;
            // SAFETY: each bit pattern is an address.
            IpAddr::from(unsafe { S_un.S_addr }.to_ne_bytes())
        }
        _ => {
            // SAFETY: it is of the other family.
            let IN6_ADDR { u } = unsafe { address.Ipv6 }.sin6_addr;
            // SAFETY: each bit pattern is an address.
            IpAddr::from(unsafe { u.Byte })
        }
    }
}

fn luid_of(luid: NET_LUID_LH) -> u64 {
    // SAFETY: both variants are 64 bits.
    unsafe { luid.Value }
}

unsafe extern "system" fn initialize<T>(_: *mut T) {}

fn describe_address(verb: &str, row: &MIB_UNICASTIPADDRESS_ROW) -> WIN32_ERROR {
    let (luid, address) = (luid_of(row.InterfaceLuid), address_of(&row.Address));
    record(format!("{verb} {address}/{} on {luid} state {}", row.OnLinkPrefixLength, row.DadState))
}

unsafe extern "system" fn create_address(row: *const MIB_UNICASTIPADDRESS_ROW) -> WIN32_ERROR {
    // SAFETY: the row is live.
    describe_address("create", unsafe { &*row });
    ANSWER.take()
}

unsafe extern "system" fn delete_address(row: *const MIB_UNICASTIPADDRESS_ROW) -> WIN32_ERROR {
    // SAFETY: the row is live.
    describe_address("delete", unsafe { &*row });
    ERROR_NOT_FOUND
}

fn describe_route(verb: &str, row: &MIB_IPFORWARD_ROW2) -> WIN32_ERROR {
    let IP_ADDRESS_PREFIX { Prefix, PrefixLength } = row.DestinationPrefix;
    let (to, via, luid) = (address_of(&Prefix), address_of(&row.NextHop), luid_of(row.InterfaceLuid));
    record(format!("{verb} route {to}/{PrefixLength} via {via} on {luid} metric {}", row.Metric))
}

unsafe extern "system" fn create_route(row: *const MIB_IPFORWARD_ROW2) -> WIN32_ERROR {
    // SAFETY: the row is live.
    describe_route("create", unsafe { &*row });
    ERROR_OBJECT_ALREADY_EXISTS
}

unsafe extern "system" fn delete_route(row: *const MIB_IPFORWARD_ROW2) -> WIN32_ERROR {
    // SAFETY: the row is live.
    describe_route("delete", unsafe { &*row })
}

unsafe extern "system" fn get_interface(row: *mut MIB_IPINTERFACE_ROW) -> WIN32_ERROR {
    // That of a new adapter comes later.
    if let Some(left) = ABSENT.get().checked_sub(1) {
        ABSENT.set(left);
        return ERROR_NOT_FOUND;
    }
    // SAFETY: the row is live.
    let row = unsafe { &mut *row };
    (row.NlMtu, row.Metric, row.SitePrefixLength) = (1400, 5, 64);
    NO_ERROR
}

unsafe extern "system" fn set_interface(row: *mut MIB_IPINTERFACE_ROW) -> WIN32_ERROR {
    // SAFETY: the row is live.
    let row = unsafe { &*row };
    let metric = if row.UseAutomaticMetric { "automatic".into() } else { row.Metric.to_string() };
    let (family, mtu, luid, site) = (row.Family, row.NlMtu, luid_of(row.InterfaceLuid), row.SitePrefixLength);
    record(format!("interface {luid} family {family} mtu {mtu} metric {metric} site {site}"))
}

fn windows() -> Windows {
    let functions = Functions {
        InitializeUnicastIpAddressEntry: initialize,
        CreateUnicastIpAddressEntry: create_address,
        DeleteUnicastIpAddressEntry: delete_address,
        InitializeIpForwardEntry: initialize,
        CreateIpForwardEntry2: create_route,
        DeleteIpForwardEntry2: delete_route,
        InitializeIpInterfaceEntry: initialize,
        GetIpInterfaceEntry: get_interface,
        SetIpInterfaceEntry: set_interface,
        SetInterfaceDnsSettings: None,
    };
    Windows { functions, interface: Interface::new(7), filters: None }
}

#[test]
fn rows_have_what_the_steps_have() {
    let mut windows = windows();
    ABSENT.set(2);
    let steps = [
        Step::Interface { family: Family::V4, mtu: 1380, first: true },
        Step::Address("10.0.0.2/24".parse().unwrap()),
        Step::Address("fd00::2/64".parse().unwrap()),
        Step::Route("0.0.0.0/0".parse().unwrap()),
        Step::Route("2001:db8::/32".parse().unwrap()),
    ];
    for step in &steps {
        windows.perform(step).unwrap();
    }
    let expected = [
        "interface 7 family 2 mtu 1380 metric 0 site 0",
        "create 10.0.0.2/24 on 7 state 4",
        "create fd00::2/64 on 7 state 4",
        // It is there already, which is no error.
        "create route 0.0.0.0/0 via 0.0.0.0 on 7 metric 0",
        "create route 2001:db8::/32 via :: on 7 metric 0",
    ];
    assert_eq!(recorded(), expected);
    for step in steps.iter().rev() {
        windows.undo(step).unwrap();
    }
    let expected = [
        "delete route 2001:db8::/32 via :: on 7 metric 0",
        "delete route 0.0.0.0/0 via 0.0.0.0 on 7 metric 0",
        "delete fd00::2/64 on 7 state 0",
        "delete 10.0.0.2/24 on 7 state 0",
        "interface 7 family 2 mtu 1400 metric automatic site 0",
    ];
    assert_eq!(recorded(), expected);
}

#[test]
fn errors_name_what_was_refused() {
    let mut windows = windows();
    ANSWER.set(5); // ERROR_ACCESS_DENIED
    let error = windows.perform(&Step::Address("10.0.0.2/24".parse().unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.to_string().contains("10.0.0.2/24"), "{error}");
    let dns = |servers| Step::Dns { family: Family::V4, servers, search: Vec::new() };
    assert_eq!(windows.perform(&dns(vec!["10.0.0.1".parse().unwrap()])).unwrap_err().kind(), ErrorKind::Unsupported);
    windows.undo(&dns(Vec::new())).unwrap();
    // An interface that is gone has nothing to undo.
    ABSENT.set(1);
    windows.undo(&Step::Interface { family: Family::V4, mtu: 1380, first: true }).unwrap();
}

/// Either this Windows has them all, or the missing one is named.
#[test]
fn functions_are_found_or_named() {
    if let Err(error) = Functions::load() {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("this system has no"), "{error}");
        println!("skipped: {error}");
    }
}
