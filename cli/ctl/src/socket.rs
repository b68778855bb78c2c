//! The control sockets of daemons: the list of them, and the requests on one.

use std::{
    fs, io,
    io::{Read, Write},
    path::PathBuf,
    time::Duration,
};

use wg_embed::{config::Update, uapi};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    failure::{Exit, Failure, Result},
    state::State,
};

#[cfg(unix)]
type Stream = std::os::unix::net::UnixStream;
#[cfg(windows)]
type Stream = fs::File;

/// The time limit for an answer, which daemons never need.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The maximum length of an answer in bytes: 65536 peers with 100 prefixes each need half of it.
const LONGEST: usize = 512 * 1024 * 1024;

/// The directory of the sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    directory: PathBuf,
}

impl Sockets {
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory: directory.unwrap_or_else(|| wg_embed::ipc::DIRECTORY.into()) }
    }

    /// Returns the names that have a socket, sorted, whether or not a daemon answers there.
    pub(crate) fn all(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::io(format_args!("cannot read {}", self.directory.display()), &error)),
        };
        let mut names: Vec<_> = entries.flatten().filter_map(|entry| name_of(&entry)).collect();
        names.sort();
        Ok(names)
    }

    /// Returns the names for which a daemon listens.
    pub(crate) fn answering(&self) -> Result<Vec<String>> {
        let mut names = self.all()?;
        names.retain(|name| match self.open(name) {
            Ok(_) => true,
            // There may be one of another user.
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        });
        Ok(names)
    }

    /// Connects to a name's socket.
    pub(crate) fn open(&self, name: &str) -> io::Result<Stream> {
        #[cfg(unix)]
        return Stream::connect(self.path(name));
        #[cfg(windows)]
        return fs::OpenOptions::new().read(true).write(true).open(self.path(name));
    }

    /// Returns the directory.
    #[cfg(unix)]
    pub(crate) fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// Returns the path of a name's socket.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        #[cfg(unix)]
        return self.directory.join(format!("{name}.sock"));
        #[cfg(windows)]
        return self.directory.join(name);
    }

    /// Connects to the daemon of a tunnel.
    pub(crate) fn connect(&self, name: &str) -> Result<Client> {
        self.connect_within(name, PATIENCE)
    }

    /// Connects with another time limit for each answer.
    pub(crate) fn connect_within(&self, name: &str, patience: Duration) -> Result<Client> {
        check_name(name)?;
        let stream = self.open(name).map_err(|error| self.why_not(name, &error))?;
        #[cfg(unix)]
        for limit in [Stream::set_read_timeout, Stream::set_write_timeout] {
            limit(&stream, Some(patience))
                .map_err(|error| Failure::io("cannot limit the time of an answer", &error))?;
        }
        Ok(Client { stream, name: name.to_owned(), patience })
    }

    /// Returns the reason why no daemon can be reached, and a suggestion.
    fn why_not(&self, name: &str, error: &io::Error) -> Failure {
        let path = self.path(name);
        let (exit, text) = match error.kind() {
            io::ErrorKind::NotFound if is_kernel_interface(name) => (
                Exit::NotFound,
                format!("{name} is an interface of the kernel, which has no control socket; use wg(8)"),
            ),
            io::ErrorKind::NotFound => {
                let others = self.answering().unwrap_or_default();
                let hint = match &others[..] {
                    [] => format!("no daemon has a socket in {}", self.directory.display()),
                    others => format!("there are: {}", others.join(", ")),
                };
                (Exit::NotFound, format!("there is no tunnel {name}; {hint}"))
            }
            io::ErrorKind::ConnectionRefused => (
                Exit::NotFound,
                format!(
                    "no daemon answers for {name}; its last one left {} behind, which can be removed",
                    path.display()
                ),
            ),
            io::ErrorKind::PermissionDenied => {
                (Exit::Permission, format!("{} belongs to another user; try again as root", path.display()))
            }
            _ => return Failure::io(format_args!("cannot connect to {}", path.display()), error),
        };
        Failure { exit, text }
    }
}

