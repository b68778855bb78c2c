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
    error::Result,
    ipc::{DIRECTORY, Listener},
    tun::Tun,
};

use crate::{
    arguments::Run,
    detach::{self, Side, detach},
    inherited::{Inherited, Uapi},
    log,
    notify::Notify,
    running::{Limits, Running, queues_from_environment},
    signals::Signals,
    stderr, umask,
    user::User,
    wireproto,
};

/// How long to wait for a daemon that had this name, and whose interface no longer exists, to release the socket.
const PATIENCE: Duration = Duration::from_secs(1);

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
                report.ready().map_err(|e| Error::io("cannot run in the background", e))
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
    let (limits, queues) = (Limits::from_environment()?, queues_from_environment()?);
    let signals = Signals::block().map_err(|e| Error::io("cannot block signals", e))?;
    log::init(interface);
    tracing::debug!(version = env!("CARGO_PKG_VERSION"), "starting");
    let tun = open_tun(interface, inherited.tun, queues)?;
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
    stderr::start().map_err(|e| Error::io("cannot start the log", e))?;
    let running = Running::start(tun, listeners, limits)?;
    wait_for_signals(signals, running.ends())?;
    tracing::debug!(name, "the interface and its control socket are there");
    ready()?;
    manager.ready(&name);
    if let Some(reason) = running.wait() {
        tracing::debug!(reason, "shutting down");
        manager.stopping(&reason);
    }
    running.stop()
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
fn open_tun(interface: &str, fd: Option<OwnedFd>, queues: usize) -> Result<Arc<dyn Tun>> {
    use wg_embed::tun::linux::LinuxTun;

    Ok(Arc::new(match fd {
        Some(_) if queues > 1 => return Err(Error::invalid(format!("WG_EMBED_TUN_QUEUES={queues}: WG_TUN_FD is one"))),
        Some(fd) => LinuxTun::adopt(fd, 0).map_err(|e| e.at("WG_TUN_FD"))?.with_link_state(),
        None => LinuxTun::create_with_queues(interface, queues)?,
    }))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open_tun(_: &str, fd: Option<OwnedFd>, queues: usize) -> Result<Arc<dyn Tun>> {
    use wg_embed::{ErrorKind, tun::fd::FdTun};

    if queues > 1 {
        let text = format!("WG_EMBED_TUN_QUEUES={queues}: only interfaces of Linux have several queues");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    match fd {
        Some(fd) => Ok(Arc::new(FdTun::new(fd, 0).map_err(|e| e.at("WG_TUN_FD"))?)),
        None => Err(Error::new(ErrorKind::Unsupported, "interfaces cannot be made on this system yet: use WG_TUN_FD")),
    }
}
