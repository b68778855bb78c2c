//! Network settings, which arrive in parts.

use crate::messages::NetworkSettingsRequest;

/// Returns the settings after `change`: a part that is absent from it stays unchanged, and so does the router.
#[must_use]
pub fn merge(before: &NetworkSettingsRequest, change: NetworkSettingsRequest) -> NetworkSettingsRequest {
    let (mut ipv4, mut ipv6) = (change.ipv4_settings, change.ipv6_settings);
    if let (Some(new), Some(old)) = (&mut ipv4, &before.ipv4_settings)
        && new.router.is_empty()
    {
        new.router.clone_from(&old.router);
    }
    // In older versions addresses include their prefix length.
    if let Some(new) = &mut ipv4
        && new.subnet_masks.is_empty()
    {
        let parts: Option<Vec<_>> = new.addrs.iter().map(|address| with_mask(address)).collect();
        if let Some(parts) = parts {
            (new.addrs, new.subnet_masks) = parts.into_iter().unzip();
        }
    }
    if let Some(new) = &mut ipv6
        && new.prefix_lengths.is_empty()
    {
        let parts: Option<Vec<_>> = new.addrs.iter().map(|address| with_length(address, 128)).collect();
        if let Some(parts) = parts {
            (new.addrs, new.prefix_lengths) = parts.into_iter().unzip();
        }
    }
    let text = |new: String, old: &String| if new.is_empty() { old.clone() } else { new };
    let number = |new, old| if new == 0 { old } else { new };
    NetworkSettingsRequest {
        tunnel_overhead_bytes: number(change.tunnel_overhead_bytes, before.tunnel_overhead_bytes),
        mtu: number(change.mtu, before.mtu),
        dns_settings: change.dns_settings.or_else(|| before.dns_settings.clone()),
        tunnel_remote_address: text(change.tunnel_remote_address, &before.tunnel_remote_address),
        ipv4_settings: ipv4.or_else(|| before.ipv4_settings.clone()),
        ipv6_settings: ipv6.or_else(|| before.ipv6_settings.clone()),
    }
}

/// Splits `ADDRESS/LENGTH` into an address and a length.
fn with_length(text: &str, longest: u32) -> Option<(String, u32)> {
    let (address, length) = text.split_once('/')?;
    let length = length.parse().ok().filter(|length| *length <= longest)?;
    Some((address.to_owned(), length))
}

/// Converts it to an address and a mask.
fn with_mask(text: &str) -> Option<(String, String)> {
    let (address, length) = with_length(text, 32)?;
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    Some((address, std::net::Ipv4Addr::from_bits(mask).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::network_settings_request::{DnsSettings, Ipv4Settings, Ipv6Settings};

    #[test]
    fn parts_are_merged() {
        let dns = |server: &str| DnsSettings { servers: vec![server.into()], ..DnsSettings::default() };
        let ipv4 = |address: &str, router: &str| Ipv4Settings {
            addrs: vec![address.into()],
            subnet_masks: vec!["255.255.255.255".into()],
            router: router.into(),
            ..Ipv4Settings::default()
        };
        let first = NetworkSettingsRequest {
            mtu: 1280,
            ipv4_settings: Some(ipv4("10.0.0.1", "10.0.0.9")),
            ..NetworkSettingsRequest::default()
        };
        let all = merge(&NetworkSettingsRequest::default(), first.clone());
        assert_eq!(all, first);
        let second = NetworkSettingsRequest { dns_settings: Some(dns("10.0.0.53")), ..Default::default() };
        let all = merge(&all, second.clone());
        assert_eq!(all, NetworkSettingsRequest { dns_settings: second.dns_settings, ..first });
        let third = NetworkSettingsRequest {
            mtu: 1400,
            ipv4_settings: Some(ipv4("10.0.0.2", "")),
            dns_settings: Some(DnsSettings::default()),
            ..Default::default()
        };
        let all = merge(&all, third);
        assert_eq!(all.ipv4_settings, Some(ipv4("10.0.0.2", "10.0.0.9")));
        assert_eq!((all.mtu, all.dns_settings), (1400, Some(DnsSettings::default())));
    }

    #[test]
    fn lengths_in_addresses_become_masks() {
        let addrs = vec!["10.0.0.1/24".into(), "10.1.0.1/0".into(), "10.2.0.1/32".into()];
        let change = NetworkSettingsRequest {
            ipv4_settings: Some(Ipv4Settings { addrs, ..Default::default() }),
            ipv6_settings: Some(Ipv6Settings { addrs: vec!["fd00::1/64".into()], ..Default::default() }),
            ..Default::default()
        };
        let all = merge(&NetworkSettingsRequest::default(), change);
        let (ipv4, ipv6) = (all.ipv4_settings.unwrap(), all.ipv6_settings.unwrap());
        assert_eq!(ipv4.addrs, ["10.0.0.1", "10.1.0.1", "10.2.0.1"]);
        assert_eq!(ipv4.subnet_masks, ["255.255.255.0", "0.0.0.0", "255.255.255.255"]);
        assert_eq!((ipv6.addrs, ipv6.prefix_lengths), (vec!["fd00::1".to_owned()], vec![64]));
    }
}
