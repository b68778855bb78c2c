//! From the network to the TUN: recognizing, opening, checking, writing; and handshakes of peers.

use std::{io, sync::Arc};

use super::{
    Device,
    allowed_ips::Owner,
    events::Event,
    handshake_limiter::{Refusal, Verdict},
    index::Target,
    lock,
    news::News,
    packet::Header,
    peer::{Peer, State},
    pool::{HANDSHAKES_PER_ROUND, Inbound, Opened, OpenedRun, Progress, QueuedHandshake, Received},
    read,
    send::Reason,
    staged::StagedMessage,
    stats::count,
};
use crate::{
    bind::{Endpoint, Transmit},
    noise::{
        handshake::OpenedInitiation,
        message::{COOKIE_REPLY_LEN, DATA_OVERHEAD, INITIATION_LEN, Message, RESPONSE_LEN, receiver_index},
        session::Session,
    },
    reserve,
    time::Instant,
    tun::PacketList,
};

/// The number of handshake messages that are handled in a round if more datagrams are waiting: fewer than may arrive in
/// that time, so that a flood fills the queue.
const HANDSHAKES_PER_BUSY_ROUND: usize = 2;

impl Device {
    /// Receives datagrams and passes packets to the TUN, as far as possible without waiting. Returns how many messages
    /// were handled; 0 if there is nothing to do now.
    ///
    /// If the bind has lost its sockets, that is reported as an event, and [`run_timers`](Self::run_timers) opens new
    /// ones, with retries.
    ///
    /// # Errors
    /// Currently no error ends a tunnel here.
    pub fn inbound(&self, inbound: &mut Inbound) -> io::Result<usize> {
        self.inbound_with(inbound, |received| {
            received.open();
            self.accept(received);
        })
    }

    /// Runs a round of [`inbound`](Self::inbound), in which `pass` opens what was received and has it accepted, now or
    /// later.
    pub(super) fn inbound_with(&self, inbound: &mut Inbound, pass: impl FnOnce(&mut Received)) -> io::Result<usize> {
        self.events.wait_for_room();
        inbound.received.batch.clear();
        let received = self.bind.recv(&mut inbound.received.batch).unwrap_or_else(|error| {
            self.lose_sockets(&error);
            0
        });
        self.notice_sleep();
        let busy = received == inbound.received.batch.slots();
        let messages = self.recognize(inbound);
        if !inbound.received.runs.is_empty() {
            pass(&mut inbound.received);
        }
        let most = if busy { HANDSHAKES_PER_BUSY_ROUND } else { HANDSHAKES_PER_ROUND };
        let handled = messages + self.handle_handshakes(inbound, most);
        self.tell_events();
        Ok(handled)
    }

    /// Accepts opened messages, and delivers their packets.
    pub(super) fn accept(&self, received: &mut Received) {
        count(&self.stats.in_not_authentic, received.forged);
        let Received { opened, runs, .. } = received;
        for run in &*runs {
            self.accept_run(run, &mut opened[run.opened.clone()]);
        }
        self.deliver(received);
        received.settle();
    }

    /// Finds the session of each data message, and queues every handshake message. Returns the number of messages.
    fn recognize(&self, inbound: &mut Inbound) -> usize {
        let now = self.clock.now();
        let Inbound { received: Received { batch, opened, runs, .. }, handshakes, .. } = inbound;
        let mut messages = 0;
        let slot_len = batch.slot_len();
        let mut session: Option<(u32, Option<Target>)> = None;
        for (slot, (meta, bytes)) in batch.iter_mut().enumerate() {
            if bytes.is_empty() {
                messages += 1;
                count(&self.stats.in_malformed, 1);
            }
            for (n, datagram) in bytes.chunks_mut(meta.segment_size.max(1)).enumerate() {
                messages += 1;
                let start = slot * slot_len + n * meta.segment_size;
                let whole = datagram.len();
                let data = match Message::parse(datagram) {
                    Some(Message::Data(data)) => data,
                    Some(_) => {
                        if !handshakes.push(datagram, meta.from) {
                            count(&self.stats.handshake_queue_full, 1);
                        }
                        continue;
                    }
                    None => {
                        count(&self.stats.in_malformed, 1);
                        continue;
                    }
                };
                if session.as_ref().is_none_or(|(index, _)| *index != data.receiver) {
                    session = Some((data.receiver, self.index.get(data.receiver)));
                }
                let Some((_, Some(Target { peer, session: Some(session) }))) = &session else {
                    count(&self.stats.in_unknown_index, 1);
                    continue;
                };
                if !session.may_receive(now) {
                    count(&self.stats.in_expired, 1);
                    continue;
                }
                if opened.try_reserve(1).is_err() || runs.try_reserve(1).is_err() {
                    count(&self.stats.in_memory_full, 1);
                    continue;
                }
                let at = opened.len();
                let packet = start + whole - data.body.len()..start + whole;
                opened.push(Opened { counter: data.counter, packet, tos: meta.tos, state: Progress::Sealed });
                match runs.last_mut() {
                    Some(run) if Arc::ptr_eq(&run.session, session) && run.from == meta.from => run.opened.end += 1,
                    _ => runs.push(OpenedRun {
                        peer: peer.clone(),
                        session: session.clone(),
                        from: meta.from,
                        opened: at..at + 1,
                    }),
                }
            }
        }
        messages
    }

