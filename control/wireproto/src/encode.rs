//! Builds a message from records in memory.

use crate::{
    encoder::{Encoder, MAX_HEAD, Sum, pair_size},
    error::{Error, Field, Problem, Result},
    level::{GROUP, GROUPS, RECORD},
    options::{Kind, WriteOptions},
    readings::{ALLOCATORS, TRAILER},
    record::Pair,
};

/// A record to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRecord<'a> {
    /// The pairs.
    pub pairs: &'a [Pair<'a>],
    /// The pairs of the request's record; only in a response.
    pub copy: Option<&'a [Pair<'a>]>,
}

/// Builds a message of groups of records. All sizes are computed before its one allocation is made.
///
/// # Errors
/// `Empty` without groups, records or pairs; `NoCopy` for a response's record without a copy, `Sequence` for a
/// request's with one; `TooLarge` above the limit; `NoMemory`.
pub fn encode(kind: Kind, groups: &[&[NewRecord<'_>]], options: &WriteOptions) -> Result<Vec<u8>> {
    let sizes = groups.iter().map(|group| header_and(group_size(group)));
    let all = narrow(sizes.sum(), GROUPS.size)?;
    let sum = if options.checksum || kind != Kind::Request { Sum::Later } else { Sum::None };
    let mut encoder = Encoder::new(kind, *options);
    let mut out = Vec::new();
    // Above the limit, the encoder fails.
    if all as usize <= options.limit {
        out.try_reserve_exact(MAX_HEAD + all as usize + TRAILER).map_err(|e| Error::new(e.into(), Field::Groups, 0))?;
    }
    encoder.start(&mut out, sum, count(groups.len(), GROUPS.count)?, all)?;
    for group in groups {
        encoder.group(&mut out, count(group.len(), GROUP.count)?, narrow(group_size(group), GROUP.size)?)?;
        for record in *group {
            if kind == Kind::Request && record.copy.is_some() {
                return Err(Error::new(Problem::Sequence, Field::CopyCount, out.len() as u64));
            }
            let size = narrow(record_size(record), RECORD.size)?;
            encoder.record(&mut out, count(record.pairs.len(), RECORD.count)?, size)?;
            pairs(&mut encoder, &mut out, record.pairs)?;
            match record.copy {
                Some(copy) => {
                    encoder.copy(
                        &mut out,
                        count(copy.len(), Field::CopyCount)?,
                        narrow(pairs_size(copy), Field::CopySize)?,
                    )?;
                    pairs(&mut encoder, &mut out, copy)?;
                }
                None if kind != Kind::Request => {
                    return Err(Error::new(Problem::NoCopy, Field::CopyCount, out.len() as u64));
                }
                None => {}
            }
        }
    }
    if let Some(sum) = encoder.finish(&mut out)? {
        for (to, from) in out.iter_mut().skip(encoder.sum_range().start).zip(sum.to_be_bytes()) {
            *to = from;
        }
    }
    Ok(out)
}

fn pairs(encoder: &mut Encoder, out: &mut Vec<u8>, pairs: &[Pair<'_>]) -> Result<()> {
    pairs.iter().try_for_each(|pair| encoder.pair(out, pair.name, pair.value))
}

fn header_and(content: u64) -> u64 {
    ALLOCATORS as u64 + content
}

fn pairs_size(pairs: &[Pair<'_>]) -> u64 {
    pairs.iter().map(|pair| pair_size(pair.name.len(), pair.value.len())).sum()
}

fn record_size(record: &NewRecord<'_>) -> u64 {
    pairs_size(record.pairs) + record.copy.map_or(0, |copy| header_and(pairs_size(copy)))
}

fn group_size(group: &[NewRecord<'_>]) -> u64 {
    group.iter().map(|record| header_and(record_size(record))).sum()
}

fn count(count: usize, field: Field) -> Result<u32> {
    narrow(count as u64, field)
}

fn narrow(size: u64, field: Field) -> Result<u32> {
    u32::try_from(size).map_err(|_| Error::new(Problem::TooLarge { size, limit: u32::MAX.into() }, field, 0))
}
