//! What a manager does for its tunnel: it configures the network with ip(8), and keeps what it is told.

use std::{process::Command, sync::Mutex};

use wg_embed::sync::lock;
use wg_embed_manager::{
    manager::{self, Peers},
    messages::{Log, NetworkSettingsRequest, log::Level},
    speaker::End,
};

/// Its methods are called on a thread that is in the manager's network namespace.
pub(crate) struct Host {
    /// The interface that is configured.
    interface: Option<&'static str>,
    settings: Mutex<NetworkSettingsRequest>,
    lines: Mutex<Vec<Log>>,
    end: Mutex<Option<End>>,
}

impl Host {
    pub(crate) fn new(interface: Option<&'static str>) -> Self {
        Self { interface, settings: Mutex::default(), lines: Mutex::default(), end: Mutex::default() }
    }

    /// Where the routes into the tunnel lead that are asked for.
    pub(crate) fn routes(&self) -> Vec<String> {
        let settings = lock(&self.settings);
        let routes = settings.ipv4_settings.iter().flat_map(|ipv4| &ipv4.included_routes);
        routes.map(|route| route.destination.clone()).collect()
    }

    pub(crate) fn logged(&self, level: Level, message: &str) -> bool {
        lock(&self.lines).iter().any(|line| line.level() == level && line.message == message)
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.end).is_some()
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{arguments}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl manager::Host for Host {
    fn configure(&self, settings: &NetworkSettingsRequest) -> Result<(), String> {
        if let (Some(interface), Some(ipv4)) = (self.interface, &settings.ipv4_settings) {
            ip(&format!("link set {interface} mtu {} up", settings.mtu))?;
            for (address, mask) in ipv4.addrs.iter().zip(&ipv4.subnet_masks) {
                ip(&format!("addr replace {address}/{mask} dev {interface}"))?;
            }
            for route in &ipv4.included_routes {
                ip(&format!("route replace {}/{} dev {interface}", route.destination, route.mask))?;
            }
        }
        lock(&self.settings).clone_from(settings);
        Ok(())
    }

    fn peers_changed(&self, _: &Peers) {}

    fn log(&self, line: Log) {
        lock(&self.lines).push(line);
    }

    fn ended(&self, end: End) {
        *lock(&self.end) = Some(end);
    }
}
