//! The configuration file: that of wireproxy, with `[Limits]`.

mod env;
mod ini;
#[cfg(test)]
mod tests;

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use ini::Section;
use wg_embed::config::{
    AllowedIpUpdate,
    wgquick::{Conf, InterfaceSettings},
};
use wg_embed_netstack::{dial::parse_host_port, dns::Family};
use wg_embed_proxy::{Address, Allow, Kind, Login, Service, Target, Tls};
use zeroize::Zeroizing;

/// The contents of a file.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) conf: Conf,
    pub(crate) services: Vec<Service>,
    /// The target that standard input and output are connected to.
    pub(crate) stdio: Option<String>,
    pub(crate) family: Family,
    pub(crate) check_alive: Vec<IpAddr>,
    pub(crate) check_interval: Duration,
    pub(crate) max_connections: usize,
    /// The maximum size of the connections' buffers in bytes.
    pub(crate) memory: usize,
    /// The directories of the files that were read.
    pub(crate) directories: Vec<PathBuf>,
}

/// Reads a file. The error text has all errors, one per line, each with file, line, section and key.
pub(crate) fn read(path: &Path) -> Result<Config, String> {
    let text = load(path)?;
    let mut reader = Reader::new(path);
    let config = reader.file(&text);
    match config {
        Some(config) if reader.errors.is_empty() => Ok(config),
        _ => Err(reader.errors.join("\n")),
    }
}

fn load(path: &Path) -> Result<Zeroizing<String>, String> {
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|e| format!("{}: {e}", path.display()))
}

/// Returns the directory of a file, and that of its target if it is a link.
fn directories(path: &Path) -> Vec<PathBuf> {
    let whole = path.canonicalize().ok();
    let mut all: Vec<_> = [Some(path), whole.as_deref()].into_iter().flatten().filter_map(Path::parent).collect();
    all.dedup();
    all.into_iter().map(Path::to_owned).collect()
}

struct Reader<'a> {
    path: &'a Path,
    errors: Vec<String>,
}

/// The keys of one section that were not yet read.
struct Keys<'a> {
    place: String,
    /// The base of relative paths in the file.
    base: &'a Path,
    section: &'a Section,
    used: Vec<&'static str>,
    /// The directories of the files that were read.
    directories: Vec<PathBuf>,
}

impl<'a> Keys<'a> {
    /// Takes the value of a key, if there is one that is not empty. Like wireproxy, it takes the first one.
    fn take(&mut self, name: &'static str) -> Result<Option<(usize, Zeroizing<String>)>, String> {
        self.used.push(name);
        let key = self.section.keys.iter().find(|key| key.name.eq_ignore_ascii_case(name));
        let Some(key) = key.filter(|key| !key.value.is_empty()) else {
            return Ok(None);
        };
        let value = env::expand(&key.value, |name| std::env::var(name).ok());
        let value = value.map_err(|reason| self.bad(key.line, name, &reason))?;
        Ok(Some((key.line, value)))
    }

    fn bad(&self, line: usize, name: &str, reason: &str) -> String {
        format!("{}: line {line}: [{}] {name}: {reason}", self.place, self.section.name)
    }

