//! The error type, and the table that maps its kinds to `errno` and to `wg_result_t`.

use std::{borrow::Cow, collections::TryReserveError, error::Error as StdError, fmt, io};

/// The kind of a failure.
///
/// Each kind has one `errno` (for the UAPI) and one `wg_result_t` (for C); see [`ErrorKind::errno`] and
/// [`ErrorKind::code`]. Numbers are never reused.
///
/// ```
/// use std::io;
/// use wg_embed::ErrorKind;
///
/// assert_eq!(ErrorKind::of_io(&io::ErrorKind::AddrInUse.into()), ErrorKind::AddrInUse);
/// assert_eq!(ErrorKind::AddrInUse.code(), -22); // `WG_ERR_ADDR_IN_USE` in C
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A required pointer was NULL.
    Null,
    /// A value is malformed or out of its range.
    Invalid,
    /// A line or message violates the format of its protocol.
    Protocol,
    /// The requested feature does not exist on this platform, or in this version.
    Unsupported,
    /// A documented limit on size or number was exceeded.
    TooLarge,
    /// The handle is unknown, or its object no longer exists.
    UnknownHandle,
    /// The object has ended or was closed.
    Closed,
    /// The call cannot be made now, for example from inside a callback that it would wait for.
    Busy,
    /// The operation was not completed within the caller's time limit.
    TimedOut,
    /// The object belongs to the process that this one was forked from.
    Forked,
    /// The operating system reported a failure without a kind of its own.
    Io,
    /// The operating system refused for lack of permission.
    Permission,
    /// The port is in use by another socket.
    AddrInUse,
    /// A file, interface, device node or peer does not exist.
    NotFound,
    /// An object of this name already exists.
    Exists,
    /// The other side refused a connection.
    Refused,
    /// The other side of a connection cannot be reached.
    Unreachable,
    /// Threads, file descriptors or memory have run out.
    Resources,
    /// A bug in this library was caught as a panic.
    Panic,
}

/// The numbers of `errno.h` that the UAPI uses. On Windows they are the Linux numbers, as in wireguard-go.
mod errno {
    #[cfg(not(windows))]
    pub(super) use libc::{
        EACCES, EADDRINUSE, EBADF, EBUSY, ECONNREFUSED, EEXIST, EFAULT, EHOSTUNREACH, EINVAL, EIO, EMSGSIZE, ENODEV,
        ENOENT, ENOMEM, ENOTSUP, EPROTO, ETIMEDOUT,
    };
    #[cfg(windows)]
    pub(super) const EACCES: i32 = 13;
    #[cfg(windows)]
    pub(super) const EADDRINUSE: i32 = 98;
    #[cfg(windows)]
    pub(super) const EBADF: i32 = 9;
    #[cfg(windows)]
    pub(super) const EBUSY: i32 = 16;
    #[cfg(windows)]
    pub(super) const ECONNREFUSED: i32 = 111;
    #[cfg(windows)]
    pub(super) const EHOSTUNREACH: i32 = 113;
    #[cfg(windows)]
    pub(super) const EEXIST: i32 = 17;
    #[cfg(windows)]
    pub(super) const EFAULT: i32 = 14;
    #[cfg(windows)]
    pub(super) const EINVAL: i32 = 22;
    #[cfg(windows)]
    pub(super) const EIO: i32 = 5;
    #[cfg(windows)]
    pub(super) const EMSGSIZE: i32 = 90;
    #[cfg(windows)]
    pub(super) const ENODEV: i32 = 19;
    #[cfg(windows)]
    pub(super) const ENOENT: i32 = 2;
    #[cfg(windows)]
    pub(super) const ENOMEM: i32 = 12;
    #[cfg(windows)]
    pub(super) const ENOTSUP: i32 = 95;
    #[cfg(windows)]
    pub(super) const EPROTO: i32 = 71;
    #[cfg(windows)]
    pub(super) const ETIMEDOUT: i32 = 110;
}