    /// Handles authentic messages of one session: removes replays, and processes the consequences of their arrival.
    fn accept_run(&self, run: &OpenedRun, opened: &mut [Opened]) {
        let now = self.clock.now();
        let (mut authentic, mut accepted, mut packets, mut bytes) = (0, 0, 0, 0);
        run.session.accept(
            opened.iter_mut().filter(|one| one.state == Progress::Authentic).inspect(|_| authentic += 1),
            |one| one.counter,
            |one| {
                accepted += 1;
                if one.packet.is_empty() {
                    bytes += DATA_OVERHEAD;
                } else {
                    packets += 1;
                    one.state = Progress::Accepted;
                }
            },
        );
        count(&self.stats.in_replayed, authentic - accepted);
        if accepted == 0 {
            return;
        }
        let peer = &run.peer;
        let (confirmed, news, last_chance) = {
            let mut state = lock(&peer.state);
            if state.removed || !state.sessions.contains(&run.session) {
                // It was found a moment ago, and has been removed since.
                drop(state);
                opened.iter_mut().for_each(|one| one.state = Progress::Sealed);
                return count(&self.stats.in_unknown_index, accepted);
            }
            let mut news = self.roam(peer, &mut state, run.from, now);
            let confirmed = state.sessions.confirm(&run.session);
            if confirmed.is_some() {
                state.timers.handshake_complete();
                news = state.handshake_completed(self.clock.wall()).or(news);
                self.events.note(Event::HandshakeCompleted(*peer.key()));
            }
            let last_chance = state.take_lastminute_handshake(now);
            state.timers.message_received(now);
            // More than two make no difference for the timers.
            for _ in 0..packets.min(2) {
                state.timers.data_received(now);
            }
            self.schedule(peer, &mut state);
            (confirmed, news, last_chance)
        };
        self.port_is_alive();
        // Packets count once they have passed the checks of `deliver`.
        self.add_rx(peer, bytes);
        news.log(peer, run.from);
        self.check_learned_source(peer, &run.from);
        if let Some(replaced) = confirmed {
            self.index.remove(replaced);
            tracing::debug!(peer = %peer.key(), "the session is confirmed");
            self.send_staged(peer);
        }
        if last_chance {
            self.initiate(peer, Reason::Fresh);
        }
    }

    /// Checks the inner packets, and writes valid ones to the TUN.
    fn deliver(&self, received: &mut Received) {
        let Received { batch, opened, runs, packets, .. } = received;
        if packets.try_reserve(opened.len()).is_err() {
            runs.clear();
            return count(&self.stats.in_memory_full, opened.iter().filter(|opened| opened.is_accepted()).count());
        }
        if self.learned_addresses > 0 {
            self.learn_sources(runs, opened, batch.buffer());
        }
        {
            let table = self.allowed_ips.read();
            for run in runs.drain(..) {
                // Packets of one flow arrive together: its source is looked up once.
                let (mut allowed, mut bytes) = (None, 0);
                for opened in opened[run.opened].iter().filter(|o| o.is_accepted()) {
                    let packet = &mut batch.buffer_mut()[opened.packet.clone()];
                    let Some(header) = Header::parse(packet).filter(|h| h.len <= packet.len()) else {
                        count(&self.stats.in_malformed_inner, 1);
                        continue;
                    };
                    if allowed != Some(header.src) {
                        if !table.lookup(header.src).is_some_and(|owner| owner.is(&run.peer)) {
                            count(&self.stats.in_wrong_source, 1);
                            continue;
                        }
                        allowed = Some(header.src);
                    }
                    header.carry_ecn(opened.tos, packet);
                    bytes += DATA_OVERHEAD + packet.len();
                    packets.push(opened.packet.start..opened.packet.start + header.len);
                }
                self.add_rx(&run.peer, bytes);
            }
        }
        if !packets.is_empty() {
            let taken = self.write_tun(PacketList { buffer: batch.buffer(), ranges: packets });
            count(&self.stats.in_write_failed, packets.len() - taken);
            count(&self.stats.traffic.rx_packets, taken);
        }
    }

