//! How a program learns that a socket can go on.

/// Is called when a socket may go on that could not before.
///
/// The calls come on a tunnel's threads or on those of other users of the stack, without a lock held; they must not
/// wait, and should only pass the news on. A socket notifies once after a `try_` function returned `WouldBlock`, or
/// after its notifier was set, when the operation may succeed or fail now; and when it ends. A call may come without a
/// reason.
pub trait Notify: Send + Sync {
    /// The socket may go on.
    fn notify(&self);
}

impl<F: Fn() + Send + Sync> Notify for F {
    fn notify(&self) {
        self();
    }
}

/// What a socket can do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Reading does not wait: there are data, the end, or an error.
    pub readable: bool,
    /// Writing does not wait: there is room, or an error.
    pub writable: bool,
    /// The other side sends no more: all data up to its FIN has arrived (it may not have been read yet), or it was
    /// reset.
    pub read_closed: bool,
    /// Nothing can be written any more: it was shut down or reset.
    pub write_closed: bool,
}
