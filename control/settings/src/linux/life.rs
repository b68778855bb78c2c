//! The life of a tunnel from a `.conf` file: a daemon, its configuration, and the network around it.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use wg_embed::{
    config::{PeerEndpoint, Update, wgquick::Conf},
    error::{Error, ErrorKind, Result},
    ipc, uapi,
};
use zeroize::Zeroizing;

use super::{
    Linux, check_name, free_mark,
    hooks::{self, Hooks},
    netlink::Netlink,
    programs::Programs,
    record::{File, Record},
};
use crate::{
    applied::{Applied, and_also, undo},
    settings::Settings,
};

/// How long the daemon has for an answer. It bounds a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// How [`up`] and [`down`] work.
#[derive(Clone, Debug)]
pub struct Options {
    /// The daemon: a name to be looked up in the path of `programs`, or a path. It is run with the interface's name,
    /// makes interface and control socket, and goes to the background.
    pub daemon: PathBuf,
    /// What becomes of commands in the file.
    pub hooks: Hooks,
    /// Where programs are found.
    pub programs: Programs,
    /// Where `down` finds what `up` did: a file for each interface, for its user only.
    pub directory: PathBuf,
    /// Where control sockets are. The daemon is given another one than the usual by `--socket-dir`.
    pub sockets: PathBuf,
}

impl Default for Options {
    /// The daemon `wg-embed`, and no commands.
    fn default() -> Self {
        Self {
            daemon: "wg-embed".into(),
            hooks: Hooks::default(),
            programs: Programs::default(),
            directory: "/run/wg-embed".into(),
            sockets: ipc::DIRECTORY.into(),
        }
    }
}

/// Starts a tunnel as `wg-quick up` does, in the calling thread's network namespace: `PreUp`, the daemon, its
/// configuration, the network's settings, `PostUp`. If something fails, what was done is undone; commands have nothing
/// that undoes them.
///
/// It blocks until all of that is done, which may include lookups of endpoints' names.
///
/// # Errors
/// `Exists` if there is such an interface or tunnel; `Unsupported` for `SaveConfig`, and for commands with
/// [`Hooks::Refuse`]; as [`apply`](crate::apply); what the daemon or a command says.
pub fn up(interface: &str, conf: &Conf, options: &Options) -> Result<()> {
    check_name(interface)?;
    let keys = &conf.interface;
    if keys.save_config {
        return Err(unsupported("SaveConfig is not supported: the file is never written"));
    }
    let has_hooks = [&keys.pre_up, &keys.post_up, &keys.pre_down, &keys.post_down].iter().any(|h| !h.is_empty());
    if has_hooks && options.hooks == Hooks::Refuse {
        return Err(unsupported(
            "the file has commands (PreUp, PostUp, PreDown, PostDown), which are not allowed here",
        ));
    }
    let mut update = conf.update.clone();
    resolve(&mut update)?;
    let mut settings = Settings::from_conf(&Conf { interface: keys.clone(), update: update.clone() });
    if settings.needs_mark() && settings.fwmark == 0 {
        settings.fwmark = free_mark()?;
        update.fwmark = Some(settings.fwmark);
    }
    match Netlink::open()?.link(interface) {
        Ok(_) => return Err(Error::new(ErrorKind::Exists, format!("there is an interface {interface} already"))),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let down_hooks = |hooks: &[Zeroizing<String>]| match options.hooks {
        Hooks::Run => hooks.iter().map(|hook| hook.to_string()).collect(),
        _ => Vec::new(),
    };
    let mut record = Record::new(down_hooks(&keys.pre_down), down_hooks(&keys.post_down));
    let file = File::of(&options.directory, interface);
    file.claim(&record)?;
    let mut start = || {
        run_hooks(options, "PreUp", interface, &keys.pre_up)?;
        start_daemon(options, interface)?;
        let linux = Linux::new(interface)?.with_programs(options.programs.clone());
        record.index = linux.index();
        file.write(&record)?;
        configure(&options.sockets.join(format!("{interface}.sock")), &update)?;
        let (mut applied, steps) = Applied::prepare(linux, &settings)?;
        record.steps = steps;
        file.write(&record)?;
        applied.carry_out(&record.steps)?;
        run_hooks(options, "PostUp", interface, &keys.post_up)?;
        applied.keep();
        Ok(())
    };
    start().map_err(|error| {
        let repair = remove_link(options, interface, record.index).and(file.remove());
        and_also(error, repair)
    })
}

/// Ends a tunnel that [`up`] has started, and undoes what that did: `PreDown`, the network's settings, the daemon,
/// `PostDown`. Also one whose daemon has ended, or whose start was interrupted.
///
/// # Errors
/// `NotFound` if there is no such tunnel; else the first error, and all that can be done is done all the same.
pub fn down(interface: &str, options: &Options) -> Result<()> {
    check_name(interface)?;
    let file = File::of(&options.directory, interface);
    let record = file.read()?;
    let [pre_down, post_down] = [record.pre_down, record.post_down].map(wiped);
    let before = run_hooks(options, "PreDown", interface, &pre_down);
    let undone = Linux::of_index(interface, record.index, options.programs.clone())
        .and_then(|mut linux| undo(&mut linux, &record.steps));
    let removed = remove_link(options, interface, record.index);
    let after = run_hooks(options, "PostDown", interface, &post_down);
    let settled = undone.and(removed);
    // What could not be undone can be tried again.
    let forgotten = if settled.is_ok() { file.remove() } else { Ok(()) };
    before.and(settled).and(after).and(forgotten)
}

fn wiped(hooks: Vec<String>) -> Vec<Zeroizing<String>> {
    hooks.into_iter().map(Zeroizing::new).collect()
}

fn unsupported(text: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, text)
}

