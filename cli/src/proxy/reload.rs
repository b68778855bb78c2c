//! A tunnel whose configuration is replaced while connections go on.

use wg_embed::device::Tunnel;
use wg_embed_netstack::Netstack;

use super::config::Config;

/// Changes a tunnel as far as its configuration has changed: sessions and endpoints that have moved are kept.
pub(super) fn tunnel(old: &Config, new: &Config, stack: &Netstack, tunnel: &Tunnel) -> Result<(), String> {
    // It is the step that may fail: then nothing else has changed.
    tunnel.device().apply(new.conf.update.since(&old.conf.update)).map_err(|e| e.to_string())?;
    let (addresses, mtu) = (super::addresses(new), super::mtu(new));
    // The larger MTU allows both old and new addresses.
    let say = |e: std::io::Error| e.to_string();
    if mtu > super::mtu(old) {
        stack.set_mtu(mtu).map_err(say)?;
    }
    stack.set_addresses(addresses).map_err(say)?;
    stack.set_mtu(mtu).map_err(say)?;
    stack.set_dns(new.conf.interface.dns.clone());
    Ok(())
}
