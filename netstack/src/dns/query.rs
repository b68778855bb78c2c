//! A query, repeated until a server responds.
//!
//! The servers are tried in turn, each for [`FIRST_TIMEOUT`] in the first round and for twice as long in each following
//! one. A server that refuses, fails or cannot be reached is skipped at once and not tried again. Each message has a
//! socket of its own; the last few remain open, so that late responses still count.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use wg_embed::{sync::lock, time::Instant};

use super::{
    Failure,
    message::{Asked, Kind, Reply},
    name::Name,
    network::{Datagrams as _, Deadline, Network, Stream as _, is_closed},
    resolver::Table,
};
use crate::{
    notify::Notify as _,
    task::{Machine, Waker},
};

/// The time limit for the first response.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of rounds over all servers: 2, 4, 8, 16 and 32 s for each.
const MAX_ROUNDS: u32 = 5;
/// The maximum number of messages that wait for a response.
const MAX_TRIES: usize = 4;
/// The maximum number of datagrams from a server's address that do not match a message: more indicate guessing.
const MAX_OTHERS: u8 = 20;
/// The size of the receive buffer: more than a server may send over UDP.
const BUFFER: usize = 4096;
/// The port of DNS servers.
const PORT: u16 = 53;

/// The addresses, or the reason why they are unknown. An empty list is a valid result.
pub(super) type Outcome = Result<Vec<IpAddr>, Failure>;

/// A query in progress. Dropping it cancels it.
pub(super) struct Query<N: Network> {
    net: N,
    table: Arc<Mutex<Table<N>>>,
    question: (Name, Kind),
    /// The generation of the server list: with another one the response is not cached.
    generation: u64,
    waker: Waker,
    state: Mutex<State<N>>,
    outcome: OnceLock<Outcome>,
    waiting: Mutex<Vec<Waker>>,
}

struct State<N: Network> {
    servers: Vec<Server>,
    /// The index of the next server, and the number of rounds.
    next: usize,
    round: u32,
    tries: VecDeque<Try<N>>,
    /// The time limit of the newest message, if it is still waiting.
    until: Option<Instant>,
    alarm: Deadline<N>,
}

struct Server {
    at: SocketAddr,
    /// It has refused, failed, or cannot be reached.
    failed: bool,
    /// It has not yet reported a lack of EDNS support.
    edns: bool,
}

/// A message to a server.
struct Try<N: Network> {
    server: usize,
    asked: Asked,
    link: Link<N>,
}

enum Link<N: Network> {
    Udp { socket: N::Udp, unsent: Option<Vec<u8>>, others: u8 },
    Tcp { stream: N::Tcp, unsent: Vec<u8>, received: Vec<u8> },
}

/// The progress of a message.
enum Progress {
    Waiting,
    Reply(Reply),
    Closed,
}

impl<N: Network> Query<N> {
    pub(super) fn new(
        net: N,
        table: Arc<Mutex<Table<N>>>,
        question: (Name, Kind),
        (servers, generation): (&[IpAddr], u64),
        waker: Waker,
    ) -> Self {
        let server = |&ip| Server { at: SocketAddr::new(ip, PORT), failed: false, edns: true };
        let state = State {
            servers: servers.iter().map(server).collect(),
            next: 0,
            round: 0,
            tries: VecDeque::new(),
            until: None,
            alarm: Deadline::new(),
        };
        Self {
            net,
            table,
            question,
            generation,
            waker,
            state: Mutex::new(state),
            outcome: OnceLock::new(),
            waiting: Mutex::default(),
        }
    }

