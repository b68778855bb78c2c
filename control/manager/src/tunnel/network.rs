//! The system's network, as configured for a tunnel.

use super::Settings;
use crate::{
    manager::merge,
    messages::{NetworkSettingsRequest, TunnelSide, manager_message, tunnel_message},
    speaker::{CallError, Speaker},
};
use std::sync::{Arc, Mutex};
use wg_embed::{sync::lock, tun::DEFAULT_MTU};

/// Configures the network. Calls are serialized by the caller.
pub(super) struct Network {
    speaker: Arc<Speaker<TunnelSide>>,
    /// All requests to the manager so far, including refused ones: managers differ in whether they keep those for
    /// later.
    asked: Mutex<NetworkSettingsRequest>,
}

impl Network {
    pub(super) fn new(speaker: Arc<Speaker<TunnelSide>>) -> Self {
        Self { speaker, asked: Mutex::default() }
    }

    /// Replaces all earlier settings by `parts`, which are complete together. `own` is the engine's function.
    ///
    /// # Errors
    /// A text for the manager.
    pub(super) fn configure(
        &self,
        how: Settings,
        parts: &[NetworkSettingsRequest],
        own: impl FnOnce(&NetworkSettingsRequest) -> Result<(), String>,
    ) -> Result<(), String> {
        match how {
            Settings::Ask { timeout } | Settings::OwnOrAsk { timeout } => {
                let requests = with_removals(&lock(&self.asked), parts);
                requests.into_iter().try_for_each(|request| self.ask(request, timeout))
            }
            Settings::Own if parts.is_empty() => Ok(()),
            Settings::Own => own(&merged(parts)).map_err(|e| format!("network settings failed: {e}")),
        }
    }

    fn ask(&self, request: NetworkSettingsRequest, timeout: std::time::Duration) -> Result<(), String> {
        {
            let mut asked = lock(&self.asked);
            *asked = merge(&asked, request.clone());
        }
        match self.speaker.call(tunnel_message::Msg::NetworkSettings(request), timeout) {
            Ok(manager_message::Msg::NetworkSettings(response)) if response.success => Ok(()),
            Ok(manager_message::Msg::NetworkSettings(response)) => {
                Err(format!("network settings failed: {}", response.error_message))
            }
            Ok(_) => Err("rpc failure: the response is not that to a request for settings".into()),
            Err(CallError::TimedOut) => Err("network settings failed: no response in time".into()),
            Err(e) => Err(format!("rpc failure: {e}")),
        }
    }
}

/// Merges all parts.
fn merged(parts: &[NetworkSettingsRequest]) -> NetworkSettingsRequest {
    parts.iter().fold(NetworkSettingsRequest::default(), |all, part| merge(&all, part.clone()))
}

/// Returns the requests by which `parts` replace the settings `before`. To a manager, an absent part is unchanged, so a
/// removed part is sent empty. An MTU cannot be removed: it becomes the default.
fn with_removals(before: &NetworkSettingsRequest, parts: &[NetworkSettingsRequest]) -> Vec<NetworkSettingsRequest> {
    fn emptied<T: Default + PartialEq>(before: Option<&T>, now: Option<&T>) -> Option<T> {
        (now.is_none() && before.is_some_and(|before| *before != T::default())).then(T::default)
    }
    let now = merged(parts);
    let removals = NetworkSettingsRequest {
        mtu: if now.mtu == 0 && before.mtu != 0 { DEFAULT_MTU.into() } else { 0 },
        dns_settings: emptied(before.dns_settings.as_ref(), now.dns_settings.as_ref()),
        ipv4_settings: emptied(before.ipv4_settings.as_ref(), now.ipv4_settings.as_ref()),
        ipv6_settings: emptied(before.ipv6_settings.as_ref(), now.ipv6_settings.as_ref()),
        ..NetworkSettingsRequest::default()
    };
    let mut requests = parts.to_vec();
    if removals == NetworkSettingsRequest::default() {
        return requests;
    }
    match requests.first_mut() {
        // In one request, so that the manager applies both together.
        Some(first) => *first = merge(&removals, std::mem::take(first)),
        None => requests.push(removals),
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::network_settings_request::{DnsSettings, Ipv4Settings, Ipv6Settings};

    fn all() -> NetworkSettingsRequest {
        NetworkSettingsRequest {
            mtu: 1300,
            dns_settings: Some(DnsSettings { servers: vec!["10.0.0.53".into()], ..DnsSettings::default() }),
            ipv4_settings: Some(Ipv4Settings {
                addrs: vec!["10.0.0.1".into()],
                subnet_masks: vec!["255.255.255.0".into()],
                ..Ipv4Settings::default()
            }),
            ipv6_settings: Some(Ipv6Settings {
                addrs: vec!["fd00::1".into()],
                prefix_lengths: vec![64],
                ..Ipv6Settings::default()
            }),
            ..NetworkSettingsRequest::default()
        }
    }

    #[test]
    fn what_is_not_there_any_more_is_sent_empty() {
        let first = with_removals(&NetworkSettingsRequest::default(), &[all()]);
        assert_eq!(first, [all()], "nothing was there before");
        let ipv4 = NetworkSettingsRequest { ipv4_settings: all().ipv4_settings, ..Default::default() };
        let emptied = NetworkSettingsRequest {
            mtu: DEFAULT_MTU.into(),
            dns_settings: Some(DnsSettings::default()),
            ipv6_settings: Some(Ipv6Settings::default()),
            ..ipv4.clone()
        };
        assert_eq!(with_removals(&all(), std::slice::from_ref(&ipv4)), std::slice::from_ref(&emptied));
        // Once is enough, but for the MTU, which is there still.
        let again = with_removals(&merge(&all(), emptied.clone()), std::slice::from_ref(&ipv4));
        assert_eq!(again, [NetworkSettingsRequest { mtu: DEFAULT_MTU.into(), ..ipv4.clone() }]);
        // A part of a later request is there.
        let dns = NetworkSettingsRequest { dns_settings: all().dns_settings, mtu: 1300, ..Default::default() };
        let expected = NetworkSettingsRequest { ipv6_settings: Some(Ipv6Settings::default()), ..ipv4.clone() };
        assert_eq!(with_removals(&all(), &[ipv4, dns.clone()]), [expected, dns]);
        let nothing = with_removals(&all(), &[]);
        assert_eq!(nothing, [NetworkSettingsRequest { ipv4_settings: Some(Ipv4Settings::default()), ..emptied }]);
    }
}
