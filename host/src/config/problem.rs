//! What is wrong with a configuration, where, and what would be right.

use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// What is wrong with a configuration.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The kind of mistake, as a stable code: `unknown-key`.
    pub code: &'static str,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// How many characters of the line are concerned.
    pub length: usize,
    /// The text of that line.
    pub excerpt: String,
    /// The key: `listener[0].address`; empty if there is none.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// A part of the way to a value.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// The value of a key of a table.
    Name(&'static str),
    /// An element of a list.
    Number(usize),
}

/// A value that is of the right form and cannot be.
#[derive(Debug)]
pub struct Wrong {
    /// The way to it.
    pub keys: Vec<Key>,
    /// What is wrong.
    pub message: String,
}

impl Wrong {
    /// At the end of these keys.
    pub fn new(keys: impl Into<Vec<Key>>, message: impl Into<String>) -> Self {
        Wrong {
            keys: keys.into(),
            message: message.into(),
        }
    }

    /// The same, seen from a table around it.
    pub fn below(self, outer: &[Key]) -> Self {
        Wrong {
            keys: [outer, &self.keys].concat(),
            ..self
        }
    }
}

/// What comes of looking at a value.
pub type Outcome = Result<(), Wrong>;

/// The value at the end of these keys cannot be.
///
/// # Errors
/// Always.
pub fn wrong<T, const N: usize>(keys: [Key; N], message: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong::new(keys, message))
}

impl Problem {
    /// A value that cannot be; where it is not written down, the table in which it would stand is shown.
    pub fn of_value(text: &str, wrong: Wrong) -> Self {
        let (mut span, mut path) = (0..0, String::new());
        if let Ok(document) = DeTable::parse(text) {
            let document = document.into_inner();
            let mut at = DeValue::Table(document);
            for key in wrong.keys {
                let found = match (key, at) {
                    (Key::Name(name), DeValue::Table(mut table)) => {
                        let known = table.iter().map(|(key, _)| (key.get_ref(), key.span()));
                        let own = known
                            .into_iter()
                            .find(|(known, _)| *known == name)
                            .map(|(_, span)| span);
                        table.remove(name).map(|value| {
                            let is_table = matches!(value.get_ref(), DeValue::Table(_));
                            let span = own.filter(|_| is_table).unwrap_or(value.span());
                            (span, value)
                        })
                    }
                    (Key::Number(number), DeValue::Array(array)) => {
                        let value = array.into_iter().nth(number);
                        value.map(|value| (value.span(), value))
                    }
                    _ => None,
                };
                let Some((place, value)) = found else {
                    break;
                };
                push(&mut path, key_text(key));
                span = place;
                at = value.into_inner();
            }
        }
        let (message, hint) = (wrong.message, None);
        Problem::at(text, span, "wrong-value", path, (message, hint))
    }

    /// What the reader of TOML, or of one of its values, has to say.
    pub fn of_reader(text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or_default();
        let (code, message, hint) = reworded(error.message(), text.get(span.clone()));
        let path = match code {
            "not-toml" => String::new(),
            _ => path_to(text, &span),
        };
        Problem::at(text, span, code, path, (message, hint))
    }

