//! Codec of WireProto. This "wireproto" is not WireGuard's wire protocol.
//!
//! WireProto (`wireproto.io`, version 1) packs records of names and values into messages: requests, which may have
//! several commands, and responses, which have an answer and a copy of the request's record for each of them. The
//! package has no I/O, starts no thread and needs no other crate. Where the specification is ambiguous, [`readings`]
//! states what was chosen and why.
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
//! | parse a message that is in memory | [`Message::parse`]: borrows, allocates nothing |
//! | parse what arrives in pieces | [`Decoder`]: each record as soon as it is complete |
//! | build a message from records in memory | [`encode()`]: one allocation |
//! | build a message whose sizes are not known yet | [`Builder`] |
//! | send a message of known sizes in pieces | [`Encoder`]: values are not copied |
//!
//! | module | what it has |
//! |---|---|
//! | `readings` | the bytes of the format, and every decision about an ambiguous point of the specification |
//! | `options` | order of allocators, limits, deviations that a reader tolerates |
//! | `error` | what is wrong, at which offset, in which field |
//! | `checksum` | CRC-32 |
//! | `level` | what a count and a size allow; shared by readers and writers |
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