    /// Takes a value that `read` converts; `expected` describes a valid one.
    fn read<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.take(name)? {
            None => Ok(None),
            Some((line, value)) => read(&value).map(Some).ok_or_else(|| self.bad(line, name, expected)),
        }
    }

    fn need<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, String> {
        let found = self.read(name, expected, read)?;
        found.ok_or_else(|| self.bad(self.section.line, name, "missing"))
    }

    fn address(&mut self) -> Result<Address, String> {
        let base = self.base;
        self.need("BindAddress", "not ADDRESS:PORT or unix:PATH", |text| match text.strip_prefix("unix:") {
            Some(path) => (!path.is_empty()).then(|| Address::Unix(base.join(path))),
            None => socket_address(text).map(Address::Tcp),
        })
    }

    fn target(&mut self) -> Result<String, String> {
        self.need("Target", "not HOST:PORT", target)
    }

    /// Reads a file, whose path is relative to the configuration's.
    fn file(&mut self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        let Some((line, path)) = self.take(name)? else {
            return Ok(None);
        };
        let path = self.base.join(path.as_str());
        let text = std::fs::read(&path).map_err(|e| self.bad(line, name, &format!("cannot be read: {e}")))?;
        self.directories.extend(directories(&path));
        Ok(Some(text.into()))
    }

    /// Reads `CertFile` and `KeyFile`: both or neither must be given.
    fn tls(&mut self) -> Result<Option<Tls>, String> {
        match (self.file("CertFile")?, self.file("KeyFile")?) {
            (None, None) => Ok(None),
            (Some(chain), Some(key)) => {
                let tls = Tls::new(&chain, &key);
                tls.check().map_err(|e| self.bad(self.section.line, "CertFile", &e.to_string()))?;
                Ok(Some(tls))
            }
            (Some(_), None) => Err(self.bad(self.section.line, "KeyFile", "missing, as there is CertFile")),
            (None, Some(_)) => Err(self.bad(self.section.line, "CertFile", "missing, as there is KeyFile")),
        }
    }

    /// Takes a target on this side.
    fn local_target(&mut self) -> Result<Target, String> {
        let base = self.base;
        self.need("Target", "not HOST:PORT or unix:PATH", |text| match text.strip_prefix("unix:") {
            Some(path) => (!path.is_empty()).then(|| Target::Unix(base.join(path))),
            None => target(text).map(Target::Host),
        })
    }

    /// Takes a port in the tunnel; `None` is any.
    fn listen_port(&mut self) -> Result<Option<u16>, String> {
        self.need("ListenPort", "not a port or any", |text| {
            if text.eq_ignore_ascii_case("any") { Some(None) } else { port(text).map(Some) }
        })
    }

    fn allow(&mut self) -> Result<Vec<Allow>, String> {
        let list = |text: &str| text.split(',').map(|item| item.trim().parse().ok()).collect();
        // Without the key, almost everything is allowed: an empty list is probably a mistake.
        let is_allow = |key: &&ini::Key| key.name.eq_ignore_ascii_case("Allow");
        if let Some(key) = self.section.keys.iter().find(is_allow).filter(|key| key.value.is_empty()) {
            return Err(self.bad(key.line, "Allow", "empty"));
        }
        Ok(self.read("Allow", "not a list of ADDRESS[/BITS][:PORT[-PORT]]", list)?.unwrap_or_default())
    }

    /// Takes an idle time: 0 is no limit, and the default is `default` seconds.
    fn idle(&mut self, default: u32) -> Result<Option<Duration>, String> {
        let seconds = self.read("InactivityTimeout", "not a number of seconds", number::<u32>)?.unwrap_or(default);
        Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
    }

    fn login(&mut self) -> Result<Option<Login>, String> {
        let name = self.take("Username")?;
        match (name, self.take("Password")?) {
            (None, None) => Ok(None),
            (None, Some((line, _))) => Err(self.bad(line, "Password", "needs Username")),
            (Some((_, name)), password) => {
                let password = password.map(|(_, value)| value).unwrap_or_default();
                Ok(Some(Login::new(&name, &password)))
            }
        }
    }

    fn unknown(&self) -> Vec<String> {
        let known = |name: &str| self.used.iter().any(|used| used.eq_ignore_ascii_case(name));
        let keys = self.section.keys.iter().filter(|key| !known(&key.name));
        keys.map(|key| self.bad(key.line, &key.name, "unknown key")).collect()
    }
}

/// Parses an address and a port; without an address, all addresses.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    match text.split_once(':') {
        Some(("localhost", text)) => Some((Ipv4Addr::LOCALHOST, any_port(text)?).into()),
        Some(("", text)) => Some((all_addresses(), any_port(text)?).into()),
        _ => text.parse().ok(),
    }
}

/// Parses a port, which may be 0.
fn any_port(text: &str) -> Option<u16> {
    number(text).filter(|_| text.starts_with(|first: char| first.is_ascii_digit()))
}

