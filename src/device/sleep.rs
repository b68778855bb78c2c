//! Forgets sessions after the machine has slept, as the kernel does (docs/adr/0009).
//!
//! Every step that uses a session first checks this, so no thread seals or opens a packet with a key from before the
//! sleep, whether it was waiting or busy, and whether it is a thread of the tunnel or of the app.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Device, lock, nanos};

/// A shorter sleep is ignored: the clocks are not that exact.
const SLEEP: Duration = Duration::from_millis(100);

impl Device {
    /// Forgets all sessions if the machine was suspended. When this returns, none from before the sleep is left, even
    /// if another thread noticed it first. To be called without a lock, and before `tell_events`.
    pub(super) fn notice_sleep(&self) {
        let slept = nanos(self.clock.slept());
        let since = || slept.saturating_sub(self.slept.load(Ordering::Acquire));
        if since() == 0 {
            return;
        }
        if Duration::from_nanos(since()) < SLEEP {
            self.slept.fetch_max(slept, Ordering::AcqRel);
            return;
        }
        let _alone = lock(&self.waking);
        if Duration::from_nanos(since()) >= SLEEP {
            tracing::debug!("the machine was suspended, forgetting all sessions");
            self.peers.list().for_each(|peer| self.wipe_keys(&peer));
            self.slept.fetch_max(slept, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        bind::mem::MemNetwork,
        config::{AllowedIpUpdate, PeerUpdate, Update},
        device::{Inbound, Options, Outbound, workers::Job},
        key::PrivateKey,
        time::ManualClock,
        tun::mem::{MemHandle, MemTun},
    };
    use std::{
        net::{Ipv4Addr, SocketAddr},
        sync::{Arc, mpsc},
        thread,
    };

    const PATIENCE: Duration = Duration::from_secs(300);

    fn address(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, n)
    }

    /// A device in memory, which knows number 3 - `n`.
    fn node(n: u8, net: &MemNetwork, clock: Arc<ManualClock>) -> (Device, MemHandle) {
        let key = |n| PrivateKey::from_bytes([n; 32]);
        let (tun, app) = MemTun::new("", 1420);
        let device = Device::new(Arc::new(tun), net.bind(address(n).into()), Options { clock, ..Options::default() });
        let mut peer = PeerUpdate::new(key(3 - n).public_key());
        peer.endpoint = Some(SocketAddr::from((address(3 - n), 1)).into());
        peer.allowed_ips = vec![AllowedIpUpdate { prefix: "10.0.0.0/8".parse().unwrap(), remove: false }];
        let update =
            Update { private_key: Some(Some(key(n))), listen_port: Some(1), peers: vec![peer], ..Update::default() };
        device.apply(update).unwrap();
        device.up().unwrap();
        (device, app)
    }

    fn send(app: &MemHandle) {
        let mut packet = [0; 20];
        (packet[0], packet[3], packet[12], packet[16]) = (0x45, 20, 10, 10);
        assert!(app.inject(&packet));
    }

    /// A device that has a session, and its app.
    fn with_session(net: &MemNetwork, clock: &Arc<ManualClock>) -> (Device, MemHandle) {
        net.record();
        let ((a, app), (b, _)) = (node(1, net, clock.clone()), node(2, net, clock.clone()));
        send(&app);
        let (mut outbound, mut inbound) = (Outbound::new(), Inbound::new());
        let mut step = |d: &Device| d.outbound(&mut outbound).unwrap() + d.inbound(&mut inbound).unwrap();
        while step(&a) + step(&b) > 0 {}
        assert_eq!(types(net).last(), Some(&4));
        (a, app)
    }

    /// The types of the messages that were sent since the last call.
    fn types(net: &MemNetwork) -> Vec<u8> {
        net.take_log().iter().map(|datagram| datagram.payload[0]).collect()
    }

    #[test]
    fn a_job_that_was_sealed_before_the_sleep_is_not_sent() {
        for sleeps in [false, true] {
            let (clock, net) = (Arc::new(ManualClock::new()), MemNetwork::new());
            let (a, app) = with_session(&net, &clock);
            send(&app);
            let mut job = Outbound::new();
            assert_eq!(a.read_for_job(&*a.tun, &mut job).unwrap(), 1);
            a.fill(&mut job);
            job.work();
            if sleeps {
                clock.sleep(Duration::from_secs(20));
            }
            job.last(&a);
            assert_eq!(types(&net).contains(&4), !sleeps);
        }
    }

    /// The thread that notices the sleep first is held up before it has forgotten anything.
    #[test]
    fn no_thread_sends_while_another_still_forgets() {
        let (clock, net) = (Arc::new(ManualClock::new()), MemNetwork::new());
        let (a, app) = with_session(&net, &clock);
        clock.advance(Duration::from_secs(10));
        clock.sleep(Duration::from_secs(20));
        send(&app);
        let peer = a.peers.list().next().unwrap();
        let held = lock(&peer.handshake);
        thread::scope(|scope| {
            let first = scope.spawn(|| a.run_timers());
            let begin = std::time::Instant::now();
            while a.waking.try_lock().is_ok() {
                assert!(begin.elapsed() < PATIENCE, "it does not notice");
                thread::yield_now();
            }
            let (sent, has_sent) = mpsc::channel();
            let device = &a;
            let second = scope.spawn(move || {
                device.outbound(&mut Outbound::new()).unwrap();
                sent.send(()).unwrap();
            });
            // A slow machine only makes this easier to pass.
            assert!(has_sent.recv_timeout(Duration::from_millis(50)).is_err(), "it waits");
            drop(held);
            first.join().unwrap();
            second.join().unwrap();
        });
        assert_eq!(types(&net), [1], "nothing under the old key");
    }
}
