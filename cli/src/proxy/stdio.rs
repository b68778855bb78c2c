//! Standard input and output as a connection.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, mpsc},
    thread,
};

use wg_embed_proxy::Proxy;

use super::supervisor::{Mailbox, News};

/// Connects standard input and output with `target`. The proxy ends when both directions have ended, or with an error
/// when the connection fails, or is reset.
pub(super) fn start(proxy: &Proxy, target: &str, mailbox: Arc<Mailbox>) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut to_tunnel = ours.try_clone()?;
    let mut from_tunnel = ours;
    let (end, ended) = mpsc::channel();
    thread::Builder::new().name("stdin".into()).spawn(move || {
        // For the other side an error is the end of the input.
        let _ = pass(&mut io::stdin().lock(), &mut to_tunnel);
        let _ = to_tunnel.shutdown(Shutdown::Write);
    })?;
    let place = format!("[STDIOTunnel] {target}");
    thread::Builder::new().name("stdout".into()).spawn(move || {
        let outcome = output(&mut from_tunnel).map_err(|e| format!("standard output: {e}")).and_then(|()| {
            let outcome = ended.recv().unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()));
            outcome.map_err(|e| format!("{place}: {e}"))
        });
        mailbox.push(News::Transferred(outcome));
    })?;
    proxy.connect(theirs, target, move |outcome| _ = end.send(outcome))
}

/// Copies everything to standard output, and closes it: its reader may wait for the end before it ends the input.
fn output(from_tunnel: &mut UnixStream) -> io::Result<()> {
    pass(from_tunnel, &mut io::stdout().lock())?;
    let (_, nowhere) = io::pipe()?;
    rustix::stdio::dup2_stdout(nowhere)?;
    Ok(())
}

/// Copies until the end, each part at once: [`io::copy`] may buffer a part until there is more.
fn pass(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buf = vec![0; 64 << 10];
    loop {
        match from.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&buf[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
