//! An update on the whole screen.

use std::collections::VecDeque;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Paragraph, Row, Sparkline, Table, TableState},
};

use super::model::{Model, Rates, age, clock, short};
use crate::show::units;

/// The user's choices.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) table: TableState,
}

/// The number of rates in a peer's line.
const IN_LINE: usize = 16;

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, view: &mut View) {
    let peers = u16::try_from(model.state.peers.len()).unwrap_or(u16::MAX);
    let [title, graphs, table, events, help] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(5),
        Constraint::Max(peers.saturating_add(3)),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_title(frame, title, model);
    let [rx, tx] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(graphs);
    let (rx_rate, tx_rate) = model.total.latest();
    draw_graph(frame, rx, "received", rx_rate, &model.total.rx, Color::Green);
    draw_graph(frame, tx, "sent", tx_rate, &model.total.tx, Color::Blue);
    draw_peers(frame, table, model, view);
    draw_events(frame, events, model);
    frame.render_widget(Line::from("q quit   ↑ ↓ select a peer").dim(), help);
}

/// Removes the colours of lines for the terminal.
fn amount(bytes: u64) -> String {
    anstream::adapter::strip_str(&units::bytes(bytes)).to_string()
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let mut first = vec![Span::from(model.name.clone()).bold().green()];
    if let Some(key) = model.state.public_key() {
        first.push(Span::from(format!("  {key}")));
    }
    let mut second = vec![Span::from(format!("port {}", model.state.interface.listen_port))];
    if let Some(counters) = model.counters {
        let text = format!("   dropped {}   errors {}", counters.dropped, counters.errors);
        second.push(if counters.dropped + counters.errors > 0 { text.yellow() } else { text.into() });
    }
    second.push(Span::from(format!("   {} UTC", clock(model.time))).dim());
    if let Some(reason) = &model.lost {
        second.push(Span::from(format!("   {reason}")).bold().red());
    }
    frame.render_widget(Paragraph::new(vec![Line::from(first), Line::from(second)]), area);
}

fn draw_graph(frame: &mut Frame<'_>, area: Rect, what: &str, rate: u64, rates: &VecDeque<u64>, colour: Color) {
    let block = Block::bordered().title(format!(" {what} {}/s ", amount(rate)));
    let width = usize::from(area.width.saturating_sub(2));
    let shown = rates.iter().skip(rates.len().saturating_sub(width)).copied().collect::<Vec<_>>();
    frame.render_widget(Sparkline::default().block(block).data(&shown).style(Style::new().fg(colour)), area);
}

fn draw_peers(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &mut View) {
    let nothing = Rates::default();
    let rows = model.state.peers.iter().map(|peer| {
        let rates = model.peers.get(&peer.public_key).unwrap_or(&nothing);
        let (rx, tx) = rates.latest();
        let since = model.time.saturating_sub(peer.last_handshake.as_secs());
        // After 3 minutes a session has expired.
        let colour = if since < 180 { Color::Green } else { Color::Reset };
        Row::new(vec![
            Line::from(short(&peer.public_key)).yellow(),
            Line::from(peer.endpoint.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
            Line::from(age(peer, model.time)).fg(colour),
            Line::from(format!("{}/s", amount(rx))),
            Line::from(format!("{}/s", amount(tx))),
            Line::from(bars(rates)),
            Line::from(format!("{} / {}", amount(peer.rx_bytes), amount(peer.tx_bytes))),
        ])
    });
    let widths = [
        Constraint::Length(11),
        Constraint::Fill(2),
        Constraint::Length(9),
        Constraint::Length(13),
        Constraint::Length(13),
        Constraint::Length(u16::try_from(IN_LINE).unwrap_or_default()),
        Constraint::Fill(2),
    ];
    let header = Row::new(["peer", "endpoint", "handshake", "received", "sent", "both", "total received / sent"]);
    let table = Table::new(rows, widths)
        .header(header.add_modifier(Modifier::DIM))
        .block(Block::bordered().title(format!(" {} peers ", model.state.peers.len())))
        .row_highlight_style(Style::new().reversed());
    frame.render_stateful_widget(table, area, &mut view.table);
}

/// Returns the last rates of both directions together, as a row of bars.
fn bars(rates: &Rates) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let sums = rates.rx.iter().zip(&rates.tx).map(|(rx, tx)| rx.saturating_add(*tx));
    let sums: Vec<_> = sums.skip(rates.rx.len().saturating_sub(IN_LINE)).collect();
    let most = u128::from(sums.iter().copied().max().unwrap_or_default()).max(1);
    let bar = |sum: u64| match sum {
        0 => ' ',
        _ => usize::try_from(u128::from(sum) * 7 / most).ok().and_then(|level| BARS.get(level)).copied().unwrap_or(' '),
    };
    sums.into_iter().map(bar).collect()
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let lines = model.events.iter().rev().take(usize::from(area.height));
    let line = |event: &super::model::Happened| {
        Line::from(vec![Span::from(clock(event.time)).dim(), Span::from(format!(" {}", event.text))])
    };
    frame.render_widget(
        Paragraph::new(lines.map(line).collect::<Vec<_>>()).block(Block::bordered().title(" events ")),
        area,
    );
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::state::State;
    use ratatui::{Terminal, backend::TestBackend};
    use std::time::{Duration, Instant};

    fn state(rx: u64) -> State {
        let text = format!(
            "private_key={0}\nlisten_port=51820\npublic_key={0}\nendpoint=192.0.2.1:51820\nrx_bytes={rx}\ntx_bytes=0\n\
             last_handshake_time_sec=1\npublic_key={1}\nerrno=0\n\n",
            "07".repeat(32),
            "09".repeat(32)
        );
        State::read(text.as_bytes()).unwrap()
    }

    fn screen(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model, &mut View::default())).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_has_peers_rates_and_events() {
        let mut model = Model::new("wg7");
        let begin = Instant::now();
        model.sample(Ok(state(0)), None, begin);
        model.sample(Ok(state(2048)), None, begin + Duration::from_secs(1));
        model.sample(Err("no daemon answers".into()), None, begin + Duration::from_secs(2));
        let screen = screen(&model, 120, 24);
        for text in ["wg7", "port 51820", "received 2.00 KiB/s", " 2 peers ", "192.0.2.1:51820", "never", "█"] {
            assert!(screen.contains(text), "{text} is not in\n{screen}");
        }
        assert!(screen.contains("no daemon answers") && screen.contains("lost: "), "{screen}");
        assert!(!screen.contains('\u{1b}'));
    }

    #[test]
    fn any_size_is_drawn() {
        let mut model = Model::new("wg7");
        model.sample(Ok(state(1)), Some(super::super::model::Counters { dropped: 1, errors: 0 }), Instant::now());
        for (width, height) in [(1, 1), (10, 3), (20, 8), (300, 100)] {
            let _ = screen(&model, width, height);
        }
    }
}
