//! Peers that the app supplies, and their changes.

use std::{
    ffi::{c_char, c_void},
    sync::{Arc, Mutex},
};

use super::reason::Reason;
use crate::{
    plumbing::callback::Slot,
    types::manager::{wg_manager_header_t, wg_manager_request_t},
};
use wg_embed::{
    error::{Error, ErrorKind},
    sync, thread,
};
use wg_embed_manager::{
    messages::StartRequest,
    tunnel::{Changes, Plan, Source},
};
use wg_embed_tunnel::{contents::Contents, engine::Configuration};
use zeroize::Zeroizing;

pub(super) type StartFn =
    unsafe extern "C" fn(*mut c_void, i32, *const wg_manager_request_t, *mut c_char, usize) -> i32;

/// The app as a source.
pub(crate) struct AppSource {
    manager: i32,
    start: Arc<Slot<StartFn>>,
    /// The thread that is inside the app's function. It is not part of the state, which is locked while an update waits
    /// for room: callbacks, for which that may wait, ask for this.
    finding: Mutex<Option<thread::Id>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last state from the app.
    contents: Option<Contents>,
    /// Receives the differences from that state, once a start has it.
    changes: Option<Changes<Configuration>>,
    is_closed: bool,
}

impl AppSource {
    pub(super) fn new(manager: i32, start: Arc<Slot<StartFn>>) -> Self {
        Self { manager, start, finding: Mutex::default(), state: Mutex::default() }
    }

    /// Returns whether this thread is inside the callback that supplies the peers. Never waits.
    pub(crate) fn is_finding(&self) -> bool {
        *sync::lock(&self.finding) == Some(thread::id())
    }

    /// Sets the present state from the app.
    pub(crate) fn update(&self, new: Contents) -> Result<(), Error> {
        let closed = || Error::new(ErrorKind::Closed, "the manager's tunnel has ended");
        // Held while it is sent: changes go out in the order in which they were made. The receiver does not need it.
        let mut state = sync::lock(&self.state);
        if state.is_closed {
            return Err(closed());
        }
        if let (Some(changes), Some(old)) = (&state.changes, &state.contents)
            && let Some(change) = old.change(&new)
            && !changes.send(change)
        {
            return Err(closed());
        }
        state.contents = Some(new);
        Ok(())
    }

    /// Forgets what the app has given.
    pub(super) fn close(&self) {
        *sync::lock(&self.state) = State { is_closed: true, ..State::default() };
    }
}

impl Source for AppSource {
    type Configuration = Configuration;

    fn resolve(&self, request: &StartRequest, changes: Changes<Configuration>) -> Result<Plan<Configuration>, String> {
        let request = Request::of(request)?;
        // From here on updates do not wait for room: the app's function may call them.
        sync::lock(&self.state).changes = None;
        *sync::lock(&self.finding) = Some(thread::id());
        let mut reason = Reason::new();
        let answer = self.start.call(|start, user| {
            request.with(|request| {
                let (text, room) = reason.room();
                // SAFETY: who set the function allows this call, on this thread; request and room live until it
                // returns.
                unsafe { start(user, self.manager, request, text, room) }
            })
        });
        *sync::lock(&self.finding) = None;
        let mut state = sync::lock(&self.state);
        match answer {
            Some(0) => {}
            Some(code) => return Err(reason.text(code)),
            None => return Err("the tunnel is being ended".into()),
        }
        let contents = state.contents.as_ref().ok_or("the app has given no configuration")?;
        let plan = contents.plan();
        state.changes = Some(changes);
        Ok(plan)
    }
}

/// The texts of a request, each with a zero byte at its end.
struct Request {
    /// In the order of the struct.
    texts: [Zeroizing<Vec<u8>>; 5],
    headers: Vec<[Zeroizing<Vec<u8>>; 2]>,
    tun_fd: i32,
}

impl Request {
    fn of(request: &StartRequest) -> Result<Self, String> {
        let headers = request.headers.iter();
        let headers = headers.map(|header| Ok([text("a header", &header.name)?, text("a header", &header.value)?]));
        Ok(Self {
            texts: [
                text("the URL", &request.coder_url)?,
                text("the token", &request.api_token)?,
                text("the device's id", &request.device_id)?,
                text("the device's system", &request.device_os)?,
                text("the version", &request.coder_desktop_version)?,
            ],
            headers: headers.collect::<Result<_, String>>()?,
            tun_fd: if request.tunnel_file_descriptor > 0 { request.tunnel_file_descriptor } else { -1 },
        })
    }

    /// Lends it to `call`.
    fn with<R>(&self, call: impl FnOnce(*const wg_manager_request_t) -> R) -> R {
        let pointer = |text: &Zeroizing<Vec<u8>>| text.as_ptr().cast::<c_char>();
        let headers = self.headers.iter();
        let headers: Vec<_> =
            headers.map(|[name, value]| wg_manager_header_t { name: pointer(name), value: pointer(value) }).collect();
        let [url, token, device_id, device_os, version] = self.texts.each_ref().map(pointer);
        call(&wg_manager_request_t {
            struct_size: size_of::<wg_manager_request_t>(),
            url,
            token,
            device_id,
            device_os,
            version,
            headers: headers.as_ptr(),
            header_count: headers.len(),
            tun_fd: self.tun_fd,
            reserved: 0,
        })
    }
}

/// Converts a text for C. A zero byte within it is refused, as it would truncate the text.
fn text(name: &str, text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    if text.contains('\0') {
        return Err(format!("{name} has a zero byte"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 1));
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plumbing::callback::NewCallback;
    use std::{sync::mpsc, time::Duration};

    unsafe extern "C" fn finds(
        _: *mut c_void,
        _: i32,
        _: *const wg_manager_request_t,
        _: *mut c_char,
        _: usize,
    ) -> i32 {
        0
    }

    fn named(name: &str) -> Contents {
        let mut contents = Contents::of_conf(b"", name, b"[Interface]\n").unwrap();
        contents.settings.mtu += u32::try_from(name.len()).unwrap();
        contents
    }

    /// A callback runs on the thread that makes room.
    #[test]
    fn a_callback_is_refused_while_an_update_waits_for_room() {
        let start = Arc::<Slot<StartFn>>::default();
        start.set(NewCallback::new(Some(finds), std::ptr::null_mut(), None));
        let source = Arc::new(AppSource::new(1, start));
        source.update(named("a")).unwrap();
        let (waits, waiting) = mpsc::channel();
        let (make_room, room) = mpsc::channel();
        let room = Mutex::new(room);
        let changes = Changes::new(move |_| {
            waits.send(()).unwrap();
            room.lock().unwrap().recv().is_ok()
        });
        source.resolve(&StartRequest::default(), changes).unwrap();
        std::thread::scope(|scope| {
            let update = scope.spawn(|| source.update(named("bb")));
            waiting.recv().unwrap();
            let (answer, answered) = mpsc::channel();
            let asked = source.clone();
            std::thread::spawn(move || answer.send(asked.is_finding()));
            let is_finding = answered.recv_timeout(Duration::from_secs(60));
            make_room.send(()).unwrap();
            assert_eq!(is_finding, Ok(false));
            update.join().unwrap().unwrap();
        });
    }
}
