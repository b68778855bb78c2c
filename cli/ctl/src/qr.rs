//! `qr`: a configuration file as a QR code, as the apps on phones read it.

use std::{io::Write, path::Path};

use anstyle::{AnsiColor, Color, Style};
use qrcode::{
    EcLevel, QrCode,
    render::{svg, unicode::Dense1x2},
};
use wg_embed::config::wgquick::{Conf, Table};
use zeroize::Zeroizing;

use crate::{
    arguments::Qr,
    conf::read,
    failure::{Failure, Result},
    output::{YELLOW, complain, print, styled},
};

pub(crate) fn run(arguments: &Qr) -> Result<()> {
    let file = &arguments.file;
    let conf = Conf::from_bytes(&read(file)?).map_err(|error| {
        Failure::new(format!("{}: {error}; `wg-embedctl conf check` shows all problems", file.display()))
    })?;
    let (conf, left_out) = for_apps(conf);
    let has_private_key = matches!(conf.update.private_key, Some(Some(_)));
    let code = code(&conf.to_text()?)?;
    let warn = |text: &str| complain(&format!("{} {text}", styled(YELLOW, "warning:")));
    if !left_out.is_empty() {
        warn(&format!("left out, as the apps do not read it: {}", left_out.join(", ")));
    }
    if has_private_key {
        warn("whoever sees this code has the private key");
    }
    match &arguments.svg {
        Some(path) => write_svg(&code, path),
        None => print(&terminal(&code)),
    }
}

/// Returns the part of a file that the apps read, and the keys that they ignore.
fn for_apps(mut conf: Conf) -> (Conf, Vec<&'static str>) {
    let mut left_out = Vec::new();
    let interface = &mut conf.interface;
    for (key, hooks) in [
        ("PreUp", &mut interface.pre_up),
        ("PostUp", &mut interface.post_up),
        ("PreDown", &mut interface.pre_down),
        ("PostDown", &mut interface.post_down),
    ] {
        if !hooks.is_empty() {
            hooks.clear();
            left_out.push(key);
        }
    }
    if std::mem::take(&mut interface.table) != Table::Auto {
        left_out.push("Table");
    }
    if std::mem::take(&mut interface.save_config) {
        left_out.push("SaveConfig");
    }
    if conf.update.fwmark.take().is_some_and(|mark| mark != 0) {
        left_out.push("FwMark");
    }
    (conf, left_out)
}

/// Returns the smallest code for a text: with the least redundancy, as it is read from a screen.
fn code(text: &str) -> Result<QrCode> {
    QrCode::with_error_correction_level(text, EcLevel::L)
        .map_err(|error| Failure::new(format!("a QR code cannot hold this file of {} bytes: {error}", text.len())))
}

/// Draws the code in half blocks, black on white regardless of the terminal's colours, as many readers need that.
fn terminal(code: &QrCode) -> String {
    const WHITE_ON_BLACK: Style =
        Style::new().fg_color(Some(Color::Ansi(AnsiColor::BrightWhite))).bg_color(Some(Color::Ansi(AnsiColor::Black)));
    let text = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    text.lines().map(|line| format!("{}\n", styled(WHITE_ON_BLACK, line))).collect()
}

/// Writes an image that only its owner may read, atomically.
fn write_svg(code: &QrCode, path: &Path) -> Result<()> {
    let image = Zeroizing::new(code.render::<svg::Color<'_>>().min_dimensions(512, 512).build());
    let failed = |error: &std::io::Error| Failure::io(format_args!("cannot write {}", path.display()), error);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(|error| failed(&error))?;
    file.write_all(image.as_bytes()).map_err(|error| failed(&error))?;
    file.persist(path).map(drop).map_err(|error| failed(&error.error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_apps_do_not_read_is_left_out_and_named() {
        let conf: Conf = "[Interface]\nMTU=1420\nFwMark=1\nTable=off\nPostUp=x\nSaveConfig=true\n".parse().unwrap();
        let (conf, left_out) = for_apps(conf);
        assert_eq!(conf.to_text().unwrap().as_str(), "[Interface]\nMTU = 1420\n");
        assert_eq!(left_out, ["PostUp", "Table", "SaveConfig", "FwMark"]);
    }

    /// What the terminal shows, read again by another implementation.
    #[test]
    fn what_is_shown_is_read_again() {
        let text = "[Interface]\nPrivateKey = IHNe13/LeN0Bn20cqGcls8y7XcIPgip/3xs5wvJWvX8=\nMTU = 1420\n";
        let shown = anstream::adapter::strip_str(&terminal(&code(text).unwrap())).to_string();
        let rows: Vec<Vec<char>> = shown.lines().map(|line| line.chars().collect()).collect();
        let is_white = |x: usize, y: usize| match rows[y / 2][x] {
            '█' => true,
            '▀' => y.is_multiple_of(2),
            '▄' => !y.is_multiple_of(2),
            _ => false,
        };
        // Readers of images want more than one pixel a module.
        const SCALE: usize = 4;
        let (width, height) = (rows[0].len() * SCALE, rows.len() * 2 * SCALE);
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
            if is_white(x / SCALE, y / SCALE) { 255 } else { 0 }
        });
        let (_, read) = image.detect_grids()[0].decode().unwrap();
        assert_eq!(read, text);
    }

    #[test]
    fn a_text_that_is_too_long_is_refused() {
        assert!(code(&"x".repeat(2953)).is_ok());
        let failure = code(&"x".repeat(2954)).err().unwrap();
        assert!(failure.text.contains("2954 bytes"), "{}", failure.text);
    }
}