impl ErrorKind {
    /// Every kind, in the order of the table.
    pub const ALL: [Self; 19] = [
        Self::Null,
        Self::Invalid,
        Self::Protocol,
        Self::Unsupported,
        Self::TooLarge,
        Self::UnknownHandle,
        Self::Closed,
        Self::Busy,
        Self::TimedOut,
        Self::Forked,
        Self::Io,
        Self::Permission,
        Self::AddrInUse,
        Self::NotFound,
        Self::Exists,
        Self::Refused,
        Self::Unreachable,
        Self::Resources,
        Self::Panic,
    ];

    /// Returns the table's row: `errno`, `wg_result_t`.
    const fn row(self) -> (i32, i32) {
        match self {
            Self::Null => (errno::EFAULT, -1),
            Self::Invalid => (errno::EINVAL, -2),
            Self::Protocol => (errno::EPROTO, -3),
            Self::Unsupported => (errno::ENOTSUP, -4),
            Self::TooLarge => (errno::EMSGSIZE, -5),
            Self::UnknownHandle => (errno::EBADF, -10),
            Self::Closed => (errno::ENODEV, -11),
            Self::Busy => (errno::EBUSY, -12),
            Self::TimedOut => (errno::ETIMEDOUT, -13),
            Self::Forked => (errno::EBADF, -14),
            Self::Io => (errno::EIO, -20),
            Self::Permission => (errno::EACCES, -21),
            Self::AddrInUse => (errno::EADDRINUSE, -22),
            Self::NotFound => (errno::ENOENT, -23),
            Self::Exists => (errno::EEXIST, -24),
            Self::Refused => (errno::ECONNREFUSED, -25),
            Self::Unreachable => (errno::EHOSTUNREACH, -26),
            Self::Resources => (errno::ENOMEM, -30),
            Self::Panic => (errno::EIO, -40),
        }
    }

    /// Returns the positive number of `errno.h` on this host.
    #[must_use]
    pub const fn errno(self) -> i32 {
        self.row().0
    }

    /// Returns the negative `wg_result_t` value of the C ABI.
    #[must_use]
    pub const fn code(self) -> i32 {
        self.row().1
    }

    /// Returns the kind of an operating system error.
    #[must_use]
    pub fn of_io(err: &io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission,
            io::ErrorKind::AddrInUse => Self::AddrInUse,
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::Exists,
            io::ErrorKind::OutOfMemory => Self::Resources,
            io::ErrorKind::Unsupported => Self::Unsupported,
            io::ErrorKind::InvalidInput => Self::Invalid,
            io::ErrorKind::NotConnected => Self::Closed,
            _ => match err.raw_os_error() {
                #[cfg(unix)]
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS) => Self::Resources,
                #[cfg(unix)]
                Some(libc::EBUSY) => Self::Busy,
                // ERROR_NOT_FOUND, ERROR_SERVICE_DOES_NOT_EXIST
                #[cfg(windows)]
                Some(1168 | 1060) => Self::NotFound,
                // ERROR_SERVICE_EXISTS
                #[cfg(windows)]
                Some(1073) => Self::Exists,
                // ERROR_TOO_MANY_OPEN_FILES, ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_QUOTA
                #[cfg(windows)]
                Some(4 | 1450 | 1816) => Self::Resources,
                _ => Self::Io,
            },
        }
    }
}

/// Converts the result of a system call that returns a negative number if it fails.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn check(result: std::ffi::c_int) -> io::Result<std::ffi::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A failure: its kind, the failed operation, and the cause if there is one.
///
/// The text never contains key material.
///
/// ```
/// use wg_embed::{ErrorKind, PublicKey};
///
/// let error = PublicKey::from_base64("not a key").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Invalid);
/// assert_eq!(error.to_string(), "a key in base64 is 44 characters that end in '='");
/// ```
#[derive(Debug)]
pub struct Error(Repr);

/// One pointer, so that a `Result` is seldom larger than its value, which makes code that passes errors on smaller.
#[derive(Debug)]
enum Repr {
    /// There is not enough memory, not even for a box.
    NoMemory,
    Failure(Box<Failure>),
}

const NO_MEMORY: &str = "there is not enough memory";

