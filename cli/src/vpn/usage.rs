//! The text of `--help`. The names of the stream's ends, and the URL of a file, are those of one system.

/// Joins the parts of the text: the first line, a URL, the options and the variables of one system, and what all have.
macro_rules! usage {
    ($synopsis:literal, $url:literal, $options:literal, $environment:literal) => {
        concat!(
            $synopsis,
            "                [--network auto|interface|userspace] [--interface NAME]
                [--settings ask|own]

Serves a program that manages VPNs, over the ends of two pipes, until it stops
the tunnel, closes them, or the process is interrupted. The peers are those of a
wg-quick configuration, which the program names by a URL:
",
            $url,
            ". Edits of the file are followed.

Options:
",
            $options,
            "      --network KIND     where packets come from if the program gives no TUN: an
                         interface, a network in userspace, or (auto) the latter
                         if the former cannot be had
      --interface NAME   the interface (wg-vpn0)
      --settings WHO     who configures the system's network: the program is
                         asked, or it is done here (only on Linux, where it is
                         the default)
  -h, --help             print this text
      --version          print the version

Environment:
",
            $environment,
            "  WG_EMBED_VPN_NETWORK           as --network
  WG_EMBED_VPN_INTERFACE         as --interface
  WG_EMBED_VPN_SETTINGS          as --settings
  LOG_LEVEL                      what to log to stderr: verbose, debug,
                                 error (default), silent

Exit status: 0 when it was stopped or interrupted, or the program has closed a
pipe; 1 if it cannot start, or what it receives is not the protocol.
"
        )
    };
}

#[cfg(unix)]
pub(super) const USAGE: &str = usage!(
    "Usage: wg-embed vpn-daemon run --rpc-read-fd N --rpc-write-fd N\n",
    "file:///etc/wireguard/wg0.conf",
    "      --rpc-read-fd N    read what the program sends from this descriptor
      --rpc-write-fd N   write to it through this one
",
    "  CODER_VPN_DAEMON_RPC_READ_FD   as --rpc-read-fd
  CODER_VPN_DAEMON_RPC_WRITE_FD  as --rpc-write-fd
"
);

#[cfg(windows)]
pub(super) const USAGE: &str = usage!(
    "Usage: wg-embed vpn-daemon run --rpc-read-handle N --rpc-write-handle N\n",
    "file:///C:/App/office.conf",
    "      --rpc-read-handle N
                         read what the program sends from this inherited handle
      --rpc-write-handle N
                         write to it through this one
",
    "  CODER_VPN_DAEMON_RPC_READ_HANDLE
                                 as --rpc-read-handle
  CODER_VPN_DAEMON_RPC_WRITE_HANDLE
                                 as --rpc-write-handle
"
);
