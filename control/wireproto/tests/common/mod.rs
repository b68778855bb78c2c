//! What tests share: messages as owned values, and all ways to read and to write them.
#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use wg_embed_wireproto::{
    Builder, Decoder, Encoder, Error, Event, Head, Kind, Message, NewRecord, Order, Pair, Pairs, ReadOptions, Record,
    Sum, WriteOptions, encode, encoder::pair_size,
};

pub type OwnedPairs = Vec<(String, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    pub pairs: OwnedPairs,
    pub copies: Vec<OwnedPairs>,
}

/// Without allocators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub kind: Kind,
    pub groups: Vec<Vec<OwnedRecord>>,
}

/// Bytes in hexadecimal, with spaces and bars.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.as_chunks::<2>().0;
    pairs.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

pub fn pairs(all: &[(&str, &[u8])]) -> OwnedPairs {
    all.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect()
}

/// A record of a request.
pub fn command(all: &[(&str, &[u8])]) -> OwnedRecord {
    OwnedRecord { pairs: pairs(all), copies: Vec::new() }
}

/// A record of a response.
pub fn answer(all: &[(&str, &[u8])], copy: &[(&str, &[u8])]) -> OwnedRecord {
    OwnedRecord { pairs: pairs(all), copies: vec![pairs(copy)] }
}

fn owned_pairs(pairs: Pairs<'_>) -> OwnedPairs {
    assert_eq!(pairs.iter().count(), pairs.len());
    pairs.iter().map(|pair| (pair.name.to_owned(), pair.value.to_vec())).collect()
}

fn owned(record: Record<'_>) -> OwnedRecord {
    OwnedRecord { pairs: owned_pairs(record.pairs()), copies: record.copies().map(owned_pairs).collect() }
}

/// What the static reader finds.
pub fn parse(bytes: &[u8], options: &ReadOptions) -> Result<(Head, Content), Error> {
    let message = Message::parse(bytes, options)?;
    let group = |group: wg_embed_wireproto::Group<'_>| {
        assert_eq!(group.records().count(), group.len());
        group.records().map(owned).collect()
    };
    let content = Content { kind: message.head().kind, groups: message.groups().map(group).collect() };
    assert_eq!(content.groups.len(), message.head().groups as usize);
    Ok((*message.head(), content))
}

/// What the streaming reader finds in these pieces: one message after the other.
pub fn feed<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    options: &ReadOptions,
) -> Result<Vec<(Head, Content)>, Error> {
    let mut decoder = Decoder::new(*options);
    let mut messages = Vec::new();
    let mut current: Option<(Head, Content)> = None;
    for mut piece in pieces {
        while let Some(event) = decoder.read(&mut piece)? {
            match event {
                Event::Start(head) => current = Some((head, Content { kind: head.kind, groups: Vec::new() })),
                Event::Group { records, .. } => {
                    current.as_mut().unwrap().1.groups.push(Vec::with_capacity(records.min(9) as usize));
                }
                Event::Record(record) => {
                    current.as_mut().unwrap().1.groups.last_mut().unwrap().push(owned(record));
                }
                Event::End => {
                    assert!(decoder.is_between());
                    messages.push(current.take().unwrap());
                }
            }
        }
        assert!(piece.is_empty());
    }
    decoder.finish()?;
    Ok(messages)
}

/// By [`encode`].
pub fn encoded(content: &Content, options: &WriteOptions) -> Result<Vec<u8>, Error> {
    fn borrowed(pairs: &OwnedPairs) -> Vec<Pair<'_>> {
        pairs.iter().map(|(name, value)| Pair::new(name, value)).collect()
    }
    type Borrowed<'a> = (Vec<Pair<'a>>, Option<Vec<Pair<'a>>>);
    let groups: Vec<Vec<Borrowed<'_>>> = content
        .groups
        .iter()
        .map(|group| group.iter().map(|r| (borrowed(&r.pairs), r.copies.first().map(borrowed))).collect())
        .collect();
    let groups: Vec<Vec<NewRecord<'_>>> = groups
        .iter()
        .map(|group| group.iter().map(|(pairs, copy)| NewRecord { pairs, copy: copy.as_deref() }).collect())
        .collect();
    let groups: Vec<&[NewRecord<'_>]> = groups.iter().map(|group| &group[..]).collect();
    encode(content.kind, &groups, options)
}

