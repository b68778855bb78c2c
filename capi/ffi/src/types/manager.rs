//! Options and state of a managed tunnel.

use std::{
    ffi::{c_char, c_void},
    mem::offset_of,
    ptr,
};

use crate::{
    plumbing::{
        callback::wg_destroy_fn_t,
        log::{WG_LOG_INFO, WG_LOG_INHERIT, wg_log_fn_t},
        sized::SizedStruct,
    },
    types::{key::WG_KEY_LEN, protect::wg_protect_fn_t, resolve::wg_resolve_fn_t},
};

/// Length of the id of a workspace or an agent, a UUID, in bytes.
///
/// Since: 0.1.0
pub const WG_MANAGER_ID_LEN: usize = 16;

/// Size of the buffer for the reason of a refusal, including the terminating zero byte.
///
/// Since: 0.1.0
pub const WG_MANAGER_REASON_LEN: usize = 1024;

/// The inside of a managed tunnel if the manager supplies no TUN.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_manager_network_t {
    /// A new interface if the process may create one, otherwise a userspace network.
    WG_MANAGER_AUTO = 0,
    /// A new interface (Linux).
    WG_MANAGER_INTERFACE = 1,
    /// A userspace network, without root. It answers pings; the wg_net_ functions cannot use it.
    WG_MANAGER_USERSPACE = 2,
}

/// Who configures the system's network: addresses, routes and DNS.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_manager_settings_t {
    /// As managers on this system expect it: WG_MANAGER_ASK on Apple's systems. Elsewhere WG_MANAGER_OWN, or
    /// WG_MANAGER_ASK for an interface of the system without `configure`.
    WG_MANAGER_DEFAULT = 0,
    /// The manager. It gets a request when the interface exists, before the tunnel starts.
    WG_MANAGER_ASK = 1,
    /// `configure` of the options. Without it, a start with an interface of the system is refused.
    WG_MANAGER_OWN = 2,
}

/// The status of a workspace, for the manager's user interface.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_manager_status_t {
    /// The status cannot be determined.
    WG_MANAGER_UNKNOWN = 0,
    /// Its start is pending.
    WG_MANAGER_PENDING = 1,
    /// It is being started.
    WG_MANAGER_STARTING = 2,
    /// It is running.
    WG_MANAGER_RUNNING = 3,
    /// It is being stopped.
    WG_MANAGER_STOPPING = 4,
    /// It is stopped.
    WG_MANAGER_STOPPED = 5,
    /// Its start or stop has failed.
    WG_MANAGER_FAILED = 6,
    /// Its start is being cancelled.
    WG_MANAGER_CANCELING = 7,
    /// Its start was cancelled.
    WG_MANAGER_CANCELED = 8,
    /// It is being deleted.
    WG_MANAGER_DELETING = 9,
    /// It no longer exists.
    WG_MANAGER_DELETED = 10,
}

pub use wg_manager_network_t::*;
pub use wg_manager_settings_t::*;
pub use wg_manager_status_t::*;

/// A header that the app adds to each HTTP request to the source of the peers. The struct never changes.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_header_t {
    /// Its name.
    pub name: *const c_char,
    /// Its value, which may be secret.
    pub value: *const c_char,
}

/// A manager's request to start a tunnel. Later versions may append fields; existing ones never change.
///
/// All texts are UTF-8 and never NULL; a text that the manager has not sent is "".
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_request_t {
    /// sizeof(wg_manager_request_t) in the library.
    pub struct_size: usize,
    /// The URL of the source of the peers (`coder_url` in the protocol); never "".
    pub url: *const c_char,
    /// The token for that source: a secret; never "".
    pub token: *const c_char,
    /// The id of the manager's device.
    pub device_id: *const c_char,
    /// The operating system of that device.
    pub device_os: *const c_char,
    /// The manager's version (`coder_desktop_version`).
    pub version: *const c_char,
    /// The headers for requests to that source.
    pub headers: *const wg_manager_header_t,
    /// The number of `headers`.
    pub header_count: usize,
    /// The TUN that the manager supplies, of which the library uses a duplicate; -1 without one.
    pub tun_fd: i32,
    /// 0.
    pub reserved: u32,
}