    /// Returns the result, once there is one.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// Wakes `waker` when there is a result, possibly before this returns.
    pub(super) fn join(&self, waker: Waker) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() == waiting.capacity() {
            waiting.retain(|waker| !waker.is_gone());
        }
        waiting.push(waker);
    }

    /// Makes progress; returns the result when there is one.
    fn go_on(&self, state: &mut State<N>) -> Option<(Outcome, Duration)> {
        loop {
            if let Some(end) = self.take_replies(state) {
                return Some(end);
            }
            if state.until.is_some_and(|until| until > self.net.now()) {
                return None;
            }
            if let Some(end) = self.ask_next(state) {
                return Some(end);
            }
        }
    }

    /// Sends and receives as much as possible.
    fn take_replies(&self, state: &mut State<N>) -> Option<(Outcome, Duration)> {
        let mut at = 0;
        while let Some(this) = state.tries.get_mut(at) {
            let reply = match this.go_on() {
                Progress::Waiting => {
                    at += 1;
                    continue;
                }
                Progress::Closed => return failed(Failure::Closed),
                Progress::Reply(reply) => reply,
            };
            let server = this.server;
            let newest = at + 1 == state.tries.len();
            state.tries.remove(at);
            let asked = match reply {
                Reply::Found(addresses, ttl) => return Some((Ok(addresses), ttl)),
                Reply::Nothing(ttl) => return Some((Ok(Vec::new()), ttl)),
                Reply::OverTcp => self.ask(state, server, true),
                Reply::WithoutEdns => {
                    if let Some(server) = state.servers.get_mut(server) {
                        server.edns = false;
                    }
                    self.ask(state, server, false)
                }
                Reply::Failed => Err(io::ErrorKind::Other.into()),
            };
            if let Err(e) = asked {
                if is_closed(&e) {
                    return failed(Failure::Closed);
                }
                state.fail(server);
                if newest {
                    state.until = None;
                }
            }
        }
        None
    }

    /// Queries the next server. Returns the result if there is none.
    fn ask_next(&self, state: &mut State<N>) -> Option<(Outcome, Duration)> {
        loop {
            if state.servers.iter().all(|server| server.failed) {
                return failed(Failure::Refused);
            }
            let server = state.next;
            state.next += 1;
            match state.servers.get(server) {
                None => {
                    state.round += 1;
                    state.next = 0;
                    if state.round == MAX_ROUNDS {
                        return failed(Failure::TimedOut);
                    }
                }
                Some(server) if server.failed => {}
                Some(_) => match self.ask(state, server, false) {
                    Ok(()) => return None,
                    Err(e) if is_closed(&e) => return failed(Failure::Closed),
                    Err(_) => state.fail(server),
                },
            }
        }
    }

    /// Sends the query to a server.
    fn ask(&self, state: &mut State<N>, server: usize, tcp: bool) -> io::Result<()> {
        let Some(&Server { at, edns, .. }) = state.servers.get(server) else { return Ok(()) };
        let mut random = [0; 34];
        self.net.random().fill(&mut random);
        let [high, low, case @ ..] = random;
        let (name, kind) = &self.question;
        let id = u16::from_be_bytes([high, low]);
        let asked = Asked { id, name: name.in_random_case(&case), kind: *kind, edns };
        let mut message = asked.to_message();
        let link = if tcp {
            let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            message.splice(..0, len.to_be_bytes());
            let stream = self.net.tcp(at)?;
            stream.set_notify(Some(self.waker.notifier()));
            Link::Tcp { stream, unsent: message, received: Vec::new() }
        } else {
            let socket = self.net.udp(at)?;
            socket.set_notify(Some(self.waker.notifier()));
            Link::Udp { socket, unsent: Some(message), others: 0 }
        };
        if state.tries.len() == MAX_TRIES {
            state.tries.pop_front();
        }
        state.tries.push_back(Try { server, asked, link });
        state.until = Some(self.net.now() + FIRST_TIMEOUT * (1 << state.round));
        Ok(())
    }

    /// Stores the result and wakes the waiting tasks.
    fn finish(&self, outcome: Outcome, ttl: Duration) {
        lock(&self.table).answered(&self.question, self.generation, outcome.as_deref().ok(), self.net.now(), ttl);
        let _first = self.outcome.set(outcome);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        for waker in waiting {
            waker.notify();
        }
    }
}

impl<N: Network> Machine for Query<N> {
    fn run(&self) {
        if self.outcome.get().is_some() {
            return;
        }
        let end = {
            let mut state = lock(&self.state);
            let end = self.go_on(&mut state);
            let state = &mut *state;
            if end.is_some() {
                state.tries.clear();
                state.until = None;
            }
            state.alarm.set(&self.net, state.until, &self.waker);
            end
        };
        if let Some((outcome, ttl)) = end {
            self.finish(outcome, ttl);
        }
    }
}

impl<N: Network> Drop for Query<N> {
    fn drop(&mut self) {
        if !self.net.is_forked() {
            lock(&self.table).given_up(&self.question);
        }
    }
}

impl<N: Network> State<N> {
    fn fail(&mut self, server: usize) {
        if let Some(server) = self.servers.get_mut(server) {
            server.failed = true;
        }
    }
}

impl<N: Network> Try<N> {
    fn go_on(&mut self) -> Progress {
        match self.link.go_on(&self.asked) {
            Ok(reply) => Progress::Reply(reply),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Progress::Waiting,
            Err(e) if is_closed(&e) => Progress::Closed,
            Err(_) => Progress::Reply(Reply::Failed),
        }
    }
}

impl<N: Network> Link<N> {
    /// Sends the message and receives the response, as far as possible.
    fn go_on(&mut self, asked: &Asked) -> io::Result<Reply> {
        let mut buf = [0; BUFFER];
        match self {
            Self::Udp { socket, unsent, others } => {
                if let Some(message) = unsent {
                    socket.try_send(message)?;
                    *unsent = None;
                }
                loop {
                    let len = socket.try_recv(&mut buf)?;
                    if let Some(reply) = buf.get(..len).and_then(|answer| asked.read(answer, false)) {
                        return Ok(reply);
                    }
                    *others += 1;
                    if *others == MAX_OTHERS {
                        return Ok(Reply::OverTcp);
                    }
                }
            }
            Self::Tcp { stream, unsent, received } => {
                stream.connected()?;
                while !unsent.is_empty() {
                    let sent = stream.try_write(unsent)?;
                    unsent.drain(..sent.min(unsent.len()));
                }
                loop {
                    if let Some((len, rest)) = received.split_first_chunk()
                        && let Some(answer) = rest.get(..usize::from(u16::from_be_bytes(*len)))
                    {
                        return Ok(asked.read(answer, true).unwrap_or(Reply::Failed));
                    }
                    let len = stream.try_read(&mut buf)?;
                    match buf.get(..len) {
                        Some(data @ [_, ..]) => received.extend_from_slice(data),
                        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
                    }
                }
            }
        }
    }
}

impl<N: Network> Drop for Link<N> {
    fn drop(&mut self) {
        if let Self::Tcp { stream, .. } = self {
            // There is nothing more to deliver, and no reason to wait for the other side's FIN.
            stream.reset();
        }
    }
}

fn failed(failure: Failure) -> Option<(Outcome, Duration)> {
    Some((Err(failure), Duration::ZERO))
}
