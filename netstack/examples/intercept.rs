//! A server for all addresses: echo, sink and source by port, for connections and datagrams that a peer sends to any
//! address behind the tunnel. Without root:
//!
//! ```text
//! PRIVATE_KEY=.. PEER_PUBLIC_KEY=.. PORT=51820 cargo run --release -p wg-embed-netstack --example intercept
//! ```
//!
//! | port | TCP | UDP |
//! |---|---|---|
//! | 7001 | sends back what it gets | the same |
//! | 7002 | counts bytes up to the end, and answers with their number (8 bytes, the most significant first) | |
//! | 7003 | gets such a number, and sends so many bytes | |
//! | 7004 | sends one byte | |
//! | others | refused | refused |
//!
//! `STACK_ADDRESS` is the address that answers pings also while nothing is intercepted (10.0.0.1).
//!
//! One thread does the work. The notifiers, which run on the tunnel's threads, only say which connection can go on.

use std::{
    collections::HashMap,
    env,
    error::Error,
    io::{self, ErrorKind},
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use wg_embed::{
    bind::UdpBind,
    device::{Options as TunnelOptions, Tunnel},
    uapi::{self, Limits},
};
use wg_embed_netstack::{Intercept, InterceptOptions, Netstack, Options, PendingTcp, TcpStream, UdpFlow};

/// The maximum work on one connection before the next one has its turn.
const TURN: usize = 256 << 10;

/// The number of bytes of an echo that are read before they are sent back.
const ECHO: usize = 64 << 10;

/// The notifications for the thread.
enum News {
    Connected(TcpStream),
    Flow(UdpFlow),
    /// The connection or flow with this number can go on.
    Ready(u64),
}

/// Passes everything on to the thread.
struct Handler(Sender<News>);

impl Intercept for Handler {
    fn dialled(&self, pending: PendingTcp) {
        match pending.destination().port() {
            7001..=7004 => pending.accept(),
            _ => pending.refuse(),
        }
    }

    fn connected(&self, stream: TcpStream) {
        // Without a receiver the program is about to end.
        let _ = self.0.send(News::Connected(stream));
    }

    fn flow(&self, flow: UdpFlow) {
        if flow.destination().port() == 7001 {
            let _ = self.0.send(News::Flow(flow));
        } else {
            flow.refuse();
        }
    }
}

/// The remaining work on a connection.
enum Task {
    /// These have come and are to be sent back.
    Echo(Vec<u8>),
    /// So many bytes were counted.
    Sink(u64),
    /// The number, as far as it has come.
    Order(Vec<u8>),
    /// So many bytes are to be sent.
    Source(u64),
    /// These are to be sent, and then the end.
    Answer(Vec<u8>),
    /// The other side's end is waited for.
    End,
}

struct Connection {
    stream: TcpStream,
    task: Task,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let task = match stream.local_addr().port() {
            7001 => Task::Echo(Vec::new()),
            7002 => Task::Sink(0),
            7003 => Task::Order(Vec::new()),
            _ => Task::Answer(b"x".to_vec()),
        };
        Self { stream, task }
    }

    /// Does what can be done now. Returns whether there is more at once; `None` when all is done.
    fn go_on(&mut self) -> io::Result<Option<bool>> {
        let mut done = 0;
        while done < TURN {
            done += match &mut self.task {
                Task::Echo(rest) if rest.is_empty() => {
                    let bytes = self.stream.try_read_with(&mut |first, second| {
                        rest.extend(&first[..first.len().min(ECHO)]);
                        rest.extend(&second[..second.len().min(ECHO - rest.len())]);
                        rest.len()
                    })?;
                    if bytes == 0 {
                        self.task = Task::Answer(Vec::new());
                    }
                    0
                }
                Task::Echo(rest) => {
                    let bytes = self.stream.try_write(rest)?;
                    rest.drain(..bytes);
                    bytes
                }
                Task::Sink(total) => match skip(&self.stream)? {
                    0 => {
                        self.task = Task::Answer(total.to_be_bytes().to_vec());
                        0
                    }
                    bytes => {
                        *total += bytes as u64;
                        bytes
                    }
                },
                Task::Order(number) => {
                    let mut rest = [0; 8];
                    let bytes = self.stream.try_read(&mut rest[number.len()..])?;
                    if bytes == 0 {
                        return Ok(None);
                    }
                    let from = number.len();
                    number.extend(&rest[from..from + bytes]);
                    if let Ok(number) = <[u8; 8]>::try_from(number.as_slice()) {
                        self.task = Task::Source(u64::from_be_bytes(number));
                    }
                    bytes
                }
                Task::Source(0) => {
                    self.task = Task::Answer(Vec::new());
                    0
                }
                Task::Source(left) => {
                    let bytes = self.stream.try_write_with(&mut |first, second| {
                        let mut bytes = 0;
                        for part in [first, second] {
                            let len = part.len().min(usize::try_from(*left).unwrap_or(usize::MAX) - bytes);
                            part[..len].fill(b'x');
                            bytes += len;
                        }
                        bytes
                    })?;
                    *left -= bytes as u64;
                    bytes
                }
                Task::Answer(rest) if rest.is_empty() => {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.task = Task::End;
                    0
                }
                Task::Answer(rest) => {
                    let bytes = self.stream.try_write(rest)?;
                    rest.drain(..bytes);
                    bytes
                }
                Task::End => match skip(&self.stream)? {
                    0 => return Ok(None),
                    bytes => bytes,
                },
            };
        }
        Ok(Some(true))
    }
}

