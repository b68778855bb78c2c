//! A codec of WireProto, a control protocol (not WireGuard's wire protocol).
//!
//! WireProto (`wireproto.io`, version 1) packs records of names and values into messages: requests, which may have
//! several commands, and responses, which have an answer and a copy of the request's record for each of them. The
//! package has no I/O, no threads and no dependencies. Where the specification is ambiguous, [`readings`] documents the
//! decisions and their reasons.
//!
//! ```
//! use wg_embed_wireproto::{Builder, Kind, Message, ReadOptions, Status, WriteOptions};
//!
//! # fn main() -> Result<(), wg_embed_wireproto::Error> {
//! let mut request = Builder::new(Kind::Request, WriteOptions::default());
//! request.group()?.record()?.pair("cmd", b"ping")?;
//! let request = request.finish()?;
//!
//! let received = Message::parse(&request, &ReadOptions::default())?;
//! let mut response = Builder::new(Kind::Response(Status::Ack), WriteOptions::default());
//! for group in received.groups() {
//!     response.group()?;
//!     for record in group.records() {
//!         assert_eq!(record.pairs().get("cmd"), Some(&b"ping"[..]));
//!         response.record()?.pair("result", b"pong")?.copy_of(record.pairs())?;
//!     }
//! }
//! let response = response.finish()?;
//!
//! let answer = Message::parse(&response, &ReadOptions::default())?;
//! assert_eq!(answer.head().kind, Kind::Response(Status::Ack));
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | parse a message in memory | [`Message::parse`], which borrows and does not allocate |
//! | parse a message incrementally | [`Decoder`], which returns each record as soon as it is complete |
//! | build a message from records in memory | [`encode()`], with one allocation |
//! | build a message whose sizes are not yet known | [`Builder`] |
//! | send a message of known sizes in pieces | [`Encoder`], which does not copy values |
//!
//! | module | contents |
//! |---|---|
//! | `readings` | the bytes of the format, and every decision about an ambiguous point of the specification |
//! | `options` | order of allocators, limits, tolerated deviations |
//! | `error` | the problem, its offset and its field |
//! | `checksum` | CRC-32 |
//! | `level` | checks of counts and sizes; shared by readers and writers |
//! | `record`, `shape` | borrowed views of records; how a record's bytes are split into pairs and copies |
//! | `machine` | the grammar, one field after the other; shared by both readers |
//! | `message`, `decoder` | the readers |
//! | `encode`, `builder`, `encoder` | the writers |

pub mod builder;
pub mod checksum;
pub mod decoder;
pub mod encode;
pub mod encoder;
pub mod error;
mod level;
mod machine;
pub mod message;
pub mod options;
pub mod readings;
pub mod record;
mod shape;

pub use builder::Builder;
pub use checksum::Checksum;
pub use decoder::{Decoder, Event};
pub use encode::{NewRecord, encode};
pub use encoder::{Encoder, Sum};
pub use error::{Error, Field, Problem, Result};
pub use message::{Group, Message};
pub use options::{Accept, Head, Kind, Order, ReadOptions, Status, Tolerance, WriteOptions};
pub use record::{Pair, Pairs, Record};