/// Returns the unspecified address of IPv6, which stands for both families, or that of IPv4 if the system does not have
/// IPv6.
fn all_addresses() -> IpAddr {
    const MISSING: [i32; 2] = [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL];
    let tried = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0));
    let is_missing = tried.is_err_and(|error| error.raw_os_error().is_some_and(|code| MISSING.contains(&code)));
    if is_missing { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn target(text: &str) -> Option<String> {
    parse_host_port(text).ok().filter(|(_, port)| *port != 0).map(|_| text.to_owned())
}

fn port(text: &str) -> Option<u16> {
    number(text).filter(|port| *port != 0)
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

impl<'a> Reader<'a> {
    const fn new(path: &'a Path) -> Self {
        Self { path, errors: Vec::new() }
    }

    fn sections(&mut self, path: &Path, text: &str) -> Option<Vec<Section>> {
        let found = ini::parse(text);
        let tell = |(line, reason)| format!("{}: line {line}: {reason}", path.display());
        found.map_err(|errors| self.errors.extend(errors.into_iter().map(tell))).ok()
    }

    fn keys<'s>(&self, section: &'s Section) -> Keys<'s>
    where
        'a: 's,
    {
        Keys {
            place: self.path.display().to_string(),
            base: self.path.parent().unwrap_or(Path::new("")),
            section,
            used: Vec::new(),
            directories: Vec::new(),
        }
    }

    /// Records an error, and continues.
    fn note<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    fn file(&mut self, text: &str) -> Option<Config> {
        let sections = self.sections(self.path, text)?;
        let mut config = Config {
            conf: Conf { interface: InterfaceSettings::default(), update: wg_embed::config::Update::default() },
            services: Vec::new(),
            stdio: None,
            family: Family::Any,
            check_alive: Vec::new(),
            check_interval: Duration::from_secs(5),
            max_connections: 65_536,
            memory: 256 << 20,
            directories: directories(self.path),
        };
        let mut other = None;
        for section in &sections {
            let mut keys = self.keys(section);
            let result = match &*section.name {
                "" => keys.take("WGConfig").map(|path| other = path.map(|(_, path)| path)),
                "interface" | "peer" => continue,
                "resolve" => keys
                    .read("ResolveStrategy", "not auto, ipv4 or ipv6", |text| match &*text.to_ascii_lowercase() {
                        "auto" => Some(Family::Any),
                        "ipv4" => Some(Family::PreferIpv4),
                        "ipv6" => Some(Family::PreferIpv6),
                        _ => None,
                    })
                    .map(|family| config.family = family.unwrap_or(Family::Any)),
                "limits" => limits(&mut keys, &mut config),
                "stdiotunnel" if config.stdio.is_some() => {
                    Err(format!("{}: line {}: [stdiotunnel]: there is another one", keys.place, section.line))
                }
                "stdiotunnel" => keys.target().map(|target| config.stdio = Some(target)),
                _ => service(&mut keys).map(|service| config.services.push(service)),
            };
            config.directories.append(&mut keys.directories);
            if self.note(result).is_some() {
                self.errors.extend(keys.unknown());
            }
        }
        let (path, text) = match other {
            None => (self.path.to_owned(), Zeroizing::new(text.to_owned())),
            Some(name) => {
                let path = self.path.parent().unwrap_or(Path::new("")).join(name.as_str());
                config.directories.extend(directories(&path));
                let loaded = load(&path);
                let text = self.note(loaded)?;
                (path, text)
            }
        };
        self.tunnel(&path, &text, &mut config)?;
        Some(config)
    }

    /// Reads `[Interface]` and `[Peer]`: keys of wg-quick are read by its own parser, line by line at the same
    /// positions.
    fn tunnel(&mut self, path: &Path, text: &str, config: &mut Config) -> Option<()> {
        let sections = self.sections(path, text)?;
        let mut lines: Vec<Zeroizing<String>> = vec![Zeroizing::default(); text.lines().count() + 1];
        for section in sections.iter().filter(|section| matches!(&*section.name, "interface" | "peer")) {
            *lines.get_mut(section.line)? = format!("[{}]", section.name).into();
            let mut keys = self.keys(section);
            keys.place = path.display().to_string();
            if section.name == "interface" {
                let list =
                    |text: &str| text.split(',').map(|item| item.trim().parse().ok()).collect::<Option<Vec<_>>>();
                let alive = keys.read("CheckAlive", "not a list of IP addresses", list);
                config.check_alive = self.note(alive).flatten().unwrap_or_default();
                let interval = keys.read("CheckAliveInterval", "not a number of seconds", |text| {
                    number::<u32>(text).filter(|seconds| *seconds > 0)
                });
                if let Some(seconds) = self.note(interval).flatten() {
                    config.check_interval = Duration::from_secs(seconds.into());
                    if config.check_alive.is_empty() {
                        self.errors.push(keys.bad(section.line, "CheckAliveInterval", "needs CheckAlive"));
                    }
                }
            }
            for key in &section.keys {
                if matches!(&*key.name, "checkalive" | "checkaliveinterval") || key.value.is_empty() {
                    continue;
                }
                let value = env::expand(&key.value, |name| std::env::var(name).ok());
                let value = value.map_err(|reason| keys.bad(key.line, &key.name, &reason));
                if let Some(value) = self.note(value) {
                    let line = lines.get_mut(key.line)?;
                    let _ = write!(line, "{} = {}", key.name, value.as_str());
                }
            }
        }
        let mut whole = Zeroizing::new(String::with_capacity(text.len() * 2));
        for line in lines.iter().skip(1) {
            whole.push_str(line);
            whole.push('\n');
        }
        let conf: Result<Conf, _> = whole.parse();
        let mut conf = self.note(conf.map_err(|e| format!("{}: {e}", path.display())))?;
        let everything =
            ["0.0.0.0", "::"].map(|any| any.parse().ok().and_then(|any| AllowedIpUpdate::new(any, 0, false).ok()));
        for peer in &mut conf.update.peers {
            if peer.allowed_ips.is_empty() {
                peer.allowed_ips.extend(everything.into_iter().flatten());
            }
        }
        let place = path.display();
        if conf.update.peers.is_empty() {
            self.errors.push(format!("{place}: no [Peer]"));
        }
        if conf.interface.addresses.is_empty() {
            self.errors.push(format!("{place}: [Interface] Address: missing"));
        }
        if conf.update.private_key.as_ref().is_none_or(Option::is_none) {
            self.errors.push(format!("{place}: [Interface] PrivateKey: missing"));
        }
        if !conf.interface.dns_search.is_empty() {
            self.errors.push(format!("{place}: [Interface] DNS: not a list of IP addresses"));
        }
        if let Err(error) = wg_embed_netstack::Options::from(&conf.interface).check() {
            self.errors.push(format!("{place}: [Interface]: {error}"));
        }
        if config.family == Family::Any {
            let only_v4 = conf.interface.addresses.iter().all(|net| net.addr().is_ipv4());
            config.family = if only_v4 { Family::PreferIpv4 } else { Family::PreferIpv6 };
        }
        config.conf = conf;
        Some(())
    }
}

fn positive(text: &str) -> Option<usize> {
    number::<u32>(text).filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok())
}

