//! The stream without I/O: headers, frames, and the assignment of responses to requests.

mod frame;
mod header;
mod rpc;
mod version;
mod weight;

pub use frame::{FrameDecoder, FrameError, MAX_MESSAGE, encode};
pub use header::{Header, HeaderDecoder, HeaderError, HeaderOrder, MAX_HEADER, Role};
pub use rpc::{Calls, Kind};
pub use version::{Version, Versions};
pub use weight::{Shape, weigh};
