//! `wg-embed vpn-daemon run`: the tunnel of a program that uses the VPN manager protocol and starts it.
//!
//! The command line is that of the original's daemon, so that its managers can start this one.

mod arguments;
mod stream;
#[cfg(target_os = "linux")]
mod system;
mod usage;

use std::{
    ffi::OsString,
    process::ExitCode,
    sync::{Arc, OnceLock},
    thread,
};

use arguments::{Command, Run};
use stream::Ends;
use usage::USAGE;
use wg_embed_manager::{
    speaker::End,
    tunnel::{Options, Tunnel},
};
use wg_embed_tunnel::{
    engine::{self, SystemNetwork, WireGuard},
    file::FileSource,
};

use crate::{log, stderr};

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
    // First: what is open then came from the caller.
    let transport = stream::open(run.read, run.write)?;
    let ends = Ends::watch().map_err(|e| format!("cannot wait for an interruption: {e}"))?;
    let manager = Arc::new(OnceLock::<wg_embed_manager::tunnel::Handle>::new());
    let reader = manager.clone();
    let to_manager = move |event: &tracing::Event<'_>| {
        if let (Some(manager), Some(line)) = (reader.get(), wg_embed_tunnel::log::line(event)) {
            manager.log(line);
        }
    };
    log::init_with("vpn-daemon", Box::new(to_manager));
    stderr::start().map_err(|e| format!("cannot start the log: {e}"))?;
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
        let reason = ends.wait().unwrap_or_else(|e| format!("cannot wait for an interruption: {e}"));
        tracing::debug!(reason, "shutting down");
        handle.close();
    };
    // The thread is not joined: the process ends with the main thread.
    thread::Builder::new().name("ends".into()).spawn(wait).map_err(|e| format!("cannot start a thread: {e}"))?;
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
