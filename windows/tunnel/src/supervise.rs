//! The loop of a running service: it waits for controls of the service manager, the tunnel's end, changes of the
//! network and a timer.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, at, never, select_biased};
use wg_embed::error::Result;

/// How long changes of the network must have ceased before the tunnel follows them: one change comes as many reports.
const SETTLE: Duration = Duration::from_millis(500);

/// The longest time for which the tunnel waits for them to cease.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// When it is tried again to follow a change after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// What the service manager asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// To end: also at the shutdown of the system.
    Stop,
    /// To go on after the machine has slept.
    Resumed,
}

/// The sources that the loop waits for. One that has ended is like one that is silent, except `controls`, whose end is
/// [`Control::Stop`].
#[derive(Debug)]
pub struct Sources {
    /// Controls.
    pub controls: Receiver<Control>,
    /// The reason for which the tunnel has ended by itself.
    pub ended: Receiver<String>,
    /// Reports that something about the network has changed.
    pub changes: Receiver<()>,
}

/// What the loop does with the tunnel.
pub trait Tunnel {
    /// Adapts the tunnel to the present network.
    ///
    /// # Errors
    /// Any: it is called again after a while.
    fn follow_network(&mut self) -> Result<()>;

    /// Makes new sockets and handshakes after the machine has slept.
    fn resumed(&mut self);
}

/// Why the loop has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to.
    Stopped,
    /// The tunnel has ended by itself, for this reason.
    Ended(String),
}

/// Waits and acts until the service is stopped or the tunnel ends. If several things are due, stopping comes first.
pub fn supervise(sources: &Sources, tunnel: &mut dyn Tunnel) -> Ending {
    let (mut ended, mut changes) = (sources.ended.clone(), sources.changes.clone());
    let mut settling = Settling::default();
    loop {
        let timer = settling.due.map_or_else(never, at);
        select_biased! {
            recv(sources.controls) -> control => match control {
                Ok(Control::Resumed) => tunnel.resumed(),
                Ok(Control::Stop) | Err(_) => return Ending::Stopped,
            },
            recv(ended) -> reason => match reason {
                Ok(reason) => return Ending::Ended(reason),
                Err(_) => ended = never(),
            },
            recv(changes) -> change => match change {
                Ok(()) => settling.changed(Instant::now()),
                Err(_) => changes = never(),
            },
            recv(timer) -> _ => {
                let followed = tunnel.follow_network();
                if let Err(error) = &followed {
                    tracing::warn!(%error, "the tunnel does not fit the network");
                }
                settling.followed(Instant::now(), followed.is_ok());
            },
        }
    }
}

/// When changes of the network are followed.
#[derive(Debug, Default)]
struct Settling {
    /// When they are followed next.
    due: Option<Instant>,
    /// The time of the first change that was not followed yet.
    first: Option<Instant>,
}

impl Settling {
    fn changed(&mut self, now: Instant) {
        let limit = *self.first.get_or_insert(now) + SETTLE_MAX;
        self.due = Some((now + SETTLE).min(limit));
    }

    fn followed(&mut self, now: Instant, succeeded: bool) {
        self.first = None;
        self.due = (!succeeded).then(|| now + RETRY);
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Sender, bounded, unbounded};

    use super::*;

    /// Tells the test what it was asked for.
    struct Told(Sender<&'static str>);

    impl Tunnel for Told {
        fn follow_network(&mut self) -> Result<()> {
            self.0.send("network").unwrap();
            Ok(())
        }

        fn resumed(&mut self) {
            self.0.send("resumed").unwrap();
        }
    }

    struct Senders {
        controls: Sender<Control>,
        ended: Sender<String>,
        changes: Sender<()>,
    }

    fn sources() -> (Senders, Sources) {
        let ((controls, one), (ended, two), (changes, three)) = (unbounded(), unbounded(), bounded(1));
        (Senders { controls, ended, changes }, Sources { controls: one, ended: two, changes: three })
    }

    /// Runs the loop on a thread, and returns what it does and how it ends.
    fn run(sources: Sources) -> (Receiver<&'static str>, std::thread::JoinHandle<Ending>) {
        let (told, tells) = unbounded();
        (tells, std::thread::spawn(move || supervise(&sources, &mut Told(told))))
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn changes_of_the_network_are_followed_once_they_cease() {
        let begin = Instant::now();
        let mut settling = Settling::default();
        for tenth in 0..=30 {
            let now = begin + Duration::from_millis(100 * tenth);
            settling.changed(now);
            assert_eq!(settling.due, Some(now + SETTLE));
        }
        // If they do not cease, they are followed nevertheless.
        settling.changed(begin + SETTLE_MAX);
        assert_eq!(settling.due, Some(begin + SETTLE_MAX));
        settling.followed(begin + SETTLE_MAX, true);
        assert_eq!(settling.due, None);
        settling.changed(begin + RETRY);
        assert_eq!(settling.due, Some(begin + RETRY + SETTLE));
        settling.followed(begin + RETRY, false);
        assert_eq!(settling.due, Some(begin + RETRY + RETRY));
    }

    #[test]
    fn each_source_has_its_effect() {
        let (senders, sources) = sources();
        let (tells, thread) = run(sources);
        senders.changes.send(()).unwrap();
        assert_eq!(tells.recv_timeout(PATIENCE), Ok("network"));
        senders.controls.send(Control::Resumed).unwrap();
        assert_eq!(tells.recv_timeout(PATIENCE), Ok("resumed"));
        senders.controls.send(Control::Stop).unwrap();
        assert_eq!(thread.join().unwrap(), Ending::Stopped);
        assert!(tells.try_recv().is_err());
    }

    #[test]
    fn the_end_of_the_tunnel_ends_the_service() {
        let (senders, sources) = sources();
        let (_tells, thread) = run(sources);
        senders.ended.send("the adapter is gone".into()).unwrap();
        assert_eq!(thread.join().unwrap(), Ending::Ended("the adapter is gone".into()));
    }

    #[test]
    fn stopping_comes_first_and_needs_no_sender() {
        let (senders, sources) = sources();
        senders.ended.send("late".into()).unwrap();
        senders.controls.send(Control::Stop).unwrap();
        let (_tells, thread) = run(sources);
        assert_eq!(thread.join().unwrap(), Ending::Stopped);
        let (senders, sources) = self::sources();
        let (_tells, thread) = run(sources);
        drop((senders.changes, senders.ended));
        drop(senders.controls);
        assert_eq!(thread.join().unwrap(), Ending::Stopped);
    }
}
