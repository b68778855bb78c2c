//! Interception by the app, and listening for datagrams, where each source is a connection of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use super::{
    Net, failed,
    held::Dialled,
    inbox::{Arrived, Inbox, Link, Purpose},
};
use crate::{
    plumbing::{callback::NewCallback, fd::into_number, sized::check_flags},
    types::net::{
        WG_NET_ACCEPT, WG_NET_HOLD, WG_NET_IGNORE, WG_NET_NO_ECHO, WG_NET_REFUSE, WG_NET_TCP, WG_NET_UDP,
        wg_net_connected_fn_t, wg_net_connection_t, wg_net_dialled_fn_t, wg_net_intercept_t, wg_net_protocol_t,
    },
};
use wg_embed::{
    bind::Endpoint,
    error::{Error, ErrorKind, Result},
    sync,
};
use wg_embed_netstack::{
    Intercept, InterceptOptions, PendingTcp, TcpStream, UdpFlow,
    pump::{AsFd, OwnedFd},
};

/// The functions of a [`wg_net_intercept_t`].
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    dialled: wg_net_dialled_fn_t,
    connected: wg_net_connected_fn_t,
}

/// The arguments of wg_net_intercept(), with ownership of the callbacks.
pub(crate) struct NewInterception {
    options: wg_net_intercept_t,
    functions: NewCallback<Functions>,
}

impl NewInterception {
    pub(crate) fn new(options: wg_net_intercept_t) -> Self {
        let functions = Functions { dialled: options.dialled, connected: options.connected };
        Self { options, functions: NewCallback::new(Some(functions), options.user, options.destroy) }
    }
}

/// The settings of an interception.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    options: InterceptOptions,
    /// The app has set `dialled`.
    asks: bool,
}

/// The most listeners that are remembered after their end.
const MOST_ENDED: usize = 64;

fn or_default(number: u32, default: u32) -> u32 {
    if number == 0 { default } else { number }
}

impl Net {
    /// Begins to intercept connections. Returns the app's descriptor, unless there is a `connected` callback.
    pub(crate) fn intercept(self: &Arc<Self>, new: NewInterception) -> Result<Option<OwnedFd>> {
        let NewInterception { options, functions } = new;
        check_flags(options.flags, WG_NET_NO_ECHO as u32)?;
        if options.reserved != 0 {
            return Err(Error::invalid("reserved is not 0"));
        }
        let millis = |ms| Duration::from_millis(or_default(ms, 60_000).into());
        let rules = Rules {
            options: InterceptOptions {
                udp_idle: millis(options.udp_idle_ms),
                max_flows: or_default(options.max_flows, 16_384) as usize,
                answer_echo: options.flags & WG_NET_NO_ECHO as u32 == 0,
                hold: millis(options.hold_ms),
            },
            asks: options.dialled.is_some(),
        };
        let inbox = match options.connected {
            Some(_) => None,
            None => {
                let backlog = or_default(options.backlog, 128) as usize;
                let made = Inbox::intercepting(backlog);
                Some(made.map_err(|err| Error::io("cannot make a descriptor for connections", err))?)
            }
        };
        self.check_open()?;
        if let Some((inbox, _)) = &inbox {
            self.watch(inbox).map_err(|err| failed("cannot watch a descriptor", err))?;
        }
        self.end_interception();
        if !self.functions.set(functions) {
            return Err(Error::new(ErrorKind::UnknownHandle, "the tunnel was turned off during the call"));
        }
        let (inbox, of_app) = inbox.unzip();
        let mut listeners = sync::lock(&self.listeners);
        listeners.inboxes.extend(inbox);
        listeners.rules = Some(rules);
        self.tell_stack(&listeners);
        Ok(of_app)
    }

    /// Ends the interception. When this returns, the callbacks are not running on any thread.
    pub(crate) fn stop_intercepting(self: &Arc<Self>) {
        self.end_interception();
        self.functions.clear();
    }

    fn end_interception(self: &Arc<Self>) {
        let mut listeners = sync::lock(&self.listeners);
        listeners.rules = None;
        let ended: Vec<_> = listeners.inboxes.extract_if(.., |inbox| inbox.purpose == Purpose::Intercept).collect();
        self.tell_stack(&listeners);
        drop(listeners);
        ended.iter().for_each(|inbox| inbox.close());
        self.held.clear();
    }

