//! `.conf` files of wg-quick(8) and of the WireGuard apps.

use std::{
    ffi::c_char,
    fmt::{self, Write},
    ptr::NonNull,
};

use crate::{
    plumbing::{
        guard::guard,
        memory::borrow_up_to,
        result::wg_result_t,
        text::{free_text, give_text},
    },
    tunnel::WG_CONFIG_LEN_MAX,
};
use wg_embed::{
    config::wgquick::{Conf, InterfaceSettings, Table},
    error::{Error, ErrorKind, Result},
    key::wiped,
    reserve, uapi,
};
use zeroize::Zeroizing;

/// Parses a `.conf` file, given as the `len` bytes at `conf`: returns the configuration of the tunnel in `*uapi`, and
/// that of the system in `*settings`, unless `settings` is NULL.
///
/// The file is UTF-8 or UTF-16, with or without a byte order mark; comments may contain any bytes. A zero byte does not
/// end it.
/// `*uapi` is for wg_turn_on(), or for wg_set_config(), where it replaces the whole configuration, as `wg setconf`
/// does: every peer is created again, so that its session ends, and without a ListenPort in the file the sockets are
/// reopened on another port. wg_set_peer() changes a peer and leaves the rest unchanged. Endpoints that are host names
/// stay names, and need `resolve` of wg_options_t.
/// `*settings` has a line for each value, in this order; keys without a value are left out:
/// "address=10.0.0.2/24", an address of the interface with its prefix length;
/// "dns=10.0.0.1", a DNS server; "search=example.com", a DNS search domain;
/// "mtu=1420", 576 to 65535;
/// "table=off", "table=main" or "table=51820", the routing table if it is not the default of wg-quick(8);
/// "pre_up=..", "post_up=..", "pre_down=..", "post_down=..", a command, in which %i stands for the interface's name:
/// this library runs no commands, and a program that runs them trusts the author of the file;
/// "save_config=true";
/// "included_application=..", "excluded_application=..", the name of an Android package; never both. Each line ends
/// with a line feed. No value contains a control character other than the tab: a file with one is refused.
///
/// The rules are those of wg(8) and wg-quick(8): an unknown key, a value that is malformed or a second `[Interface]` is
/// an error. wg_last_error() then names the line, but never the value.
///
/// Memory: writes to `*uapi` and `*settings` on success only. The caller then owns both, and frees them with wg_free(),
/// which wipes them: `*uapi` contains keys, and commands may contain some. `conf` is not kept; wipe it as well.
/// Requires: `conf` is NULL or points to `len` bytes; `uapi` and `settings` are NULL or point to writable storage for
/// one pointer each.
/// Errors: WG_ERR_NULL if `conf` or `uapi` is NULL; WG_ERR_TOO_LARGE beyond WG_CONFIG_LEN_MAX bytes; WG_ERR_INVALID if
/// the file is invalid, or has more than WG_PEERS_DEFAULT peers; WG_ERR_RESOURCES without memory; WG_ERR_PANIC;
/// WG_ERR_BUSY inside a callback.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_conf_parse(
    conf: *const c_char,
    len: usize,
    uapi: *mut *mut c_char,
    settings: *mut *mut c_char,
) -> wg_result_t {
    let body = || {
        let uapi = NonNull::new(uapi).ok_or_else(|| null("uapi"))?;
        // SAFETY: the caller's contract is the same.
        let conf = unsafe { read(conf, len, "conf") }?;
        let (tunnel, system) = (uapi::set_text(&conf.update)?, lines(&conf.interface)?);
        let tunnel = give_text(&tunnel)?;
        if let Some(settings) = NonNull::new(settings) {
            let system = give_text(&system).inspect_err(|_| {
                // SAFETY: it was made just above, and not given to anyone.
                unsafe { free_text(tunnel) };
            })?;
            // SAFETY: there is room for one pointer, says the caller.
            unsafe { settings.write(system.as_ptr()) };
        }
        // SAFETY: as above.
        unsafe { uapi.write(tunnel.as_ptr()) };
        Ok(())
    };
    wiped(|| guard(body))
}