#[derive(Debug)]
struct Failure {
    kind: ErrorKind,
    context: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Creates an error without a cause.
    pub fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self::of(kind, context.into(), None)
    }

    /// Creates an error from an operating system error; `context` names the failed operation ("cannot open
    /// /dev/net/tun").
    pub fn io(context: impl Into<Cow<'static, str>>, source: io::Error) -> Self {
        Self::of(ErrorKind::of_io(&source), context.into(), Some(source))
    }

    #[cold]
    #[inline(never)]
    fn of(kind: ErrorKind, context: Cow<'static, str>, source: Option<io::Error>) -> Self {
        let source = source.map(|source| Box::new(source) as Box<_>);
        Self(Repr::Failure(Box::new(Failure { kind, context, source })))
    }

    /// Creates an error of the kind [`ErrorKind::Invalid`].
    pub fn invalid(context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }

    /// Creates an error for a lack of memory, without an allocation.
    pub(crate) const fn no_memory() -> Self {
        Self(Repr::NoMemory)
    }

    /// Prefixes the text with the place of the failure ("line 3: ..."), except for a lack of memory.
    ///
    /// ```
    /// let error = wg_embed::Error::invalid("the port is not a number").at("line 3");
    /// assert_eq!(error.to_string(), "line 3: the port is not a number");
    /// ```
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        if let Repr::Failure(failure) = &mut self.0 {
            failure.context = match &*failure.context {
                "" => place.to_string(),
                context => format!("{place}: {context}"),
            }
            .into();
        }
        self
    }

    /// Returns the kind of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match &self.0 {
            Repr::NoMemory => ErrorKind::Resources,
            Repr::Failure(failure) => failure.kind,
        }
    }
}

impl From<TryReserveError> for Error {
    fn from(_: TryReserveError) -> Self {
        Self::no_memory()
    }
}

impl From<io::Error> for Error {
    /// Converts an operating system error, whose text is kept. [`Error::io`] adds the operation that has failed.
    ///
    /// ```
    /// fn read(path: &str) -> wg_embed::Result<Vec<u8>> {
    ///     Ok(std::fs::read(path)?)
    /// }
    /// assert_eq!(read("").unwrap_err().kind(), wg_embed::ErrorKind::NotFound);
    /// ```
    fn from(source: io::Error) -> Self {
        Self::io("", source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::NoMemory => f.write_str(NO_MEMORY),
            Repr::Failure(failure) => match (&*failure.context, &failure.source) {
                ("", Some(source)) => source.fmt(f),
                (context, Some(source)) => write!(f, "{context}: {source}"),
                (context, None) => f.write_str(context),
            },
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0 {
            Repr::NoMemory => None,
            Repr::Failure(failure) => failure.source.as_deref().map(|s| s as &(dyn StdError + 'static)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_negative_and_unique_and_errnos_positive() {
        let codes: HashSet<i32> = ErrorKind::ALL.iter().map(|k| k.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        assert!(ErrorKind::ALL.iter().all(|k| k.code() < 0 && k.errno() > 0));
    }

    #[test]
    fn text_names_what_was_tried_and_why_it_failed() {
        let err = Error::io("cannot open x", io::Error::from(io::ErrorKind::PermissionDenied)).at("interface wg0");
        assert_eq!(err.kind(), ErrorKind::Permission);
        assert_eq!(err.to_string(), "interface wg0: cannot open x: permission denied");
    }

    #[test]
    fn an_operating_system_error_keeps_its_text() {
        let convert = || Error::from(io::Error::from(io::ErrorKind::AddrInUse));
        assert_eq!((convert().kind(), convert().to_string().as_str()), (ErrorKind::AddrInUse, "address in use"));
        assert_eq!(convert().at("port 1").to_string(), "port 1: address in use");
        assert!(convert().source().is_some());
    }

    #[cfg(windows)]
    #[test]
    fn errors_of_windows_for_what_is_missing_or_there_have_their_kinds() {
        let kinds = [1168, 1060, 1073].map(|code| ErrorKind::of_io(&io::Error::from_raw_os_error(code)));
        assert_eq!(kinds, [ErrorKind::NotFound, ErrorKind::NotFound, ErrorKind::Exists]);
    }

    #[test]
    fn an_error_is_one_pointer_also_where_there_is_no_memory() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        let err = Error::no_memory().at("line 3");
        assert_eq!((err.kind(), err.to_string().as_str()), (ErrorKind::Resources, NO_MEMORY));
    }
}
