//! The system's network, configured by a callback of the app.

use std::{
    ffi::{CString, c_char, c_void},
    ptr,
    sync::Arc,
};

use super::reason::Reason;
use crate::plumbing::{callback::Slot, text::c_text};
use wg_embed_manager::messages::NetworkSettingsRequest;
use wg_embed_tunnel::{
    engine::{ConfiguredNetwork, SystemNetwork},
    lines,
};

pub(super) type ConfigureFn =
    unsafe extern "C" fn(*mut c_void, i32, *const c_char, *const c_char, *mut c_char, usize) -> i32;

/// The app's function.
#[derive(Clone)]
pub(super) struct AppNetwork {
    pub(super) manager: i32,
    pub(super) configure: Arc<Slot<ConfigureFn>>,
}

/// Around one interface. Dropping it has the app undo it.
struct Configured {
    network: AppNetwork,
    name: CString,
    settings: CString,
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

    fn set(&self, name: &CString, settings: &CString) -> Result<(), String> {
        let mut reason = Reason::new();
        match self.ask(name, settings.as_ptr(), &mut reason) {
            Some(0) => Ok(()),
            Some(code) => Err(reason.text(code)),
            None => Err("the tunnel is being ended".into()),
        }
    }
}

impl SystemNetwork for AppNetwork {
    fn configure(
        &self,
        interface: &str,
        settings: &NetworkSettingsRequest,
        _: u32,
    ) -> Result<Box<dyn ConfiguredNetwork>, String> {
        let (name, settings) = (c_text(interface), c_text(lines::write(settings)));
        self.set(&name, &settings)?;
        Ok(Box::new(Configured { network: self.clone(), name, settings }))
    }
}

impl ConfiguredNetwork for Configured {
    fn update(&mut self, settings: &NetworkSettingsRequest, _: u32) -> Result<(), String> {
        let settings = c_text(lines::write(settings));
        if settings != self.settings {
            self.network.set(&self.name, &settings)?;
            self.settings = settings;
        }
        Ok(())
    }

    fn mark(&self) -> u32 {
        // The app knows that of its configuration, and can route by it.
        0
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        self.network.ask(&self.name, ptr::null(), &mut Reason::new());
    }
}
