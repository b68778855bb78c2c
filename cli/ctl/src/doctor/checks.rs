//! The checks.

use std::{
    env,
    ffi::c_int,
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::Path,
};

use super::{Finding, system};
use crate::{arguments::Doctor, show::units, socket::Sockets};

/// `CAP_NET_ADMIN` of `linux/capability.h`.
const NET_ADMIN: u32 = 12;

/// 2025-01-01: the clock of a machine with this program is later.
const NOT_BEFORE: u64 = 1_735_689_600;

/// The bytes that WireGuard adds to a packet, with the IP and UDP headers.
const OVERHEAD: (i32, i32) = (60, 80);

pub(super) fn all(sockets: &Sockets, arguments: &Doctor) -> Vec<Finding> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let mut findings = vec![device(&tun), rights()];
    findings.extend(tun.ok().as_ref().map(tun_offload));
    findings.push(udp_offload());
    findings.extend(port(arguments.port));
    findings.push(ipv6());
    findings.push(clock());
    findings.push(path(arguments.endpoint.as_deref()));
    findings.push(forwarding());
    findings.push(resolver());
    findings.push(scripts());
    findings.extend(daemons(sockets));
    findings
}

fn device(tun: &std::io::Result<File>) -> Finding {
    let check = "TUN device";
    match tun {
        Ok(_) => Finding::ok(check, "/dev/net/tun can be opened"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::missing(check, "/dev/net/tun belongs to others", "run the daemon as root, or use `wg-embed proxy`")
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Finding::missing(
            check,
            "there is no /dev/net/tun",
            "`modprobe tun`; for a container `--device /dev/net/tun`; or use `wg-embed proxy`, which needs none",
        ),
        Err(error) => Finding::missing(check, format!("/dev/net/tun: {error}"), "`modprobe tun`"),
    }
}

fn rights() -> Finding {
    let check = "CAP_NET_ADMIN";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    match effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) {
        Some(set) if set >> NET_ADMIN & 1 == 1 => Finding::ok(check, "interfaces can be made and configured"),
        Some(_) => Finding::missing(
            check,
            "this user may not make interfaces",
            "run the daemon as root; for a container `--cap-add NET_ADMIN`; `wg-embed proxy` needs no right",
        ),
        None => Finding::warning(check, "/proc/self/status has no capabilities", "mount /proc"),
    }
}

fn tun_offload(device: &File) -> Finding {
    let check = "TUN offload";
    match system::tun_features(device) {
        Ok(features) if features & libc::IFF_VNET_HDR != 0 => Finding::ok(check, "large packets are passed at once"),
        Ok(_) => Finding::warning(check, "the driver has no IFF_VNET_HDR", "a newer kernel makes tunnels faster"),
        Err(error) => Finding::warning(check, format!("the driver does not tell its features: {error}"), "see dmesg"),
    }
}

fn udp_offload() -> Finding {
    let check = "UDP offload";
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else {
        return Finding::missing(
            check,
            "no UDP socket can be made",
            "the loopback interface must be up: `ip link set lo up`",
        );
    };
    let has = |option| system::set_option(&socket, libc::SOL_UDP, option, 1).is_ok();
    match (has(libc::UDP_SEGMENT), has(libc::UDP_GRO)) {
        (true, true) => Finding::ok(check, "GSO and GRO"),
        (gso, gro) => {
            let lacks = [(gso, "GSO (Linux 4.18)"), (gro, "GRO (Linux 5.0)")];
            let lacks: Vec<_> = lacks.iter().filter(|(has, _)| !has).map(|(_, name)| *name).collect();
            Finding::warning(check, format!("without {}", lacks.join(" and ")), "a newer kernel makes tunnels faster")
        }
    }
}

/// Checks whether the port can be bound, for each family.
fn port(port: u16) -> Vec<Finding> {
    let check = "UDP port";
    let of = |family, address: SocketAddr| match UdpSocket::bind(address) {
        Ok(_) => Finding::ok(check, format!("{port} is free for {family}")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::warning(
            check,
            format!("{port} is taken for {family}"),
            format!("`ss -lunp sport = :{port}` shows by whom; a tunnel that runs already has its port"),
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::missing(check, format!("{port} may not be bound for {family}"), "choose one above 1023")
        }
        Err(error) => {
            Finding::warning(check, format!("{port} cannot be bound for {family}: {error}"), "is the family off?")
        }
    };
    // An IPv6 socket would also take IPv4, and prevent that test.
    let ipv4 = of("IPv4", (Ipv4Addr::UNSPECIFIED, port).into());
    vec![ipv4, of("IPv6", (Ipv6Addr::UNSPECIFIED, port).into())]
}

fn ipv6() -> Finding {
    let check = "IPv6";
    match fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6") {
        Ok(text) if text.trim() == "0" => Finding::ok(check, "is on"),
        Ok(_) => Finding::warning(
            check,
            "is turned off",
            "addresses and AllowedIPs of IPv6 will not work; `sysctl net.ipv6.conf.all.disable_ipv6=0`",
        ),
        Err(_) => Finding::warning(check, "the kernel has none", "leave IPv6 out of configurations"),
    }
}

