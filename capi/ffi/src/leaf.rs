//! What the packages that add another library's functions need of this one, apart from the `wg_` functions. For the
//! packages of this workspace only: it may change with any version.

#[cfg(all(unix, not(target_os = "android")))]
pub use super::fd::set_mtu;
pub use super::{
    guard::guard,
    keys::take_key,
    log::{set_default_level, tell_failure},
    sockets::{bind_all_to_interface, bump_sockets_soon},
    stats::has_peer,
    text::c_text,
    tunnel::turn_on_with_log,
};