/// A group of agents. The struct never changes.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_workspace_t {
    /// Its name for the user interface; not NULL.
    pub name: *const c_char,
    /// A wg_manager_status_t.
    pub status: u32,
    /// 0.
    pub reserved: u32,
    /// Its id, which no other workspace has.
    pub id: [u8; WG_MANAGER_ID_LEN],
}

/// A peer, as it is presented to the manager. The struct never changes.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_agent_t {
    /// Its name for the user interface; not NULL. It must be unique in its workspace, because managers keep only one
    /// agent of each name.
    pub name: *const c_char,
    /// Its DNS names, separated by commas. NULL or "" stands for `name`.
    pub fqdns: *const c_char,
    /// Its addresses in the tunnel, separated by commas; or NULL.
    pub addresses: *const c_char,
    /// The address to ping; NULL for the first of `addresses`, "" for no pings.
    pub ping: *const c_char,
    /// Its id, which no other agent has.
    pub id: [u8; WG_MANAGER_ID_LEN],
    /// The id of its workspace.
    pub workspace: [u8; WG_MANAGER_ID_LEN],
    /// The public key of its peer, whose handshakes are reported to the manager.
    pub public_key: [u8; WG_KEY_LEN],
}

/// The complete configuration of a managed tunnel, and its complete list of peers. Initialize with
/// WG_MANAGER_STATE_INIT. Fields may be appended, as in wg_options_t.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_state_t {
    /// sizeof(wg_manager_state_t) in the caller's header.
    pub struct_size: usize,
    /// The bytes of a `.conf` file, as for wg_conf_parse(). Endpoints may be host names.
    pub conf: *const c_char,
    /// The number of bytes of `conf`.
    pub conf_len: usize,
    /// The name of the workspace if `agents` is NULL; NULL for "wg".
    pub name: *const c_char,
    /// The settings of the system's network, one per line:
    /// "address=10.0.0.2/24", "dns=10.0.0.1", "search=example.com" and "mtu=1420" as from wg_conf_parse();
    /// "route=10.0.0.0/8", a route into the tunnel, and "exclude=192.0.2.7/32", a route outside it, both also with a
    /// gateway: "route=10.0.0.0/8 via 10.0.0.1"; "router=10.0.0.1", the IPv4 router;
    /// "match=example.com", a domain whose names are looked up with these DNS servers, and "match=" for all names;
    /// "match_only=true" if these are not search domains; "domain=example", the name of the DNS settings;
    /// "overhead=80", the bytes that the tunnel adds to a packet; "remote=192.0.2.7", the remote end of the tunnel.
    /// NULL for the settings of `conf`, with routes into the tunnel for all allowed IPs (none with Table = off), and
    /// outside it for the endpoints.
    pub settings: *const c_char,
    /// The workspaces; or NULL.
    pub workspaces: *const wg_manager_workspace_t,
    /// The number of `workspaces`.
    pub workspace_count: usize,
    /// The agents. If this and `workspaces` are NULL, each peer of `conf` is an agent of one workspace, as for a
    /// `file:` URL (docs/MANAGER.md): its id is derived from its key, its name is in a comment `# Name = x`, and its
    /// addresses are the single addresses among its AllowedIPs.
    pub agents: *const wg_manager_agent_t,
    /// The number of `agents`.
    pub agent_count: usize,
}

