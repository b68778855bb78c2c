//! The command line and the environment.

use std::ffi::{OsStr, OsString};

use lexopt::{Arg, Parser};
use wg_embed_manager::tunnel::Settings;
use wg_embed_tunnel::engine::{Network, Options};

use super::stream::{self, End, READ, WRITE};

/// The selected command.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Version,
    Run(Run),
}

/// Options of the tunnel.
#[derive(Debug)]
pub(crate) struct Run {
    /// The end of the pipe that the manager writes to.
    pub(crate) read: End,
    /// The end of the pipe that the manager reads from.
    pub(crate) write: End,
    pub(crate) network: Network,
    pub(crate) interface: String,
    /// Where the system's network is configured.
    pub(crate) settings: Settings,
}

/// An option, and the corresponding variable.
const NETWORK: (&str, &str) = ("network", "WG_EMBED_VPN_NETWORK");
const INTERFACE: (&str, &str) = ("interface", "WG_EMBED_VPN_INTERFACE");
const SETTINGS: (&str, &str) = ("settings", "WG_EMBED_VPN_SETTINGS");

/// Values with the names of their options or variables.
#[derive(Default)]
struct Values([Option<(String, String)>; 5]);

/// Reads the arguments behind `vpn-daemon`. `environment` returns a variable; options take precedence.
pub(crate) fn parse(
    arguments: impl Iterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, String> {
    let mut values = Values::default();
    let options = [READ, WRITE, NETWORK, INTERFACE, SETTINGS];
    for (place, (_, variable)) in values.0.iter_mut().zip(options) {
        if let Some(value) = environment(variable).filter(|value| !value.is_empty()) {
            *place = Some((variable.to_owned(), text(variable, &value)?));
        }
    }
    let mut has_run = false;
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(|e| e.to_string())? {
        match argument {
            Arg::Value(word) if !has_run && word == "run" => has_run = true,
            Arg::Long("version") => return Ok(Command::Version),
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Long(name) => {
                let Some(at) = options.iter().position(|(option, _)| *option == name) else {
                    return Err(argument.unexpected().to_string());
                };
                let name = format!("--{name}");
                let value = parser.value().map_err(|e| e.to_string())?;
                let value = text(&name, &value)?;
                if let Some(place) = values.0.get_mut(at) {
                    *place = Some((name, value));
                }
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    if !has_run {
        return Err("the only thing that it does is run".into());
    }
    values.run().map(Command::Run)
}

fn text(name: &str, value: &OsStr) -> Result<String, String> {
    value.to_str().map(str::to_owned).ok_or_else(|| format!("{name}={}: not UTF-8", value.display()))
}

impl Values {
    fn run(self) -> Result<Run, String> {
        let [read, write, network, interface, settings] = self.0;
        let (read, write) = (end(read, READ)?, end(write, WRITE)?);
        if read == write {
            return Err(format!("what is read from and what is written to are both {read}"));
        }
        let network = match network.as_ref().map(|(name, value)| (name, value.as_str())) {
            None | Some((_, "auto")) => Network::Auto,
            Some((_, "interface")) => Network::Interface,
            Some((_, "userspace")) => Network::Userspace,
            Some((name, value)) => return Err(format!("{name}={value}: not auto, interface or userspace")),
        };
        let settings = match settings.as_ref().map(|(name, value)| (name, value.as_str())) {
            None => Settings::default(),
            Some((_, "ask")) => Settings::ask(),
            Some((_, "own")) => Settings::Own,
            Some((name, value)) => return Err(format!("{name}={value}: neither ask nor own")),
        };
        let interface = interface.map_or_else(|| Options::default().interface, |(_, value)| value);
        Ok(Run { read, write, network, interface, settings })
    }
}

fn end(value: Option<(String, String)>, (option, variable): (&str, &str)) -> Result<End, String> {
    let (name, value) = value.ok_or_else(|| format!("--{option} or {variable} is missing"))?;
    let end = value.parse::<End>().ok().filter(|end| stream::is_valid(*end));
    end.ok_or_else(|| format!("{name}={value}: not the number of a {}", stream::KIND))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn run(words: &str, variables: &[(&str, &str)]) -> Result<Run, String> {
        let environment =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        match parse(words.split_whitespace().map(OsString::from), environment)? {
            Command::Run(run) => Ok(run),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_stronger_than_variables() {
        let both = [(READ.1, "3"), (WRITE.1, "4"), (NETWORK.1, "userspace"), (SETTINGS.1, "ask"), (INTERFACE.1, "")];
        let by_environment = run("run", &both).unwrap();
        assert_eq!((by_environment.read, by_environment.write), (3, 4));
        assert_eq!((by_environment.network, by_environment.settings), (Network::Userspace, Settings::ask()));
        assert_eq!(by_environment.interface, "wg-vpn0");
        let words = format!("run --{} 5 --{}=6 --network auto --settings own --interface wg7", READ.0, WRITE.0);
        let by_options = run(&words, &both).unwrap();
        assert_eq!((by_options.read, by_options.write, by_options.interface.as_str()), (5, 6, "wg7"));
        assert_eq!((by_options.network, by_options.settings), (Network::Auto, Settings::Own));
    }

    #[test]
    fn what_cannot_be_is_named() {
        let [read, write] = [READ, WRITE].map(|(option, _)| format!("--{option}"));
        let both = format!("run {read} 3 {write} 4");
        for (words, complaint) in [
            (String::new(), "run".to_owned()),
            ("stop".into(), "stop".into()),
            ("run".into(), format!("{read} or {} is missing", READ.1)),
            (format!("run {read} 3"), format!("{write} or")),
            (format!("run {read} -3 {write} 4"), format!("{read}=-3: not the number")),
            (format!("run {read} 3 {write} x"), format!("{write}=x: not the number")),
            (format!("run {read} 3 {write} 3"), "both 3".into()),
            (format!("{both} --network tap"), "--network=tap".into()),
            (format!("{both} --settings us"), "--settings=us".into()),
            (format!("{both} --fast"), "--fast".into()),
            ("run run".into(), "run".into()),
        ] {
            let error = run(&words, &[]).unwrap_err();
            assert!(error.contains(&complaint), "{words}: {error}");
        }
        assert!(run("run", &[(READ.1, "-1"), (WRITE.1, "4")]).unwrap_err().contains(READ.1));
    }
}
