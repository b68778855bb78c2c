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

use super::events::Printer;
use crate::{
    arguments::ManagerRun,
    conf::read,
    daemon,
    failure::{Failure, Result},
};

/// What the token is where none is needed: a request without one is refused.
const NO_TOKEN: &str = "none";

/// What happens while a tunnel runs.
pub(super) enum Event {
    /// The tunnel's response to the start.
    Started(std::result::Result<(), manager::Error>),
    /// Settings, and what has come of them; `None`: nothing is configured here.
    Settings(Box<NetworkSettingsRequest>, Option<std::result::Result<(), String>>),
    Peers(Peers),
    Log(Log),
    Ended(End),
    /// A signal that ends this program.
    Signal,
}

/// Configures the network, and passes on what happens.
struct Host {
    network: Option<Mutex<Managed>>,
    events: mpsc::Sender<Event>,
}

impl Host {
    fn pass(&self, event: Event) {
        // At the end the receiver is gone.
        let _ = self.events.send(event);
    }

    /// Undoes what was configured.
    fn undo(&self) -> Result<()> {
        Ok(self.network.as_ref().map_or(Ok(()), |network| lock(network).undo())?)
    }
}

impl manager::Host for Host {
    fn configure(&self, settings: &NetworkSettingsRequest) -> std::result::Result<(), String> {
        let outcome = self.network.as_ref().map(|network| {
            // The tunnel's own packets have routes of their own.
            lock(network).configure(settings, 0).map_err(|e| e.to_string())
        });
        self.pass(Event::Settings(Box::new(settings.clone()), outcome.clone()));
        outcome.unwrap_or(Ok(()))
    }

    fn peers_changed(&self, peers: &Peers) {
        self.pass(Event::Peers(peers.clone()));
    }

    fn log(&self, line: Log) {
        self.pass(Event::Log(line));
    }

    fn ended(&self, end: End) {
        self.pass(Event::Ended(end));
    }
}

pub(crate) fn run(arguments: &ManagerRun) -> Result<()> {
    let request = request(arguments)?;
    let (events, incoming) = mpsc::channel();
    // It waits for signals before there is anything to undo.
    wait_for_signals(events.clone())?;
    let tun = (!arguments.no_settings).then(|| LinuxTun::create(&arguments.interface)).transpose()?;
    let network = tun.is_some().then(|| Mutex::new(Managed::new(&arguments.interface)));
    let passed = tun.as_ref().map(duplicate).transpose()?;
    let request = StartRequest { tunnel_file_descriptor: passed.as_ref().map_or(0, |_| Process::TUN), ..request };
    let host = Arc::new(Host { network, events: events.clone() });
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
    let process = Process::start(&program, passed, prepare, Options::default(), host.clone());
    let process = process.map_err(|error| match error {
        manager::ProcessError::Start(error) => daemon::cannot_run(&program.display(), &error),
        error => Failure::new(format!("{}: {error}", program.display())),
    })?;
    let mut printer = Printer::new(arguments.json);
    let outcome = printer
        .process(process.id(), process.manager().version(), tun.as_ref().map(|_| &*arguments.interface))
        .and_then(|()| manage(&process, request, &events, &incoming, &mut printer));
    let stopped = match outcome {
        Ok(true) => process.stop().map_err(|error| Failure::new(format!("the tunnel does not stop: {error}"))),
        outcome => {
            drop(process);
            outcome.map(drop)
        }
    };
    let undone = host.undo();
    // What the tunnel sent at its end.
    let printed = incoming.try_iter().try_for_each(|event| printer.event(&event));
    stopped.and(undone).and(printed).and_then(|()| printer.stopped())
}

/// Starts the tunnel, and shows what happens, until a signal comes. Returns whether it was started by then.
fn manage(
    process: &Process,
    request: StartRequest,
    events: &mpsc::Sender<Event>,
    incoming: &mpsc::Receiver<Event>,
    printer: &mut Printer,
) -> Result<bool> {
    thread::scope(|scope| {
        scope.spawn(|| {
            let outcome = process.manager().start(request);
            let _ = events.send(Event::Started(outcome));
        });
        let mut is_started = false;
        let outcome = loop {
            // This function has a sender as well.
            let Ok(event) = incoming.recv() else { break Ok(is_started) };
            if let Err(failure) = printer.event(&event) {
                break Err(failure);
            }
            match event {
                Event::Started(Ok(())) => is_started = true,
                Event::Started(Err(error)) => break Err(Failure::new(format!("the tunnel: {error}"))),
                Event::Ended(end) => break Err(Failure::new(format!("the tunnel has ended: {end}"))),
                Event::Signal => break Ok(is_started),
                _ => {}
            }
        };
        if !is_started {
            // It is not waited for any longer.
            process.manager().close();
        }
        outcome
    })
}

/// What the tunnel is asked for.
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

/// The URL of a file.
fn file_url(file: &Path) -> Result<String> {
    let at = |error: std::io::Error| Failure::io(format_args!("cannot read {}", file.display()), &error);
    // The directory of the tunnel's process is another one's choice.
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

fn wait_for_signals(events: mpsc::Sender<Event>) -> Result<()> {
    let failed = |error: std::io::Error| Failure::io("cannot wait for signals", &error);
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(failed)?;
    let wait = move || {
        for _ in signals.forever() {
            if events.send(Event::Signal).is_err() {
                return;
            }
        }
    };
    // It is not waited for: the process ends with the main thread.
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(())
}

/// The descriptor that the tunnel gets.
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