    fn at(
        text: &str,
        span: Range<usize>,
        code: &'static str,
        path: String,
        (message, hint): (String, Option<String>),
    ) -> Self {
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.floor_char_boundary(span.end.min(text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let excerpt = text[line_start..].lines().next().unwrap_or_default();
        let column = text[line_start..start].chars().count() + 1;
        let rest = excerpt.chars().count().saturating_sub(column - 1);
        let length = text.get(start..end).map_or(0, |part| part.chars().count());
        Problem {
            code,
            line: text[..start].matches('\n').count() + 1,
            column,
            length: length.min(rest).max(1),
            excerpt: excerpt.to_owned(),
            path,
            message,
            hint,
        }
    }
}

fn key_text(key: Key) -> String {
    match key {
        Key::Name(name) => name.to_owned(),
        Key::Number(number) => format!("[{number}]"),
    }
}

fn push(path: &mut String, key: String) {
    if !path.is_empty() && !key.starts_with('[') {
        path.push('.');
    }
    path.push_str(&key);
}

/// The keys that lead to what stands at a place.
fn path_to(text: &str, span: &Range<usize>) -> String {
    let mut path = String::new();
    if let Ok(document) = DeTable::parse(text) {
        let document = DeValue::Table(document.into_inner());
        // The whole document is nobody's value.
        if span.start < span.end || span.start > 0 {
            find(&document, span.start, &mut path);
        }
    }
    path
}

/// Goes on to the value, or the key, that a place lies in.
fn find(value: &DeValue, place: usize, path: &mut String) -> bool {
    let before = path.len();
    match value {
        DeValue::Table(table) => table.iter().any(|(key, value)| {
            push(path, key.get_ref().to_string());
            // What is said of a table in brackets stands behind its heading.
            let is_here = key.span().contains(&place) || value.span().contains(&place);
            let found = find(value.get_ref(), place, path) || is_here;
            if !found {
                path.truncate(before);
            }
            found
        }),
        DeValue::Array(array) => array.iter().enumerate().any(|(number, value)| {
            push(path, format!("[{number}]"));
            let found = find(value.get_ref(), place, path) || value.span().contains(&place);
            if !found {
                path.truncate(before);
            }
            found
        }),
        _ => false,
    }
}

/// What the library says, in the words of a person: a code, what is wrong, and what would be right.
fn reworded(said: &str, found: Option<&str>) -> (&'static str, String, Option<String>) {
    let quoted = |text: &str| -> Vec<String> {
        let parts = text.split('`').skip(1).step_by(2);
        parts.map(str::to_owned).collect()
    };
    if let Some(rest) = said.strip_prefix("unknown field ") {
        let names = quoted(rest);
        let (own, known) = names
            .split_first()
            .map_or(("", &[][..]), |(own, known)| (own, known));
        return (
            "unknown-key",
            format!("there is no key {own:?} here"),
            Some(
                nearest(own, known).unwrap_or_else(|| format!("known here: {}", known.join(", "))),
            ),
        );
    }
    if let Some(rest) = said.strip_prefix("unknown variant ") {
        let names = quoted(rest);
        let (own, known) = names
            .split_first()
            .map_or(("", &[][..]), |(own, known)| (own, known));
        let message = format!("{own:?} is not one of: {}", known.join(", "));
        return ("unknown-value", message, nearest(own, known));
    }
    if let Some(rest) = said.strip_prefix("missing field ") {
        let name = quoted(rest).into_iter().next().unwrap_or_default();
        let hint = example(&name).map(|example| format!("for example {example}"));
        return ("missing-key", format!("the key {name:?} is missing"), hint);
    }
    if let Some((found, wanted)) = said
        .strip_prefix("invalid type: ")
        .and_then(|rest| rest.split_once(", expected "))
    {
        let message = format!("expected {}, found {}", in_words(wanted), in_words(found));
        return ("wrong-type", message, None);
    }
    if said.starts_with("invalid length ") && said.contains(" struct ") {
        return ("wrong-type", "expected a table, found a list".into(), None);
    }
    let found = found.unwrap_or_default();
    match said {
        "invalid socket address syntax" => (
            "wrong-value",
            format!("{found} is not an address with a port"),
            Some("for example \"0.0.0.0:25\" or \"[::]:25\"".into()),
        ),
        "invalid IP address syntax" => (
            "wrong-value",
            format!("{found} is not an address"),
            Some("for example \"192.0.2.1\" or \"2001:db8::1\"".into()),
        ),
        _ if is_of_grammar(said) => ("not-toml", format!("this is not TOML: {said}"), None),
        _ => ("wrong-value", said.to_owned(), None),
    }
}

/// Whether a message is about TOML itself, and not about what is written in it.
fn is_of_grammar(said: &str) -> bool {
    let signs = [
        "unclosed",
        "expected `",
        "expected newline",
        "invalid key",
        "duplicate key",
        "missing value",
        "missing opening",
        "extra ",
        "unexpected",
        "key with no value",
        "string values must be quoted",
        "cannot extend",
        "invalid string",
        "invalid escape",
        "missing escaped",
    ];
    signs.iter().any(|sign| said.starts_with(sign))
}

/// Types as people call them.
fn in_words(kind: &str) -> String {
    let is_number = |kind: &str| {
        let digits = kind.strip_prefix(['u', 'i']).unwrap_or_default();
        digits == "size" || !digits.is_empty() && digits.bytes().all(|octet| octet.is_ascii_digit())
    };
    match kind {
        kind if is_number(kind) => "a number".into(),
        "a boolean" | "bool" => "true or false".into(),
        "a sequence" | "sequence" => "a list".into(),
        "map" => "a table".into(),
        kind if kind.starts_with("struct ") => "a table".into(),
        kind => {
            let bare = ["string ", "integer ", "floating point ", "boolean "];
            let found = bare.iter().find_map(|bare| kind.strip_prefix(bare));
            found.unwrap_or(kind).replace('`', "")
        }
    }
}

fn example(key: &str) -> Option<&'static str> {
    Some(match key {
        "hostname" => "hostname = \"mx.contoso.com\"",
        "listener" => "[[listener]] with address = \"0.0.0.0:25\"",
        "address" => "address = \"0.0.0.0:25\"",
        "name" => "name = \"contoso\"",
        "domains" => "domains = [\"contoso.com\"]",
        "policy" => "policy = \"contoso.json\"",
        _ => return None,
    })
}

/// The name that was meant, if one is near.
fn nearest(own: &str, known: &[String]) -> Option<String> {
    let folded = own.to_ascii_lowercase().replace('_', "-");
    let distance = |name: &String| strsim::damerau_levenshtein(&folded, name);
    let nearest = known.iter().min_by_key(|name| distance(name))?;
    let is_near = distance(nearest) <= nearest.len() / 3 + 1;
    is_near.then(|| format!("did you mean {nearest:?}?"))
}
