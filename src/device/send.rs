//! From the TUN to the network: routing, staging, sealing, sending; and messages that the device starts itself.

use std::{
    io, mem,
    sync::{Arc, MutexGuard},
};

use super::{
    Device,
    events::Event,
    lock,
    loops::Carried,
    packet::Header,
    peer::{Peer, State},
    pool::{Assigned, OUT_PACKETS, Outbound, Run, Staged},
    read,
    staged::{StagedMessage, size_of_staged},
    stats::count,
};
use crate::{
    bind::{Endpoint, SendReport, Transmit},
    key::wipe_below,
    noise::{
        message::{DATA_OVERHEAD, HANDSHAKE_TOS},
        session::Session,
        timers::{ATTEMPTS, Action},
    },
    reserve,
    time::Instant,
    tun::{Slot, Tun},
};

/// The reason to begin a handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// A new reason, so that the handshake gets all its attempts.
    Fresh,
    /// The last initiation was not answered.
    Retry,
}

/// Where packets are sealed and sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// At once, by the thread that has read them.
    Alone,
    /// In the ring of jobs, by any thread.
    Ring,
}

/// The number of unanswered initiations after which the next one is the third retry, and a port that may be dead is
/// replaced.
pub(super) const UNANSWERED: u8 = 3;

/// The maximum number of transmits in one call of the bind; a batch seldom has more, and it is on the stack.
const MAX_TRANSMITS: usize = 16;

/// Transmits for the bind, without allocations.
struct Transmits<'a, 'd> {
    device: &'d Device,
    peer: &'d Arc<Peer>,
    session: &'d Session,
    waiting: [Transmit<'a>; MAX_TRANSMITS],
    len: usize,
    /// Whether the session was taken some time ago: others were already sent, or the packets were in the ring.
    is_late: bool,
    /// The number of packets that the system accepted, without keepalives.
    packets: usize,
}

impl<'a, 'd> Transmits<'a, 'd> {
    fn new(device: &'d Device, peer: &'d Arc<Peer>, session: &'d Session, to: Endpoint) -> Self {
        let none = Transmit { to, contents: &[], segment_size: 0, tos: 0 };
        Self { device, peer, session, waiting: [none; MAX_TRANSMITS], len: 0, is_late: false, packets: 0 }
    }

    fn push(&mut self, contents: &'a [u8], segment_size: usize, tos: u8) {
        self.waiting[self.len] = Transmit { contents, segment_size, tos, ..self.waiting[self.len] };
        self.len += 1;
        if self.len == MAX_TRANSMITS {
            self.flush();
        }
    }

    fn push_staged(&mut self, staged: &'a Staged) {
        for (message, tos) in staged.messages.iter().zip(staged.tos) {
            self.push(message, message.len(), tos);
        }
    }

    fn flush(&mut self) {
        let batch = &mut self.waiting[..std::mem::take(&mut self.len)];
        if batch.is_empty() {
            return;
        }
        // Sending may have taken long, if an app does it: the session may have expired by now. Or it was forgotten,
        // with the peer perhaps, while the packets were in the ring.
        if std::mem::replace(&mut self.is_late, true) && !self.session.may_send(self.device.clock.now()) {
            let datagrams = batch.iter().map(Transmit::datagrams).sum();
            return count(&self.device.stats.out_send_failed, datagrams);
        }
        self.packets += self.device.transmit(self.peer, batch);
    }
}

/// How often one call sends packets that were staged during it, before it leaves them to others.
const STAGED_ROUNDS: usize = 4;

/// The right to send a peer's staged packets, which one thread at a time has, so that they leave in order.
struct Turn<'p> {
    peer: &'p Arc<Peer>,
    is_over: bool,
}

impl<'p> Turn<'p> {
    /// Returns `None` if another thread has it.
    fn begin(peer: &'p Arc<Peer>) -> Option<Self> {
        let was_taken = std::mem::replace(&mut lock(&peer.state).is_sending_staged, true);
        (!was_taken).then(|| Self { peer, is_over: false })
    }

    /// Ends the turn, under the lock under which no more packets were found: packets staged later begin a turn of their
    /// own.
    fn end_with(&mut self, state: &mut State) {
        state.is_sending_staged = false;
        self.is_over = true;
    }

