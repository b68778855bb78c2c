//! Watches a file, which may also be replaced by another one of the same name.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use wg_embed::thread::{self, Owner};

/// The time without changes after which a file is considered complete.
const QUIET: Duration = Duration::from_millis(100);
/// The interval at which a file that changes continuously is read.
const MOST: Duration = Duration::from_secs(2);

enum Signal {
    Changed,
    Failed(notify::Error),
    Stop,
}

/// A watched file.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    path: PathBuf,
    signals: Receiver<Signal>,
    sender: Sender<Signal>,
    /// The watched directories: a replaced file is another file.
    directories: Vec<PathBuf>,
}

/// Ends the watching thread soon after it is dropped.
pub(super) struct Guard(Sender<Signal>);

impl Drop for Guard {
    fn drop(&mut self) {
        // It fails if the thread has ended.
        let _ = self.0.send(Signal::Stop);
    }
}

impl Watch {
    pub(super) fn new(path: &Path) -> notify::Result<Self> {
        let (sender, signals) = mpsc::channel();
        let told = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let signal = match event {
                Ok(event) if !matters(event.kind) => return,
                Ok(_) => Signal::Changed,
                Err(error) => Signal::Failed(error),
            };
            // It fails if the thread has ended.
            let _ = told.send(signal);
        })?;
        let mut watch = Self { watcher, path: path.to_owned(), signals, sender, directories: Vec::new() };
        watch.watch_directories()?;
        Ok(watch)
    }

    /// Watches the directory of the file and, if that is a link, of its target.
    fn watch_directories(&mut self) -> notify::Result<()> {
        let target = self.path.canonicalize().ok();
        for path in [Some(self.path.clone()), target].into_iter().flatten() {
            let Some(directory) = path.parent() else { continue };
            if !self.directories.iter().any(|watched| watched == directory) {
                self.watcher.watch(directory, RecursiveMode::NonRecursive)?;
                self.directories.push(directory.to_owned());
            }
        }
        Ok(())
    }

    /// Calls `changed` after changes, until that returns false, or the returned value is dropped.
    pub(super) fn start(mut self, mut changed: impl FnMut() -> bool + Send + 'static) -> std::io::Result<Guard> {
        let guard = Guard(self.sender.clone());
        thread::spawn("wg-conf-watch", Owner::unique(), move || {
            while self.wait() {
                if let Err(error) = self.watch_directories() {
                    tracing::warn!(path = %self.path.display(), %error, "the configuration is not watched");
                }
                if !changed() {
                    return;
                }
            }
        })?;
        Ok(guard)
    }

    /// Waits for changes, and for their end. Returns false when the thread should end.
    fn wait(&self) -> bool {
        let mut began: Option<Instant> = None;
        loop {
            let signal = match began {
                None => self.signals.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(began) if began.elapsed() >= MOST => return true,
                Some(_) => self.signals.recv_timeout(QUIET),
            };
            match signal {
                Ok(Signal::Changed) => began = began.or_else(|| Some(Instant::now())),
                Ok(Signal::Failed(error)) => {
                    tracing::warn!(path = %self.path.display(), %error, "changes of the configuration may be missed");
                    began = began.or_else(|| Some(Instant::now()));
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }
}

/// Excludes reads, which this process makes itself.
const fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => matches!(access, AccessKind::Close(AccessMode::Write)),
        _ => true,
    }
}
