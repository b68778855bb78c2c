//! Warnings of services that other machines can use.

use std::net::SocketAddr;

use wg_embed_proxy::{Address, Kind};

use super::config::{self, Config};

/// Warns of proxies without a login, and of information, on other addresses than those of loopback.
pub(super) fn warn(config: &Config, info: Option<SocketAddr>) {
    for service in &config.services {
        if is_open(&service.kind) {
            tracing::warn!("{}: other machines can use it without a login", config::place(service));
        }
    }
    if let Some(at) = info.filter(|at| is_elsewhere(*at)) {
        tracing::warn!("--info {at}: other machines can read it");
    }
}

fn is_open(kind: &Kind) -> bool {
    match kind {
        Kind::Socks5 { at: Address::Tcp(at), login: None, .. }
        | Kind::Http { at: Address::Tcp(at), login: None }
        | Kind::Https { at: Address::Tcp(at), login: None, .. } => is_elsewhere(*at),
        _ => false,
    }
}

fn is_elsewhere(at: SocketAddr) -> bool {
    !at.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use wg_embed_proxy::Login;

    use super::*;

    #[test]
    fn proxies_for_all() {
        let at = |text: &str| Address::Tcp(text.parse().unwrap_or_else(|_| unreachable!("{text}")));
        let login = Some(Login::new("a", "b"));
        for (address, is_reachable) in
            [("127.0.0.2:1", false), ("[::1]:1", false), ("[::ffff:127.0.0.1]:1", false), ("0.0.0.0:1", true)]
        {
            let at = at(address);
            assert_eq!(is_open(&Kind::Http { at: at.clone(), login: None }), is_reachable, "{address}");
            assert!(!is_open(&Kind::Socks5 { at, login: login.clone(), bind: true }));
        }
        assert!(is_open(&Kind::Socks5 { at: at("[::]:1"), login: None, bind: true }));
        assert!(!is_open(&Kind::Socks5 { at: Address::Unix("socket".into()), login: None, bind: true }));
        assert!(!is_open(&Kind::TcpClient { at: at("[::]:1"), target: "a:1".into() }));
    }
}
