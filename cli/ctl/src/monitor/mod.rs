//! `monitor`: the present state of a tunnel, on the whole screen or in lines.

mod model;
mod plain;
mod screen;

use std::{
    fs,
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    arguments::Monitor,
    failure::{Failure, Result},
    socket::Sockets,
};
use model::{Counters, Model};

/// The maximum time that a daemon may delay keys and signals.
const PATIENCE: Duration = Duration::from_secs(2);

/// The maximum delay of a signal.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(100);

pub(crate) fn run(sockets: &Sockets, arguments: &Monitor) -> Result<()> {
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => only_tunnel(sockets)?,
    };
    let mut model = Model::new(&name);
    // Without a tunnel there is nothing to monitor; one that disappears later may come back.
    let state = sockets.connect(&name)?.get()?;
    model.sample(Ok(state), counters(&name), Instant::now());
    let watch = Watch { sockets, arguments, name: &name, ended: ended_by_signal()? };
    let is_plain = arguments.plain || arguments.json || !io::stdout().is_terminal() || !io::stdin().is_terminal();
    if is_plain { watch.lines(model) } else { watch.screen(model) }
}

fn only_tunnel(sockets: &Sockets) -> Result<String> {
    let mut names = sockets.answering()?;
    match names.len() {
        1 => Ok(names.remove(0)),
        0 => Err(Failure { exit: crate::failure::Exit::NotFound, ..Failure::new("there is no tunnel to watch") }),
        _ => Err(Failure::usage(format!("which one? There are: {}", names.join(", ")))),
    }
}

/// Set by signals that end a program.
fn ended_by_signal() -> Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, ended.clone())
            .map_err(|error| Failure::io("cannot wait for signals", &error))?;
    }
    Ok(ended)
}

/// Returns the system's counters of the interface, if any.
fn counters(name: &str) -> Option<Counters> {
    counters_in(&fs::read_to_string("/proc/net/dev").ok()?, name)
}

/// Returns the counters of an interface in the text of `/proc/net/dev`.
fn counters_in(text: &str, name: &str) -> Option<Counters> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))?;
    let number = |column: usize| line.split_whitespace().nth(column)?.parse::<u64>().ok();
    Some(Counters { dropped: number(3)?.saturating_add(number(11)?), errors: number(2)?.saturating_add(number(10)?) })
}

struct Watch<'a> {
    sockets: &'a Sockets,
    arguments: &'a Monitor,
    name: &'a str,
    ended: Arc<AtomicBool>,
}

impl Watch<'_> {
    fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.arguments.interval)
    }

    fn sample(&self, model: &mut Model) {
        let state = self.sockets.connect_within(self.name, PATIENCE).and_then(|mut client| client.get());
        model.sample(state.map_err(|failure| failure.text), counters(self.name), Instant::now());
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn lines(&self, mut model: Model) -> Result<()> {
        let mut next = Instant::now();
        let mut looks = 0;
        loop {
            if self.arguments.json {
                plain::print_json(&model)?
            } else {
                plain::print_lines(&model)?
            }
            looks += 1;
            if self.arguments.count == Some(looks) {
                return Ok(());
            }
            next += self.interval();
            if self.has_ended() {
                return Ok(());
            }
            while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                if self.has_ended() {
                    return Ok(());
                }
                thread::sleep(left.min(LOOK_FOR_SIGNALS));
            }
            // After a suspension there is one update, not one for each interval.
            next = next.max(Instant::now());
            self.sample(&mut model);
        }
    }

    /// The terminal is restored at the end, also after a panic.
    fn screen(&self, model: Model) -> Result<()> {
        let failed = |error: io::Error| Failure::io("cannot use the terminal", &error);
        let mut terminal = ratatui::try_init().map_err(failed)?;
        let outcome = self.draw(&mut terminal, model);
        ratatui::try_restore().map_err(failed)?;
        outcome.map_err(failed)
    }

    fn draw(&self, terminal: &mut ratatui::DefaultTerminal, mut model: Model) -> io::Result<()> {
        let mut view = screen::View::default();
        let mut next = Instant::now() + self.interval();
        let mut looks = 1;
        terminal.draw(|frame| screen::draw(frame, &model, &mut view))?;
        while !self.has_ended() && self.arguments.count.is_none_or(|count| looks < count) {
            let left = next.saturating_duration_since(Instant::now());
            let is_due = left.is_zero();
            if is_due {
                self.sample(&mut model);
                looks += 1;
                next = (next + self.interval()).max(Instant::now());
            }
            // Keys are also handled if updates take longer than the interval.
            let is_pressed = event::poll(left.min(LOOK_FOR_SIGNALS))?;
            if is_pressed && ends(event::read()?, &mut view) {
                return Ok(());
            }
            if is_due || is_pressed {
                terminal.draw(|frame| screen::draw(frame, &model, &mut view))?;
            }
        }
        Ok(())
    }
}

/// Handles a key. Returns whether it ends the program.
fn ends(event: Event, view: &mut screen::View) -> bool {
    let Event::Key(key) = event else {
        return false;
    };
    if key.kind != KeyEventKind::Press {
        return false;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char('c') => return key.modifiers.contains(KeyModifiers::CONTROL),
        KeyCode::Down | KeyCode::Char('j') => view.table.select_next(),
        KeyCode::Up | KeyCode::Char('k') => view.table.select_previous(),
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_those_of_the_interface() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes\n    wg: 0 0 9 9 0 0 0 0 0 0 9 9 0 0 0 0\n\
                    wg0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(counters_in(text, "wg0"), Some(Counters { dropped: 16, errors: 14 }));
        assert_eq!(counters_in(text, "wg1"), None);
    }
}
