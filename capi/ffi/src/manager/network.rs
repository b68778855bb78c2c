//! The system's network, as a function of the app configures it.

use std::{
    ffi::{CString, c_char, c_void},
    ptr,
    sync::Arc,
};

use super::reason::Reason;
use crate::plumbing::{callback::Slot, text::c_text};
use wg_embed_manager::messages::NetworkSettingsRequest;
use wg_embed_tunnel::{engine::SystemNetwork, lines};

pub(super) type ConfigureFn =
    unsafe extern "C" fn(*mut c_void, i32, *const c_char, *const c_char, *mut c_char, usize) -> i32;

/// The app's function.
#[derive(Clone)]
pub(super) struct AppNetwork {
    pub(super) manager: i32,
    pub(super) configure: Arc<Slot<ConfigureFn>>,
}

/// Has the app undo what it has configured.
struct Undo {
    network: AppNetwork,
    name: CString,
}

impl AppNetwork {
    /// `None` if the function was given up.
    fn ask(&self, name: &CString, settings: *const c_char, reason: &mut Reason) -> Option<i32> {
        self.configure.call(|configure, user| {
            let (text, room) = reason.room();
            // SAFETY: who set the function allows this call, on this thread; texts and room live until it returns.
            unsafe { configure(user, self.manager, name.as_ptr(), settings, text, room) }
        })
    }
}

impl SystemNetwork for AppNetwork {
    fn apply(&self, interface: &str, settings: &NetworkSettingsRequest) -> Result<Box<dyn Send + Sync>, String> {
        let (name, text) = (c_text(interface), c_text(lines::write(settings)));
        let mut reason = Reason::new();
        match self.ask(&name, text.as_ptr(), &mut reason) {
            Some(0) => Ok(Box::new(Undo { network: self.clone(), name })),
            Some(code) => Err(reason.text(code)),
            None => Err("the tunnel is being ended".into()),
        }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        self.network.ask(&self.name, ptr::null(), &mut Reason::new());
    }
}