/// Throws away what has come; 0 at the end.
fn skip(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read_with(&mut |first, second| first.len() + second.len())
}

/// The objects with a number.
enum Entry {
    Connection(Connection),
    Flow(UdpFlow),
}

impl Entry {
    fn go_on(&mut self) -> io::Result<Option<bool>> {
        match self {
            Self::Connection(connection) => connection.go_on(),
            Self::Flow(flow) => {
                let mut buf = [0; 65_536];
                for _ in 0..64 {
                    match flow.try_recv(&mut buf)? {
                        // One that finds no room is lost, as on any network.
                        Some(len) => drop(flow.try_send(&buf[..len])),
                        None => return Ok(None),
                    }
                }
                Ok(Some(true))
            }
        }
    }
}

/// Serves until the stack is closed.
fn serve(news: &Receiver<News>, tell: &Sender<News>) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let mut entries = HashMap::new();
    while let Ok(news) = news.recv() {
        let number = match news {
            News::Ready(number) => number,
            News::Connected(stream) => {
                let number = LAST.fetch_add(1, Ordering::Relaxed);
                stream.set_notify(Some(notifier(tell, number)));
                entries.insert(number, Entry::Connection(Connection::new(stream)));
                number
            }
            News::Flow(flow) => {
                let number = LAST.fetch_add(1, Ordering::Relaxed);
                flow.set_notify(Some(notifier(tell, number)));
                entries.insert(number, Entry::Flow(flow));
                number
            }
        };
        let Some(entry) = entries.get_mut(&number) else { continue };
        match entry.go_on() {
            Ok(Some(_)) => drop(tell.send(News::Ready(number))),
            Err(err) if err.kind() == ErrorKind::WouldBlock => {}
            // Done, or failed.
            Ok(None) | Err(_) => drop(entries.remove(&number)),
        }
    }
}

fn notifier(tell: &Sender<News>, number: u64) -> Arc<dyn wg_embed_netstack::Notify> {
    let tell = tell.clone();
    Arc::new(move || drop(tell.send(News::Ready(number))))
}

fn main() -> Result<(), Box<dyn Error>> {
    let of = |name: &str| env::var(name).map_err(|_| format!("{name} is not set"));
    let key = |name: &str| -> Result<String, Box<dyn Error>> {
        use base64ct::{Base64, Encoding};
        let mut bytes = [0; 32];
        Base64::decode(of(name)?, &mut bytes).map_err(|_| format!("{name} is no key"))?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    };
    let addresses = vec![of("STACK_ADDRESS").unwrap_or_else(|_| "10.0.0.1".into()).parse()?];
    let stack = Netstack::new(Options { addresses, ..Options::default() })?;
    let (tell, news) = channel();
    stack.intercept(InterceptOptions::default(), Some(Arc::new(Handler(tell.clone()))));

    let tunnel = Tunnel::start(stack.tun(), Arc::new(UdpBind::new()?), TunnelOptions::default())?;
    let settings = format!(
        "private_key={}\nlisten_port={}\npublic_key={}\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
        key("PRIVATE_KEY")?,
        of("PORT")?,
        key("PEER_PUBLIC_KEY")?,
    );
    tunnel.device().apply(uapi::parse_set(&settings, Limits::default())?)?;
    tunnel.device().up()?;
    println!("serving");
    serve(&news, &tell);
    Ok(())
}
