//! What a manager's tunnel is served with, and what its peers are.

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

/// Room for the reason of a refusal, its zero byte included.
///
/// Since: 0.1.0
pub const WG_MANAGER_REASON_LEN: usize = 1024;

/// Where packets come from if the manager gives no TUN.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_manager_network_t {
    /// An interface of our own, or else a network in userspace.
    WG_MANAGER_AUTO = 0,
    /// An interface of our own (Linux).
    WG_MANAGER_INTERFACE = 1,
    /// A network in userspace, without root. It answers pings; wg_net_ functions do not reach it.
    WG_MANAGER_USERSPACE = 2,
}

/// Who configures the system's network.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_manager_settings_t {
    /// As the managers of this system expect it: WG_MANAGER_ASK on Apple's systems. Elsewhere WG_MANAGER_OWN, or
    /// WG_MANAGER_ASK if there is an interface of the system, and no `configure`.
    WG_MANAGER_DEFAULT = 0,
    /// The manager, which is asked when the interface exists, before the tunnel starts.
    WG_MANAGER_ASK = 1,
    /// `configure` of the options. Without that function a start with a system's interface is refused.
    WG_MANAGER_OWN = 2,
}

/// The state of a workspace, as managers show it.
///
/// Since: 0.1.0
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum wg_manager_status_t {
    /// That cannot be determined.
    WG_MANAGER_UNKNOWN = 0,
    /// It is to be started.
    WG_MANAGER_PENDING = 1,
    /// It is being started.
    WG_MANAGER_STARTING = 2,
    /// It runs.
    WG_MANAGER_RUNNING = 3,
    /// It is being stopped.
    WG_MANAGER_STOPPING = 4,
    /// It does not run.
    WG_MANAGER_STOPPED = 5,
    /// It could not be started or stopped.
    WG_MANAGER_FAILED = 6,
    /// Its start is being given up.
    WG_MANAGER_CANCELING = 7,
    /// Its start was given up.
    WG_MANAGER_CANCELED = 8,
    /// It is being deleted.
    WG_MANAGER_DELETING = 9,
    /// It does not exist any more.
    WG_MANAGER_DELETED = 10,
}

pub use wg_manager_network_t::*;
pub use wg_manager_settings_t::*;
pub use wg_manager_status_t::*;

/// A header for each HTTP request to the source of the peers. The struct never changes.
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

/// The manager's request to start a tunnel. Later versions may append fields; existing fields remain.
///
/// All texts are UTF-8, never NULL, and "" if the manager has not sent them.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_request_t {
    /// The size of this struct, as the library was compiled.
    pub struct_size: usize,
    /// Where the peers come from: a URL, never "". The protocol's name of it is `coder_url`.
    pub url: *const c_char,
    /// What the app is let in with there: a secret, never "".
    pub token: *const c_char,
    /// The manager's device.
    pub device_id: *const c_char,
    /// Its system.
    pub device_os: *const c_char,
    /// The manager's version (`coder_desktop_version`).
    pub version: *const c_char,
    /// `header_count` headers.
    pub headers: *const wg_manager_header_t,
    /// How many there are.
    pub header_count: usize,
    /// The manager's TUN, which the library duplicates, or -1 if the manager gave none.
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
    /// For people; not NULL.
    pub name: *const c_char,
    /// A wg_manager_status_t.
    pub status: u32,
    /// 0.
    pub reserved: u32,
    /// Its own.
    pub id: [u8; WG_MANAGER_ID_LEN],
}

/// A peer, as managers show it. The struct never changes.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_agent_t {
    /// For people; not NULL, and unlike those of the workspace's other agents: managers keep one of each name.
    pub name: *const c_char,
    /// Its names in the DNS, with commas between them. NULL or "": `name` is one.
    pub fqdns: *const c_char,
    /// Its addresses in the tunnel, with commas between them; or NULL.
    pub addresses: *const c_char,
    /// The address that is pinged. NULL: the first of `addresses`; "": none.
    pub ping: *const c_char,
    /// Its own.
    pub id: [u8; WG_MANAGER_ID_LEN],
    /// That of one of the workspaces.
    pub workspace: [u8; WG_MANAGER_ID_LEN],
    /// The peer of the configuration, whose handshakes are shown.
    pub public_key: [u8; WG_KEY_LEN],
}

/// The configuration of a manager's tunnel, and its peers: all that there is. Start from WG_MANAGER_STATE_INIT. It may
/// grow as wg_options_t does.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_state_t {
    /// sizeof(wg_manager_state_t), as the caller was compiled.
    pub struct_size: usize,
    /// A `.conf` file as for wg_conf_parse(), which may name hosts; `conf_len` bytes.
    pub conf: *const c_char,
    /// How many bytes there are.
    pub conf_len: usize,
    /// The name of the workspace if `agents` is NULL; NULL: "wg".
    pub name: *const c_char,
    /// Network settings, a line for each, with a line feed between them:
    /// "address=10.0.0.2/24", "dns=10.0.0.1", "search=example.com" and "mtu=1420" as from wg_conf_parse();
    /// "route=10.0.0.0/8", a route into the tunnel, and "exclude=192.0.2.7/32", one around it, both also as
    /// "route=10.0.0.0/8 via 10.0.0.1"; "router=10.0.0.1", for IPv4;
    /// "match=example.com", names that are looked up at the servers, and "match=" for all; "match_only=true" if these
    /// are not search domains; "domain=example", the name of the DNS settings;
    /// "overhead=80", bytes that the tunnel adds; "remote=192.0.2.7", its far end.
    /// NULL: those of `conf`, with routes to all allowed IPs (none with Table = off) and around them to endpoints.
    pub settings: *const c_char,
    /// `workspace_count` workspaces, with ids of their own.
    pub workspaces: *const wg_manager_workspace_t,
    /// How many there are.
    pub workspace_count: usize,
    /// `agent_count` agents, with ids of their own. NULL, and no workspaces: each peer of `conf` is an agent of one
    /// workspace, as for a file: URL (docs/MANAGER.md). Its id follows from its key, its name is in a comment
    /// `# Name = x`, and its addresses are the hosts among its AllowedIPs.
    pub agents: *const wg_manager_agent_t,
    /// How many there are.
    pub agent_count: usize,
}