/// Compares two `.conf` files, given as in wg_conf_parse(): returns in `*uapi` the lines for wg_set_config() that
/// change a tunnel with the configuration `before` to one with the configuration `now`.
///
/// Only differences are in it, so it may be "". Sessions of peers that are in both files stay, and so do endpoints that
/// have roamed, unless `now` has another endpoint. A peer whose endpoint is no longer in the file is created again. A
/// port or mark that is no longer in the file becomes 0. The settings of the system are not compared: wg_conf_parse()
/// returns those of each file.
///
/// Memory: writes to `*uapi` on success only. The caller then owns it, and frees it with wg_free(), which wipes it.
/// Neither file is kept; wipe them as well.
/// Requires: `before` is NULL or points to `before_len` bytes, and `now` to `now_len`; `uapi` is NULL or points to
/// writable storage for one pointer.
/// Errors: WG_ERR_NULL if a pointer is NULL; and as wg_conf_parse(), for either file.
/// Threads: any.
/// Since: 0.1.0
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wg_conf_changes(
    before: *const c_char,
    before_len: usize,
    now: *const c_char,
    now_len: usize,
    uapi: *mut *mut c_char,
) -> wg_result_t {
    let body = || {
        let uapi = NonNull::new(uapi).ok_or_else(|| null("uapi"))?;
        // SAFETY: the caller's contract is the same.
        let before = unsafe { read(before, before_len, "before") }?;
        // SAFETY: as above.
        let now = unsafe { read(now, now_len, "now") }?;
        let changes = give_text(&uapi::set_text(&now.update.since(&before.update))?)?;
        // SAFETY: there is room for one pointer, says the caller.
        unsafe { uapi.write(changes.as_ptr()) };
        Ok(())
    };
    wiped(|| guard(body))
}

fn null(name: &str) -> Error {
    Error::new(ErrorKind::Null, format!("{name} is NULL"))
}

/// Reads a file of C.
///
/// # Safety
/// `conf` is NULL or points to `len` bytes.
unsafe fn read(conf: *const c_char, len: usize, name: &str) -> Result<Conf> {
    if conf.is_null() {
        return Err(null(name));
    }
    // SAFETY: there are as many, says the caller.
    let bytes = unsafe { borrow_up_to(WG_CONFIG_LEN_MAX, conf.cast::<u8>(), len, &format!("bytes of {name}")) }?;
    Conf::from_bytes(bytes)
}

/// The settings as lines. Twice the same: what it takes is reserved before anything is written, as text that grows
/// would leave keys of commands behind.
fn lines(settings: &InterfaceSettings) -> Result<Zeroizing<String>> {
    struct Length(usize);
    impl Write for Length {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len();
            Ok(())
        }
    }
    let mut length = Length(0);
    write_lines(settings, &mut length)
        .map_err(|_| Error::new(ErrorKind::Panic, "the length of the text cannot be computed"))?;
    let mut text = Zeroizing::new(reserve::text(length.0)?);
    write_lines(settings, &mut *text).map_err(|_| Error::new(ErrorKind::Panic, "text cannot be written"))?;
    Ok(text)
}

fn write_lines(settings: &InterfaceSettings, out: &mut dyn Write) -> fmt::Result {
    settings.addresses.iter().try_for_each(|address| writeln!(out, "address={address}"))?;
    settings.dns.iter().try_for_each(|server| writeln!(out, "dns={server}"))?;
    settings.dns_search.iter().try_for_each(|domain| writeln!(out, "search={domain}"))?;
    settings.mtu.iter().try_for_each(|mtu| writeln!(out, "mtu={mtu}"))?;
    match settings.table {
        Table::Auto => {}
        Table::Off => writeln!(out, "table=off")?,
        Table::Main => writeln!(out, "table=main")?,
        Table::Number(number) => writeln!(out, "table={number}")?,
    }
    for (key, values) in [
        ("pre_up", &settings.pre_up),
        ("post_up", &settings.post_up),
        ("pre_down", &settings.pre_down),
        ("post_down", &settings.post_down),
    ] {
        values.iter().try_for_each(|command| writeln!(out, "{key}={}", command.as_str()))?;
    }
    if settings.save_config {
        writeln!(out, "save_config=true")?;
    }
    for (key, names) in [
        ("included_application", &settings.included_applications),
        ("excluded_application", &settings.excluded_applications),
    ] {
        names.iter().try_for_each(|name| writeln!(out, "{key}={name}"))?;
    }
    Ok(())
}