/// Supplies the peers for a start by calling wg_manager_update() with `manager`, during this call or before it; the
/// tunnel starts with the state of the last such call.
///
/// `user` is the pointer that was passed with the function; `manager` is the handle, perhaps before wg_manager_serve()
/// has returned it; `request` is valid only during the call. Returns 0, or any other value to refuse the start: then
/// the UTF-8 text at `reason`, a buffer of `reason_size` bytes (WG_MANAGER_REASON_LEN), is sent to the manager, up to
/// its zero byte.
///
/// Threads: called on a thread of the library, one call at a time. It may block; wg_manager_stop() and the end of the
/// tunnel wait for it. It must not leave by an exception, longjmp() or pthread_exit(). Its stack is as in wg_log_fn_t.
/// Inside it, wg_manager_update() with `manager` and the functions that wg_log_fn_t lists work; all others return
/// WG_ERR_BUSY.
/// Since: 0.1.0
pub type wg_manager_start_fn_t = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        manager: i32,
        request: *const wg_manager_request_t,
        reason: *mut c_char,
        reason_size: usize,
    ) -> i32,
>;

/// Configures the system's network for an interface, or restores it.
///
/// `user` and `manager` are as in wg_manager_start_fn_t; `name` is the name of the interface; `settings` are the
/// complete settings, which replace those of an earlier call, in the lines of wg_manager_state_t. Returns 0, or any
/// other value to refuse: then the configuration of the earlier call must still be in effect, or none if there was no
/// earlier call, and the text at `reason` is sent to the manager, as in wg_manager_start_fn_t. If a call for the
/// interface returned 0, there is one more call before the interface is removed, with NULL for `settings`: restore the
/// network; the result is ignored. All pointers are valid only during the call.
///
/// Threads: called on threads of the library, one call at a time. Packets do not wait for it. Inside it, the functions
/// that wg_log_fn_t lists work; all others return WG_ERR_BUSY. Otherwise as wg_manager_start_fn_t.
/// Since: 0.1.0
pub type wg_manager_configure_fn_t = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        manager: i32,
        name: *const c_char,
        settings: *const c_char,
        reason: *mut c_char,
        reason_size: usize,
    ) -> i32,
>;

/// Options of wg_manager_serve(). Initialize with WG_MANAGER_OPTIONS_INIT, then set the fields that should differ.
/// Fields may be appended, as in wg_options_t.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_options_t {
    /// sizeof(wg_manager_options_t) in the caller's header.
    pub struct_size: usize,
    /// Supplies the peers for each start. NULL if the manager names a `.conf` file by a `file:` URL: changes of that
    /// file are then applied (docs/MANAGER.md).
    pub start: wg_manager_start_fn_t,
    /// Passed to `start`.
    pub start_user: *mut c_void,
    /// Releases `start_user`; or NULL.
    pub start_destroy: wg_destroy_fn_t,
    /// Configures the system's network, with WG_MANAGER_OWN; or NULL.
    pub configure: wg_manager_configure_fn_t,
    /// Passed to `configure`.
    pub configure_user: *mut c_void,
    /// Releases `configure_user`; or NULL.
    pub configure_destroy: wg_destroy_fn_t,
    /// Called with each UDP socket, as in wg_options_t; or NULL.
    pub protect: wg_protect_fn_t,
    /// Passed to `protect`.
    pub protect_user: *mut c_void,
    /// Releases `protect_user`; or NULL.
    pub protect_destroy: wg_destroy_fn_t,
    /// Looks up host names of endpoints, as in wg_options_t; NULL for the resolver of the system.
    pub resolve: wg_resolve_fn_t,
    /// Passed to `resolve`.
    pub resolve_user: *mut c_void,
    /// Releases `resolve_user`; or NULL.
    pub resolve_destroy: wg_destroy_fn_t,
    /// Receives the lines of the log, with the manager's handle, in place of the function of wg_set_log_callback(); or
    /// NULL.
    pub log: wg_log_fn_t,
    /// Passed to `log`.
    pub log_user: *mut c_void,
    /// Releases `log_user`; or NULL.
    pub log_destroy: wg_destroy_fn_t,
    /// The name of a new interface; NULL for "wg-vpn0". It is not kept.
    pub interface_name: *const c_char,
    /// A wg_manager_network_t.
    pub network: u32,
    /// A wg_manager_settings_t.
    pub settings: u32,
    /// The log level: a wg_log_level_t. WG_LOG_INHERIT is the level of wg_set_log_level().
    pub log_level: i32,
    /// The level of lines that are sent to the manager, independent of `log_level`: WG_LOG_OFF to WG_LOG_TRACE;
    /// WG_LOG_INFO in WG_MANAGER_OPTIONS_INIT. A manager that reads too slowly misses lines.
    pub manager_log_level: i32,
    /// The time limit for the exchange of headers, in milliseconds; 0 for 5000.
    pub handshake_timeout_ms: u32,
    /// The time limit for the manager to configure the network, in milliseconds; 0 for 30000.
    pub settings_timeout_ms: u32,
    /// The interval at which all agents are pinged and their state is sent to the manager, in milliseconds; 0 for 5000.
    pub update_interval_ms: u32,
    /// 0.
    pub flags: u32,
}

