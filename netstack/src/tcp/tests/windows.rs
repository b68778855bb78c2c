//! Windows that a peer takes back.

use std::{io, time::Duration};

use super::{
    super::Header,
    lone::{ACK, Lone, MSS, small},
};

const S: Duration = Duration::from_secs(1);

/// A connection with ten segments of 988 bytes in flight whose peer has only room for `units` of 128 bytes more.
fn shrunken(units: u16) -> Lone {
    let mut lone = Lone::new(true);
    lone.write(20_000);
    assert_eq!(lone.sent_data().len(), 10);
    lone.window = units;
    lone.put_ack(0, 0, &[]);
    lone
}

/// Waits until data are sent again, and returns them.
fn again(lone: &mut Lone) -> Vec<(u32, usize)> {
    loop {
        lone.wait_for_sending(61 * S);
        let sent = lone.sent_data();
        if !sent.is_empty() {
            return sent;
        }
    }
}

#[test]
fn a_window_closed_over_data_in_flight_is_probed_for_ever_while_that_is_answered() {
    let mut lone = shrunken(0);
    for _ in 0..60 {
        let sent = again(&mut lone);
        assert_eq!(sent.len(), 1, "{sent:?}");
        lone.put_ack(0, 0, &[]);
    }
    assert_eq!(lone.tcp.error(), None);
    // It goes on where it was when there is room again.
    lone.window = 512;
    lone.put_ack(0, 988, &[]);
    let mut acked = 988;
    while acked < 20_000 {
        for (position, len) in again(&mut lone) {
            if position <= acked {
                acked = acked.max(position + len as u32);
            }
        }
        lone.put_ack(0, acked, &[]);
    }
    assert_eq!(lone.tcp.unacknowledged(), 0);
}

#[test]
fn a_window_closed_over_data_in_flight_ends_without_answers() {
    let mut lone = shrunken(0);
    let mut sent = 0;
    while lone.tcp.error().is_none() {
        lone.wait(61 * S);
        sent += lone.sent_data().len();
    }
    assert_eq!(lone.tcp.error(), Some(io::ErrorKind::TimedOut));
    assert!((15..=17).contains(&sent), "{sent}");
}

#[test]
fn what_is_sent_again_fits_a_window_that_has_become_smaller() {
    let mut lone = shrunken(1);
    let mut acked = 0;
    let mut rounds = 0;
    // The peer drops all segments that are not wholly in its window of 128 bytes.
    while acked < 20_000 {
        for (position, len) in again(&mut lone) {
            if position <= acked && position + len as u32 <= acked + 128 {
                acked = acked.max(position + len as u32);
            }
        }
        lone.put_ack(0, acked, &[]);
        assert_eq!(lone.tcp.error(), None, "after {acked}");
        rounds += 1;
        assert!(rounds < 1000, "only {acked} have arrived");
    }
}

#[test]
fn what_lies_behind_the_window_waits() {
    // Room for three segments and a part of the fourth.
    let mut lone = shrunken(25);
    let edge = 25 * 128;
    for _ in 0..5 {
        for (position, len) in again(&mut lone) {
            assert!(position + len as u32 <= edge || position >= 9 * 988, "{position} {len}");
        }
    }
    lone.window = 512;
    lone.put(0, ACK, &[]);
    assert!(!again(&mut lone).is_empty());
}

#[test]
fn a_window_that_moves_byte_by_byte_makes_no_tiny_records() {
    const IN_FLIGHT: u16 = 9880;
    let options = Header { mss: Some(MSS), sack_permitted: true, timestamps: Some((100, 0)), ..Header::default() };
    let mut lone = Lone::with(small(), &options);
    lone.window = u16::MAX;
    lone.put_ack(0, 0, &[]);
    lone.write(20_000);
    assert_eq!(lone.sent_data().len(), 10);
    lone.window = 0;
    lone.put_ack(0, 0, &[]);
    again(&mut lone);
    let mut acked = 0;
    for edge in 1..IN_FLIGHT {
        lone.window = edge - acked;
        lone.put_ack(0, u32::from(acked), &[]);
        for (position, len) in lone.sent_data() {
            assert!(position + len as u32 <= u32::from(edge), "{position} {len} {edge}");
        }
        // Something arrives now and then.
        if edge % 1500 == 0 {
            acked = edge;
        }
        assert!(lone.tcp.records() <= 20, "{} records at {edge}", lone.tcp.records());
        lone.advance(S / 100);
    }
    // It goes on where it was when there is room again.
    lone.window = u16::MAX;
    let mut acked = u32::from(acked);
    lone.put_ack(0, acked, &[]);
    while acked < 20_000 {
        for (position, len) in again(&mut lone) {
            if position <= acked {
                acked = acked.max(position + len as u32);
            }
        }
        lone.put_ack(0, acked, &[]);
    }
    assert_eq!(lone.tcp.unacknowledged(), 0);
}