fn run_hooks(options: &Options, key: &str, interface: &str, commands: &[Zeroizing<String>]) -> Result<()> {
    match options.hooks {
        Hooks::Run => hooks::run(&options.programs, key, interface, commands),
        Hooks::Refuse | Hooks::Ignore => Ok(()),
    }
}

/// Replaces names of endpoints by their first address.
fn resolve(update: &mut Update) -> Result<()> {
    for peer in &mut update.peers {
        if let Some(PeerEndpoint::Host(host)) = &peer.endpoint {
            let address = (host.host(), host.port()).to_socket_addrs().and_then(|mut addresses| {
                addresses.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no address"))
            });
            let address = address.map_err(|e| Error::io(format!("cannot resolve the endpoint {host}"), e))?;
            peer.endpoint = Some(address.into());
        }
    }
    Ok(())
}

fn start_daemon(options: &Options, interface: &str) -> Result<()> {
    let mut arguments = Vec::new();
    if options.sockets != Path::new(ipc::DIRECTORY) {
        arguments.extend(["--socket-dir".as_ref(), options.sockets.as_os_str()]);
    }
    arguments.push(interface.as_ref());
    options.programs.run(&options.daemon, arguments, "").map(drop)
}

/// Sets this configuration by the daemon's control socket.
fn configure(socket: &Path, update: &Update) -> Result<()> {
    let at = |e| Error::io(format!("cannot configure the tunnel by {}", socket.display()), e);
    let text = uapi::set_text(update)?;
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        for part in ["set=1\n", text.as_str(), "\n"] {
            stream.write_all(part.as_bytes())?;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.take(1024).read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    };
    let answer = ask().map_err(at)?;
    let number = answer.lines().find_map(|line| line.strip_prefix("errno=")?.parse::<i32>().ok());
    match number {
        Some(0) => Ok(()),
        Some(number) => Err(at(io::Error::from_raw_os_error(number.saturating_abs()))),
        None => Err(at(io::Error::new(io::ErrorKind::InvalidData, "no answer"))),
    }
}

/// Removes the interface, with which its daemon ends. Of an interface whose index is not known, the control socket
/// tells whether it is ours.
fn remove_link(options: &Options, interface: &str, index: u32) -> Result<()> {
    let mut netlink = Netlink::open()?;
    match netlink.link(interface) {
        Ok(link) if link.index == index => netlink.remove_link(index),
        Ok(link) if index == 0 && options.sockets.join(format!("{interface}.sock")).exists() => {
            netlink.remove_link(link.index)
        }
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
