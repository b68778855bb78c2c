//! Events and timers of Windows, and waiting for several of them.
#![allow(unsafe_code)]

use std::{
    io,
    os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle},
    ptr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use windows_sys::Win32::{
    Foundation::{WAIT_FAILED, WAIT_OBJECT_0},
    System::Threading::{
        CREATE_WAITABLE_TIMER_HIGH_RESOLUTION, CancelWaitableTimer, CreateEventW, CreateWaitableTimerExW, INFINITE,
        ResetEvent, SetEvent, SetWaitableTimer, TIMER_ALL_ACCESS, WaitForMultipleObjects,
    },
};

/// The maximum number of objects that [`wait_any`] waits for.
const MAX_OBJECTS: usize = 8;

/// The longest time of a timer, a century: Windows adds it to the present time.
const MAX_TIMER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// 1970-01-01 in Windows' time, which begins in 1601.
const UNIX_TIME: Duration = Duration::from_secs(11_644_473_600);

/// An event: it is set by any thread and ends the waits for it.
#[derive(Debug)]
pub(crate) struct Event(OwnedHandle);

impl Event {
    /// Creates an event that is reset by the wait that it ends.
    pub(crate) fn once() -> io::Result<Self> {
        Self::new(false)
    }

    /// Creates an event that remains set until [`reset`](Self::reset).
    pub(crate) fn lasting() -> io::Result<Self> {
        Self::new(true)
    }

    fn new(lasting: bool) -> io::Result<Self> {
        // SAFETY: neither attributes nor a name are passed.
        let event = unsafe { CreateEventW(ptr::null(), lasting.into(), 0, ptr::null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was just created for us.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(event) }))
    }

    pub(crate) fn set(&self) -> io::Result<()> {
        // SAFETY: the handle is open.
        check(unsafe { SetEvent(self.0.as_raw_handle()) })
    }

    pub(crate) fn reset(&self) -> io::Result<()> {
        // SAFETY: the handle is open.
        check(unsafe { ResetEvent(self.0.as_raw_handle()) })
    }
}

impl AsHandle for Event {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.0.as_handle()
    }
}

/// A timer that ends a wait within a millisecond of its time. The time limit of a wait is up to 16 ms late.
#[derive(Debug)]
pub(crate) struct Timer(OwnedHandle);

impl Timer {
    /// Creates a timer. Before Windows 10 1803 it is as late as the time limit of a wait.
    pub(crate) fn new() -> io::Result<Self> {
        Self::with(CREATE_WAITABLE_TIMER_HIGH_RESOLUTION).or_else(|_| Self::coarse())
    }

    /// Creates a timer that is as late as the time limit of a wait.
    pub(crate) fn coarse() -> io::Result<Self> {
        Self::with(0)
    }

    fn with(flags: u32) -> io::Result<Self> {
        // SAFETY: neither attributes nor a name are passed.
        let timer = unsafe { CreateWaitableTimerExW(ptr::null(), ptr::null(), flags, TIMER_ALL_ACCESS) };
        if timer.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was just created for us.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(timer) }))
    }

    /// Makes the next wait for it end after this time, and not at the time that was set before. Time during which the
    /// machine sleeps does not count.
    pub(crate) fn set(&self, after: Duration) -> io::Result<()> {
        // A negative number is relative.
        self.set_due(-units(after.min(MAX_TIMER)))
    }

    /// Makes the next wait for it end at this time of the wall clock, or when the machine wakes if it sleeps then.
    pub(crate) fn set_at(&self, time: SystemTime) -> io::Result<()> {
        self.set_due(file_time(time))
    }

    fn set_due(&self, due: i64) -> io::Result<()> {
        // SAFETY: the time lives; there is no function to call.
        check(unsafe { SetWaitableTimer(self.0.as_raw_handle(), &raw const due, 0, None, ptr::null(), 0) })
    }

    /// Makes it end no wait until it is set again, unless it has expired already.
    pub(crate) fn stop(&self) -> io::Result<()> {
        // SAFETY: the handle is open.
        check(unsafe { CancelWaitableTimer(self.0.as_raw_handle()) })
    }
}

impl AsHandle for Timer {
    fn as_handle(&self) -> BorrowedHandle<'_> {
        self.0.as_handle()
    }
}

