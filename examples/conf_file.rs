//! The tunnel of a `.conf` file, on Linux:
//!
//! ```sh
//! cargo build --example conf_file
//! sudo target/debug/examples/conf_file wg0.conf
//! ```
//!
//! It needs CAP_NET_ADMIN to create the interface. It configures WireGuard alone: addresses and routes are left to the
//! commands that it prints. (`wg-embedctl up` does all of it.)

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn run(path: &std::path::Path) -> wg_embed::Result<()> {
    use std::sync::Arc;
    use wg_embed::{Conf, Error, Options, Tunnel, UdpBind, device::resolve_with_system, tun::linux::LinuxTun};

    let name = path.file_stem().and_then(|name| name.to_str()).ok_or_else(|| Error::invalid("not a name"))?;
    let Conf { interface, update } = Conf::from_bytes(&std::fs::read(path)?)?;
    let prefixes: Vec<_> = update.peers.iter().flat_map(|peer| &peer.allowed_ips).map(|change| change.prefix).collect();

    let (tun, bind) = (LinuxTun::create(name)?, UdpBind::new()?);
    let events = Box::new(|event| println!("{event:?}"));
    let options = Options { events, resolve: Some(Box::new(resolve_with_system)), ..Options::default() };
    let tunnel = Tunnel::start_with(Arc::new(tun), Arc::new(bind), options, |device| device.apply(update))?;
    tunnel.up()?;

    println!("{name} is up, on UDP port {}, with the key {}", tunnel.listen_port(), tunnel.public_key()?);
    interface.addresses.iter().for_each(|address| println!("    ip address add {address} dev {name}"));
    println!("    ip link set {name} up");
    prefixes.iter().for_each(|prefix| println!("    ip route add {prefix} dev {name}"));
    println!("the tunnel has ended: {}", tunnel.wait());
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn run(_: &std::path::Path) -> wg_embed::Result<()> {
    Err(wg_embed::Error::new(wg_embed::ErrorKind::Unsupported, "this example is for Linux"))
}

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: conf_file NAME.conf");
        return ExitCode::FAILURE;
    };
    match run(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