    fn end(mut self) -> MutexGuard<'p, State> {
        let mut state = lock(&self.peer.state);
        self.end_with(&mut state);
        state
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // An app's function has panicked.
        if !self.is_over {
            lock(&self.peer.state).is_sending_staged = false;
        }
    }
}

impl Device {
    /// Reads packets from the TUN and sends them to their peers, as far as possible without waiting. Returns how many
    /// were read; 0 if there is nothing to do now.
    ///
    /// # Errors
    /// If the TUN no longer exists.
    pub fn outbound(&self, out: &mut Outbound) -> io::Result<usize> {
        self.events.wait_for_room();
        let n = self.read_and_route(&*self.tun, out)?;
        if n == 0 {
            return Ok(0);
        }
        let (slots, bytes) = out.arena.parts_mut();
        for run in out.runs.drain(..) {
            match self.assign(run, slots, bytes, Way::Alone) {
                Ok(mut assigned) => {
                    assigned.seal(slots, bytes);
                    self.send_assigned(&assigned, slots, &out.tos, bytes, Way::Alone);
                }
                Err(Some(refused)) => self.after_refusal(&refused, slots, bytes),
                Err(None) => {}
            }
        }
        self.tell_events();
        Ok(n)
    }

    /// Reads packets from the TUN, or a further queue of it, for a job: [`fill`](Self::fill) takes what they are sealed
    /// and sent with. Returns how many were read.
    pub(super) fn read_for_job(&self, tun: &dyn Tun, out: &mut Outbound) -> io::Result<usize> {
        self.events.wait_for_room();
        out.assigned.try_reserve_exact(OUT_PACKETS)?;
        self.read_and_route(tun, out)
    }

    /// Takes what packets are sealed and sent with. Nothing is sent here, and no function of the app called.
    pub(super) fn fill(&self, out: &mut Outbound) {
        let Outbound { arena, runs, assigned, .. } = out;
        let (slots, bytes) = arena.parts_mut();
        runs.retain_mut(|run| {
            let given = Run { peer: run.peer.clone(), slots: run.slots.clone() };
            match self.assign(given, slots, bytes, Way::Ring) {
                Ok(ready) => assigned.push(ready),
                Err(Some(refused)) => {
                    *run = refused;
                    return true;
                }
                Err(None) => {}
            }
            false
        });
    }

    /// Sends what was [filled](Self::fill) and sealed.
    pub(super) fn send_filled(&self, out: &mut Outbound) {
        let Outbound { arena, tos, assigned, runs } = out;
        let (slots, bytes) = arena.parts_mut();
        for run in assigned.drain(..) {
            self.send_assigned(&run, slots, tos, bytes, Way::Ring);
            self.leave_ring(&run.peer);
        }
        for refused in runs.drain(..) {
            self.after_refusal(&refused, slots, bytes);
        }
    }

    /// Reads packets, and finds the peer of each. Returns how many were read.
    fn read_and_route(&self, tun: &dyn Tun, out: &mut Outbound) -> io::Result<usize> {
        out.arena.clear(self.mtu());
        let n = self.read_tun(tun, &mut out.arena)?;
        if n > 0 {
            self.notice_sleep();
            self.route(out);
        }
        Ok(n)
    }

    /// Finds each packet's peer, and groups adjacent packets. Packets that match no peer get an ICMP response.
    fn route(&self, out: &mut Outbound) {
        out.tos.clear();
        out.runs.clear();
        let table = self.allowed_ips.read();
        let mut last = None;
        // A bit for each packet that matches no peer.
        let mut unwanted = 0_u128;
        for (i, slot) in out.arena.slots().iter().enumerate() {
            let packet = out.arena.packet(*slot);
            let header = Header::parse(packet);
            out.tos.push(header.map_or(0, |h| h.outer_tos()));
            let Some(header) = header else {
                count(&self.stats.out_malformed, 1);
                continue;
            };
            if let Some(carried) = Carried::parse(&header, packet)
                && let Some(peer) = table.lookup(header.dst)
                && self.loops(&table, peer, &carried)
            {
                count(&self.stats.out_routing_loop, 1);
                continue;
            }
            match out.runs.last_mut() {
                Some(run) if run.slots.end == i && last == Some(header.dst) => run.slots.end += 1,
                neighbour => match (table.lookup(header.dst), neighbour) {
                    (None, _) => {
                        count(&self.stats.out_no_peer, 1);
                        unwanted |= 1 << i;
                    }
                    (Some(peer), Some(run)) if run.slots.end == i && Arc::ptr_eq(peer, &run.peer) => run.slots.end += 1,
                    (Some(peer), _) => out.runs.push(Run { peer: peer.clone(), slots: i..i + 1 }),
                },
            }
            last = Some(header.dst);
        }
        drop(table);
        if unwanted != 0 {
            let slots = out.arena.slots().iter().enumerate().filter(|(i, _)| unwanted >> i & 1 != 0);
            self.answer_unreachable(&mut slots.map(|(_, slot)| out.arena.packet(*slot)));
        }
    }

