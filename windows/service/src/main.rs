//! `wg-embed-service`: tunnels as services of Windows. On other systems it only prints logs.

#[cfg(windows)]
use std::ffi::OsString;
use std::{
    ffi::OsStr,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use wg_embed::error::{Error, Result};
use wg_embed_windows_tunnel::ring_log;

/// With it a lack of memory makes a configuration fail, but does not end the service.
#[global_allocator]
static ALLOCATOR: wg_embed::reserve::Reserve = wg_embed::reserve::Reserve::new();

const NAME: &str = "wg-embed-service";

const USAGE: &str = "\
Usage: wg-embed-service install CONF
       wg-embed-service uninstall NAME
       wg-embed-service run CONF
       wg-embed-service dumplog LOG

Runs WireGuard tunnels as services of Windows. CONF is a NAME.conf file, or a
NAME.conf.dpapi file of LocalSystem; the service is WireGuardTunnel$NAME.

Commands:
  install    create the service of a tunnel and start it; it then starts with
             the system (as administrator)
  uninstall  stop the service of a tunnel and remove it (as administrator)
  run        what the service manager starts
  dumplog    print a log: log.bin, in the folder of CONF

wintun.dll is looked for in the folder of this program, then in System32.
";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<&OsStr> = arguments.iter().map(|argument| &**argument).collect();
    let outcome = match words.iter().map(|word| word.to_str()).collect::<Vec<_>>()[..] {
        [Some("-h" | "--help")] => print(USAGE),
        [Some("--version")] => print(&format!("{NAME} {}\n", env!("CARGO_PKG_VERSION"))),
        [Some("install"), _] => install(Path::new(words[1])),
        [Some("uninstall"), _] => uninstall(words[1]),
        [Some("run"), _] => run(Path::new(words[1])),
        [Some("dumplog"), _] => dump_log(Path::new(words[1])),
        _ => Err(Error::invalid(format!("unknown arguments\nTry '{NAME} --help'."))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Error::io("cannot write to standard output", error))
}

/// Prints a log: a time and a text on each line.
fn dump_log(path: &Path) -> Result<()> {
    let lines = ring_log::read(path).map_err(|error| Error::io(format!("{}", path.display()), error))?;
    let format = |line: &ring_log::Line| format!("{} {}\n", humantime::format_rfc3339_micros(line.time), line.text);
    print(&lines.iter().map(format).collect::<String>())
}

/// Installs this program as the service.
#[cfg(windows)]
fn install(conf: &Path) -> Result<()> {
    let absolute = |error| Error::io("cannot find the file", error);
    // The service runs in another folder.
    let conf = std::path::absolute(conf).map_err(absolute)?;
    if !conf.exists() {
        return Err(Error::io(format!("{}", conf.display()), io::ErrorKind::NotFound.into()));
    }
    let program = std::env::current_exe().map_err(|error| Error::io("cannot find this program", error))?;
    let arguments: Vec<OsString> = vec!["run".into(), conf.clone().into()];
    wg_embed_windows_tunnel::service::install(&conf, &program, arguments)
}

#[cfg(windows)]
fn uninstall(name: &OsStr) -> Result<()> {
    let name = name.to_str().ok_or_else(|| Error::invalid("the name of the tunnel is not text"))?;
    wg_embed_windows_tunnel::service::uninstall(name)
}

#[cfg(windows)]
fn run(conf: &Path) -> Result<()> {
    wg_embed_windows_tunnel::service::run(conf)
}

#[cfg(not(windows))]
fn install(_: &Path) -> Result<()> {
    Err(elsewhere())
}

#[cfg(not(windows))]
fn uninstall(_: &OsStr) -> Result<()> {
    Err(elsewhere())
}

#[cfg(not(windows))]
fn run(_: &Path) -> Result<()> {
    Err(elsewhere())
}

#[cfg(not(windows))]
fn elsewhere() -> Error {
    Error::new(wg_embed::ErrorKind::Unsupported, "this system has no such services: Windows has")
}
