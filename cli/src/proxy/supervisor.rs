//! The main thread: signals, `/metrics` and `/readyz`, and the end of the proxy.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, net::TcpListener};
use wg_embed::{device::Tunnel, sync::lock};
use wg_embed_netstack::{Delivery, Netstack};
use wg_embed_proxy::{Options, Proxy};

use super::{
    config::Config,
    info::{Client, Info},
};

const WAKER: usize = 0;
const LISTENER: usize = 1;

/// The time limit of a client of `/metrics` or `/readyz`.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long connections may take after a signal to deliver written data.
const LAST_BYTES: Duration = Duration::from_secs(3);
/// How long their last packets may take to be sent.
const LAST_PACKETS: Duration = Duration::from_secs(1);
/// The interval of checks whether they have been.
const LOOK: Duration = Duration::from_millis(10);
/// The maximum number of these clients at once.
const MAX_CLIENTS: usize = 64;

/// A message to the main thread.
pub(super) enum News {
    Signal(&'static str),
    /// The proxy or the tunnel has ended, for this reason.
    Ended(String),
    /// The connection of standard input and output has ended.
    Transferred(Result<Delivery, String>),
}

/// Passes messages to the main thread.
pub(super) struct Mailbox {
    news: Mutex<Vec<News>>,
    waker: Waker,
}

impl Mailbox {
    pub(super) fn new(poll: &Poll) -> io::Result<Self> {
        Ok(Self { news: Mutex::default(), waker: Waker::new(poll.registry(), Token(WAKER))? })
    }

    pub(super) fn push(&self, news: News) {
        lock(&self.news).push(news);
        // It fails only if the loop has ended.
        let _ = self.waker.wake();
    }
}

pub(super) struct Supervisor {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    stack: Netstack,
    tunnel: Tunnel,
    proxy: Proxy,
    config: Config,
    info: Info,
    listener: Option<TcpListener>,
    /// The clients of `/metrics` and `/readyz`, and their time limits.
    clients: HashMap<usize, (Client, Instant)>,
    next_client: usize,
    next_check: Option<Instant>,
}

impl Supervisor {
    /// Starts the services of the configuration, then the tunnel: connections from it find them.
    pub(super) fn start(
        poll: Poll,
        mailbox: Arc<Mailbox>,
        stack: Netstack,
        tunnel: impl FnOnce(&Netstack) -> Result<Tunnel, String>,
        config: Config,
        info: Option<SocketAddr>,
    ) -> Result<Self, String> {
        let told = mailbox.clone();
        let ended = move || told.push(News::Ended("the proxy has ended".into()));
        let proxy = Proxy::start_with(&stack, options(&config), ended);
        let proxy = proxy.map_err(|e| format!("cannot start the proxy: {e}"))?;
        for service in &config.services {
            proxy.add(service.clone()).map_err(|e| format!("{}: {e}", super::config::place(service)))?;
        }
        let say = |e: io::Error| format!("{}: {e}", info.map_or_else(String::new, |at| format!("--info {at}")));
        let mut listener = info.map(TcpListener::bind).transpose().map_err(say)?;
        if let Some(listener) = &mut listener {
            poll.registry().register(listener, Token(LISTENER), Interest::READABLE).map_err(say)?;
        }
        let tunnel = tunnel(&stack)?;
        if let Some(target) = &config.stdio {
            super::stdio::start(&proxy, target, mailbox.clone()).map_err(|e| format!("[STDIOTunnel] {target}: {e}"))?;
        }
        if let Some(address) = listener.as_ref().and_then(|listener| listener.local_addr().ok()) {
            tracing::debug!("serving information at {address}");
        }
        let info = Info::new(&config);
        let mut supervisor = Self {
            poll,
            mailbox,
            stack,
            tunnel,
            proxy,
            config,
            info,
            listener,
            clients: HashMap::new(),
            next_client: LISTENER,
            next_check: None,
        };
        supervisor.note_services();
        supervisor.check_alive();
        Ok(supervisor)
    }

    /// Serves until there is a reason to end, and ends. `reload` reads the configuration again.
    pub(super) fn run(mut self, reload: &dyn Fn() -> Result<Config, String>) -> Result<(), String> {
        let end = self.serve(reload);
        // Without the tunnel nothing is delivered, and after a reset nothing is left.
        let patience = match &end {
            Err(_) | Ok(End::Transferred(Err(_))) => Duration::ZERO,
            Ok(End::Signal) => LAST_BYTES,
            Ok(End::Transferred(Ok(_))) => self.stack.options().linger,
        };
        self.close(patience);
        match end? {
            End::Transferred(Ok(delivery)) => delivered(&delivery),
            End::Transferred(Err(reason)) => Err(reason),
            End::Signal => Ok(()),
        }
    }

