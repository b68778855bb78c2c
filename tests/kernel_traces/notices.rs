//! The replay can fail: recordings that are edited so that they say something that the kernel does not do must not
//! pass.

use std::time::Duration;

use crate::{
    read,
    replay::replay,
    trace::{Trace, What},
};

/// Short recordings that between them have a retry, a cookie, both keepalives, staged packets, a handshake from either
/// side and all that a line can say.
const EDITED: [(&str, u64); 4] =
    [("cookie-reply", 10), ("one-way-in-two", 45), ("unconfirmed-responder", 20), ("roaming", 18)];
const SECOND: Duration = Duration::from_secs(1);

/// Applies `edit` to each output of the recordings, one at a time. It returns false if there is nothing to edit.
fn each_output_matters(edit: impl Fn(&mut Trace, usize) -> bool) {
    let mut edits = 0;
    for (name, until) in EDITED {
        let trace = read(name, until);
        replay(&trace).unwrap();
        for i in 0..trace.lines.len() {
            let mut edited = trace.clone();
            if matches!(trace.lines[i].what, What::Tx | What::TunRecv) && edit(&mut edited, i) {
                let place = trace.place(&trace.lines[i]);
                let why = replay(&edited).expect_err(&place);
                assert!(why.contains(&format!("{name}.trace")), "{place}: {why}");
                edits += 1;
            }
        }
    }
    assert!(edits >= 3, "{edits} edits");
}

/// Moves a line and everything after it.
fn delay(trace: &mut Trace, i: usize) {
    trace.lines[i..].iter_mut().for_each(|line| line.at += SECOND);
    trace.until += SECOND;
}

#[test]
fn an_output_too_many() {
    each_output_matters(|trace, i| {
        trace.lines.remove(i);
        true
    });
}

#[test]
fn an_output_too_few() {
    each_output_matters(|trace, i| {
        trace.lines.insert(i, trace.lines[i].clone());
        true
    });
}

#[test]
fn an_output_that_comes_too_early() {
    each_output_matters(|trace, i| {
        delay(trace, i);
        true
    });
}

#[test]
fn an_output_that_comes_too_late() {
    each_output_matters(|trace, i| {
        let room = i > 0 && trace.lines[i].at - trace.lines[i - 1].at > SECOND;
        if room {
            trace.lines[i..].iter_mut().for_each(|line| line.at -= SECOND);
        }
        room
    });
}

/// Every word of every line, and what a line does not say.
#[test]
fn an_output_that_is_another() {
    for (name, until) in [("cookie-reply", 10), ("unconfirmed-responder", 20)] {
        let trace = read(name, until);
        for (i, line) in trace.lines.iter().enumerate().filter(|(_, l)| matches!(l.what, What::Tx | What::TunRecv)) {
            let words: Vec<_> = line.text.split(' ').collect();
            for w in 1..=words.len() {
                let mut changed = words.clone();
                changed.splice(w..words.len().min(w + 1), ["port=2"]);
                let mut edited = trace.clone();
                edited.lines[i].text = changed.join(" ");
                let why = replay(&edited).expect_err(&edited.lines[i].text);
                assert!(why.contains(&format!("`{}`", line.text)), "{why}");
            }
        }
    }
}

#[test]
fn outputs_in_another_order() {
    let mut trace = read("unconfirmed-responder", 20);
    let i = trace.lines.iter().position(|line| line.text.contains("inner=84")).unwrap();
    assert!(trace.lines[i + 1].text.contains("inner=100"));
    trace.lines.swap(i, i + 1);
    assert!(replay(&trace).is_err());
}

/// A datagram that is not what it is called cannot stand for it.
#[test]
fn an_input_that_does_not_authenticate() {
    let mut trace = read("unconfirmed-responder", 20);
    let confirmation = trace.lines.iter_mut().find(|line| line.text.starts_with("rx data")).unwrap();
    let broken = Trace::parse("x", "at 3.001 kernel rx data 32 session=1 bad", SECOND).unwrap();
    confirmation.what = broken.lines[0].what.clone();
    assert!(replay(&trace).unwrap_err().contains("did nothing"));
}

#[test]
fn a_line_that_is_not_understood() {
    for line in [
        "",
        "at 1 kernel link up",
        "at 1.000 kernel link sideways",
        "at 1.000 kernel rx data 32 session=1 new=1",
        "at 1.000 kernel rx data",
        "at 1.000 kernel sleep",
        "at 1.000 kernel link up\nat 0.999 kernel link down",
    ] {
        assert!(Trace::parse("x", line, SECOND).is_err(), "{line}");
    }
}
