//! Notifications that a socket can continue.

/// A notifier, which is called when a socket can continue.
///
/// The calls are made on a tunnel's threads or on those of other users of the stack, without a lock held; they must not
/// wait, and should only pass the notification on. A socket notifies once after a `try_` function returned
/// `WouldBlock`, or after its notifier was set, when the operation may succeed or fail now; and when it ends. There may
/// be spurious calls.
pub trait Notify: Send + Sync {
    /// Called when the socket can continue.
    fn notify(&self);
}

impl<F: Fn() + Send + Sync> Notify for F {
    fn notify(&self) {
        self();
    }
}

/// The operations that a socket can do now without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Reading does not wait: there are data, the end, or an error.
    pub readable: bool,
    /// Writing does not wait: there is room, or an error.
    pub writable: bool,
    /// The other side sends no more: all data up to its FIN have arrived (but may not have been read yet), or it was
    /// reset.
    pub read_closed: bool,
    /// Nothing can be written any more: the stream was shut down or reset.
    pub write_closed: bool,
}