    /// Takes what a run of packets is sealed and sent with, under one lock of the peer. Without a session the packets
    /// are staged.
    ///
    /// # Errors
    /// The run, if more is to be done, by [`after_refusal`](Self::after_refusal): without its packets, if these were
    /// staged.
    fn assign(&self, run: Run, slots: &[Slot], bytes: &[u8], way: Way) -> Result<Assigned, Option<Run>> {
        let (peer, slots, now) = (run.peer, &slots[run.slots.clone()], self.clock.now());
        let mut state = lock(&peer.state);
        if !state.timers.is_running() {
            count(&self.stats.out_unstaged, slots.len());
            return Err(None);
        }
        if !state.location.is_configured() {
            drop(state);
            count(&self.stats.out_no_endpoint, slots.len());
            return Err(Some(Run { peer, slots: run.slots }));
        }
        // Staged packets are sent first. In the ring, they go ahead of these.
        let carries = way == Way::Ring && !state.is_sending_staged;
        let before = if carries { state.staged().len() } else { 0 };
        let to = state.location.endpoint().filter(|_| carries || !state.must_wait());
        let ready = to.and_then(|to| Some((to, state.begin_sending(before + slots.len(), now)?)));
        let Some((to, (session, first))) = ready else {
            for slot in slots {
                self.stage(&peer, &mut state, &bytes[slot.message()]);
            }
            self.budget.list(&peer, &mut state);
            drop(state);
            return Err(Some(Run { peer, slots: 0..0 }));
        };
        let staged = (before > 0).then(|| Box::new(Staged::new(state.take_staged())));
        state.in_ring += u32::from(way == Way::Ring);
        drop(state);
        Ok(Assigned { peer, session, to, first, slots: run.slots, at: now, staged })
    }

    /// Does what is left to do for a run that was not [assigned](Self::assign) a session.
    fn after_refusal(&self, run: &Run, slots: &[Slot], bytes: &[u8]) {
        if run.slots.is_empty() {
            self.send_staged(&run.peer);
        } else {
            let packets = slots[run.slots.clone()].iter();
            self.answer_unreachable(&mut packets.map(|slot| &bytes[slot.start..slot.start + slot.len]));
        }
    }

    /// Sends the sealed packets of a run.
    fn send_assigned(&self, run: &Assigned, slots: &[Slot], tos: &[u8], bytes: &[u8], way: Way) {
        let mut transmits = Transmits::new(self, &run.peer, &run.session, run.to);
        transmits.is_late = way == Way::Ring;
        if let Some(staged) = &run.staged {
            transmits.push_staged(staged);
        }
        let mut rest = (&slots[run.slots.clone()], &tos[run.slots.clone()]);
        while let Some(n) = equal_run(rest.0, rest.1) {
            let (first, last) = (rest.0[0], rest.0[n - 1]);
            transmits.push(&bytes[first.message().start..last.message().end], first.message().len(), rest.1[0]);
            rest = (&rest.0[n..], &rest.1[n..]);
        }
        transmits.flush();
        self.after_sending(&run.peer, &run.session, transmits.packets, run.at);
    }

    /// Reports that a run of this peer has been sent. Staged packets that waited for the last one follow it.
    fn leave_ring(&self, peer: &Arc<Peer>) {
        let is_left = {
            let mut state = lock(&peer.state);
            state.in_ring -= 1;
            state.in_ring == 0 && state.has_staged()
        };
        if is_left {
            self.send_staged(peer);
        }
    }

