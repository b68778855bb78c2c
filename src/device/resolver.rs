//! Resolves host names on a thread that exists only during look-ups: these may take long, and the tunnel does not wait
//! for them.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    net::IpAddr,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, Weak},
    thread::JoinHandle,
    vec,
};

use super::{lock, lookup::Interrupt, peer::Peer};
use crate::{
    bind::Bind,
    error::{Error, ErrorKind, Result},
    thread::{self, Owner},
};

/// A function that resolves a host name: returns its addresses, the best first and at least one, or an error. It may
/// block. A [`Tunnel`] calls it on a thread named `wg-resolver`, one call after another; it must not wait for a thread
/// that stops the tunnel.
///
/// [`Tunnel`]: super::Tunnel
pub type Resolve = Box<dyn Fn(&str) -> Result<Vec<IpAddr>> + Send + Sync>;

/// The number of queries that are visited under one lock.
const SLICE: usize = 128;

/// The origin of a query: a peer, by its number, or (first of all) the device.
pub(super) type Asker = Option<u64>;

/// A query for a host name.
pub(super) struct Question {
    pub(super) host: Box<str>,
    /// Identifies the query among all queries of the same origin.
    pub(super) number: u64,
    /// `None` for queries of the device.
    pub(super) peer: Option<Weak<Peer>>,
}

/// The result of a query. Queries for the same name share the result.
pub(super) struct Answer {
    pub(super) question: Question,
    pub(super) found: Arc<Result<Vec<IpAddr>>>,
}

/// The same result for one or more queries.
struct Answers {
    questions: vec::IntoIter<Question>,
    found: Arc<Result<Vec<IpAddr>>>,
}

#[derive(Default)]
struct Work {
    /// At most one for each origin.
    waiting: BTreeMap<Asker, Question>,
    /// The last thread, which may have ended.
    thread: Option<JoinHandle<()>>,
    /// Whether it has not ended, and will check for waiting queries again.
    is_working: bool,
    /// Whether threads are used at all.
    has_threads: bool,
    stopping: bool,
}

/// Waiting queries, and the thread for them.
pub(super) struct Resolver {
    resolve: Resolve,
    /// The bind to wake for a result.
    bind: Arc<dyn Bind>,
    /// The owner of the thread.
    owner: Owner,
    work: Mutex<Work>,
    /// Separate from the queries, since the tunnel checks it in each round.
    answers: Mutex<VecDeque<Answers>>,
    /// Ends a look-up by the system.
    interrupt: Arc<Interrupt>,
}

impl Resolver {
    pub(super) fn new(resolve: Resolve, bind: Arc<dyn Bind>) -> Self {
        Self {
            resolve,
            bind,
            owner: Owner::unique(),
            work: Mutex::default(),
            answers: Mutex::default(),
            interrupt: Arc::default(),
        }
    }

    /// Uses a thread for queries from now on, instead of calls of [`work`](Self::work).
    pub(super) fn use_threads(&self) {
        lock(&self.work).has_threads = true;
    }

    /// Adds a query, which replaces a waiting one of the same origin. A query with a lower number is late, from another
    /// thread, and its result is outdated.
    pub(super) fn ask(self: &Arc<Self>, asker: Asker, question: Question) {
        let mut work = lock(&self.work);
        if work.stopping {
            return;
        }
        match work.waiting.entry(asker) {
            Entry::Occupied(waiting) if waiting.get().number > question.number => return,
            Entry::Occupied(mut waiting) => drop(waiting.insert(question)),
            Entry::Vacant(place) => drop(place.insert(question)),
        }
        if !work.has_threads || work.is_working {
            return;
        }
        if let Some(ended) = work.thread.take() {
            // It no longer takes the lock. A panic was caught in the thread.
            let _ = ended.join();
        }
        let this = self.clone();
        match thread::spawn("wg-resolver", self.owner, move || this.run()) {
            Ok(thread) => (work.thread, work.is_working) = (Some(thread), true),
            Err(error) => {
                let context = format!("cannot start the thread wg-resolver: {error}");
                let found = Arc::new(Err(Error::new(ErrorKind::Resources, context)));
                let failed = std::mem::take(&mut work.waiting);
                drop(work);
                self.answer(failed.into_values().collect(), found);
            }
        }
    }

