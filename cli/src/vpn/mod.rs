//! `wg-embed vpn-daemon run`: the tunnel of a program that uses the VPN manager protocol and starts it.
//!
//! The command line is that of the original's daemon, so that its managers can start this one.

mod arguments;
#[cfg(target_os = "linux")]
mod system;

use std::{
    ffi::OsString,
    process::ExitCode,
    sync::{Arc, OnceLock},
    thread,
};

use arguments::{Command, Run};
use wg_embed_manager::{
    speaker::{End, Transport},
    tunnel::{Options, Tunnel},
};
use wg_embed_tunnel::{
    engine::{self, SystemNetwork, WireGuard},
    file::FileSource,
};

use crate::{inherited, log, signals::Signals, stderr};

const USAGE: &str = "\
Usage: wg-embed vpn-daemon run --rpc-read-fd N --rpc-write-fd N
                [--network auto|interface|userspace] [--interface NAME]
                [--settings ask|own]

Serves a program that manages VPNs, over two open descriptors, until it stops
the tunnel, closes them, or a signal comes. The peers are those of a wg-quick
configuration, which the program names by a URL: file:///etc/wireguard/wg0.conf.
Edits of the file are followed.

Options:
      --rpc-read-fd N    read what the program sends from this descriptor
      --rpc-write-fd N   write to it through this one
      --network KIND     where packets come from if the program gives no TUN: an
                         interface, a network in userspace, or (auto) the latter
                         if the former cannot be had
      --interface NAME   the interface (wg-vpn0)
      --settings WHO     who configures the system's network: the program is
                         asked, or it is done here (only on Linux, where it is
                         the default)
  -h, --help             print this text
      --version          print the version

Environment:
  CODER_VPN_DAEMON_RPC_READ_FD   as --rpc-read-fd
  CODER_VPN_DAEMON_RPC_WRITE_FD  as --rpc-write-fd
  WG_EMBED_VPN_NETWORK           as --network
  WG_EMBED_VPN_INTERFACE         as --interface
  WG_EMBED_VPN_SETTINGS          as --settings
  LOG_LEVEL                      what to log to stderr: verbose, debug,
                                 error (default), silent

Exit status: 0 when it was stopped, the program has closed a descriptor, or a
signal came; 1 if it cannot start, or what it receives is not the protocol.
";

/// Runs a tunnel with the arguments after `vpn-daemon`.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let outcome = match arguments::parse(arguments, |name| std::env::var_os(name)) {
        Ok(Command::Help) => return crate::print(USAGE),
        Ok(Command::Version) => return crate::print(&format!("{} {}\n", crate::NAME, env!("CARGO_PKG_VERSION"))),
        Ok(Command::Run(run)) => serve(run),
        Err(reason) => Err(format!("{reason}\nTry '{} vpn-daemon run --help'.", crate::NAME)),
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => crate::fail(&reason),
    };
    stderr::flush();
    code
}

fn serve(run: Run) -> Result<(), String> {
    let (read, write) = (inherited::own("--rpc-read-fd", run.read)?, inherited::own("--rpc-write-fd", run.write)?);
    let signals = Signals::block().map_err(|e| format!("cannot block signals: {e}"))?;
    let manager = Arc::new(OnceLock::<wg_embed_manager::tunnel::Handle>::new());
    let reader = manager.clone();
    let to_manager = move |event: &tracing::Event<'_>| {
        if let (Some(manager), Some(line)) = (reader.get(), wg_embed_tunnel::log::line(event)) {
            manager.log(line);
        }
    };
    log::init_with("vpn-daemon", Box::new(to_manager));
    stderr::start().map_err(|e| format!("cannot start the log: {e}"))?;
    let transport = Transport::from_descriptors(read, write).map_err(|e| format!("cannot open the stream: {e}"))?;
    let engine = WireGuard::new(engine::Options {
        network: run.network,
        interface: run.interface,
        system: own_network(),
        ..engine::Options::default()
    });
    let options = Options { settings: run.settings, ..Options::default() };
    let tunnel = Tunnel::open(transport, options, Arc::new(FileSource), Arc::new(engine)).map_err(|e| e.to_string())?;
    let handle = tunnel.handle();
    // It is set once.
    let _ = manager.set(handle.clone());
    let wait = move || {
        let reason = signals.wait().map_or_else(|e| format!("cannot wait for signals: {e}"), Into::into);
        tracing::debug!(reason, "shutting down");
        handle.close();
    };
    // The thread is not joined: the process ends with the main thread.
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(|e| format!("cannot wait for signals: {e}"))?;
    match tunnel.serve() {
        End::Finished | End::PeerClosed | End::Closed => Ok(()),
        end => Err(format!("the manager: {end}")),
    }
}

/// What configures the system's network, if anything here can.
fn own_network() -> Option<Arc<dyn SystemNetwork>> {
    #[cfg(target_os = "linux")]
    return Some(Arc::new(system::LinuxNetwork));
    #[cfg(not(target_os = "linux"))]
    None
}
