//! `wg-embedctl`: a command-line tool for tunnels of userspace daemons.
//!
//! It uses the UAPI, the protocol of wg(8), on the control socket of the daemon: wg-embed, wireguard-go or boringtun.
//! It also starts tunnels: as wg-quick(8) does, and as a manager of the VPN manager protocol.

mod arguments;
mod conf;
#[cfg(unix)]
mod daemon;
#[cfg(target_os = "linux")]
mod doctor;
mod failure;
mod keys;
#[cfg(unix)]
mod manager;
#[cfg(unix)]
mod monitor;
mod output;
#[cfg(target_os = "linux")]
mod ping;
mod qr;
mod resolve;
mod set;
mod show;
mod socket;
mod state;
#[cfg(target_os = "linux")]
mod trace;
#[cfg(target_os = "linux")]
mod up;
#[cfg(unix)]
mod wireproto;

use std::{io, process::ExitCode};

use anstream::ColorChoice;
use clap::{CommandFactory, Parser};

use arguments::{Arguments, Color, Command, Conf};
#[cfg(unix)]
use arguments::{Manager, Wireproto};
use failure::{Failure, Result};
use output::{RED, complain, print_raw, styled};
use socket::Sockets;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.color {
        Color::Auto => {}
        Color::Always => ColorChoice::Always.write_global(),
        Color::Never => ColorChoice::Never.write_global(),
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                complain(&format!("wg-embedctl: {} {}", styled(RED, "error:"), failure.text));
            }
            failure.code()
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let sockets = Sockets::new(arguments.socket_dir);
    match arguments.command {
        #[cfg(target_os = "linux")]
        Command::Up(up) => up::up(&sockets, &up),
        #[cfg(target_os = "linux")]
        Command::Down(down) => up::down(&sockets, &down),
        Command::Show(show) => show::run(&sockets, &show),
        Command::Set(set) => set::run(&sockets, &set),
        Command::Genkey => keys::generate_private(),
        Command::Pubkey => keys::public(),
        Command::Genpsk => keys::generate_preshared(),
        Command::Conf(Conf::Check { file, json, strict }) => conf::check::run(&file, json, strict),
        Command::Conf(Conf::Show { name }) => conf::show::run(&sockets, &name),
        Command::Conf(Conf::Sync { name, file, dry_run, json }) => {
            conf::sync::run(&sockets, &name, &file, dry_run, json)
        }
        Command::Conf(Conf::AddPeer(peer)) => conf::add_peer::run(&peer),
        Command::Qr(qr) => qr::run(&qr),
        #[cfg(unix)]
        Command::Monitor(monitor) => monitor::run(&sockets, &monitor),
        #[cfg(target_os = "linux")]
        Command::Manager(Manager::Run(run)) => manager::run::run(&run),
        #[cfg(unix)]
        Command::Manager(Manager::Tunnel { arguments }) => manager::tunnel(arguments),
        #[cfg(unix)]
        Command::Wireproto(Wireproto::Call(call)) => wireproto::call(&sockets, &call),
        #[cfg(target_os = "linux")]
        Command::Doctor(doctor) => doctor::run(&sockets, &doctor),
        #[cfg(target_os = "linux")]
        Command::Trace(trace) => trace::run(&sockets, &trace),
        Command::Completions { shell } => completions(shell),
        Command::Man => man(),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "wg-embedctl", &mut script);
    print_raw(&script)
}

/// Returns the manual page, with a section for each command.
fn man() -> Result<()> {
    let failed = |error: io::Error| Failure::io("cannot write the manual page", &error);
    let mut page = Vec::new();
    let mut command = Arguments::command();
    command.build();
    let man = clap_mangen::Man::new(command.clone()).section("8");
    // Without the list of commands, which names a page for each of them.
    let mut begin = || {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_options_section(&mut page)?;
        man.render_extra_section(&mut page)
    };
    begin().map_err(failed)?;
    for_each_command(&command, &mut |command| {
        let man = clap_mangen::Man::new(command.clone());
        let name = command.get_bin_name().unwrap_or_default().to_uppercase();
        page.extend_from_slice(format!(".SH \"{name}\"\n").as_bytes());
        let mut body = Vec::new();
        man.render_description_section(&mut body)?;
        man.render_synopsis_section(&mut body)?;
        man.render_options_section(&mut body)?;
        // Sections of a command's page are subsections here.
        let body = String::from_utf8_lossy(&body).replace(".SH ", ".SS ");
        page.extend_from_slice(body.as_bytes());
        Ok(())
    })
    .map_err(failed)?;
    print_raw(&page)
}

/// Calls a function with each visible command below this one.
fn for_each_command(
    command: &clap::Command,
    visit: &mut dyn FnMut(&clap::Command) -> io::Result<()>,
) -> io::Result<()> {
    for command in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        if command.has_subcommands() {
            for_each_command(command, visit)?;
        } else {
            visit(command)?;
        }
    }
    Ok(())
}
