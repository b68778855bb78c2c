//! Writes a [`Conf`] as the text of a `.conf` file.

use std::fmt::Display;

use zeroize::Zeroizing;

use super::{Conf, InterfaceSettings, Table};
use crate::{
    config::{PeerUpdate, Update, text::push_wiped},
    error::{Error, Result},
};

impl Conf {
    /// Returns the text of a file with these contents, wiped when dropped.
    ///
    /// A file is always a complete configuration. So `replace_peers` and `replace_allowed_ips` are ignored, and unset
    /// values are omitted, so that they have their defaults.
    ///
    /// ```
    /// use wg_embed::{Conf, PrivateKey, Update};
    ///
    /// let key = PrivateKey::generate()?;
    /// let update = Update { private_key: Some(Some(key.clone())), ..Update::default() };
    /// let text = Conf { update, ..Conf::default() }.to_text()?;
    /// assert_eq!(text.parse::<Conf>()?.update.private_key, Some(Some(key)));
    /// # Ok::<(), wg_embed::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` for values that a file cannot represent, like the removal of a peer or a hook with a line feed: a text
    /// is never written that would be read back with different contents. `Resources` without memory for it.
    pub fn to_text(&self) -> Result<Zeroizing<String>> {
        let mut out = Text::default();
        out.section("[Interface]")?;
        let update = &self.update;
        out.option("PrivateKey", update.private_key.iter().flatten().map(|k| k.to_base64()).next().as_deref())?;
        out.option("ListenPort", update.listen_port.filter(|&port| port != 0))?;
        out.option("FwMark", update.fwmark.filter(|&mark| mark != 0).map(|mark| format!("{mark:#x}")))?;
        out.interface(&self.interface)?;
        for peer in &update.peers {
            out.section("\n[Peer]")?;
            out.peer(peer)?;
        }
        let read: Self = out.0.parse()?;
        if !self.is(&read) {
            return Err(Error::invalid("a .conf file cannot express all of this"));
        }
        Ok(out.0)
    }
}

impl Conf {
    /// Returns whether this is equal to `read`, which was read back from its text and has the implicit contents of a
    /// file.
    fn is(&self, read: &Self) -> bool {
        let (meant, is) = (&self.update, &read.update);
        let key = |update: &Update| update.private_key.clone().flatten();
        self.interface == read.interface
            && key(meant) == key(is)
            && meant.listen_port.unwrap_or_default() == is.listen_port.unwrap_or_default()
            && meant.fwmark.unwrap_or_default() == is.fwmark.unwrap_or_default()
            && meant.peers.len() == is.peers.len()
            && meant.peers.iter().zip(&is.peers).all(|(meant, is)| is_peer(meant, is))
    }
}

fn is_peer(meant: &PeerUpdate, is: &PeerUpdate) -> bool {
    let PeerUpdate {
        public_key,
        update_only,
        remove,
        preshared_key,
        endpoint,
        persistent_keepalive,
        replace_allowed_ips: _,
        allowed_ips,
    } = meant;
    (public_key, update_only, remove, preshared_key) == (&is.public_key, &is.update_only, &is.remove, &is.preshared_key)
        && (endpoint, persistent_keepalive, allowed_ips) == (&is.endpoint, &is.persistent_keepalive, &is.allowed_ips)
}

/// A text that leaves no copy behind when it grows.
#[derive(Default)]
struct Text(Zeroizing<String>);

impl Text {
    fn section(&mut self, header: &str) -> Result<()> {
        push_wiped(&mut self.0, header)?;
        Ok(push_wiped(&mut self.0, "\n")?)
    }

    fn pair(&mut self, key: &str, value: impl AsRef<str>) -> Result<()> {
        self.list(key, [value.as_ref()].into_iter())
    }

    fn option(&mut self, key: &str, value: Option<impl ToString>) -> Result<()> {
        value.map_or(Ok(()), |value| self.pair(key, Zeroizing::new(value.to_string()).as_str()))
    }

    fn items(&mut self, key: &str, items: impl Iterator<Item = impl Display>) -> Result<()> {
        self.list(key, items.map(|item| item.to_string()))
    }

