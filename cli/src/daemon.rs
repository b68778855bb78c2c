//! Runs the daemon: interface, tunnel and control socket, until one of them ends or a signal arrives.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use wg_embed::{
    Error,
    bind::udp::UdpBind,
    device::{self, Event, Tunnel},
    error::Result,
    ipc::{self, DIRECTORY, Listener, Server},
    tun::Tun,
};
use wg_embed_wireproto_service::Hub;

use crate::{
    arguments::Run,
    detach::{self, Side, detach},
    inherited::{Inherited, Uapi},
    log,
    notify::Notify,
    signals::Signals,
    stderr, umask,
    user::User,
    wireproto,
};

/// How long to wait for a daemon that had this name, and whose interface no longer exists, to release the socket.
const PATIENCE: Duration = Duration::from_secs(1);

/// The permitted values of `WG_EMBED_MEMORY` in MiB: at least the size of the buffers, at most a useful amount.
const MEMORY: std::ops::RangeInclusive<usize> = 2..=1024;

/// Additional bytes for each peer, about ten packets of full size: a server has many peers, each of which may be
/// unreachable.
const MEMORY_PER_PEER: usize = 16 << 10;

/// Runs the daemon: in this process until it ends, or in another one, until that is ready.
pub(crate) fn start(run: &Run) -> std::result::Result<(), String> {
    let inherited = Inherited::take()?;
    let user = run.user.as_deref().map(User::find).transpose()?;
    umask::set();
    let say = |error: Error| error.to_string();
    if run.foreground {
        return serve(run, inherited, user, || Ok(())).map_err(say);
    }
    let tun = inherited.tun.as_ref().map(OwnedFd::as_fd);
    let keep: Vec<_> = tun.into_iter().chain(inherited.uapi.as_ref().map(Uapi::as_fd)).collect();
    match detach(&keep).map_err(|e| detach::cannot(&e))? {
        Side::Caller(report) => report,
        Side::Daemon(mut report) => {
            let ready = || {
                // Log messages so far are for the caller.
                stderr::flush();
                report.ready().map_err(|e| Error::io("cannot go to the background", e))
            };
            let outcome = serve(run, inherited, user, ready);
            // The caller's process prints it. After the start there is no caller to print it for.
            if let Err(error) = outcome {
                report.failed(&error.to_string());
            }
            Ok(())
        }
    }
}

