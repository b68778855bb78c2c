//! WireProto: conversion of messages to and from records, and the client of a tunnel's handle.

use std::sync::{Arc, OnceLock};

use pyo3::{prelude::*, types::PyBytes};
use wg_embed::device::{Event, Tunnel};
use wg_embed_wireproto::{Builder, Error, Kind, Message, Order, ReadOptions, Record, Status, WriteOptions};
use wg_embed_wireproto_service::{Hub, Options, Session};
use zeroize::Zeroizing;

/// The client of the service.
#[derive(Default)]
pub(crate) struct Client {
    hub: Arc<Hub>,
    /// Created by the first call.
    session: OnceLock<Session>,
}

impl Client {
    /// Queues an event for the client, if it uses events.
    pub(crate) fn note(&self, event: &Event) {
        self.hub.note(event);
    }

    /// Answers a request. The response is empty only if there is no memory for one.
    pub(crate) fn call(&self, tunnel: &Tunnel, request: &[u8]) -> Zeroizing<Vec<u8>> {
        self.session.get_or_init(|| Session::new(Options::default(), Some(self.hub.clone()))).call(tunnel, request)
    }

    /// Ends waits for events.
    pub(crate) fn close(&self) {
        self.hub.close();
    }
}

/// Names and values.
type Pairs = Vec<(String, Vec<u8>)>;

const fn order(little_endian: bool) -> Order {
    if little_endian { Order::Little } else { Order::Big }
}

fn wrong(error: &Error) -> PyErr {
    pyo3::exceptions::PyValueError::new_err(error.to_string())
}

/// A request of groups of records.
#[pyfunction]
pub(crate) fn build_request<'py>(
    py: Python<'py>,
    groups: Vec<Vec<Pairs>>,
    checksum: bool,
    little_endian: bool,
) -> PyResult<Bound<'py, PyBytes>> {
    let options = WriteOptions { order: order(little_endian), checksum, ..WriteOptions::default() };
    let build = || {
        let mut builder = Builder::new(Kind::Request, options);
        for group in &groups {
            builder.group()?;
            for record in group {
                builder.record()?;
                for (name, value) in record {
                    builder.pair(name, value)?;
                }
            }
        }
        builder.finish().map(Zeroizing::new)
    };
    let message = build().map_err(|error| wrong(&error))?;
    Ok(PyBytes::new(py, &message))
}

/// The pairs of a record, and those of its copy if it has one.
type Parsed<'py> = (Vec<(String, Bound<'py, PyBytes>)>, Option<Vec<(String, Bound<'py, PyBytes>)>>);

/// A message: None for a request, or whether all commands of a response succeeded; whether it has a checksum; and the
/// records of each group.
#[pyfunction]
pub(crate) fn parse_message<'py>(
    py: Python<'py>,
    message: &[u8],
    little_endian: bool,
) -> PyResult<(Option<bool>, bool, Vec<Vec<Parsed<'py>>>)> {
    let options = ReadOptions { order: order(little_endian), ..ReadOptions::default() };
    let message = Message::parse(message, &options).map_err(|error| wrong(&error))?;
    let head = message.head();
    let status = match head.kind {
        Kind::Request => None,
        Kind::Response(status) => Some(status == Status::Ack),
    };
    let pairs = |pairs: wg_embed_wireproto::Pairs<'_>| {
        pairs.iter().map(|pair| (pair.name.to_owned(), PyBytes::new(py, pair.value))).collect()
    };
    let parsed = |record: Record<'_>| (pairs(record.pairs()), record.copy().map(pairs));
    let groups = message.groups().map(|group| group.records().map(parsed).collect()).collect();
    Ok((status, head.checksum.is_some(), groups))
}
