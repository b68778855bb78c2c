//! Parses messages that arrive in pieces.

pub use crate::machine::Event;
use crate::{
    error::{Error, Field, Result},
    machine::{Machine, Need},
    options::ReadOptions,
    readings::ALLOCATORS,
};

/// The memory for records that arrive in pieces, in bytes, that is kept between messages. More is freed.
const KEPT: usize = 64 << 10;

/// Reads messages, one after the other, from bytes that may be split anywhere.
///
/// A record that lies in one piece of the input is borrowed from it; other records are assembled in memory that grows
/// with the received bytes, never with announced sizes.
///
/// The checksum of a message precedes it but can be verified only at its end: [`Event::Record`] comes before
/// [`Event::End`], and should not have lasting effects until then.
///
/// ```
/// # use wg_embed_wireproto::{Decoder, Error, Event, ReadOptions};
/// # fn received(decoder: &mut Decoder, mut input: &[u8]) -> Result<(), Error> {
/// while let Some(event) = decoder.read(&mut input)? {
///     match event {
///         Event::Record(record) => println!("{:?}", record.pairs().get("cmd")),
///         Event::End => println!("complete"),
///         Event::Start(_) | Event::Group { .. } => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    machine: Machine,
    /// The beginning of the next field, and the number of its bytes.
    field: ([u8; ALLOCATORS], usize),
    /// The beginning of the next record, or one that was already returned.
    record: Vec<u8>,
    is_spent: bool,
    failed: Option<Error>,
}

impl Decoder {
    /// Creates a decoder at the start of its first message, without an allocation.
    #[must_use]
    pub fn new(options: ReadOptions) -> Self {
        Self {
            machine: Machine::new(options),
            field: ([0; ALLOCATORS], 0),
            record: Vec::new(),
            is_spent: false,
            failed: None,
        }
    }

    /// Takes bytes from `input` up to the next event. Returns `None` when `input` is used up. After [`Event::End`] the
    /// next message begins.
    ///
    /// # Errors
    /// Any error of the message. It is permanent: later calls fail with the same error.
    pub fn read<'e, 'i: 'e>(&'e mut self, input: &mut &'i [u8]) -> Result<Option<Event<'e>>> {
        match self.failed {
            Some(error) => return Err(error),
            None if self.is_spent => self.forget_record(),
            None => {}
        }
        loop {
            let event = match self.machine.need() {
                Need::Record(len) => return self.read_record(len, input),
                Need::Field(len) => match self.take_field(len, input) {
                    Some(field) => self.machine.field(field.get(..len).unwrap_or_default()),
                    None => return Ok(None),
                },
            };
            if let Err(error) = event {
                self.failed = Some(error);
            }
            let event = event?;
            if let Some(Event::End) = event {
                self.forget_record();
            }
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Reports the end of the input.
    ///
    /// # Errors
    /// `Truncated` if it is inside a message; the earlier error if there was one.
    pub fn finish(&self) -> Result<()> {
        match self.failed {
            Some(error) => Err(error),
            None if self.is_between() => Ok(()),
            None => Err(self.machine.truncated(self.pending())),
        }
    }

    /// Returns whether no message has begun, or the last one is complete.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.failed.is_none() && self.machine.is_between()
    }

    /// Returns how many bytes of the current message have been taken; 0 between messages.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.machine.offset() + self.pending() as u64
    }

    /// Returns the number of bytes of an incomplete field or record.
    fn pending(&self) -> usize {
        self.field.1 + if self.is_spent { 0 } else { self.record.len() }
    }

    /// Returns the next field, if it is complete.
    fn take_field(&mut self, len: usize, input: &mut &[u8]) -> Option<[u8; ALLOCATORS]> {
        let (field, have) = &mut self.field;
        let room = field.get_mut(*have..len)?;
        let (taken, rest) = input.split_at(room.len().min(input.len()));
        for (to, from) in room.iter_mut().zip(taken) {
            *to = *from;
        }
        *input = rest;
        *have += taken.len();
        if *have < len {
            return None;
        }
        *have = 0;
        Some(*field)
    }

    fn read_record<'e, 'i: 'e>(&'e mut self, len: usize, input: &mut &'i [u8]) -> Result<Option<Event<'e>>> {
        let missing = len.saturating_sub(self.record.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        if self.record.is_empty() && taken.len() == missing {
            *input = rest;
            return note(self.machine.record(taken), &mut self.failed);
        }
        if let Err(e) = self.record.try_reserve(taken.len()) {
            let error = Error::new(e.into(), Field::Record, self.offset());
            self.failed = Some(error);
            return Err(error);
        }
        *input = rest;
        self.record.extend_from_slice(taken);
        if taken.len() < missing {
            return Ok(None);
        }
        self.is_spent = true;
        note(self.machine.record(&self.record), &mut self.failed)
    }

    fn forget_record(&mut self) {
        self.is_spent = false;
        self.record.clear();
        if self.machine.is_between() {
            self.record.shrink_to(KEPT);
        }
    }
}

/// Returns the event for a record; an error is kept in `failed`.
fn note<'a>(record: Result<crate::Record<'a>>, failed: &mut Option<Error>) -> Result<Option<Event<'a>>> {
    match record {
        Ok(record) => Ok(Some(Event::Record(record))),
        Err(error) => {
            *failed = Some(error);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Builder, Kind, WriteOptions};

    #[test]
    fn memory_of_a_large_record_is_given_back_at_the_end_of_the_message() {
        let mut message = Builder::new(Kind::Request, WriteOptions::default());
        message.group().unwrap().record().unwrap().pair("large", &vec![7; 4 * KEPT]).unwrap();
        let message = message.finish().unwrap();
        let mut decoder = Decoder::new(ReadOptions::default());
        let mut largest = 0;
        for mut piece in message.chunks(1000) {
            while decoder.read(&mut piece).unwrap().is_some() {}
            largest = largest.max(decoder.record.capacity());
        }
        assert!(decoder.is_between());
        assert!((4 * KEPT..9 * KEPT).contains(&largest), "{largest}");
        assert!(decoder.record.capacity() <= KEPT);
    }
}