    /// Enables the interception of the stack as long as there is a receiver.
    pub(super) fn tell_stack(self: &Arc<Self>, listeners: &super::Listeners) {
        // Datagrams to a port alone: echo requests to others stay without an answer.
        let alone = || InterceptOptions { answer_echo: false, ..InterceptOptions::default() };
        let options = listeners.rules.map_or_else(alone, |rules| rules.options);
        let is_wanted = listeners.rules.is_some() || !listeners.inboxes.is_empty();
        let handler = is_wanted.then(|| Arc::new(Handler(Arc::downgrade(self))) as Arc<dyn Intercept>);
        self.stack.intercept(options, handler);
    }

    /// Implements wg_net_answer().
    pub(crate) fn answer(&self, id: u64, answer: u32) -> Result<()> {
        let accepts = answer == WG_NET_ACCEPT as u32;
        if !accepts && answer != WG_NET_REFUSE as u32 && answer != WG_NET_IGNORE as u32 {
            return Err(Error::invalid(format!("the answer is {answer}")));
        }
        let gone =
            || Error::new(ErrorKind::NotFound, format!("no connection with the number {id} waits for an answer"));
        let dialled = self.held.take(id).ok_or_else(gone)?;
        if accepts {
            self.let_in(dialled);
        } else {
            dialled.end(answer == WG_NET_REFUSE as u32);
        }
        Ok(())
    }

    /// Calls `dialled` about a connection, and acts on its answer.
    fn ask(&self, rules: Rules, dialled: Dialled) {
        if !rules.asks {
            return self.let_in(dialled);
        }
        let protocol = if matches!(dialled, Dialled::Tcp(_)) { WG_NET_TCP } else { WG_NET_UDP };
        let connection = connection(protocol, dialled.destination(), dialled.source());
        let connection = wg_net_connection_t { id: self.held.next_id(), ..connection };
        // Before the app is asked: another thread of it may answer before the function has returned.
        self.held.keep(connection.id, dialled, rules.options.hold);
        let answer = self.functions.call(|functions, user| {
            // SAFETY: who set the function allows this call, on this thread; the connection lives.
            functions.dialled.map(|ask| unsafe { ask(user, self.handle, &raw const connection) })
        });
        let answer = answer.flatten().unwrap_or(WG_NET_REFUSE as u32);
        if answer == WG_NET_HOLD as u32 {
            return;
        }
        let Some(dialled) = self.held.take(connection.id) else { return };
        if answer == WG_NET_ACCEPT as u32 {
            self.let_in(dialled);
        } else {
            dialled.end(answer != WG_NET_IGNORE as u32);
        }
    }

    /// Accepts a connection, if there is room for it.
    fn let_in(&self, dialled: Dialled) {
        let inbox = self.inbox_of(Purpose::Intercept);
        if matches!(dialled, Dialled::Tcp(_)) && inbox.is_some_and(|inbox| !inbox.has_room()) {
            return dialled.end(true);
        }
        if let Some(link) = dialled.accept() {
            self.deliver(link);
        }
    }

    /// Passes an established connection to the app. Without room it is reset.
    fn deliver(&self, link: Link) {
        let connection = match &link {
            Link::Tcp(stream) => connection(WG_NET_TCP, stream.local_addr(), stream.peer_addr()),
            Link::Udp(flow) => connection(WG_NET_UDP, flow.destination(), flow.source()),
        };
        if let Some(inbox) = self.inbox_of(Purpose::Intercept) {
            return inbox.push(Arrived { link, connection });
        }
        let fd = match self.descriptor(link) {
            Ok(fd) => fd,
            Err(err) => {
                tracing::warn!(%err, "an intercepted connection is given up");
                return;
            }
        };
        let mut fd = Some(fd);
        self.functions.call(|functions, user| {
            if let (Some(take), Some(fd)) = (functions.connected, fd.take()) {
                // SAFETY: as in `ask`; the descriptor is the app's from here on.
                unsafe { take(user, self.handle, &raw const connection, into_number(fd)) };
            }
        });
        if let Some(fd) = fd {
            // The interception has ended. An error means that the connection has, too.
            let _ = self.with_pump("cannot reset a connection", |pump| pump.reset(fd.as_fd()));
        }
    }

