//! Control calls of a running tunnel as WireProto records, for a socket, for C and for Python.
//!
//! Each record of a request is one command; the response has one answer for each, with a copy of the command.
//! docs/WIREPROTO.md specifies every command and its fields. [`call`] answers one request; a [`Session`] does so for a
//! client that also uses events; [`serve`] is the loop for a stream. This package starts no thread and opens no socket.
//!
//! | module | contents |
//! |---|---|
//! | `options` | limits |
//! | `session` | a client: requests in, responses out |
//! | `command` | a command and its fields, from a record |
//! | `set` | the command `set`: typed fields or the text of the UAPI |
//! | `state` | `get`, `stats`, `peers` and `version` as JSON |
//! | `events` | the queues of events for clients |
//! | `answer` | responses; errors as answers |
//! | `bytes` | memory that is wiped, and bounded |
//! | `stream` | requests that arrive in pieces |

mod answer;
mod bytes;
mod command;
mod events;
mod options;
mod session;
mod set;
mod state;
mod stream;

pub use events::Hub;
pub use options::Options;
pub use session::{Session, Wait, call};
pub use stream::{Framer, serve};
