//! Colour, where a terminal wants it.

use std::fmt::{self, Display};
use std::io::IsTerminal;

use clap::builder::styling::{AnsiColor, Style};

use portcullis::is_control_or_bidi;

/// Whether to colour what goes to this stream: a terminal, and no `NO_COLOR` (no-color.org).
pub fn wanted(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !refused && !dumb
}

/// A text of a module's on one line of a terminal: some characters could say anything there.
pub fn printable(text: &str) -> String {
    let shown = |c: char| if is_control_or_bidi(c) { '\u{fffd}' } else { c };
    text.chars().map(shown).collect()
}

/// The same of a text that may have several lines.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// Colours, or their absence.
#[derive(Clone, Copy)]
pub struct Painter(pub bool);

impl Painter {
    /// Good news.
    pub fn good<T: Display>(self, text: T) -> Painted<T> {
        self.with(text, AnsiColor::Green.on_default())
    }

    /// Bad news.
    pub fn bad<T: Display>(self, text: T) -> Painted<T> {
        self.with(text, AnsiColor::Red.on_default().bold())
    }

    /// What stands out.
    pub fn strong<T: Display>(self, text: T) -> Painted<T> {
        self.with(text, Style::new().bold())
    }

    /// What stands back.
    pub fn dim<T: Display>(self, text: T) -> Painted<T> {
        self.with(text, Style::new().dimmed())
    }

    fn with<T>(self, text: T, style: Style) -> Painted<T> {
        Painted {
            text,
            style: if self.0 { style } else { Style::new() },
        }
    }
}

/// A text with a style.
pub struct Painted<T> {
    text: T,
    style: Style,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.style.render())?;
        self.text.fmt(f)?;
        write!(f, "{}", self.style.render_reset())
    }
}
