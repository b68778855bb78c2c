//! The command line.

#[cfg(unix)]
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;
use ipnet::IpNet;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, or problems were found
  2  the arguments are wrong
  3  no daemon answers for the tunnel, or a file is missing
  4  the user lacks the permission

Environment:
  WG_EMBED_SOCKET_DIR  as --socket-dir
  WG_COLOR_MODE        as --color; NO_COLOR is supported as well
  WG_HIDE_KEYS         `never`: show and monitor print secret keys, as wg(8) does";

/// Shows, changes and checks WireGuard tunnels that a userspace daemon runs: wg-embed, wireguard-go, boringtun.
#[derive(Debug, Parser)]
#[command(name = "wg-embedctl", version, after_help = EXIT_CODES)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// The directory with the control sockets.
    #[arg(long, global = true, env = "WG_EMBED_SOCKET_DIR", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) socket_dir: Option<PathBuf>,
    /// When to use colours.
    #[arg(long, global = true, env = "WG_COLOR_MODE", value_name = "WHEN", default_value = "auto", hide_env = true)]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts a tunnel from a configuration file, as wg-quick(8) does.
    #[cfg(target_os = "linux")]
    Up(Up),
    /// Ends a tunnel that `up` has started.
    #[cfg(target_os = "linux")]
    Down(Down),
    /// Shows tunnels and their peers, as wg(8) does.
    Show(Show),
    /// Changes a tunnel and its peers, as wg(8) does.
    Set(Set),
    /// Generates a private key.
    Genkey,
    /// Reads a private key and writes its public key.
    Pubkey,
    /// Generates a preshared key.
    Genpsk,
    /// Checks, shows, applies and edits configuration files.
    #[command(subcommand)]
    Conf(Conf),
    /// Shows a configuration file as a QR code, for the apps on phones. It contains the private key.
    Qr(Qr),
    /// Watches a tunnel.
    #[cfg(unix)]
    Monitor(Monitor),
    /// Uses the VPN manager protocol.
    #[cfg(unix)]
    #[command(subcommand)]
    Manager(Manager),
    /// Uses WireProto, which is not WireGuard's wire protocol.
    #[cfg(unix)]
    #[command(subcommand)]
    Wireproto(Wireproto),
    /// Reports what is missing on this machine.
    #[cfg(target_os = "linux")]
    Doctor(Doctor),
    /// Writes the packets of a tunnel to a pcapng file.
    #[cfg(target_os = "linux")]
    Trace(Trace),
    /// Writes a script that completes this program's arguments.
    Completions {
        /// The shell that reads it.
        shell: Shell,
    },
    /// Writes the manual page.
    #[command(hide = true)]
    Man,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// A file NAME.conf; NAME alone is /etc/wireguard/NAME.conf. NAME becomes the interface's name.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The treatment of the file's commands: PreUp, PostUp, PreDown, PostDown.
    #[arg(long, value_name = "WHAT", default_value = "run")]
    pub(crate) hooks: Hooks,
    /// The daemon, which creates the interface; by default the wg-embed next to this program, or in the PATH.
    #[arg(long, value_name = "PROGRAM", value_hint = ValueHint::CommandName)]
    pub(crate) daemon: Option<PathBuf>,
    /// Without root and without an interface: runs `wg-embed proxy` in the foreground, with the services of the file's
    /// sections for it (`[Socks5]` and others).
    #[arg(long, conflicts_with = "hooks")]
    pub(crate) userspace: bool,
    /// More arguments for `wg-embed proxy`.
    #[arg(last = true, requires = "userspace", value_name = "ARG")]
    pub(crate) arguments: Vec<OsString>,
}

#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hooks {
    /// Runs them with `sh`.
    Run,
    /// Ignores them.
    Ignore,
    /// Refuses a file with commands.
    Refuse,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub(crate) struct Down {
    /// The interface, or the file that it was started from.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) name: PathBuf,
    /// Does not run PreDown and PostDown.
    #[arg(long)]
    pub(crate) no_hooks: bool,
}

