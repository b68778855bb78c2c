//! `trace`: packets of a tunnel as a pcapng file.
//!
//! Inner packets are those of the interface, outer ones the UDP datagrams of the tunnel's port on all other interfaces.
//! The system copies them; the daemon is only queried for its port.

mod filter;
mod pcapng;
mod socket;

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError, SyncSender},
    },
    thread,
    time::Duration,
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    arguments::{Layer, Trace},
    failure::{Failure, Result},
    output::complain,
    socket::Sockets,
};
use pcapng::{Interface, Writer};
use socket::{Capture, Packet};

/// The maximum delay of a signal.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(100);

/// The maximum number of packets that wait to be written. Further ones are lost and counted by the system.
const WAITING: usize = 4096;

pub(crate) fn run(sockets: &Sockets, arguments: &Trace) -> Result<()> {
    let name = &arguments.name;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| Failure::io(what, &error)
    };
    let state = sockets.connect(name)?.get()?;
    let index = socket::index_of(name).map_err(|error| {
        Failure::io(format_args!("{name} is no interface here; a userspace network has none"), &error)
    })?;
    let (mut captures, mut interfaces) = (Vec::new(), Vec::new());
    if arguments.layer != Layer::Outer {
        captures.push(Capture::on_interface(index).map_err(failed("cannot capture packets of the interface"))?);
        interfaces.push(Interface { name: name.clone(), description: "inner packets" });
    }
    if arguments.layer != Layer::Inner {
        let port = state.interface.listen_port;
        if port == 0 {
            return Err(Failure::new(format!("{name} has no port yet, so that there are no outer packets")));
        }
        captures.push(Capture::of_port(port, index).map_err(failed("cannot capture packets of the port"))?);
        interfaces.push(Interface { name: format!("udp port {port}"), description: "outer packets" });
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, ended.clone()).map_err(failed("cannot wait for signals"))?;
    }
    let out = open(&arguments.output)?;
    let mut writer = Writer::new(out, &interfaces).map_err(failed("cannot write the file"))?;
    let (sender, packets) = mpsc::sync_channel(WAITING);
    for (number, capture) in (0..).zip(captures) {
        let sender = sender.clone();
        thread::Builder::new()
            .name("capture".into())
            .spawn(move || receive(number, &capture, &sender))
            .map_err(failed("cannot start a thread"))?;
    }
    drop(sender);
    let mut count = 0;
    while !ended.load(Ordering::Relaxed) && arguments.count.is_none_or(|most| count < most) {
        let (number, packet) = match packets.recv_timeout(LOOK_FOR_SIGNALS) {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => {
                // Written packets can be read while the trace continues.
                writer.flush().map_err(failed("cannot write the file"))?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let packet = packet.map_err(failed("the capture ended"))?;
        writer.packet(number, &packet).map_err(failed("cannot write the file"))?;
        count += 1;
    }
    writer.flush().map_err(failed("cannot write the file"))?;
    complain(&format!("{count} packets"));
    Ok(())
}

/// Receives packets until an error, or until the receiver of `to` was dropped.
fn receive(number: u32, capture: &Capture, to: &SyncSender<(u32, io::Result<Packet>)>) {
    loop {
        let packet = capture.receive();
        let is_last = packet.is_err();
        if to.send((number, packet)).is_err() || is_last {
            return;
        }
    }
}

/// Creates the file, which only its owner may read, as inner packets are not encrypted.
fn open(path: &Path) -> Result<Box<dyn Write>> {
    if path == Path::new("-") {
        if io::stdout().is_terminal() {
            return Err(Failure::usage("a terminal cannot show packets; write -o FILE, or pipe to `tcpdump -r -`"));
        }
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(|error| Failure::io(format_args!("cannot write {}", path.display()), &error))?;
    Ok(Box::new(BufWriter::new(file)))
}
