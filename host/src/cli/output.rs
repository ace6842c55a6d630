//! What commands print. Standard output and standard error may be closed, or on a disk that is full: a result
//! that cannot be written is an error of the command, and a remark that cannot is nobody's loss.

use std::io::{self, Write};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

use portcullis::is_control_or_bidi;

/// How results are written.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// For a program; stable.
    Json,
}

/// What an error of writing results begins with.
pub const UNWRITABLE: &str = "cannot write to standard output";

/// Writes a result to standard output.
///
/// # Errors
/// If it cannot be written.
pub fn result(text: &str) -> anyhow::Result<()> {
    write(text.as_bytes()).context(UNWRITABLE)
}

/// Writes octets to standard output.
///
/// # Errors
/// If they cannot be written.
pub fn bytes(octets: &[u8]) -> anyhow::Result<()> {
    write(octets).context(UNWRITABLE)
}

/// Writes a result as JSON for a program, which a person may look at as well.
///
/// # Errors
/// If it cannot be written.
pub fn json(value: &(impl Serialize + ?Sized)) -> anyhow::Result<()> {
    let mut text = Vec::new();
    let formatter = Printable(PrettyFormatter::new());
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut text, formatter,
    ))?;
    text.push(b'\n');
    write(&text).context(UNWRITABLE)
}

/// The same on one line, to a writer.
///
/// # Errors
/// If it cannot be written.
pub fn json_line(output: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let formatter = Printable(serde_json::ser::CompactFormatter);
    value.serialize(&mut serde_json::Serializer::with_formatter(
        &mut *output,
        formatter,
    ))?;
    output.write_all(b"\n")
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Writes a remark to standard error.
pub fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// JSON in which characters that steer a terminal are escaped.
struct Printable<F>(F);

macro_rules! as_it_does {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {
        $(fn $name<W: ?Sized + Write>(&mut self, writer: &mut W, $($argument: $kind),*) -> io::Result<()> {
            self.0.$name(writer, $($argument),*)
        })*
    };
}

impl<F: Formatter> Formatter for Printable<F> {
    as_it_does! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_control_or_bidi) {
            let (plain, steering) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut characters = steering.chars();
            let steering = characters.next().unwrap_or_default();
            write!(writer, "\\u{:04x}", u32::from(steering))?;
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_nothing_in_it_that_a_terminal_obeys() {
        let mut line = Vec::new();
        let value = ["a\u{9b}31m\u{202e}b", "\u{2028}", "é\n"];
        json_line(&mut line, &value).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line, "[\"a\\u009b31m\\u202eb\",\"\\u2028\",\"é\\n\"]\n");
        assert_eq!(serde_json::from_str::<[String; 3]>(&line).unwrap(), value);
    }
}