    /// Stages a packet, and drops the oldest one if there are too many; or one of a peer that holds more, if the common
    /// limit is reached. One packet may always wait.
    fn stage(&self, peer: &Arc<Peer>, state: &mut State, message: &[u8]) {
        let size = size_of_staged(message);
        let staged = loop {
            if let Some(staged) = self.budget.stage(message, false) {
                break Some(staged);
            }
            self.budget.list(peer, state);
            if !self.budget.make_room(peer, state.staged_size() + size) {
                break if state.staged_size() == 0 { self.budget.stage(message, true) } else { None };
            }
            count(&self.stats.out_memory_full, 1);
        };
        match staged {
            Some(staged) => count(&self.stats.out_stage_full, state.stage(staged)),
            None => count(&self.stats.out_memory_full, 1),
        }
    }

    /// Sends staged packets, if there is a session now; otherwise requests one, or an address for it. No-op while
    /// another thread is sending them, which then also sends packets staged since.
    pub(super) fn send_staged(&self, peer: &Arc<Peer>) {
        let Some(mut turn) = Turn::begin(peer) else {
            return;
        };
        for _ in 0..STAGED_ROUNDS {
            let goes_on = self.send_staged_once(&mut turn);
            // This may be a thread of the host, which may never call again.
            wipe_below();
            if !goes_on {
                return;
            }
        }
        // The other thread stages as fast as this one sends. Either that thread or the timers continue, whichever is
        // first.
        let mut state = turn.end();
        if state.has_staged() {
            self.schedule_at(peer, &mut state, self.clock.now());
        }
    }

    /// Sends the staged packets. Returns whether there may be more; if not, the turn is over.
    fn send_staged_once(&self, turn: &mut Turn<'_>) -> bool {
        // Also on a thread of the app that changes the configuration.
        self.notice_sleep();
        let (peer, now) = (turn.peer, self.clock.now());
        let ready = {
            let mut state = lock(&peer.state);
            if !state.has_staged() || !state.timers.is_running() {
                turn.end_with(&mut state);
                return false;
            }
            let Some(endpoint) = state.location.endpoint() else {
                turn.end_with(&mut state);
                drop(state);
                self.want_address(peer);
                return false;
            };
            if state.in_ring > 0 && state.has_session(now) {
                // They go ahead of the peer's next packets in the ring, or follow the last.
                turn.end_with(&mut state);
                return false;
            }
            let ready = state.begin_sending_staged(now);
            if ready.is_none() {
                turn.end_with(&mut state);
            }
            ready.map(|ready| (ready, endpoint))
        };
        let Some(((messages, session, first), endpoint)) = ready else {
            self.initiate(peer, Reason::Fresh);
            return false;
        };
        let mut staged = Staged::new(messages);
        staged.seal(&session, first);
        let mut transmits = Transmits::new(self, peer, &session, endpoint);
        transmits.push_staged(&staged);
        transmits.flush();
        self.after_sending(peer, &session, transmits.packets, now);
        true
    }

    /// Sends an empty packet or, if there are any, the staged packets.
    pub(super) fn send_keepalive(&self, peer: &Arc<Peer>) {
        {
            let mut state = lock(&peer.state);
            if state.timers.is_running() && !state.must_wait() && !reserve::is_low() {
                state.stage(StagedMessage::keepalive());
            }
        }
        self.send_staged(peer);
    }

