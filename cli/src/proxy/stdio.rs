//! Standard input and output as a connection.

use std::{
    io::{self, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
};

use wg_embed_proxy::Proxy;

use super::supervisor::{Mailbox, News};

/// Connects standard input and output with `target`. When the output has ended, so does the proxy.
pub(super) fn start(proxy: &Proxy, target: &str, mailbox: Arc<Mailbox>) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
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
    proxy.connect(theirs, target)
}