#[cfg(unix)]
#[derive(Debug, Subcommand)]
pub(crate) enum Manager {
    /// Starts a tunnel's process and manages it, until a signal or its end: configures the system's network as the
    /// tunnel requests, and prints its settings, its peers and its log.
    #[cfg(target_os = "linux")]
    Run(ManagerRun),
    /// Runs the tunnel of the manager that has started this process: `wg-embed vpn-daemon run` with these arguments.
    Tunnel {
        /// `--rpc-read-fd N --rpc-write-fd N`, and other arguments of `wg-embed vpn-daemon run --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
        arguments: Vec<OsString>,
    },
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub(crate) struct ManagerRun {
    /// The file with the peers.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present = "url")]
    pub(crate) conf: Option<PathBuf>,
    /// The URL of the peers, for a tunnel with another source.
    #[arg(long, conflicts_with = "conf")]
    pub(crate) url: Option<String>,
    /// A file with the token for the URL.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,
    /// The interface to create for the tunnel.
    #[arg(long, value_name = "NAME", default_value = "wg-vpn0", conflicts_with = "no_settings")]
    pub(crate) interface: String,
    /// Creates no interface and configures nothing: the tunnel does both.
    #[arg(long)]
    pub(crate) no_settings: bool,
    /// Prints a line of JSON for each event.
    #[arg(long)]
    pub(crate) json: bool,
    /// The tunnel's program, and more arguments for it behind `vpn-daemon run --rpc-read-fd N --rpc-write-fd N`. By
    /// default the wg-embed next to this program, or in the PATH.
    #[arg(last = true, value_name = "TUNNEL")]
    pub(crate) tunnel: Vec<OsString>,
}

#[cfg(unix)]
#[derive(Debug, Subcommand)]
pub(crate) enum Wireproto {
    /// Sends one request to a running daemon and prints the answers.
    Call(WireprotoCall),
}

#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct WireprotoCall {
    /// The path of the daemon's second socket; NAME, without a slash, is NAME.wireproto beside the control sockets.
    #[arg(value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub(crate) socket: PathBuf,
    /// Commands, each followed by its fields: `get format=json peers`. FIELD=VALUE takes numbers, keys in base64,
    /// `true` and `false`, and text; FIELD=@FILE takes the value from a file; FIELD:=HEX takes bytes.
    #[arg(required = true, value_name = "COMMAND")]
    pub(crate) commands: Vec<String>,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A tunnel, `all`, or `interfaces` for only the names.
    pub(crate) name: Option<String>,
    /// A single field, in wg(8)'s form for scripts.
    pub(crate) field: Option<Field>,
    /// Prints JSON. Secret keys are left out.
    #[arg(long, conflicts_with = "field")]
    pub(crate) json: bool,
    /// Also sends this number of ICMP echo requests through the tunnel to each peer with a single address (a /32 or
    /// /128), and shows round-trip time and loss. Needs the permission for pings.
    #[arg(long, value_name = "COUNT", num_args = 0..=1, default_missing_value = "3", conflicts_with = "field",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    #[cfg(target_os = "linux")]
    pub(crate) ping: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Field {
    PublicKey,
    PrivateKey,
    ListenPort,
    Fwmark,
    Peers,
    PresharedKeys,
    Endpoints,
    AllowedIps,
    LatestHandshakes,
    Transfer,
    PersistentKeepalive,
    Dump,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The tunnel.
    pub(crate) name: String,
    // For people, not for rustdoc, which would take brackets for links.
    #[arg(help = "[listen-port PORT] [fwmark MARK] [private-key FILE] [peer KEY [remove] [preshared-key FILE] \
            [endpoint HOST:PORT] [persistent-keepalive SECONDS|off] [allowed-ips [+|-]PREFIX[,...]]]...")]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "SETTING")]
    pub(crate) settings: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Conf {
    /// Reports every problem of a file, with its place and a suggestion.
    Check {
        /// The file; `-` is the standard input.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
        /// Treats warnings as failures.
        #[arg(long)]
        strict: bool,
    },
    /// Shows the configuration of a running tunnel as a file, with its keys, as `wg showconf` does.
    Show {
        /// The tunnel.
        name: String,
    },
    /// Applies a file to a running tunnel. Sessions of peers that stay are kept.
    Sync {
        /// The tunnel.
        name: String,
        /// The file; keys of wg-quick(8) are ignored. `-` is the standard input.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Only shows what would change.
        #[arg(long)]
        dry_run: bool,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Adds a peer at the end of a file. Comments, order, owner and mode stay the same.
    AddPeer(AddPeer),
}

#[derive(Debug, Args)]
pub(crate) struct AddPeer {
    /// The file.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// The peer's public key.
    #[arg(long, value_name = "KEY")]
    pub(crate) public_key: String,
    /// A file with the preshared key.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) preshared_key: Option<PathBuf>,
    /// The prefixes that are routed to the peer, and that it may send from.
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', value_parser = prefix)]
    pub(crate) allowed_ips: Vec<IpNet>,
    /// The endpoint of the peer: an address or a name, and a port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) endpoint: Option<String>,
    /// Seconds between keepalives.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) persistent_keepalive: Option<u16>,
    /// The name of the peer, as a comment.
    #[arg(long)]
    pub(crate) name: Option<String>,
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse().map(|ip: std::net::IpAddr| ip.into()).ok();
    address.or_else(|| text.parse().ok()).ok_or_else(|| "not an address or address/bits".into())
}

#[derive(Debug, Args)]
pub(crate) struct Qr {
    /// The file.
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Writes an SVG image that only its owner may read, and prints nothing.
    #[arg(long, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub(crate) svg: Option<PathBuf>,
}

#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct Monitor {
    /// The tunnel. Without it there must be exactly one.
    pub(crate) name: Option<String>,
    /// Seconds between two updates.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub(crate) interval: f64,
    /// Prints lines instead of a full screen, as when the output is not a terminal.
    #[arg(long)]
    pub(crate) plain: bool,
    /// Prints a line of JSON for each update.
    #[arg(long)]
    pub(crate) json: bool,
    /// Ends after this number of updates.
    #[arg(long)]
    pub(crate) count: Option<u64>,
}

#[cfg(unix)]
fn seconds(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|seconds| (0.05..=86_400.0).contains(seconds));
    value.ok_or_else(|| "not a number from 0.05 to 86400".into())
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// A server to check the route to: an address or a name, and a port.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) endpoint: Option<String>,
    /// The UDP port to listen on.
    #[arg(long, default_value_t = 51820)]
    pub(crate) port: u16,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(target_os = "linux")]
#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The tunnel.
    pub(crate) name: String,
    /// The file to write; `-` is the standard output.
    #[arg(long, short, value_name = "FILE", default_value = "-", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// The packets to write.
    #[arg(long, default_value = "inner")]
    pub(crate) layer: Layer,
    /// Ends after this number of packets.
    #[arg(long)]
    pub(crate) count: Option<u64>,
}

#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layer {
    /// Packets inside the tunnel, in the clear.
    Inner,
    /// The encrypted datagrams.
    Outer,
    /// Both.
    Both,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
