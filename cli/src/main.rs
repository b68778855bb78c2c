//! The userspace daemon: `wg-embed [-f|--foreground] [--user USER[:GROUP]] [--socket-dir DIR] INTERFACE`, with
//! `--wireproto-socket PATH` for a second control socket.
//!
//! It creates a TUN interface, listens on `/var/run/wireguard/INTERFACE.sock` for wg(8), and goes to the background.
//! Control returns to its caller when both exist. It ends on SIGINT and SIGTERM, and when the interface or the socket's
//! file is removed.
//!
//! On Windows it creates an adapter of Wintun, listens on a pipe, and stays in the foreground (`windows.rs`).

mod arguments;
#[cfg(unix)]
mod daemon;
#[cfg(unix)]
mod descriptors;
#[cfg(unix)]
mod detach;
#[cfg(unix)]
mod inherited;
#[cfg(any(unix, windows))]
mod log;
#[cfg(unix)]
mod notify;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod privileges;
#[cfg(unix)]
mod proxy;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod remover;
#[cfg(any(unix, windows))]
mod running;
#[cfg(unix)]
mod signals;
mod stderr;
#[cfg(unix)]
mod umask;
mod usage;
#[cfg(unix)]
mod user;
#[cfg(any(unix, windows))]
mod vpn;
#[cfg(windows)]
mod windows;
#[cfg(any(unix, windows))]
mod wireproto;

use std::{io::Write, process::ExitCode};

use arguments::{Command, Run};
use usage::USAGE;

/// With it a lack of memory makes a configuration fail, but does not end the daemon.
#[global_allocator]
static ALLOCATOR: wg_embed::reserve::Reserve = wg_embed::reserve::Reserve::new();

/// The prefix of every message on stderr.
const NAME: &str = "wg-embed";

fn main() -> ExitCode {
    #[cfg(unix)]
    if std::env::args_os().nth(1).is_some_and(|word| word == "proxy") {
        return proxy::main(std::env::args_os().skip(2));
    }
    #[cfg(any(unix, windows))]
    if std::env::args_os().nth(1).is_some_and(|word| word == "vpn-daemon") {
        return vpn::main(std::env::args_os().skip(2));
    }
    let foreground = std::env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|v| v == "1");
    let directory = std::env::var_os("WG_EMBED_SOCKET_DIR").filter(|directory| !directory.is_empty());
    match arguments::parse(std::env::args_os().skip(1), foreground, directory.map(Into::into)) {
        Ok(Command::Help) => print(USAGE),
        Ok(Command::Version) => print(&format!(
            "{NAME} {}\n\nUserspace WireGuard daemon for {}-{}.\n",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH
        )),
        Ok(Command::Run(how)) => run(&how),
        Err(reason) => fail(&format!("{reason}\nTry '{NAME} --help'.")),
    }
}

#[cfg(any(unix, windows))]
fn run(how: &Run) -> ExitCode {
    #[cfg(windows)]
    use windows as daemon;

    let code = match daemon::start(how) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => fail(&reason),
    };
    stderr::flush();
    code
}

#[cfg(not(any(unix, windows)))]
fn run(_: &Run) -> ExitCode {
    fail("the daemon does not run on this system yet")
}

fn fail(reason: &str) -> ExitCode {
    stderr::line(format!("{NAME}: {reason}\n"));
    ExitCode::FAILURE
}

/// Writes to standard output. If a requested text cannot be written, that is a failure.
fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write to standard output: {error}")),
    }
}
