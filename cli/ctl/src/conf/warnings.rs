//! Valid contents of a file that are probably mistakes.

use std::{collections::HashMap, net::IpAddr, ops::Range};

use ipnet::IpNet;
use wg_embed::{
    config::{
        PeerEndpoint, PeerUpdate,
        wgquick::{Checked, Line, Table, span},
    },
    key::PublicKey,
};

use super::report::{Finding, Severity};

/// Returns all findings; `mode` has the permission bits of the file.
pub(super) fn of(checked: &Checked, lines: &[&str], mode: Option<u32>) -> Vec<Finding> {
    let mut search = Search { checked, lines, found: Vec::new() };
    search.permissions(mode);
    search.repeated_keys();
    search.interface();
    search.keys();
    search.allowed_ips();
    search.peers();
    search.default_routes();
    search.found
}

struct Search<'a> {
    checked: &'a Checked,
    lines: &'a [&'a str],
    found: Vec<Finding>,
}

/// A line, and the range of bytes that a finding concerns.
type Place = (usize, Range<usize>);

impl Search<'_> {
    fn add(&mut self, severity: Severity, (line, span): Place, message: impl Into<String>, hint: impl Into<String>) {
        let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self.found.push(Finding { severity, line, span, message: message.into(), hint });
    }

    fn warn(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, place, message, hint);
    }

    fn note(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Note, place, message, hint);
    }

    /// Returns the lines of a section behind its header: numbers and parts.
    fn section(&self, header: usize) -> impl Iterator<Item = (usize, &str, Line<'_>)> {
        let rest = (header + 1..).zip(self.lines.iter().skip(header));
        rest.map(|(number, line)| (number, *line, Line::of(line)))
            .take_while(|(_, _, line)| !matches!(line, Line::Header(_)))
    }

    fn interface_line(&self) -> usize {
        let is_header =
            |line: &&str| matches!(Line::of(line), Line::Header(h) if h.to_ascii_lowercase().contains("interface"));
        self.lines.iter().position(is_header).map_or(1, |index| index + 1)
    }

    /// Returns the whole line of a header.
    fn header(&self, line: usize) -> Place {
        (line, 0..self.lines.get(line - 1).map_or(0, |text| text.trim_end().len()))
    }

    /// Returns the value of a key, or else the section's header.
    fn value(&self, header: usize, name: &str) -> Place {
        let found = self.section(header).filter_map(|(number, text, line)| match line {
            Line::Pair { key, value } if is(key, name) => Some((number, span(text, value))),
            _ => None,
        });
        found.last().unwrap_or_else(|| self.header(header))
    }

    /// Returns the item of a list that is this prefix, or else the value.
    fn item(&self, header: usize, name: &str, wanted: IpNet) -> Place {
        let reads_as = |item: &str| {
            let item: String = item.chars().filter(|c| !c.is_whitespace()).collect();
            item.parse::<IpAddr>().map(IpNet::from).or_else(|_| item.parse()).is_ok_and(|net| net.trunc() == wanted)
        };
        let found = self.section(header).find_map(|(number, text, line)| match line {
            Line::Pair { key, value } if is(key, name) => {
                let item = value.split(',').map(str::trim).find(|item| reads_as(item))?;
                Some((number, span(text, item)))
            }
            _ => None,
        });
        found.unwrap_or_else(|| self.value(header, name))
    }

    fn permissions(&mut self, mode: Option<u32>) {
        let Some(mode) = mode.filter(|mode| mode & 0o077 != 0) else {
            return;
        };
        let update = &self.checked.conf.update;
        let has_secret =
            matches!(update.private_key, Some(Some(_))) || update.peers.iter().any(|p| p.preshared_key.is_some());
        if has_secret {
            self.warn(
                (0, 0..0),
                format!("other users can open the file, which has keys (mode {mode:04o})"),
                "chmod 600 FILE",
            );
        }
    }

    /// Finds keys that are repeated, of which only the last one counts.
    fn repeated_keys(&mut self) {
        const ONCE: [&str; 9] = [
            "privatekey",
            "listenport",
            "fwmark",
            "mtu",
            "table",
            "publickey",
            "presharedkey",
            "endpoint",
            "persistentkeepalive",
        ];
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut repeated = Vec::new();
        for (number, text) in (1..).zip(self.lines) {
            match Line::of(text) {
                Line::Header(_) => seen.clear(),
                Line::Pair { key, .. } => {
                    let name = key.to_ascii_lowercase();
                    if ONCE.contains(&name.as_str())
                        && let Some(first) = seen.insert(name, number)
                    {
                        repeated.push(((number, span(text, key)), first));
                    }
                }
                _ => {}
            }
        }
        for (place, first) in repeated {
            self.warn(place, format!("again, after line {first}: only the last one counts"), "remove one of them");
        }
    }

    fn interface(&mut self) {
        let header = self.interface_line();
        let (conf, place) = (&self.checked.conf, self.header(header));
        let hooks = [&conf.interface.pre_up, &conf.interface.post_up];
        let is_set_by_hook = hooks.iter().any(|hooks| hooks.iter().any(|hook| hook.contains("private-key")));
        let is_wrong = |key| self.checked.problems.iter().any(|problem| problem.error.to_string().contains(key));
        if !matches!(conf.update.private_key, Some(Some(_))) && !is_set_by_hook && !is_wrong("PrivateKey") {
            self.warn(place.clone(), "there is no PrivateKey", "write PrivateKey = KEY, made by `wg-embedctl genkey`");
        }
        let listens = conf.update.listen_port.is_some_and(|port| port != 0);
        let peers = &conf.update.peers;
        let has_endpoint = peers.iter().any(|peer| peer.endpoint.is_some()) || is_wrong("Endpoint");
        if !peers.is_empty() && !listens && !has_endpoint && !is_wrong("ListenPort") {
            self.warn(
                place,
                "neither ListenPort nor any Endpoint: no side can reach the other",
                "a server has ListenPort = 51820; a client has an Endpoint",
            );
        }
        let has_ipv6 = conf.interface.addresses.iter().any(|net| net.addr().is_ipv6())
            || peers.iter().flat_map(|peer| &peer.allowed_ips).any(|change| change.prefix.addr().is_ipv6());
        if let Some(mtu) = conf.interface.mtu.filter(|mtu| *mtu < 1280 && has_ipv6) {
            let place = self.value(header, "MTU");
            self.warn(
                place,
                format!("IPv6 does not work with an MTU of {mtu}"),
                "write MTU = 1280 or more, usually 1420",
            );
        }
        self.dns(header);
    }

    /// Finds DNS servers that are not reached through the tunnel.
    fn dns(&mut self, header: usize) {
        let conf = &self.checked.conf;
        let prefixes = || conf.update.peers.iter().flat_map(|peer| &peer.allowed_ips).map(|change| change.prefix);
        let is_inside = |ip: &IpAddr| prefixes().any(|prefix| prefix.contains(ip));
        let outside = conf.interface.dns.iter().find(|ip| is_private(ip) && !is_inside(ip)).copied();
        if let Some(ip) = outside.filter(|_| !conf.update.peers.is_empty()) {
            let place = self.value(header, "DNS");
            let hint = format!("add {ip} to the AllowedIPs of the peer that leads to it");
            self.warn(
                place,
                format!("no peer's AllowedIPs has the DNS server {ip}: it is not asked through the tunnel"),
                hint,
            );
        }
        let Some(index) =
            conf.update.peers.iter().position(|peer| peer.allowed_ips.iter().any(|c| c.prefix.prefix_len() == 0))
        else {
            return;
        };
        if conf.interface.dns.is_empty() && !conf.interface.addresses.is_empty() && conf.interface.table == Table::Auto
        {
            let place = self.value(self.checked.peer_lines[index], "AllowedIPs");
            self.note(
                place,
                "all packets go through the tunnel, but names are still asked of the present DNS server",
                "write DNS = ADDRESS in [Interface] if that server is in the local network",
            );
        }
    }

    fn keys(&mut self) {
        let update = &self.checked.conf.update;
        let private = update.private_key.as_ref().and_then(Option::as_ref);
        let own = private.map(wg_embed::key::PrivateKey::public_key);
        let mut seen: HashMap<PublicKey, usize> = HashMap::new();
        for (peer, &line) in update.peers.iter().zip(&self.checked.peer_lines) {
            let place = self.value(line, "PublicKey");
            if Some(peer.public_key) == own {
                let message = "this is the public key of the file's own PrivateKey: the peer is ignored";
                self.warn(place.clone(), message, "write the public key of the other side");
            }
            if private.is_some_and(|key| key.as_bytes() == peer.public_key.as_bytes()) {
                let message = "this is the file's PrivateKey, not a public key";
                self.warn(
                    place.clone(),
                    message,
                    "write the other side's public key, and make a new private key if others saw it",
                );
            }
            if let Some(first) = seen.insert(peer.public_key, line) {
                let message = format!("the peer of line {first} has the same key: both sections are one peer");
                self.warn(place, message, "join them");
            }
            let psk = peer.preshared_key.as_ref().map(|key| key.as_bytes());
            let is_other_key = psk == Some(peer.public_key.as_bytes())
                || psk.is_some() && psk == private.map(wg_embed::key::PrivateKey::as_bytes);
            if is_other_key {
                let place = self.value(line, "PresharedKey");
                self.warn(
                    place,
                    "a preshared key that is another key as well protects nothing",
                    "make one with `wg-embedctl genpsk`",
                );
            }
        }
    }

    /// Finds prefixes that several peers have, or that are within another peer's prefix.
    fn allowed_ips(&mut self) {
        let checked = self.checked;
        let peers = || checked.conf.update.peers.iter().zip(&checked.peer_lines);
        let mut owner: HashMap<IpNet, (PublicKey, usize)> = HashMap::new();
        for (peer, &line) in peers() {
            for change in &peer.allowed_ips {
                let before = owner.insert(change.prefix, (peer.public_key, line));
                let Some((_, first)) = before.filter(|(key, _)| *key != peer.public_key) else {
                    continue;
                };
                let place = self.item(line, "AllowedIPs", change.prefix);
                let message =
                    format!("the peer of line {first} has {} as well: only the last peer gets it", change.prefix);
                self.warn(place, message, "give each peer prefixes of its own");
            }
        }
        for (peer, &line) in peers() {
            for change in &peer.allowed_ips {
                let wider = (1..change.prefix.prefix_len()).rev().find_map(|bits| {
                    let net = IpNet::new(change.prefix.addr(), bits).ok()?.trunc();
                    owner.get(&net).filter(|(key, _)| *key != peer.public_key).map(|(_, line)| (net, *line))
                });
                if let Some((net, other)) = wider {
                    let place = self.item(line, "AllowedIPs", change.prefix);
                    let message = format!("inside {net} of the peer of line {other}: its packets for this go here");
                    self.note(place, message, "");
                }
            }
            self.host_bits(line);
        }
    }

    /// Finds prefixes like `10.0.0.1/24`, which means `10.0.0.0/24`.
    fn host_bits(&mut self, header: usize) {
        let mut found = Vec::new();
        for (number, text, line) in self.section(header) {
            let Line::Pair { key, value } = line else {
                continue;
            };
            for item in value.split(',').map(str::trim).filter(|_| is(key, "AllowedIPs")) {
                let net = item.parse::<IpNet>().ok().filter(|net| net.trunc() != *net);
                found.extend(net.map(|net| ((number, span(text, item)), net)));
            }
        }
        for (place, net) in found {
            let message = format!("{net} means {}", net.trunc());
            let hint =
                format!("write {}, or {}/{} for this address alone", net.trunc(), net.addr(), net.max_prefix_len());
            self.note(place, message, hint);
        }
    }

    fn peers(&mut self) {
        let conf = &self.checked.conf;
        let listens = conf.update.listen_port.is_some_and(|port| port != 0);
        let behind_nat = !listens && conf.interface.addresses.iter().all(|net| is_private(&net.addr()));
        for (peer, &line) in conf.update.peers.iter().zip(&self.checked.peer_lines) {
            let place = self.header(line);
            let has_problem =
                self.checked.problems.iter().any(|p| p.line > line && p.error.to_string().contains("AllowedIPs"));
            if peer.allowed_ips.is_empty() && !has_problem {
                self.warn(
                    place.clone(),
                    "the peer has no AllowedIPs: nothing can be sent to it or received from it",
                    "write AllowedIPs = PREFIX, like 10.0.0.2/32",
                );
            }
            if peer.endpoint.is_some() && peer.persistent_keepalive.is_none() && behind_nat {
                self.note(
                    self.value(line, "Endpoint"),
                    "without PersistentKeepalive the peer cannot reach this machine through NAT after a silence",
                    "write PersistentKeepalive = 25 if it has to",
                );
            }
            if peer.endpoint.is_none() && peer.persistent_keepalive.is_some_and(|seconds| seconds != 0) {
                self.note(
                    self.value(line, "PersistentKeepalive"),
                    "keepalives need an Endpoint: none is sent before the peer was heard",
                    "",
                );
            }
            self.loops(peer, line);
        }
    }

    /// Finds endpoints that would be reached through the tunnel itself. With a default route wg-quick prevents that.
    fn loops(&mut self, peer: &PeerUpdate, line: usize) {
        let Some(PeerEndpoint::Address(endpoint)) = &peer.endpoint else {
            return;
        };
        let ip = endpoint.addr.ip();
        let inside =
            peer.allowed_ips.iter().map(|change| change.prefix).find(|net| net.prefix_len() > 0 && net.contains(&ip));
        if let Some(net) = inside {
            let place = self.value(line, "Endpoint");
            self.warn(
                place,
                format!("the endpoint is inside the peer's AllowedIPs {net}: its route leads into the tunnel"),
                "",
            );
        }
    }

    /// Finds a default route for only one family.
    fn default_routes(&mut self) {
        let conf = &self.checked.conf;
        for (peer, &line) in conf.update.peers.iter().zip(&self.checked.peer_lines) {
            let has = |ipv4: bool| {
                peer.allowed_ips.iter().any(|c| c.prefix.prefix_len() == 0 && c.prefix.addr().is_ipv4() == ipv4)
            };
            if has(true) && !has(false) {
                let place = self.value(line, "AllowedIPs");
                self.note(
                    place,
                    "0.0.0.0/0 is IPv4 alone: IPv6 goes past the tunnel",
                    "write AllowedIPs = 0.0.0.0/0, ::/0",
                );
            }
        }
    }
}

fn is(key: &str, name: &str) -> bool {
    key.chars().filter(|c| !c.is_whitespace()).collect::<String>().eq_ignore_ascii_case(name)
}

fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}
