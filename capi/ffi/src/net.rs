//! The userspace network of a tunnel: a stack, a pump between its connections and descriptors, and the waits of the
//! app's calls.
//!
//! | module | contents |
//! |---|---|
//! | `settings` | addresses, DNS servers and the MTU from text |
//! | `tun` | the stack as a TUN, and how it ends |
//! | `connect` | dialling, listening, names, echo requests |
//! | `accept` | connections of a listening descriptor |
//! | `intercept`, `held` | intercepted connections, and those that are held |
//! | `proxy` | SOCKS5 and HTTP proxies |
//! | `inbox`, `wait` | queues and waits for the others |

mod accept;
mod connect;
mod held;
mod inbox;
mod intercept;
#[cfg_attr(not(unix), path = "net/no_proxy.rs")]
mod proxy;
mod settings;
mod tun;
mod wait;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub(crate) use self::{
    connect::Network,
    intercept::NewInterception,
    proxy::{Protocol, Wanted},
    wait::Limit,
};
use self::{
    held::Held,
    inbox::{Inbox, Link, Purpose},
    intercept::{Functions, Rules},
    proxy::Proxies,
    settings::Settings,
    tun::{End, NetTun},
};
use crate::{
    plumbing::{
        callback::Slot,
        fd::{above_standard, check_open},
        sized::{Received, check_flags, read_sized},
        text::borrow_text,
    },
    tunnel::mtu_or_default,
    types::{net::wg_net_options_t, options::wg_options_t},
};
use wg_embed::{
    error::{Error, ErrorKind, Result},
    sync,
    tun::Tun,
};
use wg_embed_netstack::{
    Netstack, Options,
    pump::{AsFd, AsRawFd, BorrowedFd, FdId, OwnedFd, Pump},
};

/// The time limit for sending the last packets of the stack when a tunnel is turned off; commonly that is done at once.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The userspace network of a tunnel.
pub(crate) struct Net {
    handle: i32,
    stack: Netstack,
    /// `None` once it is closed. Held for reading during short calls only.
    pump: RwLock<Option<Pump>>,
    end: Arc<End>,
    is_closed: AtomicBool,
    listeners: Mutex<Listeners>,
    functions: Slot<Functions>,
    held: Held,
    proxies: Proxies,
}

/// Listeners and the interception.
#[derive(Default)]
struct Listeners {
    inboxes: Vec<Arc<Inbox>>,
    /// Set while connections are intercepted.
    rules: Option<Rules>,
    /// The addresses of the app's listening descriptors that the pump serves. Closed ones stay for a while.
    of_pump: Vec<(FdId, SocketAddr)>,
    /// When the list has this many entries, closed listeners are removed from it.
    many_of_pump: usize,
    /// Some that listened for datagrams: the app may have shut them down, and not closed them yet.
    ended: VecDeque<FdId>,
}

/// The meaning of a listening descriptor of the app.
enum Listening {
    Inbox(Arc<Inbox>),
    OfPump(SocketAddr),
}

impl Net {
    /// The network that the options ask for.
    ///
    /// # Safety
    /// `options.net` is NULL or points to as many readable bytes as its size says; its texts are NULL or end with a
    /// zero byte.
    pub(crate) unsafe fn open(options: &wg_options_t, handle: i32) -> Result<Option<Arc<Self>>> {
        if options.net.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's contract is the same.
        let Received { value: net, unknown_fields } = unsafe { read_sized(options.net, "net") }?;
        unknown_fields?;
        // SAFETY: as above.
        let settings = unsafe { read_settings(&net) }.map_err(|err| err.at("net"))?;
        check_flags(net.flags, 0)?;
        let mtu = match (options.mtu, settings.mtu) {
            (0, Some(mtu)) => mtu,
            (mtu, _) => mtu_or_default(mtu)?,
        };
        let mut stack = Options { addresses: settings.addresses, dns: settings.dns, mtu, ..Options::default() };
        if net.memory_limit != 0 {
            stack.memory = net.memory_limit;
        }
        if net.max_connections != 0 {
            stack.max_connections = net.max_connections as usize;
        }
        Self::new(handle, stack).map(Some).map_err(|err| failed("net: cannot make the network", err))
    }

