//! The event log of Windows, for what an administrator must see: starts, ends and failures.
#![allow(unsafe_code)]

use std::ptr;

use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, RegisterEventSourceW, ReportEventW,
};

use super::wide;

/// The importance of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// A start or an end.
    Information,
    /// A failure.
    Error,
}

/// Writes one text to the log, under the name of the service. There is no message file: the viewer shows the text with
/// a remark that the description is missing. What the system refuses is lost.
pub fn report(service: &str, severity: Severity, text: &str) {
    let (service, text) = (wide(service), wide(text));
    // SAFETY: the name ends with a zero; NULL is this computer.
    let log = unsafe { RegisterEventSourceW(ptr::null(), service.as_ptr()) };
    if log.is_null() {
        return;
    }
    let kind = match severity {
        Severity::Information => EVENTLOG_INFORMATION_TYPE,
        Severity::Error => EVENTLOG_ERROR_TYPE,
    };
    let texts = [text.as_ptr()];
    // SAFETY: there is one text, which ends with a zero, and no data.
    unsafe { ReportEventW(log, kind, 0, 1, ptr::null_mut(), 1, 0, texts.as_ptr(), ptr::null()) };
    // SAFETY: it is open, and closed once.
    unsafe { DeregisterEventSource(log) };
}