const _: () = {
    const POINTER: usize = size_of::<usize>();
    assert!(size_of::<wg_manager_header_t>() == 2 * POINTER);
    assert!(size_of::<wg_manager_request_t>() == 8 * POINTER + 8);
    assert!(offset_of!(wg_manager_request_t, url) == POINTER);
    assert!(offset_of!(wg_manager_request_t, tun_fd) == 8 * POINTER);
    assert!(size_of::<wg_manager_workspace_t>() == POINTER + 24);
    assert!(offset_of!(wg_manager_workspace_t, id) == POINTER + 8);
    assert!(size_of::<wg_manager_agent_t>() == 4 * POINTER + 64);
    assert!(offset_of!(wg_manager_agent_t, public_key) == 4 * POINTER + 32);
    assert!(size_of::<wg_manager_state_t>() == 9 * POINTER);
    assert!(offset_of!(wg_manager_state_t, conf) == POINTER);
    assert!(offset_of!(wg_manager_state_t, agent_count) == 8 * POINTER);
    assert!(size_of::<wg_manager_options_t>() == 17 * POINTER + 32);
    assert!(offset_of!(wg_manager_options_t, start) == POINTER);
    assert!(offset_of!(wg_manager_options_t, log_destroy) == 15 * POINTER);
    assert!(offset_of!(wg_manager_options_t, interface_name) == 16 * POINTER);
    assert!(offset_of!(wg_manager_options_t, network) == 17 * POINTER);
    assert!(offset_of!(wg_manager_options_t, flags) == 17 * POINTER + 28);
};

/// WG_MANAGER_OPTIONS_INIT.
impl Default for wg_manager_options_t {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            start: None,
            start_user: ptr::null_mut(),
            start_destroy: None,
            configure: None,
            configure_user: ptr::null_mut(),
            configure_destroy: None,
            protect: None,
            protect_user: ptr::null_mut(),
            protect_destroy: None,
            resolve: None,
            resolve_user: ptr::null_mut(),
            resolve_destroy: None,
            log: None,
            log_user: ptr::null_mut(),
            log_destroy: None,
            interface_name: ptr::null(),
            network: WG_MANAGER_AUTO as u32,
            settings: WG_MANAGER_DEFAULT as u32,
            log_level: WG_LOG_INHERIT as i32,
            manager_log_level: WG_LOG_INFO as i32,
            handshake_timeout_ms: 0,
            settings_timeout_ms: 0,
            update_interval_ms: 0,
            flags: 0,
        }
    }
}

/// WG_MANAGER_STATE_INIT.
impl Default for wg_manager_state_t {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            conf: ptr::null(),
            conf_len: 0,
            name: ptr::null(),
            settings: ptr::null(),
            workspaces: ptr::null(),
            workspace_count: 0,
            agents: ptr::null(),
            agent_count: 0,
        }
    }
}

// SAFETY: as the assertions above say, there is no padding; it has integers and pointers only, those to functions may
// be NULL.
unsafe impl SizedStruct for wg_manager_options_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

// SAFETY: the same.
unsafe impl SizedStruct for wg_manager_state_t {
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}
