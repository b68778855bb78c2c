//! The bytes of the format, and every decision about a point where the specification is ambiguous.
//!
//! The specification's worked examples are not part of its published text, and the test vectors of its reference
//! library were not available. So these bytes are an interpretation of the text, and this file is the only one to
//! change if a better source appears, together with `shape` for the place of copies.
//!
//! ```text
//! message = [ACK | NAK] [ESC sum] SOH version STX G SG group*G ETX EOT
//! group   = R SR record*R
//! record  = P SP pair*P [copy]        a copy in responses, and only there
//! copy    = P SP pair*P
//! pair    = NL VL name value
//! ```
//!
//! All numbers have four bytes. `version` and `sum` are big-endian; the others (allocators) have the order of the
//! options.
//!
//! - **Order of allocators.** Text: section 2: all packed numbers are big-endian; section 6: allocators are
//!   little-endian-packed. Reading: big ([`Order::Big`]); the other one is a setting of readers and writers. Reason:
//!   section 2 holds for everything, the format is modelled on OpenSSH's, which is big-endian, and one message would
//!   have two orders otherwise.
//! - **Order of version and checksum.** Text: sections 2 and 4. Reading: big-endian, in both orders of allocators.
//!   Reason: stated for both.
//! - **Place of the version.** Text: section 3.2 has none. Reading: after SOH, before STX. Reason: headers mark
//!   beginnings: SOH that of the message, STX that of the body.
//! - **Allocators at the top.** Text: section 6: "included for each following sequence of bytes". Reading: a count
//!   and a size of all groups, once, after STX. Reason: groups are children of the message as records are children of
//!   a group.
//! - **Order of two allocators.** Text: section 6: the count precedes the size. Reading: count, size; in a pair the
//!   size of the name, then that of the value. Reason: stated in sections 6 and 3.3.1.1.
//! - **What a size counts.** Text: section 6.2: "all children objects combined", with separators. Reading: all bytes
//!   after it that belong to it: children with their own allocators, neither itself nor the count beside it. Reason:
//!   the sizes of names and values, which have no children, count bytes in the same way.
//! - **End of the body.** Text: section 5.5 is missing. Reading: ETX (0x03) after the last group, before EOT. Reason:
//!   section 4 has a "body end"; 0x03 is the code between STX and EOT.
//! - **What the checksum covers.** Text: section 4: "body start to body end, headers included". Reading: STX to ETX
//!   with both; not SOH, the version and EOT. Reason: as stated.
//! - **Place of the checksum.** Text: section 4: the first byte of requests, the second one of responses. Reading:
//!   before SOH, after the status. Reason: as stated.
//! - **Checksum of a request.** Text: section 4: optional. Reading: verified if it is there, written if asked for.
//!   Reason: as stated.
//! - **Checksum of a response.** Text: section 4: always sent. Reading: required; its absence can be tolerated.
//!   Reason: as stated.
//! - **Copy record.** Text: section 3.3.1.2: "a variant of a Record", "included in each response's FVP". Reading: one
//!   for each record, after its pairs, with allocators of its own. Reason: it is the copy of a *record*, and the size
//!   of the record, not of a pair, includes it (3.3.1). With one pair a record, one copy after each pair is the same
//!   bytes: write one pair a record where there is a choice.
//! - **Copy and allocators.** Text: section 3.3.1. Reading: the record's size includes the copy with its allocators,
//!   the record's count does not. Reason: as stated: the count shows where the pairs end.
//! - **Copy in a request.** Text: section 3.3.1.2: "used exclusively in responses". Reading: bytes after the last
//!   pair are an error. Reason: as stated.
//! - **Response record without a copy.** Text: section 3.3.1.2. Reading: an error; can be tolerated. Reason: each
//!   response record has one. An answer to what could not be read may have the copy of a pair with an empty name.
//! - **Number of groups, records, pairs.** Text: section 3: "one (or more)". Reading: none is an error; can be
//!   tolerated by readers. Reason: as stated.
//! - **Names.** Text: section 3.3.1.1.1: UTF-8. Reading: checked; empty and equal names are valid. Reason: nothing
//!   forbids them.
//! - **Values.** Text: section 3.3.1.1.2: "a series of bytes". Reading: any bytes, also none. Reason: as stated.
//! - **Status.** Text: section 3.1. Reading: NAK if any record failed, else ACK; the caller chooses it. Reason: as
//!   stated.
//! - **Other versions.** Text: section 3.2: 0 is experimental. Reading: 1 is written and accepted, 0 can be
//!   tolerated. Reason: a later version may differ in anything.
//! - **Several messages in one stream.** Text: not mentioned. Reading: the next one begins right after EOT. Reason:
//!   nothing separates them.
//!
//! The deviations that a reader can tolerate are listed in [`Tolerance`]; all of them are off by default. Inconsistent
//! sizes, bytes after EOT in a single message, and names that are not UTF-8 are never tolerated.