    /// Removes the waiting query of this origin.
    pub(super) fn withdraw(&self, asker: Asker) {
        lock(&self.work).waiting.remove(&asker);
    }

    /// Gives several queries the same result.
    fn answer(&self, questions: Vec<Question>, found: Arc<Result<Vec<IpAddr>>>) {
        lock(&self.answers).push_back(Answers { questions: questions.into_iter(), found });
        self.bind.wake();
    }

    /// Returns the next result, in the order of the look-ups.
    pub(super) fn take_answer(&self) -> Option<Answer> {
        let mut answers = lock(&self.answers);
        let first = answers.front_mut()?;
        let (question, found) = (first.questions.next(), first.found.clone());
        if first.questions.as_slice().is_empty() {
            answers.pop_front();
        }
        question.map(|question| Answer { question, found })
    }

    /// Returns whether there are results to take.
    pub(super) fn has_answers(&self) -> bool {
        !lock(&self.answers).is_empty()
    }

    /// Runs the thread.
    fn run(&self) {
        self.interrupt.guard_thread();
        loop {
            self.work();
            let mut work = lock(&self.work);
            if work.stopping || work.waiting.is_empty() {
                work.is_working = false;
                return;
            }
        }
    }

    /// Resolves waiting names, until there are none. Returns their number.
    pub(super) fn work(&self) -> usize {
        let mut names = 0;
        while let Some(questions) = self.next() {
            let found = Arc::new(self.look_up(&questions[0].host));
            self.answer(questions, found);
            names += 1;
        }
        names
    }

    /// Returns all queries for the next name. They are searched in slices, since the tunnel also takes the lock.
    fn next(&self) -> Option<Vec<Question>> {
        let (mut last, first) = lock(&self.work).waiting.pop_first()?;
        let mut all = vec![first];
        loop {
            let mut work = lock(&self.work);
            let slice = work.waiting.range((Bound::Excluded(last), Bound::Unbounded)).take(SLICE);
            let slice: Vec<_> = slice.map(|(asker, other)| (*asker, other.host == all[0].host)).collect();
            super::work(slice.len());
            let Some((asker, _)) = slice.last() else { return Some(all) };
            last = *asker;
            let same = slice.into_iter().filter(|(_, is_same)| *is_same);
            all.extend(same.filter_map(|(asker, _)| work.waiting.remove(&asker)));
        }
    }

    fn look_up(&self, host: &str) -> Result<Vec<IpAddr>> {
        tracing::debug!(host, "looking up");
        catch_unwind(AssertUnwindSafe(|| (self.resolve)(host))).unwrap_or_else(|_| {
            tracing::error!(host, "the resolver has panicked");
            Err(Error::new(ErrorKind::Panic, "internal error: a panic was caught"))
        })
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.work.try_lock().is_ok() && self.answers.try_lock().is_ok()
    }

    /// Returns whether the calling thread is the one that resolves names.
    pub(super) fn is_own_thread(&self) -> bool {
        self.owner.is_current()
    }

