//! The log of a tunnel's service: a file of fixed size, of which the oldest lines are overwritten. Its format is that
//! of wireguard-windows, so that its readers understand it.
//!
//! | bytes | contents, little endian |
//! |---|---|
//! | 4 | 0x0badbabe |
//! | 4 | the number of lines that were written so far, modulo 2^32; the next one goes to this place, modulo 2048 |
//! | 2048 times 520 | a line: 8 bytes time stamp, in nanoseconds since 1970 or 0 for an empty place; 512 bytes text |

mod lock;

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::{Event, Metadata, Subscriber, level_filters::LevelFilter, span};
use wg_embed::{log, sync};

use self::lock::Locked;

const MAGIC: u32 = 0x0bad_babe;
const LINES: u32 = 2048;
const TEXT: usize = 512;
const HEADER: u64 = 8;
const LINE: usize = 8 + TEXT;

/// The size of the file in bytes.
pub const SIZE: u64 = HEADER + LINES as u64 * LINE as u64;

/// A log that is written. Threads, and processes with the same file, write one line after the other.
#[derive(Debug)]
pub struct RingLog {
    file: Mutex<File>,
    tag: String,
}

impl RingLog {
    /// Opens the file for writing, and creates it if it does not exist or has another format. Lines begin with
    /// `[tag] `.
    ///
    /// # Errors
    /// Errors of the system.
    pub fn open(path: &Path, tag: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let locked = Locked::wait(&file)?;
        if file.metadata()?.len() != SIZE || read_u32(&mut &file)? != MAGIC {
            file.set_len(0)?;
            file.set_len(SIZE)?;
            (&file).seek(SeekFrom::Start(0))?;
            (&file).write_all(&MAGIC.to_le_bytes())?;
        }
        drop(locked);
        Ok(Self { file: Mutex::new(file), tag: format!("[{tag}] ") })
    }

    /// Writes a line with the present time. Control characters become spaces; what does not fit is cut off. A line that
    /// the system refuses is lost.
    pub fn line(&self, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // There is no one left to report it to.
        let _ = self.write(now, text);
    }

    fn write(&self, now: Duration, text: &str) -> io::Result<()> {
        let text = format!("{}{}", self.tag, text.replace(char::is_control, " "));
        let mut line = [0; LINE];
        // A zero ends it.
        let len = text.floor_char_boundary(TEXT - 1);
        line[8..8 + len].copy_from_slice(&text.as_bytes()[..len]);
        line[..8].copy_from_slice(&u64::try_from(now.as_nanos()).unwrap_or_default().to_le_bytes());
        let file = sync::lock(&self.file);
        let _locked = Locked::wait(&file)?;
        let mut file = &*file;
        file.seek(SeekFrom::Start(4))?;
        let next = read_u32(&mut file)?;
        file.seek(SeekFrom::Start(HEADER + u64::from(next % LINES) * LINE as u64))?;
        file.write_all(&line)?;
        // Afterwards: a reader takes the place before it for a complete line.
        file.seek(SeekFrom::Start(4))?;
        file.write_all(&next.wrapping_add(1).to_le_bytes())
    }
}

/// A line that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The time at which it was written.
    pub time: SystemTime,
    /// The text, with the tag.
    pub text: String,
}

/// Reads all lines, the oldest first. The log may be written during the call: lines that are then overwritten are
/// missing or newer.
///
/// # Errors
/// `InvalidData` if the file has another format; errors of the system.
pub fn read(path: &Path) -> io::Result<Vec<Line>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != SIZE || read_u32(&mut file)? != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not a log file"));
    }
    let next = read_u32(&mut file)? % LINES;
    let mut places = vec![0; LINES as usize * LINE];
    file.read_exact(&mut places)?;
    let (newer, older) = places.split_at(next as usize * LINE);
    Ok(older.chunks_exact(LINE).chain(newer.chunks_exact(LINE)).filter_map(line).collect())
}

fn line(place: &[u8]) -> Option<Line> {
    let (time, text) = place.split_at_checked(8)?;
    let nanoseconds = u64::from_le_bytes(time.try_into().ok()?);
    if nanoseconds == 0 {
        return None;
    }
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let time = UNIX_EPOCH + Duration::from_nanos(nanoseconds);
    Some(Line { time, text: String::from_utf8_lossy(text).into_owned() })
}

fn read_u32(file: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// As the subscriber of a process it takes all events up to DEBUG.
impl Subscriber for RingLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= LevelFilter::DEBUG
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn event(&self, event: &Event<'_>) {
        self.line(&log::text(event));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("wg-embed-{name}-{}.bin", std::process::id()))
    }

    #[test]
    fn lines_are_read_in_order_and_the_oldest_are_overwritten() {
        let path = temporary("ring");
        let _ = std::fs::remove_file(&path);
        let log = RingLog::open(&path, "wg0").unwrap();
        assert_eq!(read(&path).unwrap(), []);
        for number in 0..LINES + 3 {
            log.write(Duration::from_nanos(u64::from(number) + 1), &format!("line {number}\nof text")).unwrap();
        }
        let lines = read(&path).unwrap();
        assert_eq!(lines.len(), LINES as usize);
        assert_eq!(lines[0].text, "[wg0] line 3 of text");
        assert_eq!(lines[0].time, UNIX_EPOCH + Duration::from_nanos(4));
        assert_eq!(lines.last().unwrap().text, format!("[wg0] line {} of text", LINES + 2));
        // It goes on where it was.
        RingLog::open(&path, "wg0").unwrap().line("again");
        assert_eq!(read(&path).unwrap().last().unwrap().text, "[wg0] again");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn logs_with_one_file_lose_no_line() {
        let path = temporary("shared");
        let _ = std::fs::remove_file(&path);
        std::thread::scope(|scope| {
            for tag in ["a", "b"] {
                let path = &path;
                scope.spawn(move || {
                    let log = RingLog::open(path, tag).unwrap();
                    (0..LINES / 2).for_each(|number| log.line(&number.to_string()));
                });
            }
        });
        let lines = read(&path).unwrap();
        for tag in ["[a] ", "[b] "] {
            let numbers = lines.iter().filter_map(|line| line.text.strip_prefix(tag)?.parse::<u32>().ok());
            assert!(numbers.eq(0..LINES / 2), "{tag}");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn long_lines_are_cut_between_characters_and_another_file_is_replaced() {
        let path = temporary("long");
        std::fs::write(&path, "something else").unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let log = RingLog::open(&path, "t").unwrap();
        log.line(&"ü".repeat(400));
        let text = read(&path).unwrap().remove(0).text;
        assert!(text.len() < TEXT && text.ends_with('ü'), "{}", text.len());
        std::fs::remove_file(path).unwrap();
    }
}
