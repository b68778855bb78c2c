//! Replaces the configuration of a tunnel while its connections continue.

use wg_embed::device::Tunnel;
use wg_embed_netstack::Netstack;

use super::config::Config;

/// Applies the differences of the configurations to a tunnel: sessions, and endpoints that have roamed, are kept.
pub(super) fn tunnel(old: &Config, new: &Config, stack: &Netstack, tunnel: &Tunnel) -> Result<(), String> {
    // This is the step that can fail: then nothing else has changed. The addresses and the MTU have been checked.
    tunnel.device().apply(new.conf.update.since(&old.conf.update)).map_err(|e| e.to_string())?;
    let (addresses, mtu) = (super::addresses(new), super::mtu(new));
    // The larger MTU permits both old and new addresses.
    let say = |e: std::io::Error| e.to_string();
    if mtu > super::mtu(old) {
        stack.set_mtu(mtu).map_err(say)?;
    }
    stack.set_addresses(addresses).map_err(say)?;
    stack.set_mtu(mtu).map_err(say)?;
    stack.set_dns(new.conf.interface.dns.clone());
    Ok(())
}