    /// Writes a list; an empty list has no line.
    fn list(&mut self, key: &str, items: impl Iterator<Item = impl AsRef<str>>) -> Result<()> {
        let mut is_empty = true;
        for item in items {
            let before = if is_empty { [key, " = "] } else { [", ", ""] };
            for part in before.into_iter().chain([item.as_ref()]) {
                push_wiped(&mut self.0, part)?;
            }
            is_empty = false;
        }
        if !is_empty {
            push_wiped(&mut self.0, "\n")?;
        }
        Ok(())
    }

    fn interface(&mut self, interface: &InterfaceSettings) -> Result<()> {
        self.items("Address", interface.addresses.iter())?;
        self.items("DNS", interface.dns.iter())?;
        self.list("DNS", interface.dns_search.iter())?;
        self.option("MTU", interface.mtu)?;
        match interface.table {
            Table::Auto => {}
            Table::Off => self.pair("Table", "off")?,
            Table::Main => self.pair("Table", "main")?,
            Table::Number(number) => self.option("Table", Some(number))?,
        }
        for (key, hooks) in [
            ("PreUp", &interface.pre_up),
            ("PostUp", &interface.post_up),
            ("PreDown", &interface.pre_down),
            ("PostDown", &interface.post_down),
        ] {
            hooks.iter().try_for_each(|hook| self.pair(key, hook))?;
        }
        if interface.save_config {
            self.pair("SaveConfig", "true")?;
        }
        self.list("IncludedApplications", interface.included_applications.iter())?;
        self.list("ExcludedApplications", interface.excluded_applications.iter())
    }

    fn peer(&mut self, peer: &PeerUpdate) -> Result<()> {
        self.pair("PublicKey", peer.public_key.to_base64().as_str())?;
        self.option("PresharedKey", peer.preshared_key.as_ref().map(|k| k.to_base64()).as_deref())?;
        self.items("AllowedIPs", peer.allowed_ips.iter().map(|change| change.prefix))?;
        self.option("Endpoint", peer.endpoint.as_ref())?;
        self.option("PersistentKeepalive", peer.persistent_keepalive)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        config::{AllowedIpUpdate, HostPort, PeerEndpoint},
        key::{PresharedKey, PrivateKey, PublicKey},
    };
    use ipnet::IpNet;
    use proptest::{collection::vec, option, prelude::*};
    use std::net::{IpAddr, SocketAddr};

