//! JSON values that know where they stand in the document.
//!
//! serde_json checks the syntax and finds the end of each value; this module adds places, so that
//! a problem can be shown under the very characters that cause it. Only as many levels are opened
//! as the schema has: nesting is skipped without recursion.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A run of bytes in the document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte, from 0.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

/// A JSON value in its document.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    document: &'a str,
    text: &'a str,
}

/// A field of an object.
pub struct Member<'a> {
    /// The name, unescaped.
    pub key: Cow<'a, str>,
    /// Where the name stands, quotes included.
    pub key_span: Span,
    /// The value.
    pub value: Node<'a>,
}

/// The document is not JSON.
pub struct SyntaxError {
    /// The offending character.
    pub span: Span,
    /// What was expected.
    pub message: String,
    /// What to do.
    pub hint: Option<&'static str>,
}

impl<'a> Node<'a> {
    /// Reads a whole document.
    pub fn parse(document: &'a str) -> Result<Self, SyntaxError> {
        let raw: &'a RawValue =
            serde_json::from_str(document).map_err(|error| SyntaxError::new(document, &error))?;
        Ok(Node {
            document,
            text: raw.get(),
        })
    }

    /// The value at a span that [`Node::span`] gave earlier.
    pub fn at(document: &'a str, span: Span) -> Self {
        let text = document
            .get(span.start..span.start + span.len)
            .unwrap_or_default();
        Node { document, text }
    }

    /// Where the value stands.
    pub fn span(&self) -> Span {
        Span {
            start: self.text.as_ptr() as usize - self.document.as_ptr() as usize,
            len: self.text.len(),
        }
    }

    /// The value as it is written.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// What kind of value it is, in a person's words.
    pub fn kind(&self) -> &'static str {
        match self.text.as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "a list",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        }
    }

    /// The string, unescaped; `None` if the value is not one.
    pub fn string(&self) -> Option<Cow<'a, str>> {
        let text: Text<'a> = serde_json::from_str(self.text).ok()?;
        Some(text.0)
    }

    /// The boolean; `None` if the value is not one.
    pub fn boolean(&self) -> Option<bool> {
        serde_json::from_str(self.text).ok()
    }

    /// The whole number; `None` if the value is not one, or is too large.
    pub fn integer(&self) -> Option<u32> {
        serde_json::from_str(self.text).ok()
    }

    /// The elements; `None` if the value is not a list.
    pub fn elements(&self) -> Option<Vec<Node<'a>>> {
        let raws: Vec<&'a RawValue> = serde_json::from_str(self.text).ok()?;
        Some(raws.into_iter().map(|raw| self.child(raw.get())).collect())
    }

    /// The fields in the order of the document, repeated ones included; `None` if the value is not
    /// an object.
    pub fn members(&self) -> Option<Vec<Member<'a>>> {
        let Fields(fields) = serde_json::from_str(self.text).ok()?;
        let mut before = 1;
        let members = fields.into_iter().map(|(key, raw)| {
            let value = self.child(raw.get());
            let start = value.span().start - self.span().start;
            // Between the end of the last value and this one stand a comma, the name and a colon.
            let gap = &self.text[before..start];
            let quote = gap.find('"').unwrap_or(0);
            let end = gap.rfind('"').map_or(gap.len(), |end| end + 1);
            before = start + value.text.len();
            Member {
                key,
                key_span: Span {
                    start: self.span().start + start - gap.len() + quote,
                    len: end.saturating_sub(quote),
                },
                value,
            }
        });
        Some(members.collect())
    }

    fn child(&self, text: &'a str) -> Node<'a> {
        Node {
            document: self.document,
            text,
        }
    }
}

impl SyntaxError {
    fn new(document: &str, error: &serde_json::Error) -> Self {
        let line_start: usize = document
            .split_inclusive('\n')
            .take(error.line().saturating_sub(1))
            .map(str::len)
            .sum();
        let mut start = (line_start + error.column().saturating_sub(1)).min(document.len());
        while !document.is_char_boundary(start) {
            start -= 1;
        }
        let text = alloc::format!("{error}");
        let message = match text.find(" at line ") {
            Some(end) => text[..end].into(),
            None => text,
        };
        let (start, hint) = hint(document, start);
        SyntaxError {
            span: Span { start, len: 1 },
            message,
            hint,
        }
    }
}

/// What people do most often where others write JSON: where it stands, and what to do.
fn hint(document: &str, start: usize) -> (usize, Option<&'static str>) {
    let (before, rest) = document.split_at(start.min(document.len()));
    let closes = rest.trim_start().starts_with(['}', ']']);
    if closes && before.trim_end().ends_with(',') {
        let comma = before.trim_end().len() - 1;
        return (comma, Some("remove this comma: nothing follows it"));
    }
    let hint = match rest.as_bytes() {
        [b'/', ..] | [b'#', ..] => {
            Some("JSON has no comments; a connector has a field \"comment\"")
        }
        [b'\'', ..] => Some("strings stand in double quotes"),
        [0xef, 0xbb, 0xbf, ..] => Some("the file begins with a byte order mark: save it without"),
        [b'"', ..] => Some("is a comma missing before this?"),
        _ => None,
    };
    (start, hint)
}

struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.into())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::new();
                while let Some((Text(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
            fn visit_seq<S: SeqAccess<'de>>(self, _: S) -> Result<Self::Value, S::Error> {
                Err(serde::de::Error::custom("a list"))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_know_their_places() {
        let document = r#"{ "a" : 1,
  "b\"c":[true , "x"] }"#;
        let members = Node::parse(document).ok().unwrap().members().unwrap();
        let shown: Vec<_> = members
            .iter()
            .map(|m| {
                let key = &document[m.key_span.start..m.key_span.start + m.key_span.len];
                (m.key.as_ref(), key, m.value.text())
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("a", "\"a\"", "1"),
                ("b\"c", "\"b\\\"c\"", "[true , \"x\"]")
            ]
        );
        let elements = members[1].value.elements().unwrap();
        assert_eq!(&document[elements[1].span().start..][..3], "\"x\"");
    }

    #[test]
    fn syntax_errors_point_at_the_character() {
        let error = Node::parse("{\n  \"a\": 1,\n  oops\n}").err().unwrap();
        assert_eq!(error.span.start, 14);
        assert_eq!(error.message, "key must be a string");
    }

    #[test]
    fn deep_nesting_is_no_recursion() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert!(Node::parse(&deep).is_ok());
        assert!(Node::parse(&"[".repeat(1_000_000)).is_err());
    }
}
