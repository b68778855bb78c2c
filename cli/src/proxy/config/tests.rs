//! Each section and key, and what is wrong with others.
use super::*;

const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const SECRET: &str = "6AdaReFlGDbwnJF3CUzZzLt/pIlQBvo0xWTOxzfRXk4=";

fn base() -> String {
    format!("[Interface]\nAddress = 10.0.0.2/24\nPrivateKey = {SECRET}\n[Peer]\nPublicKey = {SECRET}\n")
}

fn parse(text: &str) -> Result<Config, String> {
    let path = Path::new("/dir/file");
    let mut reader = Reader::new(path);
    let config = reader.file(text);
    if reader.errors.is_empty() { config.ok_or_else(String::new) } else { Err(reader.errors.join("\n")) }
}

fn read(text: &str) -> Config {
    parse(&(base() + text)).unwrap_or_else(|error| unreachable!("{text}: {error}"))
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
fn every_service() {
    let text = "[SOCKS5]\nbindaddress = 127.0.0.1:1\nUsername = a\nPassword = $$b\n[Socks5]\nBindAddress = unix:s\n\
        [http]\nBindAddress = localhost:2\n[TCPClientTunnel]\nBindAddress = 127.0.0.1:3\nTarget = a.b:4\n\
        [TCPServerTunnel]\nListenPort = 5\nTarget = localhost:6\n[STDIOTunnel]\nTarget = [fd00::1]:7\n\
        [UDPProxyTunnel]\nBindAddress = 127.0.0.1:8\nTarget = a:9\nInactivityTimeout = 10\n\
        [UDPServerTunnel]\nListenPort = 11\nTarget = 127.0.0.1:12\nInactivityTimeout = 0\n\
        [SNI]\nBindAddress = 127.0.0.1:13\n";
    let tcp = |port| Address::Tcp(local(port));
    let login = Some(Login::new("a", "$b"));
    let idle = Some(Duration::from_secs(10));
    let expected = [
        Kind::Socks5 { at: tcp(1), login, bind: true },
        Kind::Socks5 { at: Address::Unix("/dir/s".into()), login: None, bind: true },
        Kind::Http { at: tcp(2), login: None },
        Kind::TcpClient { at: tcp(3), target: "a.b:4".into() },
        Kind::TcpServer { port: 5, target: Target::Host("localhost:6".into()) },
        Kind::UdpClient { at: local(8), target: "a:9".into(), idle },
        Kind::UdpServer { port: 11, target: local(12), idle: None },
        Kind::Sni { at: tcp(13) },
    ];
    let config = read(text);
    assert_eq!(config.services, expected.map(Service::new));
    assert_eq!(config.stdio.as_deref(), Some("[fd00::1]:7"));
}

#[test]
fn the_tunnel_and_its_defaults() {
    let config = parse(&base()).unwrap_or_else(|error| unreachable!("{error}"));
    assert_eq!(config.family, Family::PreferIpv4);
    let prefixes: Vec<_> = config.conf.update.peers[0].allowed_ips.iter().map(|ip| ip.prefix.to_string()).collect();
    assert_eq!(prefixes, ["0.0.0.0/0", "::/0"]);
    let text =
        base().replace("[Peer]", "CheckAlive = 10.0.0.1, fd00::1\nCheckAliveInterval = 7\nDNS = 10.0.0.1\n[Peer]");
    let text = text
        + "AllowedIPs = 10.0.0.0/8\nEndpoint = vpn.example:1\n[Resolve]\nResolveStrategy = IPv6\n\
        [Limits]\nMaxConnections = 3\nMemory = 4\n";
    let config = parse(&text).unwrap_or_else(|error| unreachable!("{error}"));
    assert_eq!((config.check_alive.len(), config.check_interval), (2, Duration::from_secs(7)));
    assert_eq!((config.family, config.max_connections, config.memory), (Family::PreferIpv6, 3, 4 << 20));
    assert_eq!(config.conf.update.peers[0].allowed_ips.len(), 1);
    assert_eq!(config.conf.interface.dns.len(), 1);
}

#[test]
fn errors_have_a_place_and_no_value() {
    for (text, place) in [
        ("[Socks5]\n", "line 6: [socks5] BindAddress: missing"),
        ("[Socks5]\nBindAddress = secret\n", "line 7: [socks5] BindAddress: not"),
        ("[Socks5]\nBindAddress = :1\nPort = secret\n", "line 8: [socks5] port: unknown key"),
        ("[http]\nBindAddress = :1\nCertFile = secret\n", "line 8: [http] CertFile: cannot be read"),
        ("[TCPServerTunnel]\nListenPort = 0\nTarget = a:1\n", "[tcpservertunnel] ListenPort: not a port"),
        ("[TCPClientTunnel]\nBindAddress = :1\nTarget = secret\n", "Target: not HOST:PORT"),
        ("[TCPServerTunnel]\nListenPort = any\nAllow =\n", "line 8: [tcpservertunnel] Allow: empty"),
        ("[UDPServerTunnel]\nListenPort = any\nAllow = $WG_EMBED_IS_NOT_SET\n", "environment variable"),
        ("[Socks5]\nBindAddress = :1\nPassword = secret\n", "line 8: [socks5] Password: needs Username"),
        ("[http]\nBindAddress = :1\nUsername =\nPassword = secret\n", "line 9: [http] Password: needs Username"),
        ("[Limits]\nMaxConnections = 0\n", "line 7: [limits] MaxConnections: not"),
        ("[Other]\na = secret\n", "line 6: [other]: unknown section"),
        ("[Peer]\nPublicKey = secret\n", "line 7"),
        ("[SNI]\nBindAddress = $WG_EMBED_IS_NOT_SET\n", "environment variable"),
        ("[Socks5]\nBindAddress = :1\nUsername = a\nPassword = $secret\n", "line 9: [socks5] Password: the env"),
        ("[Resolve]\nResolveStrategy = secret\n", "[resolve] ResolveStrategy"),
    ] {
        let error = parse(&(base() + text)).err().unwrap_or_default();
        assert!(error.starts_with("/dir/file: line ") && error.contains(place), "{text:?}: {error:?}");
        assert!(!error.contains("secret"), "{error}");
    }
    let error = parse(&base().replace(SECRET, ZERO)).err().unwrap_or_default();
    assert!(error.contains("PrivateKey: missing"), "{error}");
}

/// The stack would refuse them, when a reload has already changed a part.
#[test]
fn what_the_stack_refuses_is_an_error() {
    let with = |interface: &str| parse(&base().replace("[Peer]", &format!("{interface}\n[Peer]")));
    assert!(with("Address = fd00::2\nMTU = 1280").is_ok() && with("MTU = 576").is_ok());
    for bad in [
        "Address = fd00::2\nMTU = 1279",
        "Address = 224.0.0.1",
        "Address = 127.0.0.1",
        "Address = 0.0.0.0",
        "Address = 240.0.0.1",
        "Address = ff02::1",
        "Address = ::1",
    ] {
        let error = with(bad).err().unwrap_or_default();
        assert!(error.starts_with("/dir/file: [Interface]: "), "{bad}: {error:?}");
    }
}

/// Without IPv6, as it is for this thread, all addresses are those of IPv4.
#[test]
#[cfg(target_os = "linux")]
fn all_addresses_without_ipv6() {
    assert_eq!(socket_address("[::]:1"), Some((Ipv6Addr::UNSPECIFIED, 1).into()));
    let found =
        std::thread::spawn(|| without_ipv6().map(|()| (socket_address(":1"), UdpSocket::bind("[::]:0").is_ok())));
    match found.join() {
        Ok(Ok((at, has_ipv6))) => assert!(!has_ipv6 && at == Some((Ipv4Addr::UNSPECIFIED, 1).into()), "{at:?}"),
        Ok(Err(error)) => eprintln!("skipped: no filter of system calls: {error}"),
        Err(_) => unreachable!("the thread panicked"),
    }
}

/// Lets this thread create no sockets of IPv6, as on a system without it.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn without_ipv6() -> std::io::Result<()> {
    let instruction = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset);
    let is = |value, otherwise| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, otherwise, value);
    let end = |result| instruction(libc::BPF_RET | libc::BPF_K, 0, result);
    // The number of the call, and the lower half of its first argument.
    let first = if cfg!(target_endian = "little") { 16 } else { 20 };
    let mut filter = [
        load(0),
        is(libc::SYS_socket as u32, 3),
        load(first),
        is(libc::AF_INET6 as u32, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: it takes numbers, and concerns this thread.
    let is_bound = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    // SAFETY: the program outlives the call, which concerns this thread.
    let is_set =
        is_bound && unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } == 0;
    if is_set { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// wireproxy takes the first value of a repeated key.
#[test]
fn the_first_value_counts() {
    let config = read("[Socks5]\nBindAddress = 127.0.0.1:1\nBindAddress = 127.0.0.1:2\n");
    let at = Address::Tcp(local(1));
    assert_eq!(config.services, [Service::new(Kind::Socks5 { at, login: None, bind: true })]);
}

#[test]
fn all_errors_are_reported() {
    let error = parse("[Socks5]\n[SNI]\n[Interface]\n[Peer]\nPublicKey = x\n").err().unwrap_or_default();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
#[cfg(unix)]
fn links_lead_to_other_directories() {
    let base = std::env::temp_dir().join(format!("wg-embed-config-{}", std::process::id()));
    let [here, there] = ["here", "there"].map(|name| base.join(name));
    let make = || {
        std::fs::create_dir_all(&here)?;
        std::fs::create_dir_all(&there)?;
        std::fs::write(there.join("file"), "")?;
        std::os::unix::fs::symlink("../there/file", here.join("file"))?;
        there.canonicalize()
    };
    let made = make();
    let found = directories(&here.join("file"));
    let _ = std::fs::remove_dir_all(&base);
    assert_eq!(found, [here, made.unwrap_or_default()]);
}
