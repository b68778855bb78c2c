//! `wireproto call`: commands for the second control socket of a daemon.

mod answer;
mod fields;

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use wg_embed_wireproto::{Accept, Builder, Decoder, Event, Kind, Message, ReadOptions, WriteOptions};
use zeroize::Zeroizing;

use crate::{
    arguments::WireprotoCall,
    failure::{Exit, Failure, Result},
    output::print_json,
    socket::{PATIENCE, Sockets, append_wiped, check_name},
};
use answer::Answer;
use fields::Command;

/// The suffix of the socket's file if it is given by the tunnel's name.
const ENDING: &str = "wireproto";

/// The longest time that a daemon waits for events.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Limits in bytes for the parts of a request other than field values: per field, per command, and per request.
const AROUND: usize = 64;

pub(crate) fn call(sockets: &Sockets, arguments: &WireprotoCall) -> Result<()> {
    let commands = fields::commands(&arguments.commands)?;
    let (request, patience) = (request(&commands)?, patience(&commands));
    let socket = path(sockets, &arguments.socket)?;
    let stream = connect(&socket, patience)?;
    let response = ask(stream, &request).map_err(|error| lost(&socket, &error, patience))?;
    let message = Message::parse(&response, &reading())
        .map_err(|error| Failure::new(format!("the daemon at {} answered: {error}", socket.display())))?;
    let answers: Vec<_> = message.records().map(Answer::of).collect();
    if arguments.json {
        print_json(&answers)?
    } else {
        answer::show(&answers)?
    }
    let failed = answers.iter().find_map(Answer::exit);
    failed.map_or(Ok(()), |exit| Err(Failure { exit, ..Failure::reported() }))
}

/// Returns the socket for an argument.
fn path(sockets: &Sockets, argument: &Path) -> Result<PathBuf> {
    match argument.to_str().filter(|name| !name.contains('/')) {
        Some(name) => {
            check_name(name)?;
            Ok(sockets.directory().join(format!("{name}.{ENDING}")))
        }
        None => Ok(argument.into()),
    }
}

/// Returns the time limit for a response.
fn patience(commands: &[Command]) -> Duration {
    let waits = commands.iter().flat_map(|command| &command.fields).any(|(name, _)| name == "wait");
    if waits { PATIENCE + LONGEST_WAIT } else { PATIENCE }
}

fn connect(socket: &Path, patience: Duration) -> Result<UnixStream> {
    let path = socket.display();
    let stream = UnixStream::connect(socket).map_err(|error| {
        let (exit, text) = match error.kind() {
            io::ErrorKind::NotFound => (
                Exit::NotFound,
                format!("there is no socket {path}; a daemon makes it with `wg-embed --wireproto-socket {path}`"),
            ),
            io::ErrorKind::ConnectionRefused => {
                (Exit::NotFound, format!("no daemon answers at {path}; its last one left it behind"))
            }
            io::ErrorKind::PermissionDenied => {
                (Exit::Permission, format!("{path} belongs to another user; try again as root"))
            }
            _ => return Failure::io(format_args!("cannot connect to {path}"), &error),
        };
        Failure { exit, text }
    })?;
    for limit in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        limit(&stream, Some(patience)).map_err(|error| Failure::io("cannot limit the time of an answer", &error))?;
    }
    Ok(stream)
}

fn lost(socket: &Path, error: &io::Error, patience: Duration) -> Failure {
    let reason = match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer in {patience:?}"),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            "it closed the connection without an answer".to_owned()
        }
        _ => error.to_string(),
    };
    Failure::new(format!("the daemon at {}: {reason}", socket.display()))
}

/// Builds one group of these commands, with a checksum.
fn request(commands: &[Command]) -> Result<Zeroizing<Vec<u8>>> {
    let sizes = commands.iter().flat_map(|command| &command.fields);
    // So that no copies of keys are left in memory that the buffer has outgrown.
    let room: usize = sizes.map(|(name, value)| name.len() + value.len() + AROUND).sum();
    let options = WriteOptions { checksum: true, ..WriteOptions::default() };
    let build = || {
        let mut builder = Builder::with_room(Kind::Request, options, room + AROUND * (commands.len() + 1))?;
        builder.group()?;
        for command in commands {
            builder.record()?.pair(fields::COMMAND, command.name.as_bytes())?;
            for (name, value) in &command.fields {
                builder.pair(name, value)?;
            }
        }
        builder.finish()
    };
    build().map(Zeroizing::new).map_err(|error| Failure::new(format!("the request: {error}")))
}

fn reading() -> ReadOptions {
    ReadOptions { accept: Accept::Responses, ..ReadOptions::default() }
}

/// Sends a request and reads to the end of the response.
fn ask(mut stream: UnixStream, request: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    stream.write_all(request)?;
    let mut decoder = Decoder::new(reading());
    let mut response = Zeroizing::new(Vec::new());
    let mut piece = Zeroizing::new([0; 16 * 1024]);
    loop {
        let n = match stream.read(&mut piece[..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut rest = piece.get(..n).unwrap_or_default();
        append_wiped(&mut response, rest);
        while !rest.is_empty() {
            if let Some(Event::End) = decoder.read(&mut rest).map_err(io::Error::other)? {
                return Ok(response);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::thread;
    use wg_embed_wireproto::Status;

    fn commands(words: &[&str]) -> Vec<Command> {
        fields::commands(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_response_may_come_in_pieces() {
        let request = request(&commands(&["version", "set", "listen_port=7"])).unwrap();
        let mut builder = Builder::new(Kind::Response(Status::Ack), WriteOptions::default());
        builder.group().unwrap();
        for record in Message::parse(&request, &ReadOptions::default()).unwrap().records() {
            builder.record().unwrap().pair("result", b"{}").unwrap().copy_of(record.pairs()).unwrap();
        }
        let response = builder.finish().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let sent = response.clone();
        let far = thread::spawn(move || {
            for byte in sent {
                theirs.write_all(&[byte]).unwrap();
            }
            theirs
        });
        assert_eq!(*ask(ours, &request).unwrap(), response);
        let mut got = vec![0; request.len()];
        far.join().unwrap().read_exact(&mut got).unwrap();
        assert_eq!(got, *request);
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&theirs).write_all(&response[..20]).unwrap();
        drop(theirs);
        assert!(ask(ours, b"").is_err());
    }

    #[test]
    fn a_name_is_a_file_beside_the_control_sockets() {
        let sockets = Sockets::new(Some("/a".into()));
        for (argument, socket) in
            [("wg0", Some("/a/wg0.wireproto")), ("/b/c", Some("/b/c")), ("./c", Some("./c")), ("", None)]
        {
            assert_eq!(path(&sockets, Path::new(argument)).ok().as_deref(), socket.map(Path::new), "{argument}");
        }
    }
}
