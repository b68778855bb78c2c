//! What a [`Bind`](crate::Bind) and a [`Tun`](crate::Tun) agree on, so that one thread can wait for both.

/// A TUN in the poll of a bind: a value for each of its two reasons to end a wait, such as the token of a reason, or
/// whether the reason applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registered<T> {
    /// Packets may be read.
    pub packets: T,
    /// [`Tun::wait`](crate::Tun::wait) would end for another reason.
    pub other: T,
}
