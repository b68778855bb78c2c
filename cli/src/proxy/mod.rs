//! `wg-embed proxy`: services on this machine and in a tunnel, without an interface and without root.
//!
//! The services are those of the package `wg-embed-proxy`. This module has the command line, the configuration file,
//! signals, reloading, and `/metrics`.

mod arguments;
mod config;
mod confine;
mod descriptors;
mod exposed;
mod info;
mod mark;
mod reload;
mod stdio;
mod supervisor;

use std::{ffi::OsString, net::IpAddr, path::Path, process::ExitCode, sync::Arc, thread};

use arguments::{Command, Run};
use config::Config;
use supervisor::{Mailbox, News, Supervisor};
use wg_embed::{
    bind::udp::UdpBind,
    device::{self, Event, Tunnel, resolve_with_system},
};
use wg_embed_netstack::{Netstack, Options};

use crate::{
    detach::{self, Side, detach},
    log,
    signals::Signals,
    stderr,
};

const USAGE: &str = "\
Usage: wg-embed proxy [-c FILE] [-s] [-d] [-i ADDRESS:PORT] [-n]

Connects to a WireGuard network without an interface and without root, and
serves it as FILE says, which is a configuration of wireproxy. SIGHUP reads it
again: connections go on.

Options:
  -c, --config FILE        the configuration; without it the first that exists of
                           /etc/wireproxy/wireproxy.conf and
                           $HOME/.config/wireproxy.conf
  -s, --silent             log nothing
  -d, --daemon             run in the background
  -i, --info ADDRESS:PORT  serve /metrics and /readyz there
  -n, --configtest         only read the configuration
  -v, --version            print the version
  -h, --help               print this text
";

/// Runs the proxy with the arguments after `proxy`.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let outcome = match arguments::parse(arguments) {
        Ok(Command::Help) => return crate::print(USAGE),
        Ok(Command::Version) => return crate::print(&format!("{} {}\n", crate::NAME, env!("CARGO_PKG_VERSION"))),
        Ok(Command::Run(run)) => start(run),
        Err(reason) => Err(format!("{reason}\nTry '{} proxy --help'.", crate::NAME)),
    };
    let code = match outcome {
        Ok(code) => code,
        Err(reason) => crate::fail(&reason),
    };
    stderr::flush();
    code
}

fn start(run: Run) -> Result<ExitCode, String> {
    let path = arguments::path(run.config.clone())?;
    // The background process has another directory.
    let path = std::path::absolute(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let config = config::read(&path)?;
    if run.test {
        return Ok(crate::print("Config OK\n"));
    }
    if !run.daemon {
        return serve(&run, &path, config, || Ok(())).map(|()| ExitCode::SUCCESS);
    }
    match detach(&[]).map_err(|e| detach::cannot(&e))? {
        Side::Caller(report) => report.map(|()| ExitCode::SUCCESS),
        Side::Daemon(mut report) => {
            let ready = || {
                stderr::flush();
                report.ready().map_err(|e| format!("cannot run in the background: {e}"))
            };
            if let Err(reason) = serve(&run, &path, config, ready) {
                report.failed(&reason);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn serve(run: &Run, path: &Path, mut config: Config, ready: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let signals = Signals::block().map_err(|e| format!("cannot block signals: {e}"))?;
    if !run.silent {
        log::init("proxy");
    }
    descriptors::raise();
    // Before there are other threads: restrictions apply to threads that start later.
    confine::confine(&config);
    stderr::start().map_err(|e| format!("cannot start the log: {e}"))?;
    mark::permit(&mut config);
    exposed::warn(&config, run.info);
    let options = Options {
        addresses: addresses(&config),
        mtu: mtu(&config),
        dns: config.conf.interface.dns.clone(),
        memory: config.memory,
        max_connections: max_connections(&config),
        ..Options::default()
    };
    let stack = Netstack::new(options).map_err(|e| format!("{}: [Interface]: {e}", path.display()))?;
    let say = |e: std::io::Error| format!("cannot wait for sockets: {e}");
    let poll = mio::Poll::new().map_err(say)?;
    let mailbox = Arc::new(Mailbox::new(&poll).map_err(say)?);
    let told = mailbox.clone();
    let events = Box::new(move |event| {
        if let Event::Ended(reason) = event {
            told.push(News::Ended(format!("the tunnel has ended: {reason}")));
        }
    });
    let options =
        device::Options { events, resolve: Some(Box::new(resolve_with_system)), ..device::Options::default() };
    let bind = UdpBind::new().map_err(|e| format!("cannot wait for UDP: {e}"))?;
    let say = |e: wg_embed::Error| e.to_string();
    let update = config.conf.update.clone();
    let start = |stack: &Netstack| {
        Tunnel::start_with(stack.tun(), Arc::new(bind), options, |device| {
            device.apply(update)?;
            device.up()
        })
        .map_err(say)
    };
    wait_for_signals(signals, mailbox.clone())?;
    let supervisor = Supervisor::start(poll, mailbox, stack, start, config, run.info)?;
    ready()?;
    supervisor.run(&|| {
        let mut config = config::read(path)?;
        mark::permit(&mut config);
        exposed::warn(&config, None);
        Ok(config)
    })
}

/// Passes signals to the loop.
fn wait_for_signals(signals: Signals, mailbox: Arc<Mailbox>) -> Result<(), String> {
    let wait = move || {
        loop {
            match signals.wait() {
                Ok(name) => mailbox.push(News::Signal(name)),
                Err(e) => return mailbox.push(News::Ended(format!("cannot wait for signals: {e}"))),
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(|e| format!("cannot wait for signals: {e}"))?;
    Ok(())
}

/// Returns the limit of the stack. The services' limit is the proxy's; the stack has no other connections.
fn max_connections(config: &Config) -> usize {
    Options::default().max_connections.max(config.max_connections)
}

/// Returns the stack's own addresses.
fn addresses(config: &Config) -> Vec<IpAddr> {
    config.conf.interface.addresses.iter().map(ipnet::IpNet::addr).collect()
}

fn mtu(config: &Config) -> u16 {
    config.conf.interface.mtu.unwrap_or(wg_embed::tun::DEFAULT_MTU)
}