    /// Handles at most `most` waiting handshake messages. Returns how many.
    fn handle_handshakes(&self, inbound: &mut Inbound, most: usize) -> usize {
        let mut handled = 0;
        while handled < most {
            let queue_is_long = inbound.handshakes.is_long();
            let Some(mut queued) = inbound.handshakes.pop() else {
                break;
            };
            handled += 1;
            let from = queued.from;
            let now = self.clock.now();
            let verdict = match Message::parse(queued.message()) {
                Some(Message::Initiation(m)) => {
                    let verdict = self.judge(m, from, queue_is_long, now);
                    if verdict == Verdict::Compute {
                        self.handle_initiation(m, from, now);
                    }
                    verdict
                }
                Some(Message::Response(m)) => {
                    let verdict = self.judge(m, from, queue_is_long, now);
                    if verdict == Verdict::Compute {
                        self.handle_response(m, from, now);
                    }
                    verdict
                }
                Some(Message::CookieReply(m)) => {
                    self.handle_cookie_reply(m, now);
                    continue;
                }
                _ => continue,
            };
            if verdict == Verdict::RequireCookie {
                inbound.unproven.push(queued);
            }
        }
        self.answer_with_cookies(&mut inbound.unproven);
        handled
    }

    /// Judges a message by [`HandshakeLimiter::judge`](super::handshake_limiter::HandshakeLimiter::judge), and counts
    /// refused ones.
    fn judge(&self, message: &[u8], from: Endpoint, queue_is_long: bool, now: Instant) -> Verdict {
        let verdict = lock(&self.handshake_limiter).judge(message, from.dst, queue_is_long, now, &*self.random);
        if let Verdict::Refuse(refusal) = verdict {
            let counter = match refusal {
                Refusal::NoKey => &self.stats.handshake_refused,
                Refusal::BadMac => &self.stats.handshake_bad_mac,
                Refusal::TooMany => &self.stats.handshake_rate_limited,
            };
            count(counter, 1);
        }
        verdict
    }

    /// Sends cookie replies to the senders of handshake messages, all in one batch, since this is the main work of a
    /// flood.
    fn answer_with_cookies(&self, unproven: &mut Vec<QueuedHandshake>) {
        if unproven.is_empty() {
            return;
        }
        let (began, now) = (self.clock.worked(), self.clock.now());
        let mut replies = [[0; COOKIE_REPLY_LEN]; HANDSHAKES_PER_ROUND];
        let mut made = 0;
        {
            let mut limiter = lock(&self.handshake_limiter);
            for (queued, reply) in unproven.iter_mut().zip(&mut replies) {
                let from = queued.from.dst;
                match limiter.cookie_reply(queued.message(), from, now, &*self.random) {
                    Some(contents) => *reply = contents,
                    None => break,
                }
                made += 1;
            }
        }
        // Not with the TOS of other handshake messages: the kernel's `wg_socket_send_buffer_as_reply_to_skb` sends with
        // 0.
        let reply = |(to, contents)| Transmit { to, contents, segment_size: 0, tos: 0 };
        let transmits: Vec<_> =
            unproven.iter().map(|q| q.from).zip(replies[..made].iter().map(|r| &r[..])).map(reply).collect();
        count(&self.stats.handshake_cookie_sent, made);
        count(&self.stats.out_send_failed, self.send_batch(&transmits).dropped);
        unproven.clear();
        let took = self.clock.worked().since(began);
        lock(&self.handshake_limiter).answered(took, self.clock.now());
    }

    /// Computes a handshake message, and counts the time for it.
    fn computing<R>(&self, compute: impl FnOnce() -> R) -> R {
        let began = self.clock.worked();
        let result = compute();
        let took = self.clock.worked().since(began);
        lock(&self.handshake_limiter).computed(took, self.clock.now());
        result
    }

    fn handle_initiation(&self, message: &[u8; INITIATION_LEN], from: Endpoint, now: Instant) {
        let Some((peer, response, news)) = self.computing(|| self.answer_initiation(message, from, now)) else {
            return count(&self.stats.handshake_refused, 1);
        };
        tracing::debug!(peer = %peer.key(), from = %from.dst, "receiving handshake initiation");
        self.add_rx(&peer, message.len());
        news.log(&peer, from);
        tracing::debug!(peer = %peer.key(), to = %from.dst, "sending handshake response");
        self.send_handshake_message(&peer, from, &response);
    }

