//! Times and amounts in the words of wg(8).

use std::time::{Duration, SystemTime};

use crate::output::{CYAN, RED, styled};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// Returns the seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Formats a duration: `1 hour, 2 seconds`.
pub(crate) fn span(mut seconds: u64) -> String {
    let mut parts = Vec::new();
    for (unit, name) in [(YEAR, "year"), (DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (1, "second")] {
        let count = seconds / unit;
        seconds %= unit;
        if count > 0 {
            parts
                .push(format!("{count} {}", styled(CYAN, format_args!("{name}{}", if count == 1 { "" } else { "s" }))));
        }
    }
    parts.join(", ")
}

/// Formats the time since an event.
pub(crate) fn ago(time: Duration, now: u64) -> String {
    match now.checked_sub(time.as_secs()) {
        None => format!("({})", styled(RED, "System clock wound backward; connection problems may ensue.")),
        Some(0) => "Now".into(),
        Some(seconds) => format!("{} ago", span(seconds)),
    }
}

/// Formats an amount: `1.50 KiB`.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(crate) fn bytes(bytes: u64) -> String {
    if bytes < 1 << 10 {
        return format!("{bytes} {}", styled(CYAN, "B"));
    }
    let (shift, unit) = match bytes {
        ..=0xf_ffff => (10, "KiB"),
        0x10_0000..=0x3fff_ffff => (20, "MiB"),
        0x4000_0000..=0xff_ffff_ffff => (30, "GiB"),
        _ => (40, "TiB"),
    };
    format!("{:.2} {}", bytes as f64 / (1_u64 << shift) as f64, styled(CYAN, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn times_and_amounts_are_those_of_wg() {
        assert_eq!(plain(&span(YEAR + 2 * DAY + HOUR + 61)), "1 year, 2 days, 1 hour, 1 minute, 1 second");
        assert_eq!(plain(&ago(Duration::from_secs(100), 100)), "Now");
        assert_eq!(plain(&ago(Duration::from_secs(100), 102)), "2 seconds ago");
        assert!(plain(&ago(Duration::from_secs(100), 99)).contains("clock wound backward"));
        for (amount, text) in [
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536 * 1024, "1.50 MiB"),
            (1 << 30, "1.00 GiB"),
            (u64::MAX, "16777216.00 TiB"),
        ] {
            assert_eq!(plain(&bytes(amount)), text);
        }
    }
}
