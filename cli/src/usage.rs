//! The text of `--help`. What is for one system stands behind what all have.

/// Joins the parts of the text. `$synopsis` ends before the options, `$options` and `$environment` are those of one
/// system.
macro_rules! usage {
    ($synopsis:literal, $options:literal, $environment:literal) => {
        concat!(
            $synopsis,
            "
Options:
",
            $options,
            "      --version              print the version
  -h, --help                 print this text

Environment:
  LOG_LEVEL                what to log: verbose, debug, error (default), silent
  WG_PROCESS_FOREGROUND=1  as --foreground
  WG_EMBED_MEMORY          MiB that packets may take while they pass or wait for
                           a session: 2 to 1024 (4), and 16 KiB more a peer
  WG_EMBED_WORKERS         threads that help to encrypt under load: 0 to 8 (one
                           less than processors, 3 at most; none on two)
  WG_EMBED_SOCKET_DIR=DIR  as --socket-dir
",
            $environment
        )
    };
}

#[cfg(not(windows))]
pub(crate) const USAGE: &str = usage!(
    "\
Usage: wg-embed [-f|--foreground] [--user USER[:GROUP]] [--socket-dir DIR]
                [--wireproto-socket PATH] INTERFACE
       wg-embed proxy --help
       wg-embed vpn-daemon run --help

Makes the WireGuard interface INTERFACE and serves it, in the background unless
told otherwise. It is configured with wg(8) or wg-quick(8), and lives until it
receives SIGINT or SIGTERM, or until the interface or its control socket,
/var/run/wireguard/INTERFACE.sock, is removed.
",
    "  -f, --foreground           stay in the foreground and log to stderr
      --user USER[:GROUP]    become this user once the interface and the control
                             socket are open, and keep CAP_NET_ADMIN and
                             CAP_NET_BIND_SERVICE only; names or numbers
      --socket-dir DIR       make the control socket in DIR; wg(8) looks for it
                             in /var/run/wireguard only
      --wireproto-socket PATH
                             make a second control socket for WireProto messages
",
    "  WG_EMBED_TUN_QUEUES      queues of the interface, each with a thread of its own,
                           on Linux: 1 to 8 (1)
  WG_TUN_FD                an open TUN descriptor to use instead of making one
  WG_UAPI_FD               a listening UNIX socket to use as control socket
  LISTEN_FDS, LISTEN_PID   socket activation, see sd_listen_fds(3)
  NOTIFY_SOCKET            told when the daemon is ready, see sd_notify(3)
"
);

#[cfg(windows)]
pub(crate) const USAGE: &str = usage!(
    r"Usage: wg-embed -f|--foreground [--socket-dir DIR] [--wireproto-socket PATH]
                INTERFACE
       wg-embed vpn-daemon run --help

Makes the network adapter INTERFACE and serves it as a WireGuard interface. It
is configured with wg(8), and lives until Ctrl-C is pressed, or until the
adapter is disabled or removed.

It needs wintun.dll, beside wg-embed.exe or in the system's directory, and must
run as LocalSystem, to whom wg(8) requires its control pipe to belong:
\\.\pipe\ProtectedPrefix\Administrators\WireGuard\INTERFACE.
",
    r"  -f, --foreground           required: there is no background on this system
      --socket-dir DIR       make the control pipe in DIR, which begins with
                             \\.\pipe\; wg(8) does not look for it there
      --wireproto-socket PATH
                             make a second control pipe for WireProto messages
",
    ""
);