use crate::options::{Order, Tolerance};

/// Status of a response without an error.
pub const ACK: u8 = 0x06;
/// Status of a response with an error.
pub const NAK: u8 = 0x15;
/// Precedes a checksum.
pub const ESC: u8 = 0x1b;
/// Begins a message.
pub const SOH: u8 = 0x01;
/// Begins the body.
pub const STX: u8 = 0x02;
/// Ends the body.
pub const ETX: u8 = 0x03;
/// Ends the message.
pub const EOT: u8 = 0x04;

/// The version that is written.
pub const VERSION: u32 = 1;
/// The experimental version.
pub const EXPERIMENTAL_VERSION: u32 = 0;

/// Bytes of the two allocators before groups, records, pairs and copies.
pub const ALLOCATORS: usize = 8;
/// Bytes after the last group: ETX and EOT.
pub const TRAILER: usize = 2;

/// Returns whether messages of this version are read.
pub(crate) fn is_read(version: u32, tolerance: &Tolerance) -> bool {
    version == VERSION || tolerance.experimental_version && version == EXPERIMENTAL_VERSION
}

/// Returns whether a checksum matches the announced one.
pub(crate) fn is_sum(announced: u32, computed: u32, tolerance: &Tolerance) -> bool {
    announced == computed || tolerance.little_endian_checksum && announced.swap_bytes() == computed
}

/// Determines the order of a message's allocators by the first two. In the wrong order a small count is 2^24 or more,
/// unless it is a multiple of 256, and each child takes at least its allocators: so the wrong order seldom fits. If
/// both fit, or neither, the result is `preferred`.
pub(crate) fn order(count: [u8; 4], size: [u8; 4], preferred: Order, max_size: u64) -> Order {
    let fits = |order: Order| {
        let size = u64::from(order.read(size));
        u64::from(order.read(count)) * ALLOCATORS as u64 <= size && size <= max_size
    };
    let other = match preferred {
        Order::Big => Order::Little,
        Order::Little => Order::Big,
    };
    if !fits(preferred) && fits(other) { other } else { preferred }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_in_which_the_first_allocators_fit_is_taken() {
        let max = 16 << 20;
        for (count, size) in [(1_u32, 31_u32), (2, 78), (255, 1 << 20), (256, 5000)] {
            for order_of_bytes in [Order::Big, Order::Little] {
                for preferred in [Order::Big, Order::Little] {
                    let found = order(order_of_bytes.write(count), order_of_bytes.write(size), preferred, max);
                    assert_eq!(found, order_of_bytes, "{count} {size}");
                }
            }
        }
    }

    #[test]
    fn the_preferred_order_is_kept_if_both_fit_or_none() {
        for preferred in [Order::Big, Order::Little] {
            // The same bytes in both orders.
            assert_eq!(order([0; 4], [0, 8, 8, 0], preferred, 16 << 20), preferred);
            assert_eq!(order([0xff; 4], [0xff; 4], preferred, 16 << 20), preferred);
        }
    }
}
