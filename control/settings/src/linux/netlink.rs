//! Requests to the kernel by rtnetlink.

use std::{io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use wg_embed::error::{Error, ErrorKind, Result};

use super::messages::{self, KernelRule, Link, Order, Route};
use crate::plan::Family;

/// The maximum size of the kernel's messages in one datagram.
const BUFFER: usize = 64 << 10;

/// A socket in a network namespace.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    /// The sequence number of the last request; its answer has the same.
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    pub(super) fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Kernels before 4.20 do not have this, and return more than requested.
            let _ = socket.set_netlink_get_strict_chk(true);
            io::Result::Ok(socket)
        };
        open().map(|socket| Self { socket, sequence: 0 }).map_err(|e| Error::io("cannot open a netlink socket", e))
    }

    /// Creates an object that does not yet exist.
    pub(super) fn add(&mut self, order: &Order) -> Result<()> {
        self.order(order.add.clone(), NLM_F_CREATE | NLM_F_EXCL).map_err(|e| Error::io("the kernel refuses", e))
    }

    /// Changes an existing object.
    pub(super) fn set(&mut self, message: &Message) -> Result<()> {
        self.order(message.clone(), 0).map_err(|e| Error::io("the kernel refuses", e))
    }

    /// Removes an object that may no longer exist.
    pub(super) fn remove(&mut self, order: &Order) -> Result<()> {
        self.remove_by(&order.remove)
    }

    /// Changes back an object that may no longer exist.
    pub(super) fn remove_by(&mut self, message: &Message) -> Result<()> {
        match self.order(message.clone(), 0) {
            Err(error) if !is_gone(&error) => Err(Error::io("the kernel refuses", error)),
            _ => Ok(()),
        }
    }

    /// Removes an interface that may no longer exist.
    pub(super) fn remove_link(&mut self, index: u32) -> Result<()> {
        self.remove_by(&messages::remove_link(index)).map_err(|error| error.at("cannot remove the interface"))
    }

    /// Returns the interface of this name.
    pub(super) fn link(&mut self, name: &str) -> Result<Link> {
        self.try_link(messages::get_link_by_name(name))?.ok_or_else(|| no_interface(name))
    }

    /// Returns the interface of this index, if there is one.
    pub(super) fn link_of(&mut self, index: u32) -> Result<Option<Link>> {
        // 0 stands for any interface.
        if index == 0 { Ok(None) } else { self.try_link(messages::get_link(index)) }
    }

    fn try_link(&mut self, question: Message) -> Result<Option<Link>> {
        match self.request(question, 0) {
            Ok(answers) => Ok(answers.iter().find_map(messages::read_link)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(Error::io("cannot read about an interface", error)),
        }
    }

    /// Returns the route to an address for packets with this mark, if there is one.
    pub(super) fn route_to(&mut self, address: IpAddr, mark: u32) -> Result<Option<Route>> {
        // The lack of a route is one of several errors.
        Ok(self
            .request(messages::get_route(address, mark), 0)
            .ok()
            .and_then(|a| a.iter().find_map(messages::read_route)))
    }

    /// Returns the first IPv4 default route of the main table.
    pub(super) fn default_route(&mut self) -> Result<Option<Route>> {
        let routes = self.routes(Family::V4, messages::MAIN)?;
        Ok(routes.into_iter().find(|route| route.is_default))
    }

    /// Returns whether a table has no routes.
    pub(super) fn is_empty(&mut self, family: Family, table: u32) -> Result<bool> {
        Ok(self.routes(family, table)?.is_empty())
    }

    fn routes(&mut self, family: Family, table: u32) -> Result<Vec<Route>> {
        let answers = self.dump(messages::get_routes(family, table), "cannot read routes")?;
        Ok(answers.iter().filter_map(messages::read_route).filter(|route| route.table == table).collect())
    }

    /// Returns the routing rules; empty for a family that the kernel does not have.
    pub(super) fn rules(&mut self, family: Family) -> Result<Vec<KernelRule>> {
        let answers = self.dump(messages::get_rules(family), "cannot read routing rules")?;
        Ok(answers.iter().filter_map(|answer| messages::read_rule(family, answer)).collect())
    }

    fn dump(&mut self, question: Message, what: &'static str) -> Result<Vec<Message>> {
        match self.request(question, NLM_F_DUMP) {
            Ok(answers) => Ok(answers),
            // There is no such table, or no such family.
            Err(error) if matches!(errno(&error), Some(ENOENT | EAFNOSUPPORT | EOPNOTSUPP)) => Ok(Vec::new()),
            Err(error) => Err(Error::io(what, error)),
        }
    }

    fn order(&mut self, message: Message, flags: u16) -> io::Result<()> {
        self.request(message, flags | NLM_F_ACK).map(drop)
    }

    /// Sends a request and returns the answer, up to the end of a dump, the first message or an acknowledgement.
    fn request(&mut self, message: Message, flags: u16) -> io::Result<Vec<Message>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut text = vec![0; request.buffer_len()];
        request.serialize(&mut text);
        self.socket.send(&text, 0)?;
        let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut answers = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let len = match self.socket.recv(&mut buffer.as_mut_slice(), 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let mut rest = buffer.get(..len).unwrap_or_default();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<Message>::deserialize(rest).map_err(io::Error::other)?;
                let end = (answer.header.length as usize).next_multiple_of(4);
                rest = rest.get(end..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(message) => {
                        answers.push(message);
                        if !is_dump && flags & NLM_F_ACK == 0 {
                            return Ok(answers);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Returns the error for a missing interface.
pub(super) fn no_interface(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no interface {name}"))
}

const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
const EAFNOSUPPORT: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();

fn errno(error: &io::Error) -> Option<i32> {
    error.raw_os_error()
}

/// Returns whether an error means that an object, or its interface, does not exist.
fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let gone = [Errno::NOENT, Errno::NODEV, Errno::SRCH, Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT];
    errno(error).is_some_and(|number| gone.iter().any(|e| e.raw_os_error() == number))
}