/// Finds the peers for a start, and gives them to wg_manager_update() with `manager`, inside this call or before it:
/// the tunnel starts with what was given last.
///
/// `user` is what came with the function; `manager` is the handle, perhaps before wg_manager_serve() has returned it;
/// `request` is valid only during the call. Returns 0, or anything else to refuse the start: then the manager is sent
/// the UTF-8 text in the `reason_size` bytes at `reason` (WG_MANAGER_REASON_LEN), up to its zero byte.
///
/// Threads: a thread of the library's own, one call at a time. It may take its time; but wg_manager_stop() and the end
/// of the tunnel wait for it. It must not leave by an exception, longjmp() or pthread_exit(). Its stack is as in
/// wg_log_fn_t. Inside it, wg_manager_update() with `manager` works, and what wg_log_fn_t names. Everything else
/// returns WG_ERR_BUSY.
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

/// Configures the system's network for an interface, or undoes it.
///
/// `user` and `manager` are as in wg_manager_start_fn_t; `name` is the name of the interface; `settings` are all
/// that hold from now on, in place of those of an earlier call, in the lines of wg_manager_state_t. Returns 0, or
/// anything else to refuse: then what an earlier call has configured must still hold, or nothing if there was none,
/// and the manager is sent the text at `reason`, as in wg_manager_start_fn_t. `settings` is NULL once if a call for the
/// interface returned 0, before the interface is removed: then what was configured is to be undone, and the result is
/// ignored. All pointers are valid only during the call.
///
/// Threads: threads of the library's own, one call at a time. Packets do not wait for it. Inside it, what wg_log_fn_t
/// names works. Everything else returns WG_ERR_BUSY. The rest is as in wg_manager_start_fn_t.
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

/// Options of wg_manager_serve(). Start from WG_MANAGER_OPTIONS_INIT, and set what should differ. It may grow as
/// wg_options_t does.
///
/// Since: 0.1.0
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct wg_manager_options_t {
    /// sizeof(wg_manager_options_t), as the caller was compiled.
    pub struct_size: usize,
    /// Finds the peers of each start. NULL: they are those of a `.conf` file, which the manager names by a `file:` URL
    /// and which is watched for edits (docs/MANAGER.md).
    pub start: wg_manager_start_fn_t,
    /// For `start`.
    pub start_user: *mut c_void,
    /// Gives up `start_user`; or NULL.
    pub start_destroy: wg_destroy_fn_t,
    /// Configures the system's network, with WG_MANAGER_OWN; or NULL.
    pub configure: wg_manager_configure_fn_t,
    /// For `configure`.
    pub configure_user: *mut c_void,
    /// Gives up `configure_user`; or NULL.
    pub configure_destroy: wg_destroy_fn_t,
    /// Is passed each UDP socket, as in wg_options_t; or NULL.
    pub protect: wg_protect_fn_t,
    /// For `protect`.
    pub protect_user: *mut c_void,
    /// Gives up `protect_user`; or NULL.
    pub protect_destroy: wg_destroy_fn_t,
    /// Looks up host names of endpoints, as in wg_options_t. NULL: the system does.
    pub resolve: wg_resolve_fn_t,
    /// For `resolve`.
    pub resolve_user: *mut c_void,
    /// Gives up `resolve_user`; or NULL.
    pub resolve_destroy: wg_destroy_fn_t,
    /// Gets the log's lines, with the manager's handle, in place of the function of wg_set_log_callback(); or NULL.
    pub log: wg_log_fn_t,
    /// For `log`.
    pub log_user: *mut c_void,
    /// Gives up `log_user`; or NULL.
    pub log_destroy: wg_destroy_fn_t,
    /// The name of an interface of our own; NULL: "wg-vpn0". It is not kept.
    pub interface_name: *const c_char,
    /// A wg_manager_network_t.
    pub network: u32,
    /// A wg_manager_settings_t.
    pub settings: u32,
    /// How much is logged: a wg_log_level_t. WG_LOG_INHERIT is the level set by wg_set_log_level().
    pub log_level: i32,
    /// How much of the log is sent to the manager, independent of the app's level: WG_LOG_OFF to WG_LOG_TRACE;
    /// WG_LOG_INFO in WG_MANAGER_OPTIONS_INIT. A manager that reads slowly misses lines.
    pub manager_log_level: i32,
    /// How long the exchange of headers may take, in milliseconds; 0 for 5000.
    pub handshake_timeout_ms: u32,
    /// How long the manager may take to configure the network, in milliseconds; 0 for 30000.
    pub settings_timeout_ms: u32,
    /// How often all agents are pinged, and sent with their handshakes, in milliseconds; 0 for 5000.
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
