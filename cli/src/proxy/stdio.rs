//! Standard input and output as a connection.

use std::{
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use super::engine::{Mailbox, News};

/// Returns the other end of what copies standard input and output. When the output has ended, so does the proxy.
pub(super) fn start(mailbox: Arc<Mailbox>) -> io::Result<mio::net::UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    theirs.set_nonblocking(true)?;
    let mut to_tunnel = ours.try_clone()?;
    let mut from_tunnel = ours;
    thread::Builder::new().name("stdin".into()).spawn(move || {
        // An error is the end of the input, as far as the other side is concerned.
        let _ = io::copy(&mut io::stdin().lock(), &mut to_tunnel);
        let _ = to_tunnel.shutdown(Shutdown::Write);
    })?;
    thread::Builder::new().name("stdout".into()).spawn(move || {
        let mut stdout = io::stdout().lock();
        let copied = io::copy(&mut from_tunnel, &mut stdout).and_then(|_| stdout.flush());
        mailbox.push(News::Ended(copied.map_err(|e| format!("the connection of standard input has ended: {e}"))));
    })?;
    Ok(mio::net::UnixStream::from_std(theirs))
}
