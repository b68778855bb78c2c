//! Starts daemons in network namespaces of their own, and leaves nothing of them behind.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    os::unix::{
        fs::MetadataExt,
        net::UnixStream,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::netns::{
    Netns,
    in_time::{self, end_of},
};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_wg-embed");

pub(crate) const NOBODY: u32 = 65_534;

/// No step takes nearly as long.
pub(crate) const TIMEOUT: Duration = in_time::LIMIT;

/// Waits until something is so; the limit only bounds a hang.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An interface name that no other test has: sockets are in one directory for all namespaces. Whatever has to do with
/// it is gone when this value is.
pub(crate) struct Interface(String);

impl Interface {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Daemons whose caller has gone are ours then: we can see how they end.
        // SAFETY: prctl(2) takes numbers.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }, 0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("wgd{}n{number}", std::process::id()))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn socket(&self) -> PathBuf {
        Path::new("/var/run/wireguard").join(format!("{}.sock", self.0))
    }

    /// A daemon for it.
    pub(crate) fn daemon(&self, netns: &Netns, options: &[&str]) -> Output {
        run(netns, BINARY, [&[self.name()], options].concat())
    }

    /// Starts its daemon, and returns that process's id.
    pub(crate) fn start(&self, netns: &Netns) -> Daemon {
        succeed("the start", &self.daemon(netns, &[]));
        self.running()
    }

    /// The daemon that runs for it.
    pub(crate) fn running(&self) -> Daemon {
        match self.processes()[..] {
            [id] => Daemon(id),
            ref other => panic!("there should be one daemon: {other:?}"),
        }
    }

    /// Processes that run our binary for this name.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let is_ours = |id: &i32| {
            let binary = fs::canonicalize(BINARY).unwrap();
            let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe == binary)
                && command.split(|b| *b == 0).any(|word| word == self.0.as_bytes())
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(is_ours).collect()
    }

    /// Waits until no process, no file and no interface is left.
    pub(crate) fn await_end(&self, netns: &Netns) {
        wait_until("nothing is left", || self.processes().is_empty() && !self.socket().exists() && !self.exists(netns));
    }

    /// Whether a namespace has it.
    pub(crate) fn exists(&self, netns: &Netns) -> bool {
        let name = self.0.clone();
        netns.run(move || fs::read_to_string("/proc/thread-self/net/dev").unwrap().contains(&format!("{name}:")))
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        for id in self.processes() {
            signal(id, libc::SIGKILL);
        }
        let _ = fs::remove_file(self.socket());
    }
}

/// A daemon in the background. It is a child of this process, as nobody else is its parent any more.
pub(crate) struct Daemon(pub(crate) i32);

impl Daemon {
    pub(crate) fn signal(&self, number: i32) {
        signal(self.0, number);
    }

    /// Asks it to end, which it does well.
    pub(crate) fn stop(&self) {
        self.signal(libc::SIGTERM);
        assert!(self.wait().success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) -> ExitStatus {
        let mut status = 0;
        // SAFETY: the status lives.
        wait_until("the daemon ends", || unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) } != 0);
        ExitStatus::from_raw(status)
    }
}

fn signal(id: i32, number: i32) {
    // SAFETY: kill(2) takes numbers; this is a process of ours.
    unsafe { libc::kill(id, number) };
}

/// Whether it serves its control socket, which is the last thing that it makes.
pub(crate) fn answers(interface: &Interface) -> bool {
    let ask = || {
        let mut client = UnixStream::connect(interface.socket())?;
        client.set_read_timeout(Some(TIMEOUT))?;
        client.set_write_timeout(Some(TIMEOUT))?;
        client.write_all(b"get=1\n\n")?;
        client.read_exact(&mut [0])
    };
    ask().is_ok()
}

/// A command that ends in bounded time, without what the environment of the tests may say to a daemon. Its output and
/// its errors go to pipes.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.arg(TIMEOUT.as_secs().to_string()).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for variable in [
        "LOG_LEVEL",
        "WG_PROCESS_FOREGROUND",
        "WG_TUN_FD",
        "WG_UAPI_FD",
        "WG_EMBED_MEMORY",
        "WG_EMBED_WORKERS",
        "WG_EMBED_TUN_QUEUES",
        "WG_EMBED_SOCKET_DIR",
        "NOTIFY_SOCKET",
    ] {
        command.env_remove(variable);
    }
    command
}

/// Runs a command in a namespace.
pub(crate) fn run(netns: &Netns, program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    let mut command = command(program);
    command.args(arguments);
    run_command(netns, command)
}

/// Runs a [`command`] in a namespace.
pub(crate) fn run_command(netns: &Netns, mut command: Command) -> Output {
    end_of(netns.run(move || command.spawn().unwrap()))
}

/// Gives a child this descriptor under that number.
pub(crate) fn hand_over(command: &mut Command, fd: i32, number: i32) {
    let hand_over = move || {
        // SAFETY: dup2(2) takes numbers. It may be called between fork and exec.
        if unsafe { libc::dup2(fd, number) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: it only calls dup2(2).
    unsafe { command.pre_exec(hand_over) };
}

/// What a command that must succeed has written.
pub(crate) fn succeed(what: &str, output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}: {error}", output.status);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command that must fail has complained of.
pub(crate) fn fail(what: &str, output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{what}: {error}");
    assert_eq!(output.stdout, b"", "{what}");
    error
}

/// Runs wg(8), with words of one text as arguments.
pub(crate) fn wg(netns: &Netns, arguments: &str) -> String {
    succeed(arguments, &run(netns, "wg", arguments.split_whitespace()))
}

/// The permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// A directory that ends with this value.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wg-embed-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