/// Returns the name that a directory entry is the socket of.
fn name_of(entry: &fs::DirEntry) -> Option<String> {
    let file = entry.file_name().into_string().ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let is_socket = fs::metadata(entry.path()).is_ok_and(|metadata| metadata.file_type().is_socket());
        file.strip_suffix(".sock").filter(|name| is_socket && !name.is_empty()).map(str::to_owned)
    }
    #[cfg(windows)]
    Some(file)
}

/// Refuses an invalid name of a tunnel.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.contains(['/', '\\', '\0']) {
        return Err(Failure::usage(format!("{name:?} is not the name of a tunnel")));
    }
    Ok(())
}

fn is_kernel_interface(name: &str) -> bool {
    fs::read_to_string(format!("/sys/class/net/{name}/uevent")).is_ok_and(|text| text.contains("DEVTYPE=wireguard"))
}

/// A connection to a daemon.
#[derive(Debug)]
pub(crate) struct Client {
    stream: Stream,
    name: String,
    patience: Duration,
}

impl Client {
    /// Reads the state of the tunnel.
    pub(crate) fn get(&mut self) -> Result<State> {
        let answer = self.ask(b"get=1\n\n").map_err(|error| self.lost(&error))?;
        State::read(&answer)
            .map_err(|error| Failure::new(format!("the daemon of {} answered: {}", self.name, error.text)))
    }

    /// Applies changes, or none of them.
    pub(crate) fn set(&mut self, update: &Update) -> Result<()> {
        let lines = uapi::set_text(update)?;
        let mut request = Zeroizing::new(Vec::with_capacity(lines.len() + 16));
        for part in [b"set=1\n", lines.as_bytes(), b"\n"] {
            request.extend_from_slice(part);
        }
        let answer = self.ask(&request).map_err(|error| self.lost(&error))?;
        let text = String::from_utf8_lossy(&answer);
        let errno = text.trim().strip_prefix("errno=").and_then(|number| number.parse::<i32>().ok());
        match errno {
            Some(0) => Ok(()),
            Some(errno) => Err(refusal(&self.name, errno)),
            None => Err(Failure::new(format!("the daemon of {} gave an answer that cannot be read", self.name))),
        }
    }

    /// Sends a request and reads the answer up to its empty line.
    fn ask(&mut self, request: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
        self.stream.write_all(request)?;
        self.stream.flush()?;
        let mut answer = Zeroizing::new(Vec::new());
        let mut piece = Zeroizing::new([0; 16 * 1024]);
        loop {
            let n = match self.stream.read(&mut piece[..]) {
                Ok(0) => return if answer.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) },
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if answer.len() + n > LONGEST {
                return Err(io::Error::other("the answer is too long"));
            }
            append_wiped(&mut answer, &piece[..n]);
            if answer.ends_with(b"\n\n") {
                return Ok(answer);
            }
        }
    }

    fn lost(&self, error: &io::Error) -> Failure {
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer in {:?}", self.patience),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                "it closed the connection without an answer".to_owned()
            }
            _ => error.to_string(),
        };
        Failure::new(format!("the daemon of {}: {reason}", self.name))
    }
}

/// Appends to bytes that may be keys: if they are moved, the old place is wiped.
pub(crate) fn append_wiped(bytes: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    let needed = bytes.len() + more.len();
    if needed > bytes.capacity() {
        let mut larger = Vec::with_capacity(needed.next_power_of_two());
        larger.extend_from_slice(bytes);
        bytes.zeroize();
        **bytes = larger;
    }
    bytes.extend_from_slice(more);
}

/// Returns the failure for an errno with which a daemon has refused a change. Some daemons negate it.
fn refusal(name: &str, errno: i32) -> Failure {
    let error = io::Error::from_raw_os_error(errno.saturating_abs());
    Failure::io(format_args!("the daemon of {name} refused the change"), &error)
}
