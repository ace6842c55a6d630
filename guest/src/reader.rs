//! Reading JSON values with their places: what is wrong is noted where it stands.

use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;

use crate::fields::Fields;
use crate::json::{Member, Node, Span};
use crate::problems::{Path, Problems, nearest};
use crate::text::shorten;

const A_LIST: &str = "a list";

/// An object with its fields.
pub struct Object<'a, 'p> {
    node: Node<'a>,
    path: &'p Path<'p>,
    members: Vec<Member<'a>>,
}

impl<'a, 'p> Object<'a, 'p> {
    /// The object, after noting fields that are in none of these tables or stand twice.
    pub fn read(
        node: Node<'a>,
        path: &'p Path<'p>,
        known: &[&'static Fields],
        problems: &mut Problems,
    ) -> Option<Self> {
        let Some(members) = node.members() else {
            wrong_type(node, path, "an object", problems);
            return None;
        };
        let names = || field_names(known);
        let mut seen = alloc::vec![false; names().count()];
        for member in &members {
            let path = path.field(&member.key);
            match names().position(|name| name == member.key) {
                None => {
                    let known: Vec<&str> = names().collect();
                    unknown_field(member, path, &known, problems);
                }
                Some(number) if seen[number] => {
                    let message = format!("\"{}\" stands here a second time", member.key);
                    problems.error("duplicate-field", path, member.key_span, message, None);
                }
                Some(number) => seen[number] = true,
            }
        }
        Some(Object {
            node,
            path,
            members,
        })
    }

    /// Whether it has no field.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The value of a field, if it is there.
    pub fn optional(&self, name: &'p str) -> Option<(Node<'a>, Path<'p>)> {
        let member = self.members.iter().find(|member| member.key == name)?;
        Some((member.value, self.path.field(name)))
    }

    /// The value of a field; its absence is noted.
    pub fn required(&self, name: &'p str, problems: &mut Problems) -> Option<(Node<'a>, Path<'p>)> {
        let found = self.optional(name);
        if found.is_none() {
            let Span { start, .. } = self.node.span();
            let span = Span { start, len: 1 };
            let message = format!("the field \"{name}\" is missing");
            problems.error("missing-field", *self.path, span, message, None);
        }
        found
    }

    /// The string in a field that must be there.
    pub fn required_string(&self, name: &'p str, problems: &mut Problems) -> Option<Cow<'a, str>> {
        let (node, path) = self.required(name, problems)?;
        string(node, &path, problems)
    }

    /// The value of a field that is true or false, if it is there.
    pub fn optional_boolean(&self, name: &'p str, problems: &mut Problems) -> Option<bool> {
        let (node, path) = self.optional(name)?;
        let value = node.boolean();
        if value.is_none() {
            wrong_type(node, &path, "true or false", problems);
        }
        value
    }
}

/// The names of the fields in some tables.
pub fn field_names(tables: &[&'static Fields]) -> impl Iterator<Item = &'static str> {
    tables
        .iter()
        .flat_map(|table| table.iter())
        .map(|field| field.name)
}

fn unknown_field(member: &Member, path: Path, known: &[&str], problems: &mut Problems) {
    let shown = shorten(&member.key);
    // To look for a near name takes time, and nobody reads that many hints.
    let near = if problems.is_full() {
        None
    } else {
        nearest(&member.key, known)
    };
    let hint = match near {
        Some(name) => format!("did you mean \"{name}\"?"),
        None => format!("known here: {}", known.join(", ")),
    };
    let message = format!("unknown field \"{shown}\"");
    problems.error("unknown-field", path, member.key_span, message, Some(hint));
}

/// Notes that a value is of another type.
pub fn wrong_type(node: Node, path: &Path, wanted: &str, problems: &mut Problems) {
    let message = format!("expected {wanted}, found {}", node.kind());
    let text = node.string().filter(|_| wanted == A_LIST);
    let hint = text.map(|text| format!("write [\"{}\"]", shorten(&text)));
    problems.error("wrong-type", *path, node.span(), message, hint);
}

/// The string, or a note that it is none.
pub fn string<'a>(node: Node<'a>, path: &Path, problems: &mut Problems) -> Option<Cow<'a, str>> {
    let text = node.string();
    if text.is_none() && node.kind() == "a string" {
        let message = "the string has an escape in it that is no character".into();
        problems.error("wrong-type", *path, node.span(), message, None);
    } else if text.is_none() {
        wrong_type(node, path, "a string", problems);
    }
    text
}

/// The elements, or a note that it is no list.
pub fn elements<'a>(node: Node<'a>, path: &Path, problems: &mut Problems) -> Vec<Node<'a>> {
    node.elements().unwrap_or_else(|| {
        wrong_type(node, path, A_LIST, problems);
        Vec::new()
    })
}

/// The word for one of Exchange's TlsAuthLevel (Set-OutboundConnector).
fn in_exchange(word: &str) -> Option<&'static str> {
    let words = [
        ("EncryptionOnly", "encrypt"),
        ("CertificateValidation", "verify"),
        ("DomainValidation", "name"),
    ];
    let found = words
        .into_iter()
        .find(|(own, _)| own.eq_ignore_ascii_case(word));
    found.map(|(_, word)| word)
}

/// One of a few words, or a note which there are.
pub fn choice<T: Copy>(
    node: Node,
    path: &Path,
    choices: &[(&str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let text = string(node, path, problems)?;
    let found = choices.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let message = format!("\"{}\" is not one of: {}", shorten(&text), words.join(", "));
        let hint = in_exchange(&text)
            .filter(|word| words.contains(word))
            .map(|word| format!("what Exchange calls {} is \"{word}\" here", shorten(&text)))
            .or_else(|| nearest(&text, &words).map(|word| format!("did you mean \"{word}\"?")));
        problems.error("unknown-value", *path, node.span(), message, hint);
    }
    found.map(|(_, value)| *value)
}

/// The strings of a list that must not be empty, each through `read`.
pub fn list<T>(
    node: Node,
    path: &Path,
    problems: &mut Problems,
    read: fn(&str, Node, &Path, &mut Problems) -> Option<T>,
) -> Vec<T> {
    let nodes = elements(node, path, problems);
    if nodes.is_empty() && node.elements().is_some() {
        problems.error(
            "empty-selector",
            *path,
            node.span(),
            "the list is empty, so nothing could ever match it".into(),
            Some("leave the field out, or name at least one".into()),
        );
    }
    let read_one = |(index, node): (usize, Node)| {
        let path = path.element(index);
        let text = string(node, &path, problems)?;
        read(&text, node, &path, problems)
    };
    nodes.into_iter().enumerate().filter_map(read_one).collect()
}