    /// Passes datagrams to the bind and counts the results. Returns how many of them, except keepalives, were sent. All
    /// are to one endpoint; if it has no route, another address of the peer is tried.
    fn transmit(&self, peer: &Arc<Peer>, batch: &mut [Transmit<'_>]) -> usize {
        self.settle_source(peer, batch);
        let mut report = self.send_batch(batch);
        if is_unreachable(&report) {
            report = self.transmit_elsewhere(peer, batch, report);
        }
        count(&self.stats.out_send_failed, report.dropped);
        if report.stale_source_mask != 0 {
            peer.forget_source();
        }
        let taken = batch.iter().enumerate().filter(|(i, _)| report.dropped_mask >> i & 1 == 0);
        let (mut packets, mut bytes) = (0, 0);
        for (_, transmit) in taken {
            bytes += transmit.contents.len();
            packets += if transmit.segment_size > DATA_OVERHEAD { transmit.datagrams() } else { 0 };
        }
        self.add_tx(peer, bytes);
        packets
    }

    /// Sends a batch that had no route to another address of the peer.
    fn transmit_elsewhere(&self, peer: &Arc<Peer>, batch: &mut [Transmit<'_>], failed: SendReport) -> SendReport {
        let report = self.detour(peer, batch[0].to.dst).map_or(failed, |other| {
            batch.iter_mut().for_each(|transmit| transmit.to = other);
            self.send_batch(batch)
        });
        if is_unreachable(&report) {
            self.without_route(peer);
        } else {
            self.note_placed(peer, &lock(&peer.state));
        }
        report
    }

    /// Updates the timers after data messages were sent, `packets` of them not empty, and not before `began`, and
    /// requests a new session if this one is old.
    fn after_sending(&self, peer: &Arc<Peer>, session: &Session, packets: usize, began: Instant) {
        count(&self.stats.traffic.tx_packets, packets);
        let stale = {
            let mut state = lock(&peer.state);
            if !state.sessions.contains(session) {
                // It cannot be answered.
                return;
            }
            state.timers.message_sent(began);
            if packets > 0 {
                state.timers.data_sent(began, || self.jitter.next(&*self.random));
            }
            self.schedule(peer, &mut state);
            state.is_stale_for_sending(self.clock.now())
        };
        if stale {
            self.initiate(peer, Reason::Fresh);
        }
    }

    /// Sends an initiation, unless our last handshake message to this peer is less than 5 s old.
    pub(super) fn initiate(&self, peer: &Arc<Peer>, reason: Reason) {
        if read(&self.own_key).identity.is_none() {
            return;
        }
        let now = self.clock.now();
        let unanswered = {
            let state = lock(&peer.state);
            let begins = state.location.endpoint().is_some() && state.is_live() && state.timers.may_initiate(now);
            if begins { state.unanswered } else { 0 }
        };
        if unanswered >= UNANSWERED && self.leave_dead_port() {
            // It continues from the other port at once, or here, if the sockets have been changed otherwise by then.
            let mut state = lock(&peer.state);
            state.timers.initiation_sent(now, self.jitter.next(&*self.random));
            return self.schedule(peer, &mut state);
        }
        if unanswered > 0 {
            self.resolve_zone_again(peer);
        }
        let (endpoint, has_failed) = {
            let mut state = lock(&peer.state);
            if reason == Reason::Fresh {
                state.timers.handshake_wanted();
            }
            if !state.is_live() || !state.timers.may_initiate(now) {
                return;
            }
            // With traffic, most initiations that follow one without a response are not retries of the timer.
            if state.unanswered > 0 && state.location.not_answered() {
                self.note_placed(peer, &state);
            }
            let Some(endpoint) = state.location.endpoint() else { return };
            // From here on no other thread begins one.
            state.timers.handshake_message_sent(now);
            state.unanswered = state.unanswered.saturating_add(1);
            // With traffic or a persistent keepalive the timer never gives up.
            let has_failed = state.attempts == ATTEMPTS;
            if has_failed {
                (state.attempts, state.is_failure_told) = (0, true);
                self.events.note(Event::HandshakeFailed(*peer.key()));
            }
            state.attempts += 1;
            (endpoint, has_failed)
        };
        if has_failed {
            self.look_up_again(peer);
        }
        let message = {
            let own_key = read(&self.own_key);
            let Some(identity) = &own_key.identity else { return };
            let mut handshaking = lock(&peer.handshake);
            self.follow_key(peer, &mut handshaking, own_key.number);
            let mut state = lock(&peer.state);
            if !state.is_live() {
                return;
            }
            // Again: that, or another thread, may have undone it.
            state.timers.handshake_message_sent(now);
            if reserve::is_low() {
                // As if it were lost on its way: the timers retry.
                state.timers.initiation_sent(now, self.jitter.next(&*self.random));
                return self.schedule(peer, &mut state);
            }
            drop(state);
            self.index.remove(handshaking.noise.local_index());
            let index = self.index.insert(peer, &*self.random);
            let message = handshaking.noise.create_initiation(identity, index, self.clock.wall(), &*self.random);
            match message {
                Some(mut message) => {
                    handshaking.macs.stamp(&mut message, peer.key(), now);
                    // Before it is sent: another thread may receive the response before this one continues. And with
                    // the handshake locked: if it is forgotten, so is this.
                    let mut state = lock(&peer.state);
                    state.timers.message_sent(now);
                    state.timers.initiation_sent(now, self.jitter.next(&*self.random));
                    self.schedule(peer, &mut state);
                    message
                }
                None => {
                    self.index.remove([index]);
                    tracing::warn!(peer = %peer.key(), "no handshake is possible with this key");
                    return;
                }
            }
        };
        tracing::debug!(peer = %peer.key(), to = %endpoint.dst, "sending handshake initiation");
        self.send_handshake_message(peer, endpoint, &message);
        self.want_address(peer);
    }

    /// Sends an initiation or a response.
    pub(super) fn send_handshake_message(&self, peer: &Arc<Peer>, to: Endpoint, message: &[u8]) {
        self.transmit(peer, &mut [Transmit { to, contents: message, segment_size: message.len(), tos: HANDSHAKE_TOS }]);
    }

    /// Executes the action of a peer's timer.
    pub(super) fn act(&self, peer: &Arc<Peer>, action: Action) {
        match action {
            Action::RetryHandshake { attempt } => {
                tracing::debug!(peer = %peer.key(), attempt, "handshake was not answered, retrying");
                peer.forget_source();
                self.initiate(peer, Reason::Retry);
            }
            Action::GiveUpHandshake => {
                tracing::debug!(peer = %peer.key(), "handshake was not answered, giving up");
                let staged = {
                    let mut state = lock(&peer.state);
                    if !mem::take(&mut state.is_failure_told) {
                        self.events.note(Event::HandshakeFailed(*peer.key()));
                    }
                    state.attempts = 0;
                    state.take_staged()
                };
                count(&self.stats.out_unstaged, staged.len());
                self.look_up_again(peer);
            }
            Action::RenewHandshake => {
                tracing::debug!(peer = %peer.key(), "nothing comes back, renewing the handshake");
                peer.forget_source();
                self.initiate(peer, Reason::Fresh);
            }
            Action::SendKeepalive => self.send_keepalive(peer),
            Action::SendPersistentKeepalive => {
                let mut state = lock(&peer.state);
                if state.keepalive_is_idle(self.clock.now()) {
                    // It is nevertheless a reason to keep trying.
                    return state.timers.handshake_wanted();
                }
                drop(state);
                self.send_keepalive(peer);
            }
            Action::WipeKeys => {
                tracing::debug!(peer = %peer.key(), "wiping the keys of an old session");
                self.wipe_keys(peer);
            }
        }
    }
}

/// Returns whether nothing could be sent, for lack of a route.
fn is_unreachable(report: &SendReport) -> bool {
    report.sent == 0 && report.unreachable_mask != 0
}

/// Returns how many packets at the beginning of `slots` can leave as one segmented send: messages of one size and one
/// TOS, the last of which may be shorter. `None` if there are no packets.
fn equal_run(slots: &[Slot], tos: &[u8]) -> Option<usize> {
    let first = slots.first()?;
    let mut n = 1;
    while let Some(next) = slots.get(n) {
        if next.padded > first.padded || tos[n] != tos[0] {
            break;
        }
        n += 1;
        if next.padded < first.padded {
            break;
        }
    }
    Some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_packets_travel_together() {
        let slot = |padded| Slot { start: 16, len: padded, padded };
        let run = |sizes: &[usize], tos: &[u8]| equal_run(&sizes.iter().map(|s| slot(*s)).collect::<Vec<_>>(), tos);
        assert_eq!(run(&[], &[]), None);
        assert_eq!(run(&[16], &[0]), Some(1));
        assert_eq!(run(&[16, 16, 16], &[0; 3]), Some(3));
        assert_eq!(run(&[32, 32, 16, 32], &[0; 4]), Some(3), "a shorter one is the last");
        assert_eq!(run(&[16, 32], &[0; 2]), Some(1));
        assert_eq!(run(&[16, 16], &[0, 1]), Some(1), "another ECN mark");
    }
}