fn limits(keys: &mut Keys<'_>, config: &mut Config) -> Result<(), String> {
    if let Some(number) = keys.read("MaxConnections", "not a positive number", positive)? {
        config.max_connections = number;
    }
    let mebibytes = |text: &str| positive(text).filter(|n| *n <= 1 << 20);
    if let Some(number) = keys.read("Memory", "not a number of MiB", mebibytes)? {
        config.memory = number << 20;
    }
    Ok(())
}

fn service(keys: &mut Keys<'_>) -> Result<Service, String> {
    let kind = match &*keys.section.name {
        "socks5" => Kind::Socks5 { at: keys.address()?, login: keys.login()?, bind: true },
        "http" => {
            let (at, login) = (keys.address()?, keys.login()?);
            match (keys.tls()?, &at) {
                (None, _) => Kind::Http { at, login },
                (Some(_), Address::Unix(_)) => {
                    return Err(keys.bad(keys.section.line, "CertFile", "not together with unix:"));
                }
                (Some(tls), Address::Tcp(_)) => Kind::Https { at, login, tls },
            }
        }
        "tcpclienttunnel" => Kind::TcpClient { at: keys.address()?, target: keys.target()? },
        "tcpservertunnel" => match keys.listen_port()? {
            Some(port) => Kind::TcpServer { port, target: keys.local_target()? },
            None => Kind::TcpForward { allow: keys.allow()? },
        },
        "udpproxytunnel" => {
            let at = keys.need("BindAddress", "not ADDRESS:PORT", socket_address)?;
            let target = keys.target()?;
            Kind::UdpClient { at, target, idle: keys.idle(0)? }
        }
        "udpservertunnel" => match keys.listen_port()? {
            Some(port) => {
                let target = keys.need("Target", "not ADDRESS:PORT", socket_address)?;
                Kind::UdpServer { port, target, idle: keys.idle(300)? }
            }
            None => Kind::UdpForward { allow: keys.allow()?, idle: keys.idle(60)?.unwrap_or(Duration::from_secs(60)) },
        },
        "sni" => Kind::Sni { at: keys.address()? },
        name => return Err(format!("{}: line {}: [{name}]: unknown section", keys.place, keys.section.line)),
    };
    let mut service = Service::new(kind);
    if let Some(number) = keys.read("MaxConnections", "not a positive number", positive)? {
        service.limits.connections = number;
    }
    Ok(service)
}

/// Returns the kind and the address of a service, for messages.
pub(crate) fn place(service: &Service) -> String {
    match &service.kind {
        Kind::Socks5 { at, .. } => format!("[Socks5] {at}"),
        Kind::Http { at, .. } | Kind::Https { at, .. } => format!("[http] {at}"),
        Kind::Sni { at } => format!("[SNI] {at}"),
        Kind::TcpClient { at, .. } => format!("[TCPClientTunnel] {at}"),
        Kind::TcpServer { port, .. } => format!("[TCPServerTunnel] {port}"),
        Kind::TcpForward { .. } => "[TCPServerTunnel] any".into(),
        Kind::UdpForward { .. } => "[UDPServerTunnel] any".into(),
        Kind::UdpClient { at, .. } => format!("[UDPProxyTunnel] {at}"),
        Kind::UdpServer { port, .. } => format!("[UDPServerTunnel] {port}"),
        _ => String::new(),
    }
}