    #[test]
    fn a_file_as_a_human_would_write_it() {
        let text = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\nListenPort = 51820\n\
                    FwMark = 0xca6c\nAddress = 10.0.0.2/24, fd00::2/64\nDNS = 1.1.1.1, ::1\nDNS = corp.example\n\
                    MTU = 1420\nTable = off\nPostUp = ip rule add from 10.0.0.2 = x\nSaveConfig = true\n\
                    ExcludedApplications = com.example, org.example.app\n\n\
                    [Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n\
                    PresharedKey = TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=\nAllowedIPs = 0.0.0.0/0, ::/0\n\
                    Endpoint = vpn.example.com:51820\nPersistentKeepalive = 25\n\n\
                    [Peer]\nPublicKey = gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=\n\
                    Endpoint = [fe80::1%eth0]:2468\n";
        assert_eq!(*text.parse::<Conf>().unwrap().to_text().unwrap(), text);
    }

    #[test]
    fn what_a_file_cannot_say_is_refused() {
        let key = PublicKey::from_bytes([7; 32]);
        let with_peer = |change: fn(&mut PeerUpdate)| {
            let mut conf = Conf::default();
            conf.update.peers.push(PeerUpdate::new(key));
            change(&mut conf.update.peers[0]);
            conf
        };
        let with_hook = |hook: &str| {
            let mut conf = Conf::default();
            conf.interface.post_up.push(hook.to_owned().into());
            conf
        };
        let mut small_mtu = Conf::default();
        small_mtu.interface.mtu = Some(100);
        let mut odd_domain = Conf::default();
        odd_domain.interface.dns_search.push("a, b".into());

        let mut odd_apps = Conf::default();
        odd_apps.interface.included_applications.push("a".into());
        odd_apps.interface.excluded_applications.push("b".into());

        let unsayable = [
            with_peer(|p| p.remove = true),
            with_peer(|p| p.update_only = true),
            with_peer(|p| p.allowed_ips.push(AllowedIpUpdate { prefix: "::/0".parse().unwrap(), remove: true })),
            with_hook("echo a # b"),
            with_hook("echo\n[Peer]"),
            with_hook("echo\r[Peer]"),
            with_hook(" echo"),
            with_hook(""),
            small_mtu,
            odd_domain,
            odd_apps,
        ];
        for conf in unsayable {
            assert!(conf.to_text().is_err(), "{conf:?}");
        }
        assert!(with_peer(|_| ()).to_text().is_ok());
        assert!(with_hook("echo a").to_text().is_ok());
    }

    fn nets() -> impl Strategy<Value = IpNet> {
        (any::<IpAddr>(), any::<u8>())
            .prop_map(|(ip, bits)| IpNet::new(ip, bits % if ip.is_ipv4() { 33 } else { 129 }).unwrap())
    }

    fn hooks() -> impl Strategy<Value = Vec<Zeroizing<String>>> {
        vec("[!-\"$-~]([ -\"$-~]{0,20}[!-\"$-~])?".prop_map(Zeroizing::new), 0..3)
    }

    prop_compose! {
        fn interfaces()(addresses in vec(nets(), 0..3), dns: Vec<IpAddr>, dns_search in vec("[a-z][a-z0-9_-]{0,9}\\.[a-z]{2,5}", 0..3),
                        mtu in option::of(576..=u16::MAX), number: u32, kind in 0..4, save_config: bool,
                        pre_up in hooks(), post_up in hooks(), pre_down in hooks(), post_down in hooks(),
                        apps in vec("[a-z]{1,9}\\.[a-z]{1,9}", 0..3), include: bool) -> InterfaceSettings {
            let (included_applications, excluded_applications) = if include { (apps, Vec::new()) } else { (Vec::new(), apps) };
            let table = [Table::Auto, Table::Off, Table::Main, Table::Number(number)][kind as usize];
            InterfaceSettings {
                addresses, dns, dns_search, mtu, table, pre_up, post_up, pre_down, post_down, save_config,
                included_applications, excluded_applications,
            }
        }
    }

    fn endpoints() -> impl Strategy<Value = PeerEndpoint> {
        let host = "[a-z][a-zäß0-9_.-]{0,30}:[1-9][0-9]{0,3}";
        prop_oneof![
            any::<SocketAddr>().prop_map(|e| SocketAddr::new(e.ip(), e.port()).into()),
            host.prop_map(|h| h.parse::<HostPort>().unwrap().into()),
        ]
    }

    prop_compose! {
        fn peers()(key: [u8; 32], psk: Option<[u8; 32]>, endpoint in option::of(endpoints()), persistent_keepalive: Option<u16>,
                   nets in vec(nets(), 0..5)) -> PeerUpdate {
            PeerUpdate {
                preshared_key: psk.map(|k| Box::new(PresharedKey::from_bytes(k))),
                endpoint, persistent_keepalive,
                allowed_ips: nets.iter().map(|n| AllowedIpUpdate { prefix: n.trunc(), remove: false }).collect(),
                ..PeerUpdate::new(PublicKey::from_bytes(key))
            }
        }
    }

    prop_compose! {
        fn confs()(interface in interfaces(), key: Option<[u8; 32]>, listen_port: Option<u16>, fwmark: Option<u32>,
                   peers in vec(peers(), 0..4)) -> Conf {
            let private_key = key.map(|k| Some(PrivateKey::from_bytes(k)));
            let mut conf = Conf { interface, update: Update { private_key, listen_port, fwmark, replace_peers: false, peers } };
            conf.complete();
            conf
        }
    }

    proptest! {
        #[test]
        fn a_conf_survives_text(conf in confs()) {
            prop_assert_eq!(conf.to_text().unwrap().parse::<Conf>().unwrap(), conf);
        }
    }
}