/// By [`Builder`]; values are cut into pieces of `cut` bytes.
pub fn built(content: &Content, options: &WriteOptions, cut: usize) -> Result<Vec<u8>, Error> {
    let mut builder = Builder::new(content.kind, *options);
    let add = |builder: &mut Builder, pairs: &OwnedPairs| {
        for (name, value) in pairs {
            let mut pieces = value.chunks(cut);
            builder.pair(name, pieces.next().unwrap_or_default())?;
            pieces.try_for_each(|piece| builder.value(piece).map(|_| ()))?;
        }
        Ok(())
    };
    for group in &content.groups {
        builder.group()?;
        for record in group {
            builder.record()?;
            add(&mut builder, &record.pairs)?;
            for copy in &record.copies {
                builder.copy()?;
                add(&mut builder, copy)?;
            }
        }
    }
    builder.finish()
}

/// By [`Encoder`], twice if there is a checksum; values are cut into pieces of `cut` bytes and not copied to it.
pub fn streamed(content: &Content, options: &WriteOptions, cut: usize) -> Result<Vec<u8>, Error> {
    if content.kind == Kind::Request && !options.checksum {
        return Ok(streamed_once(content, options, Sum::None, cut)?.0);
    }
    let (mut first, sum) = streamed_once(content, options, Sum::Later, cut)?;
    let (second, again) = streamed_once(content, options, Sum::Known(sum.unwrap()), cut)?;
    assert_eq!(again, sum);
    let range = Encoder::new(content.kind, *options).sum_range();
    first[range].copy_from_slice(&sum.unwrap().to_be_bytes());
    assert_eq!(first, second);
    Ok(second)
}

fn streamed_once(
    content: &Content,
    options: &WriteOptions,
    sum: Sum,
    cut: usize,
) -> Result<(Vec<u8>, Option<u32>), Error> {
    let size_of = |pairs: &OwnedPairs| pairs.iter().map(|(n, v)| pair_size(n.len(), v.len())).sum::<u64>();
    let copy_size = |record: &OwnedRecord| record.copies.iter().map(|copy| 8 + size_of(copy)).sum::<u64>();
    let record_size = |record: &OwnedRecord| size_of(&record.pairs) + copy_size(record);
    let group_size = |group: &Vec<OwnedRecord>| group.iter().map(|record| 8 + record_size(record)).sum::<u64>();
    let all: u64 = content.groups.iter().map(|group| 8 + group_size(group)).sum();
    let (mut sent, mut out) = (Vec::new(), Vec::new());
    let mut encoder = Encoder::new(content.kind, *options);
    encoder.start(&mut out, sum, content.groups.len() as u32, all as u32)?;
    let mut add = |encoder: &mut Encoder, out: &mut Vec<u8>, pairs: &OwnedPairs| -> Result<(), Error> {
        for (name, value) in pairs {
            if value.len() <= cut {
                encoder.pair(out, name, value)?;
                continue;
            }
            encoder.pair_head(out, name, value.len() as u32)?;
            sent.append(out);
            for piece in value.chunks(cut) {
                encoder.value(piece)?;
                sent.extend_from_slice(piece);
            }
        }
        Ok(())
    };
    for group in &content.groups {
        encoder.group(&mut out, group.len() as u32, group_size(group) as u32)?;
        for record in group {
            encoder.record(&mut out, record.pairs.len() as u32, record_size(record) as u32)?;
            add(&mut encoder, &mut out, &record.pairs)?;
            for copy in &record.copies {
                encoder.copy(&mut out, copy.len() as u32, size_of(copy) as u32)?;
                add(&mut encoder, &mut out, copy)?;
            }
        }
    }
    let sum = encoder.finish(&mut out)?;
    sent.append(&mut out);
    Ok((sent, sum))
}

pub fn reader(order: Order) -> ReadOptions {
    ReadOptions { order, ..ReadOptions::default() }
}

pub fn writer(order: Order, checksum: bool) -> WriteOptions {
    WriteOptions { order, checksum, ..WriteOptions::default() }
}