    /// Creates the response to an initiation, and the session. Returns the sender, the response, and a log message;
    /// `None` if the initiation is refused.
    fn answer_initiation(
        &self,
        message: &[u8; INITIATION_LEN],
        from: Endpoint,
        now: Instant,
    ) -> Option<(Arc<Peer>, [u8; RESPONSE_LEN], News)> {
        if reserve::is_low() {
            return None;
        }
        let own_key = read(&self.own_key);
        let identity = own_key.identity.as_deref()?;
        let opened = OpenedInitiation::open(message, identity)?;
        let peer = self.peers.get(&opened.remote)?;
        let mut handshaking = lock(&peer.handshake);
        self.follow_key(&peer, &mut handshaking, own_key.number);
        let own = handshaking.noise.local_index();
        if !handshaking.noise.consume_initiation(opened, message, identity, now) {
            return None;
        }
        // An initiation of our own in progress is abandoned.
        self.index.remove(own);
        let index = self.index.insert(&peer, &*self.random);
        let answer = handshaking.noise.create_response(index, &*self.random).and_then(|mut response| {
            handshaking.macs.stamp(&mut response, peer.key(), now);
            let news = self.install(&peer, handshaking.noise.begin_session(now)?, from, now)?;
            Some((response, news))
        });
        drop(handshaking);
        if answer.is_none() {
            self.index.remove([index]);
        }
        answer.map(|(response, news)| (peer, response, news))
    }

    fn handle_response(&self, message: &[u8; RESPONSE_LEN], from: Endpoint, now: Instant) {
        let Some((peer, news)) = self.computing(|| self.take_response(message, from, now)) else {
            return count(&self.stats.handshake_refused, 1);
        };
        tracing::debug!(peer = %peer.key(), from = %from.dst, "receiving handshake response");
        self.add_rx(&peer, message.len());
        news.log(&peer, from);
        self.send_staged(&peer);
    }

    /// Creates the session that a response completes. Returns the sender, and a log message; `None` if the response is
    /// refused.
    fn take_response(&self, message: &[u8; RESPONSE_LEN], from: Endpoint, now: Instant) -> Option<(Arc<Peer>, News)> {
        if reserve::is_low() {
            return None;
        }
        let Target { peer, session: None } = self.index.get(receiver_index(message))? else {
            return None;
        };
        let own_key = read(&self.own_key);
        let mut handshaking = lock(&peer.handshake);
        self.follow_key(&peer, &mut handshaking, own_key.number);
        if !handshaking.noise.consume_response(message, own_key.identity.as_deref()?) {
            return None;
        }
        let news = self.install(&peer, handshaking.noise.begin_session(now)?, from, now)?;
        drop(handshaking);
        Some((peer, news))
    }

    /// Handles the origin of an authentic message of the peer.
    fn roam(&self, peer: &Peer, state: &mut State, from: Endpoint, now: Instant) -> News {
        if !peer.roam(state, from) {
            return News::None;
        }
        self.note_placed(peer, state);
        state.moved(now)
    }

    /// Installs a peer's new session; to be called with its `handshake` locked. Returns a log message; `None` if the
    /// peer was removed or the interface is down.
    fn install(&self, peer: &Arc<Peer>, session: Arc<Session>, from: Endpoint, now: Instant) -> Option<News> {
        self.port_is_alive();
        let mut state = lock(&peer.state);
        if !state.is_live() {
            self.index.remove([session.local_index()]);
            return None;
        }
        self.index.promote(&session);
        let mut news = self.roam(peer, &mut state, from, now);
        state.timers.session_derived(now);
        if session.is_initiator() {
            self.events.note(Event::HandshakeCompleted(*peer.key()));
            state.timers.handshake_complete();
            news = state.handshake_completed(self.clock.wall()).or(news);
            // Shows the responder that we have the session, unless a staged packet does.
            if !state.must_wait() {
                state.stage(StagedMessage::keepalive());
            }
        } else {
            // The response is sent next.
            state.timers.handshake_message_sent(now);
            state.timers.message_sent(now);
        }
        state.timers.message_received(now);
        let replaced = state.sessions.install(session);
        self.index.remove(replaced.into_iter().flatten());
        self.schedule(peer, &mut state);
        Some(news)
    }

    fn handle_cookie_reply(&self, message: &[u8; COOKIE_REPLY_LEN], now: Instant) {
        let taken = self.index.get(receiver_index(message)).is_some_and(|Target { peer, .. }| {
            let taken = lock(&peer.handshake).macs.take_reply(message, peer.key(), now);
            if taken {
                tracing::debug!(peer = %peer.key(), "receiving a cookie");
            }
            taken
        });
        if !taken {
            count(&self.stats.cookie_refused, 1);
        }
    }
}
