//! `manager run`: a manager of one tunnel, for people.

use std::{
    ffi::OsString,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use wg_embed::{sync::lock, tun::linux::LinuxTun};
use wg_embed_manager::{
    manager::{self, Options, Peers, Process},
    messages::{Log, NetworkSettingsRequest, StartRequest},
    speaker::End,
};
use wg_embed_settings::manager::Managed;
use zeroize::Zeroizing;

use super::{
    events::{Event, Printer},
    queue::Queue,
};
use crate::{
    arguments::ManagerRun,
    conf::read,
    daemon,
    failure::{Failure, Result},
};

/// The token where none is needed: a request without a token is refused.
const NO_TOKEN: &str = "none";

/// The events that this program reacts to.
enum Turn {
    /// The tunnel's response to the start.
    Started(std::result::Result<(), manager::Error>),
    /// The stream has ended.
    Ended(End),
    /// The output cannot be written.
    NotPrinted(Failure),
    /// A signal that ends this program.
    Signal,
}

/// Configures the network, and passes events on.
struct Host {
    network: Option<Mutex<Managed>>,
    output: Queue,
    turns: mpsc::Sender<Turn>,
}

impl Host {
    /// Restores the configuration.
    fn undo(&self) -> Result<()> {
        Ok(self.network.as_ref().map_or(Ok(()), |network| lock(network).undo())?)
    }
}

impl manager::Host for Host {
    fn configure(&self, settings: &NetworkSettingsRequest) -> std::result::Result<(), String> {
        let outcome = self.network.as_ref().map(|network| {
            // The routes of the tunnel's own packets are excluded.
            lock(network).configure(settings, 0).map_err(|e| e.to_string())
        });
        self.output.push(Event::Settings(Box::new(settings.clone()), outcome.clone()));
        outcome.unwrap_or(Ok(()))
    }

    fn peers_changed(&self, peers: &Peers) {
        self.output.push(Event::Peers(peers.clone()));
    }

    fn log(&self, line: Log) {
        self.output.push(Event::Log(line));
    }

    fn ended(&self, end: End) {
        // At the end the receiver has been dropped.
        let _ = self.turns.send(Turn::Ended(end));
    }
}

pub(crate) fn run(arguments: &ManagerRun) -> Result<()> {
    let request = request(arguments)?;
    let (turns, incoming) = mpsc::channel();
    // Signals are handled before there is anything to restore.
    wait_for_signals(turns.clone())?;
    let tun = (!arguments.no_settings).then(|| LinuxTun::create(&arguments.interface)).transpose()?;
    let network = tun.is_some().then(|| Mutex::new(Managed::new(&arguments.interface)));
    let passed = tun.as_ref().map(duplicate).transpose()?;
    let request = StartRequest { tunnel_file_descriptor: passed.as_ref().map_or(0, |_| Process::TUN), ..request };
    let output = Queue::default();
    print_all(arguments.json, output.clone(), turns.clone())?;
    let host = Arc::new(Host { network, output: output.clone(), turns: turns.clone() });
    let process = start(arguments, passed, host.clone())?;
    let interface = tun.as_ref().map(|_| arguments.interface.clone());
    output.push(Event::Process { id: process.id(), version: process.manager().version(), interface });
    let stopped = match manage(&process, request, &turns, &incoming, &output) {
        Ok(true) => process.stop().map_err(|error| Failure::new(format!("the tunnel does not stop: {error}"))),
        outcome => {
            drop(process);
            outcome.map(drop)
        }
    };
    let result = stopped.and(host.undo());
    if result.is_ok() {
        output.push(Event::Stopped);
    }
    output.close();
    let not_printed = incoming.try_iter().find_map(|turn| match turn {
        Turn::NotPrinted(failure) => Some(failure),
        _ => None,
    });
    result.and(not_printed.map_or(Ok(()), Err))
}

/// Starts the tunnel's process.
fn start(arguments: &ManagerRun, tun: Option<OwnedFd>, host: Arc<Host>) -> Result<Process> {
    let mut tunnel = arguments.tunnel.iter();
    let program = tunnel.next().cloned().unwrap_or_else(|| daemon::path().into_os_string());
    let more: Vec<OsString> = tunnel.cloned().collect();
    let asks = tun.is_some();
    let prepare = move |command: &mut Command| {
        command.args(more).stdin(Stdio::null()).stdout(Stdio::null());
        // A signal from the terminal is for this program, which then stops the tunnel.
        command.process_group(0);
        if asks {
            command.env("WG_EMBED_VPN_SETTINGS", "ask");
        }
    };
    Process::start(&program, tun, prepare, Options::default(), host).map_err(|error| match error {
        manager::ProcessError::Start(error) => daemon::cannot_run(&program.display(), &error),
        error => Failure::new(format!("{}: {error}", program.display())),
    })
}

/// Prints events on a separate thread, which is not waited for if the output is not read.
fn print_all(json: bool, output: Queue, turns: mpsc::Sender<Turn>) -> Result<()> {
    let print = move || {
        let mut printer = Printer::new(json);
        let outcome = std::iter::from_fn(|| output.next()).try_for_each(|event| printer.event(&event));
        if let Err(failure) = outcome {
            // At the end the receiver has been dropped.
            let _ = turns.send(Turn::NotPrinted(failure));
        }
        output.finish();
    };
    let thread = thread::Builder::new().name("output".into()).spawn(print);
    thread.map(drop).map_err(|error| Failure::io("cannot print", &error))
}

/// Starts the tunnel, and waits for a signal. Returns whether the tunnel was started by then.
fn manage(
    process: &Process,
    request: StartRequest,
    turns: &mpsc::Sender<Turn>,
    incoming: &mpsc::Receiver<Turn>,
    output: &Queue,
) -> Result<bool> {
    thread::scope(|scope| {
        scope.spawn(|| {
            let outcome = process.manager().start(request);
            let _ = turns.send(Turn::Started(outcome));
        });
        let mut is_started = false;
        let outcome = loop {
            // This function also has a sender.
            let Ok(turn) = incoming.recv() else { break Ok(is_started) };
            match turn {
                Turn::Started(Ok(())) => {
                    is_started = true;
                    output.push(Event::Started);
                }
                Turn::Started(Err(error)) => break Err(Failure::new(format!("the tunnel: {error}"))),
                Turn::Ended(end) => break Err(Failure::new(format!("the tunnel has ended: {end}"))),
                Turn::NotPrinted(failure) => break Err(failure),
                Turn::Signal => break Ok(is_started),
            }
        };
        if !is_started {
            // It is no longer waited for.
            process.manager().close();
        }
        outcome
    })
}

/// Returns the request to start the tunnel.
fn request(arguments: &ManagerRun) -> Result<StartRequest> {
    let coder_url = match (&arguments.url, &arguments.conf) {
        (Some(url), _) => url.clone(),
        (None, Some(file)) => file_url(file)?,
        (None, None) => return Err(Failure::usage("neither --conf nor --url")),
    };
    let token = match &arguments.token_file {
        Some(file) => read(file)?,
        None => Zeroizing::new(NO_TOKEN.into()),
    };
    let token = str::from_utf8(&token).map_err(|_| Failure::new("the token is not UTF-8"))?;
    Ok(StartRequest { coder_url, api_token: token.trim().to_owned(), ..StartRequest::default() })
}

/// Returns the URL of a file.
fn file_url(file: &Path) -> Result<String> {
    let at = |error: std::io::Error| Failure::io(format_args!("cannot read {}", file.display()), &error);
    // The working directory of the tunnel's process may be different.
    let path = std::path::absolute(file).map_err(at)?;
    std::fs::metadata(&path).map_err(at)?;
    let path = path.to_str().ok_or_else(|| Failure::usage(format!("{}: not UTF-8", file.display())))?;
    let mut url = "file://".to_owned();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => url.push(byte.into()),
            byte => url += &format!("%{byte:02X}"),
        }
    }
    Ok(url)
}