    fn inbox_of(&self, purpose: Purpose) -> Option<Arc<Inbox>> {
        sync::lock(&self.listeners).inboxes.iter().find(|inbox| inbox.purpose == purpose).cloned()
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.stack.options().addresses.contains(&address)
    }

    /// Returns the listener for datagrams to this address, or for all addresses of the network.
    fn listener_for(self: &Arc<Self>, to: SocketAddr) -> Option<Arc<Inbox>> {
        loop {
            let found = self.inbox_for(to)?;
            if !found.is_gone() {
                return Some(found);
            }
            self.forget_closed_listeners(&mut sync::lock(&self.listeners));
        }
    }

    /// Ends listeners for datagrams that the app has closed.
    pub(super) fn forget_closed_listeners(self: &Arc<Self>, listeners: &mut super::Listeners) {
        let is_closed = |inbox: &mut Arc<Inbox>| inbox.purpose != Purpose::Intercept && inbox.is_gone();
        let closed: Vec<_> = listeners.inboxes.extract_if(.., is_closed).collect();
        if !closed.is_empty() {
            for inbox in closed {
                inbox.close();
                listeners.ended.truncate(MOST_ENDED - 1);
                listeners.ended.push_front(inbox.id());
            }
            self.tell_stack(listeners);
        }
    }

    /// Lets the inbox end when the app closes its descriptor.
    pub(super) fn watch(self: &Arc<Self>, inbox: &Arc<Inbox>) -> io::Result<()> {
        let (Some(signal), net, watched) = (inbox.signal(), Arc::downgrade(self), inbox.clone()) else { return Ok(()) };
        let closed = move || {
            watched.close();
            if let Some(net) = net.upgrade() {
                net.forget_closed_listeners(&mut sync::lock(&net.listeners));
            }
        };
        let pump = sync::read(&self.pump);
        pump.as_ref().ok_or(io::ErrorKind::NotConnected)?.watch(signal.descriptor(), Box::new(closed))
    }

    fn inbox_for(&self, to: SocketAddr) -> Option<Arc<Inbox>> {
        let one = self.inbox_of(Purpose::Listen(to));
        if one.is_some() || !self.is_own(to.ip()) {
            return one;
        }
        let all = |any: IpAddr| self.inbox_of(Purpose::Listen(SocketAddr::new(any, to.port())));
        let both = || all(Ipv6Addr::UNSPECIFIED.into());
        if to.is_ipv4() { all(Ipv4Addr::UNSPECIFIED.into()).or_else(both) } else { both() }
    }
}

/// A connection in the form of C.
pub(super) fn connection(protocol: wg_net_protocol_t, local: SocketAddr, peer: SocketAddr) -> wg_net_connection_t {
    let [local, peer] = [local, peer].map(|address| Endpoint::new(address).into());
    wg_net_connection_t { id: 0, protocol: protocol as u32, flags: 0, local, peer }
}

/// The handler of intercepted connections.
struct Handler(Weak<Net>);

impl Intercept for Handler {
    fn dialled(&self, pending: PendingTcp) {
        let rules = self.0.upgrade().and_then(|net| sync::lock(&net.listeners).rules.map(|rules| (net.clone(), rules)));
        match rules {
            Some((net, rules)) => net.ask(rules, Dialled::Tcp(pending)),
            None => self.leave(Dialled::Tcp(pending)),
        }
    }

    fn connected(&self, stream: TcpStream) {
        if let Some(net) = self.0.upgrade() {
            net.deliver(Link::Tcp(stream));
        }
    }

    fn flow(&self, flow: UdpFlow) {
        let Some(net) = self.0.upgrade() else { return };
        if let Some(inbox) = net.listener_for(flow.destination()) {
            let connection = connection(WG_NET_UDP, flow.destination(), flow.source());
            return inbox.push(Arrived { link: Link::Udp(flow), connection });
        }
        let rules = sync::lock(&net.listeners).rules;
        match rules {
            Some(rules) => net.ask(rules, Dialled::Udp(flow)),
            None => self.leave(Dialled::Udp(flow)),
        }
    }
}

impl Handler {
    /// No handler takes it: it ends as it would without a handler.
    fn leave(&self, dialled: Dialled) {
        let is_own = self.0.upgrade().is_some_and(|net| net.is_own(dialled.destination().ip()));
        dialled.end(is_own);
    }
}