fn clock() -> Finding {
    let check = "clock";
    let hint = "peers refuse handshakes that are older than the last one: set the clock, and keep it right by NTP";
    if units::now() < NOT_BEFORE {
        return Finding::missing(check, "is years behind", hint);
    }
    match system::clock_is_synchronized() {
        Ok(true) => Finding::ok(check, "is synchronized"),
        Ok(false) => Finding::warning(check, "is not synchronized", hint),
        Err(error) => {
            Finding::warning(check, format!("the system does not tell whether it is synchronized: {error}"), hint)
        }
    }
}

/// Checks the MTU of the route to a server, as the kernel has it now.
fn path(endpoint: Option<&str>) -> Finding {
    let check = "path";
    let Some(endpoint) = endpoint else {
        return Finding::ok(check, "not looked at: --endpoint HOST:PORT names a server");
    };
    let hint = "is the name right, and is there a route to it?";
    let address = match endpoint.to_socket_addrs().map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => address,
        Ok(None) => return Finding::missing(check, format!("{endpoint} has no address"), hint),
        Err(error) => return Finding::missing(check, format!("{endpoint}: {error}"), hint),
    };
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let (level, option): (c_int, c_int) =
        if address.is_ipv4() { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    let mtu = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(address)?;
        system::option(&socket, level, option)
    });
    match mtu {
        Ok(mtu) => {
            let inner = mtu - if address.is_ipv4() { OVERHEAD.0 } else { OVERHEAD.1 };
            let found = format!("{mtu} bytes to {address}: a tunnel's MTU may be {inner}");
            match inner {
                1420.. => Finding::ok(check, found),
                1280.. => Finding::warning(check, found, format!("write MTU = {inner}")),
                _ => Finding::warning(check, found, format!("write MTU = {inner}; IPv6 needs 1280")),
            }
        }
        Err(error) => Finding::missing(check, format!("no way to {address}: {error}"), hint),
    }
}

fn forwarding() -> Finding {
    let check = "forwarding";
    let is_on = |path| fs::read_to_string(path).is_ok_and(|text| text.trim() == "1");
    match (is_on("/proc/sys/net/ipv4/ip_forward"), is_on("/proc/sys/net/ipv6/conf/all/forwarding")) {
        (false, false) => {
            Finding::ok(check, "off; only a server that passes packets on needs it (net.ipv4.ip_forward)")
        }
        (ipv4, ipv6) => {
            let families = [(ipv4, "IPv4"), (ipv6, "IPv6")];
            let on: Vec<_> = families.iter().filter(|(on, _)| *on).map(|(_, family)| *family).collect();
            Finding::ok(check, format!("on for {}", on.join(" and ")))
        }
    }
}

/// Checks whether a program is in `PATH`.
fn has_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

fn resolver() -> Finding {
    let check = "resolver tools";
    let tools: Vec<_> = ["resolvectl", "resolvconf"].into_iter().filter(|name| has_program(name)).collect();
    if !tools.is_empty() {
        return Finding::ok(check, tools.join(", "));
    }
    let found = if Path::new("/etc/resolv.conf").exists() {
        "neither resolvectl nor resolvconf"
    } else {
        "neither resolvectl nor resolvconf, and no /etc/resolv.conf"
    };
    Finding::warning(
        check,
        found,
        "wg-quick(8) needs one of them for DNS = ...; install systemd-resolved or openresolv",
    )
}

fn scripts() -> Finding {
    let check = "other tools";
    let found: Vec<_> = ["wg", "wg-quick", "ip", "nft"].into_iter().filter(|name| has_program(name)).collect();
    if found.contains(&"ip") {
        Finding::ok(check, found.join(", "))
    } else {
        Finding::warning(check, "there is no ip(8)", "install iproute2 to set addresses and routes")
    }
}

/// Lists daemons that answer, and sockets that were left behind.
fn daemons(sockets: &Sockets) -> Vec<Finding> {
    let names = match sockets.all() {
        Ok(names) => names,
        Err(failure) => return vec![Finding::warning("daemons", failure.text, "try again as root")],
    };
    if names.is_empty() {
        return vec![Finding::ok("daemons", "none runs")];
    }
    names.iter().map(|name| daemon(sockets, name)).collect()
}

fn daemon(sockets: &Sockets, name: &str) -> Finding {
    let check = "daemons";
    match sockets.open(name) {
        Ok(_) => match sockets.connect(name).and_then(|mut client| client.get()) {
            Ok(state) => Finding::ok(check, format!("{name} answers, with {} peers", state.peers.len())),
            Err(failure) => Finding::warning(check, failure.text, "does it hang? Its log may tell why"),
        },
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Finding::warning(
            check,
            format!("{name}: a socket without a daemon"),
            format!("`rm {}`; a new wg-embed of this name does so itself", sockets.path(name).display()),
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::warning(check, format!("{name} belongs to another user"), "try again as root")
        }
        Err(error) => Finding::warning(check, format!("{name}: {error}"), "see the daemon's log"),
    }
}