/// Waits until one of at most eight objects is set, and returns the index of the first that is; `None` if the time is
/// over, rounded up to milliseconds.
pub(crate) fn wait_any(objects: &[BorrowedHandle<'_>], timeout: Option<Duration>) -> io::Result<Option<usize>> {
    let mut handles = [ptr::null_mut(); MAX_OBJECTS];
    let handles = handles.get_mut(..objects.len()).ok_or(io::ErrorKind::InvalidInput)?;
    for (handle, object) in handles.iter_mut().zip(objects) {
        *handle = object.as_raw_handle();
    }
    // The largest number has no limit.
    let millis = |limit: Duration| limit.as_nanos().div_ceil(1_000_000).min(u128::from(INFINITE) - 1) as u32;
    let limit = timeout.map_or(INFINITE, millis);
    let count = handles.len() as u32;
    // SAFETY: the handles are borrowed, so they stay open; their number is given.
    let result = unsafe { WaitForMultipleObjects(count, handles.as_ptr(), 0, limit) };
    match result {
        WAIT_FAILED => Err(io::Error::last_os_error()),
        result if result - WAIT_OBJECT_0 < count => Ok(Some((result - WAIT_OBJECT_0) as usize)),
        _ => Ok(None),
    }
}

/// Returns a time in Windows' units, 100 ns, rounded up.
const fn units(time: Duration) -> i64 {
    time.as_nanos().div_ceil(100) as i64
}

/// Returns a time of the wall clock in these units since 1601; that of 1970 for any before. Any other fits, as a
/// `SystemTime` of Windows is such a number.
fn file_time(time: SystemTime) -> i64 {
    units(UNIX_TIME + time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn check(done: windows_sys::core::BOOL) -> io::Result<()> {
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{thread, time::Instant};

    #[test]
    fn a_wait_ends_with_the_first_object_that_is_set() {
        let (once, lasting) = (Event::once().unwrap(), Event::lasting().unwrap());
        let wait = || wait_any(&[once.as_handle(), lasting.as_handle()], Some(Duration::ZERO)).unwrap();
        assert_eq!(wait(), None);
        once.set().unwrap();
        lasting.set().unwrap();
        assert_eq!((wait(), wait(), wait()), (Some(0), Some(1), Some(1)));
        lasting.reset().unwrap();
        assert_eq!(wait(), None);
    }

    #[test]
    fn another_thread_ends_a_wait() {
        let event = Event::once().unwrap();
        thread::scope(|s| {
            s.spawn(|| event.set().unwrap());
            assert_eq!(wait_any(&[event.as_handle()], None).unwrap(), Some(0));
        });
    }

    #[test]
    fn a_timer_ends_a_wait_when_it_was_set_last_for() {
        let timer = Timer::new().unwrap();
        timer.set(Duration::MAX).unwrap();
        timer.set(Duration::from_millis(3)).unwrap();
        assert_eq!(wait_any(&[timer.as_handle()], None).unwrap(), Some(0));
        assert_eq!(wait_any(&[timer.as_handle()], Some(Duration::ZERO)).unwrap(), None, "it ends one wait");
    }

    #[test]
    fn a_timer_ends_a_wait_at_a_time_of_the_wall_clock() {
        let timer = Timer::coarse().unwrap();
        let time = SystemTime::now() + Duration::from_millis(30);
        timer.set_at(time).unwrap();
        assert_eq!(wait_any(&[timer.as_handle()], None).unwrap(), Some(0));
        // The wait ends at a tick of the clock, which may be the one before.
        assert!(SystemTime::now() + Duration::from_millis(20) >= time);
        timer.set_at(UNIX_EPOCH).unwrap();
        assert_eq!(wait_any(&[timer.as_handle()], None).unwrap(), Some(0), "a time of the past has come");
        let later = MAX_TIMER * 2;
        assert_eq!(file_time(UNIX_EPOCH + later), units(UNIX_TIME + later), "a clock may be set to any year");
        timer.set_at(UNIX_EPOCH + later).unwrap();
        assert_eq!(wait_any(&[timer.as_handle()], Some(Duration::ZERO)).unwrap(), None, "it has not come");
    }

    #[test]
    fn a_timer_that_was_stopped_ends_no_wait() {
        const AFTER: Duration = Duration::from_secs(1);
        loop {
            let (timer, begun) = (Timer::new().unwrap(), Instant::now());
            timer.set(AFTER).unwrap();
            timer.stop().unwrap();
            // Otherwise other programs have delayed this one until the timer may have expired.
            if begun.elapsed() < AFTER / 2 {
                return assert_eq!(wait_any(&[timer.as_handle()], Some(2 * AFTER)).unwrap(), None);
            }
        }
    }
}