/// Creates everything, reports that it is `ready`, and runs until there is a reason to end.
fn serve(run: &Run, inherited: Inherited, user: Option<User>, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let interface = &*run.interface;
    let manager = Notify::from_environment();
    let memory = memory()?;
    let signals = Signals::block().map_err(|e| Error::io("cannot block signals", e))?;
    log::init(interface);
    tracing::debug!(version = env!("CARGO_PKG_VERSION"), "starting");
    let tun = open_tun(interface, inherited.tun)?;
    // An interface that was passed as a descriptor may have another name.
    let name = Some(tun.name()).filter(|name| !name.is_empty()).unwrap_or_else(|| interface.into());
    // The daemon may be in another directory when it removes the file.
    let directory = std::path::absolute(run.socket_directory.as_deref().unwrap_or(Path::new(DIRECTORY)))
        .map_err(|e| Error::io("cannot find the control socket's directory", e))?;
    let listener = match inherited.uapi {
        Some(Uapi::Ours(fd)) => Listener::adopt(fd)?,
        Some(Uapi::Manager(fd)) => Listener::adopt(fd)?.leaving_file(),
        None => Listener::claim(&directory, &name, PATIENCE)?,
    };
    let mut listeners = vec![listener];
    if let Some(path) = &run.wireproto_socket {
        listeners.push(wireproto::claim(path, PATIENCE)?);
    }
    // Before there are threads, which have users and capabilities of their own, and sockets, which belong to the user
    // who opened them: sockets of another user could not be renewed.
    if let Some(user) = user {
        listeners = user.assume(listeners)?;
    }
    let mut listeners = listeners.into_iter();
    stderr::start().map_err(|e| Error::io("cannot start the log", e))?;
    let bind = UdpBind::new().map_err(|e| Error::io("cannot wait for UDP", e))?;
    let (ends, ended) = mpsc::channel();
    let tunnel_ends = ends.clone();
    let hub = Arc::new(Hub::default());
    let (noted, closed) = (hub.clone(), hub.clone());
    let events = Box::new(move |event| {
        noted.note(&event);
        if let Event::Ended(reason) = event {
            // Only the first reason is received.
            let _ = tunnel_ends.send(reason.to_string());
        }
    });
    let options = device::Options { events, memory, memory_per_peer: MEMORY_PER_PEER, ..device::Options::default() };
    let tunnel = Arc::new(Tunnel::start(tun, Arc::new(bind), options)?);
    let server_ends = ends.clone();
    let server_ended = Box::new(move |reason| {
        let _ = server_ends.send(reason);
    });
    // The first directory is that of wg(8).
    let server = listeners
        .next()
        .map(|listener| Server::start(listener, tunnel.clone(), ipc::Options::default(), server_ended))
        .transpose()?;
    let wireproto = listeners.next().map(|listener| wireproto::start(listener, tunnel.clone(), hub)).transpose()?;
    wait_for_signals(signals, ends)?;
    tracing::debug!(name, "the interface and its control socket are there");
    ready()?;
    manager.ready(&name);
    if let Ok(reason) = ended.recv() {
        tracing::debug!(reason, "shutting down");
        manager.stopping(&reason);
    }
    // Clients that wait for events are not waited for.
    closed.close();
    // The sockets end first: as long as a client can connect, there is an interface.
    server.into_iter().chain(wireproto).try_for_each(|server| server.stop())?;
    tunnel.stop()
}

/// Returns the memory limit of packets: `WG_EMBED_MEMORY`, in MiB.
fn memory() -> Result<usize> {
    const VARIABLE: &str = "WG_EMBED_MEMORY";
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
        return Ok(device::DEFAULT_MEMORY);
    };
    let number = text.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let mebibytes = number.and_then(|text| text.parse().ok()).filter(|number| MEMORY.contains(number));
    let refused = || {
        let (least, most) = (MEMORY.start(), MEMORY.end());
        Error::invalid(format!("{VARIABLE}={}: not a number of MiB from {least} to {most}", text.display()))
    };
    mebibytes.map(|number| number << 20).ok_or_else(refused)
}

/// Sends the name of the first signal.
fn wait_for_signals(signals: Signals, ends: mpsc::Sender<String>) -> Result<()> {
    let wait = move || {
        let reason = signals.wait().map_or_else(|e| format!("cannot wait for signals: {e}"), Into::into);
        let _ = ends.send(reason);
    };
    // The thread is not joined: the process ends with the main thread.
    thread::Builder::new().name("signals".into()).spawn(wait).map_err(|e| Error::io("cannot wait for signals", e))?;
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_tun(interface: &str, fd: Option<OwnedFd>) -> Result<Arc<dyn Tun>> {
    use wg_embed::tun::linux::LinuxTun;

    Ok(Arc::new(match fd {
        Some(fd) => LinuxTun::adopt(fd, 0).map_err(|e| e.at("WG_TUN_FD"))?.with_link_state(),
        None => LinuxTun::create(interface)?,
    }))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open_tun(_: &str, fd: Option<OwnedFd>) -> Result<Arc<dyn Tun>> {
    use wg_embed::{ErrorKind, tun::fd::FdTun};

    match fd {
        Some(fd) => Ok(Arc::new(FdTun::new(fd, 0).map_err(|e| e.at("WG_TUN_FD"))?)),
        None => Err(Error::new(ErrorKind::Unsupported, "interfaces cannot be made on this system yet: use WG_TUN_FD")),
    }
}