    /// Handles no more queries, and waits for a look-up in progress, but not for the system.
    pub(super) fn stop(&self) {
        let thread = {
            let mut work = lock(&self.work);
            work.stopping = true;
            work.waiting.clear();
            work.thread.take()
        };
        self.interrupt.stop();
        if let Some(thread) = thread {
            // A panic was caught in the thread.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::bind::mem::MemNetwork;
    use std::{
        iter,
        sync::mpsc::{Receiver, Sender, channel},
        thread,
        time::{Duration, Instant},
    };

    /// A resolver that tells what it is asked, and answers when it is told to.
    fn slow() -> (Arc<Resolver>, Receiver<String>, Sender<()>) {
        let (asked, is_asked) = channel();
        let (answer, may_answer) = channel();
        let may_answer = Mutex::new(may_answer);
        let resolve = move |host: &str| {
            assert_eq!(thread::current().name(), Some("wg-resolver"));
            asked.send(host.to_owned()).unwrap();
            lock(&may_answer).recv().map_err(|_| Error::invalid("the test is over"))?;
            assert!(host != "panic");
            Ok(vec![IpAddr::from([192, 0, 2, 1])])
        };
        let bind = MemNetwork::new().bind(IpAddr::from([192, 0, 2, 1]));
        let resolver = Arc::new(Resolver::new(Box::new(resolve), bind));
        resolver.use_threads();
        (resolver, is_asked, answer)
    }

    fn ask(resolver: &Arc<Resolver>, asker: u64, host: &str) {
        resolver.ask(Some(asker), Question { host: host.into(), number: asker, peer: None });
    }

    /// Waits for so many answers, and returns whose they are and whether they are good.
    fn answers(resolver: &Resolver, n: usize) -> Vec<(u64, bool)> {
        let mut all = Vec::new();
        while all.len() < n {
            resolver.bind.wait(Some(Duration::from_secs(10))).unwrap();
            let new: Vec<_> = iter::from_fn(|| resolver.take_answer()).collect();
            assert!(!new.is_empty(), "woken for an answer");
            all.extend(new.into_iter().map(|a| (a.question.number, a.found.is_ok())));
        }
        all
    }

    fn is_working(resolver: &Resolver) -> bool {
        lock(&resolver.work).is_working
    }

    #[test]
    fn names_are_looked_up_one_after_another_and_each_once() {
        let (resolver, is_asked, answer) = slow();
        ask(&resolver, 1, "a");
        assert_eq!(is_asked.recv().unwrap(), "a");
        // The second question of 2 takes the place of the first.
        for (asker, host) in [(2, "gone"), (2, "b"), (3, "c"), (4, "b"), (5, "withdrawn")] {
            ask(&resolver, asker, host);
        }
        resolver.withdraw(Some(5));
        answer.send(()).unwrap();
        assert_eq!(answers(&resolver, 1), [(1, true)]);
        assert_eq!(is_asked.recv().unwrap(), "b");
        answer.send(()).unwrap();
        assert_eq!(answers(&resolver, 2), [(2, true), (4, true)]);
        assert_eq!(is_asked.recv().unwrap(), "c");
        answer.send(()).unwrap();
        assert_eq!(answers(&resolver, 1), [(3, true)]);
        // It ends by itself, and begins again.
        let begin = Instant::now();
        while is_working(&resolver) {
            assert!(begin.elapsed() < Duration::from_secs(10), "the thread does not end");
            thread::yield_now();
        }
        ask(&resolver, 6, "d");
        assert_eq!(is_asked.recv().unwrap(), "d");
        assert!(is_working(&resolver));
        answer.send(()).unwrap();
        resolver.stop();
        assert!(!is_working(&resolver));
    }

    #[test]
    fn a_question_that_comes_late_does_not_replace_a_later_one() {
        let bind = MemNetwork::new().bind(IpAddr::from([192, 0, 2, 1]));
        let resolver = Arc::new(Resolver::new(Box::new(|_| Ok(vec![IpAddr::from([192, 0, 2, 2])])), bind));
        for number in [2, 1] {
            resolver.ask(Some(7), Question { host: "a".into(), number, peer: None });
        }
        resolver.work();
        let answered: Vec<_> = iter::from_fn(|| resolver.take_answer()).map(|a| a.question.number).collect();
        assert_eq!(answered, [2]);
    }

    #[test]
    fn a_panic_is_no_answer_and_does_not_end_it() {
        let (resolver, is_asked, answer) = slow();
        ask(&resolver, 1, "panic");
        ask(&resolver, 2, "b");
        answer.send(()).unwrap();
        answer.send(()).unwrap();
        assert_eq!(answers(&resolver, 2), [(1, false), (2, true)]);
        assert_eq!(is_asked.iter().take(2).collect::<Vec<_>>(), ["panic", "b"]);
        resolver.stop();
    }

    #[test]
    fn to_stop_it_is_to_wait_for_the_look_up_under_way_and_no_other() {
        let (resolver, is_asked, answer) = slow();
        ask(&resolver, 1, "a");
        ask(&resolver, 2, "b");
        assert_eq!(is_asked.recv().unwrap(), "a");
        let stopping = thread::spawn({
            let resolver = resolver.clone();
            move || resolver.stop()
        });
        thread::sleep(Duration::from_millis(50));
        assert!(!stopping.is_finished());
        answer.send(()).unwrap();
        stopping.join().unwrap();
        assert!(is_asked.try_recv().is_err());
        ask(&resolver, 3, "c");
        assert!(!is_working(&resolver), "nothing is looked up any more");
    }
}