    /// Closes the connections without resets if they end in time.
    fn close(self, patience: Duration) {
        let Self { mut poll, mailbox, stack, tunnel, proxy, .. } = self;
        proxy.close();
        let until = Instant::now() + patience;
        let mut events = Events::with_capacity(8);
        while stack.stats().connections > 0 {
            let is_asked =
                lock(&mailbox.news).drain(..).any(|news| matches!(news, News::Signal(name) if name != "SIGHUP"));
            if is_asked || Instant::now() >= until || poll.poll(&mut events, Some(LOOK)).is_err() {
                break;
            }
        }
        if let Err(error) = tunnel.stop_with_tun(|| stack.close(), LAST_PACKETS) {
            tracing::warn!(%error, "the tunnel was not stopped");
        }
    }

    fn serve(&mut self, reload: &dyn Fn() -> Result<Config, String>) -> Result<End, String> {
        let mut events = Events::with_capacity(64);
        loop {
            let first = self.clients.values().map(|(_, until)| *until).chain(self.next_check).min();
            let timeout = first.map(|at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, timeout) {
                Err(e) if e.kind() != ErrorKind::Interrupted => return Err(format!("cannot wait for sockets: {e}")),
                _ => {}
            }
            for event in &events {
                match event.token().0 {
                    WAKER => {}
                    LISTENER => self.accept(),
                    token => self.go_on(token),
                }
            }
            let news = std::mem::take(&mut *lock(&self.mailbox.news));
            for news in news {
                match news {
                    News::Signal("SIGHUP") => match reload().and_then(|config| self.reload(config)) {
                        Ok(()) => tracing::info!("the configuration was read again"),
                        Err(reason) => tracing::error!("the configuration is unchanged: {reason}"),
                    },
                    News::Signal(_) => return Ok(End::Signal),
                    News::Transferred(outcome) => {
                        tracing::debug!("[STDIOTunnel]: both directions have ended");
                        return Ok(End::Transferred(outcome));
                    }
                    News::Ended(reason) => return Err(reason),
                }
            }
            let now = Instant::now();
            self.clients.retain(|_, (_, until)| *until > now);
            if self.next_check.is_some_and(|at| at <= now) {
                self.check_alive();
            }
        }
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((mut socket, _)) => {
                    self.next_client += 1;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    if self.clients.len() < MAX_CLIENTS
                        && self.poll.registry().register(&mut socket, Token(self.next_client), interest).is_ok()
                    {
                        let client = (Client::new(socket), Instant::now() + PATIENCE);
                        self.clients.insert(self.next_client, client);
                        self.go_on(self.next_client);
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(_) => return, // At the next connection it is tried again.
            }
        }
    }

    fn go_on(&mut self, token: usize) {
        if let Some((client, until)) = self.clients.remove(&token)
            && let Some(client) = client.go_on(&mut self.info, self.tunnel.device())
        {
            self.clients.insert(token, (client, until));
        }
    }

    fn check_alive(&mut self) {
        let checks = self.info.check(&self.stack);
        self.next_check = checks.then(|| Instant::now() + self.config.check_interval);
    }

    /// Logs the addresses of the services, with the actual ports.
    fn note_services(&self) {
        for (id, service) in self.proxy.services() {
            let at = self.proxy.address(id).map(|at| format!(" at {at}")).unwrap_or_default();
            tracing::debug!("serving {}{at}", super::config::place(&service));
        }
    }

    /// Applies the differences; everything else continues.
    fn reload(&mut self, config: Config) -> Result<(), String> {
        if config.stdio != self.config.stdio {
            return Err("a reload cannot change [STDIOTunnel]".into());
        }
        super::reload::tunnel(&self.config, &config, &self.stack, &self.tunnel)?;
        self.stack.set_memory(config.memory);
        self.stack.set_max_connections(super::max_connections(&config));
        let say = |e: io::Error| e.to_string();
        self.proxy.set_options(options(&config)).map_err(say)?;
        for (service, error) in self.proxy.replace(config.services.clone()).map_err(say)? {
            tracing::error!("{}: {error}", super::config::place(&service));
        }
        self.note_services();
        self.info.replace(Info::new(&config));
        self.config = config;
        self.check_alive();
        Ok(())
    }
}

/// The reason for the end of the proxy.
enum End {
    Signal,
    /// The connection of standard input and output has ended.
    Transferred(Result<Delivery, String>),
}

/// Returns the result of the delivery after the stack has ended: nothing more is delivered.
fn delivered(delivery: &Delivery) -> Result<(), String> {
    match delivery.outcome() {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(format!("[STDIOTunnel]: not all bytes were delivered: {error}")),
        None => Err("[STDIOTunnel]: not all bytes were delivered".into()),
    }
}

/// Returns the common options of the services.
const fn options(config: &Config) -> Options {
    Options { family: config.family, connections: config.max_connections, system_names: true }
}