    fn new(handle: i32, options: Options) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            handle,
            stack: Netstack::new(options)?,
            pump: RwLock::new(Some(Pump::new()?)),
            end: Arc::default(),
            is_closed: AtomicBool::new(false),
            listeners: Mutex::default(),
            functions: Slot::new(),
            held: Held::default(),
            proxies: Proxies::default(),
        }))
    }

    /// The TUN for the tunnel.
    pub(crate) fn tun(&self) -> Arc<dyn Tun> {
        Arc::new(NetTun { stack: self.stack.tun(), end: self.end.clone() })
    }

    pub(crate) fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.stack.set_mtu(mtu).map_err(|err| failed("cannot set the MTU", err))
    }

    /// Ends all connections, descriptors and waits. The peers are notified if the tunnel is running (`is_served`).
    /// Idempotent.
    pub(crate) fn close(&self, is_served: bool) {
        if self.is_closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let listeners = std::mem::take(&mut *sync::lock(&self.listeners));
        listeners.inboxes.iter().for_each(|inbox| inbox.close());
        self.held.clear();
        self.end.closing(|| self.stack.close());
        self.proxies.close();
        let pump = sync::write(&self.pump).take();
        // Without the lock: calls that come now are refused by then.
        drop(pump);
        if is_served {
            self.stack.tun().wake();
            self.end.wait(LAST_WORDS);
        }
    }

    /// Closes the callbacks: when this returns, they are not running on any thread. Their pointer is released when the
    /// result is dropped.
    pub(crate) fn take_functions(&self) -> impl Sized {
        self.functions.take()
    }

    /// The size of the buffers of connections and of queued datagrams, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.stack.stats().memory
    }

    fn check_open(&self) -> Result<()> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(turned_off());
        }
        Ok(())
    }

    /// Calls the pump, which does not wait.
    fn with_pump<T>(&self, context: &str, call: impl FnOnce(&Pump) -> io::Result<T>) -> Result<T> {
        let pump = sync::read(&self.pump);
        call(pump.as_ref().ok_or_else(turned_off)?).map_err(|err| failed(context, err))
    }

    /// A descriptor for a connection.
    fn descriptor(&self, link: Link) -> Result<OwnedFd> {
        self.with_pump("cannot make a descriptor", |pump| match link {
            Link::Tcp(stream) => above_standard_or_reset(pump, pump.tcp_descriptor(stream)?),
            Link::Udp(flow) => above_standard(pump.flow_descriptor(flow)?),
        })
    }

    /// The addresses of a connection's or a listener's descriptor: ours, and that of the peer if there is one.
    ///
    /// # Safety
    /// `fd` is not closed during the call.
    pub(crate) unsafe fn addresses(&self, fd: i32) -> Result<(SocketAddr, Option<SocketAddr>)> {
        // SAFETY: the caller's contract is the same.
        let fd = unsafe { check_open(fd) }?;
        match self.listening(fd)? {
            Some(Listening::OfPump(at)) => return Ok((at, None)),
            Some(Listening::Inbox(inbox)) => {
                return match inbox.purpose {
                    Purpose::Listen(at) => Ok((at, None)),
                    Purpose::Intercept => {
                        Err(Error::new(ErrorKind::NotFound, "an intercepting socket has no address of its own"))
                    }
                };
            }
            None => {}
        }
        let (local, peer) = self.with_pump_for(fd, Pump::addresses)?;
        Ok((local, Some(peer)))
    }

    /// Resets a connection.
    ///
    /// # Safety
    /// `fd` is not closed during the call.
    pub(crate) unsafe fn reset(&self, fd: i32) -> Result<()> {
        // SAFETY: the caller's contract is the same.
        self.with_pump_for(unsafe { check_open(fd) }?, Pump::reset)
    }

    /// Calls the pump about a connection's descriptor.
    fn with_pump_for<'a, T>(
        &self,
        fd: BorrowedFd<'a>,
        call: impl FnOnce(&Pump, BorrowedFd<'a>) -> io::Result<T>,
    ) -> Result<T> {
        let pump = sync::read(&self.pump);
        call(pump.as_ref().ok_or_else(turned_off)?, fd).map_err(|_| {
            let number = fd.as_raw_fd();
            Error::invalid(format!(
                "descriptor {number} is not a connection of this network, or the connection has ended"
            ))
        })
    }
}

/// A descriptor of the same connection that is not the standard input, output or error; without one, the connection is
/// reset.
fn above_standard_or_reset(pump: &Pump, descriptor: OwnedFd) -> io::Result<OwnedFd> {
    match descriptor.as_raw_fd() {
        // A duplicate is above them.
        0..3 => descriptor.try_clone().inspect_err(|_| {
            // An error means that the connection has ended.
            let _ = pump.reset(descriptor.as_fd());
        }),
        _ => Ok(descriptor),
    }
}

/// # Safety
/// The texts are NULL or end with a zero byte.
unsafe fn read_settings(net: &wg_net_options_t) -> Result<Settings> {
    let read = |text: *const std::ffi::c_char, name| {
        // SAFETY: the caller's contract is the same.
        (!text.is_null()).then(|| unsafe { borrow_text(text, name) }).transpose()
    };
    Settings::read(read(net.settings, "settings")?, read(net.addresses, "addresses")?, read(net.dns, "dns")?)
}

fn turned_off() -> Error {
    Error::new(ErrorKind::Closed, "the tunnel was turned off")
}

/// Converts a failure of the stack to an error.
fn failed(context: &str, err: io::Error) -> Error {
    let kind = match err.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::NotConnected => ErrorKind::Closed,
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => ErrorKind::Refused,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable => ErrorKind::Unreachable,
        io::ErrorKind::TimedOut => ErrorKind::TimedOut,
        _ => ErrorKind::of_io(&err),
    };
    Error::new(kind, format!("{context}: {err}"))
}
