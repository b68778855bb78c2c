//! Starts and stops a tunnel from a `.conf` file: a daemon, its configuration, and its network settings.

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

/// The time limit for an answer of the daemon, which only prevents hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of [`up`] and [`down`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The daemon: a path, or a name to be searched in the path of `programs`. It is run with the interface's name,
    /// creates the interface and the control socket, and goes to the background.
    pub daemon: PathBuf,
    /// The treatment of commands in the file.
    pub hooks: Hooks,
    /// The places of programs.
    pub programs: Programs,
    /// The directory in which `up` records its steps for `down`: one file for each interface, accessible only to its
    /// user.
    pub directory: PathBuf,
    /// The directory of control sockets. A directory other than the default is passed to the daemon by `--socket-dir`.
    pub sockets: PathBuf,
}

impl Default for Options {
    /// Returns options with the daemon `wg-embed`, and without commands.
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
/// configuration, the network's settings, `PostUp`. If a step fails, the earlier ones are undone, except commands.
///
/// It blocks until all of that is done, which may include look-ups of endpoints' names.
///
/// # Errors
/// `Exists` if there is such an interface or tunnel; `Unsupported` for `SaveConfig`, and for commands with
/// [`Hooks::Refuse`]; errors of [`apply`](crate::apply), of the daemon or of a command.
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
        Ok(_) => return Err(Error::new(ErrorKind::Exists, format!("an interface {interface} already exists"))),
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

/// Stops a tunnel that [`up`] has started, and undoes its steps: `PreDown`, the network's settings, the daemon,
/// `PostDown`. This also works if the daemon has ended, or the start was interrupted.
///
/// # Errors
/// `NotFound` if there is no such tunnel; otherwise the first error, after all other steps were undone.
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
    // Steps that could not be undone can be retried.
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

/// Replaces names of endpoints by their first addresses.
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

/// Applies this configuration through the daemon's control socket.
fn configure(socket: &Path, update: &Update) -> Result<()> {
    let at = |e| Error::io(format!("cannot configure the tunnel through {}", socket.display()), e);
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

/// Removes the interface, which ends its daemon. If the index of the interface is unknown, the control socket
/// determines whether it is ours.
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