fn wait_for_signals(turns: mpsc::Sender<Turn>) -> Result<()> {
    let failed = |error: std::io::Error| Failure::io("cannot wait for signals", &error);
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(failed)?;
    let wait = move || {
        let mut signals = signals.forever();
        if signals.next().is_some() {
            // At the end the receiver has been dropped.
            let _ = turns.send(Turn::Signal);
        }
        // The first signal is enough; others have no effect.
        signals.for_each(drop);
    };
    // Not joined: the process ends with the main thread.
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(())
}

/// Returns the descriptor for the tunnel.
#[allow(unsafe_code)]
fn duplicate(tun: &LinuxTun) -> Result<OwnedFd> {
    // SAFETY: the descriptor is open as long as `tun` lives, and nothing replaces it.
    let descriptor = unsafe { BorrowedFd::borrow_raw(tun.as_raw_fd()) };
    descriptor.try_clone_to_owned().map_err(|error| Failure::io("cannot pass the interface on", &error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_url() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a b%?.conf");
        assert!(file_url(&file).is_err_and(|failure| failure.exit == crate::failure::Exit::NotFound));
        std::fs::write(&file, "").unwrap();
        let url = file_url(&file).unwrap();
        assert!(url.starts_with("file:///") && url.ends_with("/a%20b%25%3F.conf"), "{url}");
    }
}
