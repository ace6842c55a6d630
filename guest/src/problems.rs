//! Collecting what is wrong with a document.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::json::Span;
use crate::{Problem, Severity};

/// More are counted and not listed: nobody reads them, and a hostile document could have millions.
const MOST: usize = 1000;

/// The way to a value, kept on the stack while reading and written out only for a problem.
#[derive(Clone, Copy)]
pub enum Path<'a> {
    /// The document.
    Root,
    /// A field of an object.
    Field(&'a Path<'a>, &'a str),
    /// An element of a list.
    Element(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// The way to a field.
    pub fn field<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    /// The way to an element.
    pub fn element(&self, index: usize) -> Path<'_> {
        Path::Element(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

struct Found {
    severity: Severity,
    code: &'static str,
    path: String,
    span: Span,
    message: String,
    hint: Option<String>,
}

/// The problems of one document.
pub struct Problems<'a> {
    document: &'a str,
    found: Vec<Found>,
    unlisted: usize,
    errors: usize,
}

impl<'a> Problems<'a> {
    /// None so far.
    pub fn new(document: &'a str) -> Self {
        Problems {
            document,
            found: Vec::new(),
            unlisted: 0,
            errors: 0,
        }
    }

    /// The document that the problems are in.
    pub fn document(&self) -> &'a str {
        self.document
    }

    /// Whether further problems are only counted.
    pub fn is_full(&self) -> bool {
        self.found.len() >= MOST
    }

    /// Whether the document cannot be accepted.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Notes an error.
    pub fn error(
        &mut self,
        code: &'static str,
        path: Path,
        span: Span,
        message: String,
        hint: Option<String>,
    ) {
        self.errors += 1;
        self.note(Severity::Error, code, path, span, message, hint);
    }

    /// Notes a warning.
    pub fn warning(
        &mut self,
        code: &'static str,
        path: Path,
        span: Span,
        message: String,
        hint: Option<String>,
    ) {
        self.note(Severity::Warning, code, path, span, message, hint);
    }

    fn note(
        &mut self,
        severity: Severity,
        code: &'static str,
        path: Path,
        span: Span,
        message: String,
        hint: Option<String>,
    ) {
        if self.is_full() {
            self.unlisted += 1;
            return;
        }
        self.found.push(Found {
            severity,
            code,
            path: format!("{path}"),
            span,
            message,
            hint,
        });
    }

    /// The problems in the order of the document, with line and column.
    pub fn finish(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|found| found.span.start);
        let mut places = Places::new(self.document);
        let mut problems: Vec<Problem> = self
            .found
            .into_iter()
            .map(|found| {
                let (line, column, length) = places.locate(found.span);
                Problem {
                    severity: found.severity,
                    code: found.code.into(),
                    path: found.path,
                    line,
                    column,
                    length,
                    message: found.message,
                    hint: found.hint,
                }
            })
            .collect();
        if self.unlisted > 0 {
            let severity = if self.errors > 0 {
                Severity::Error
            } else {
                Severity::Warning
            };
            problems.push(Problem {
                severity,
                code: "too-many-problems".into(),
                path: String::new(),
                line: 1,
                column: 1,
                length: 1,
                message: format!("{} more problems are not listed", self.unlisted),
                hint: Some("mend those above and check again".into()),
            });
        }
        problems
    }
}

/// Lines and columns of ascending places, found in one sweep.
struct Places<'a> {
    document: &'a str,
    line: u32,
    line_start: usize,
    position: usize,
}

impl<'a> Places<'a> {
    fn new(document: &'a str) -> Self {
        Places {
            document,
            line: 1,
            line_start: 0,
            position: 0,
        }
    }

    /// Line and column from 1, and the length in characters up to the end of that line.
    fn locate(&mut self, span: Span) -> (u32, u32, u32) {
        let start = span.start.min(self.document.len());
        for (at, _) in self.document[self.position..start].match_indices('\n') {
            self.line += 1;
            self.line_start = self.position + at + 1;
        }
        self.position = start;
        let column = self.document[self.line_start..start].chars().count() + 1;
        let length = self.document[start..]
            .char_indices()
            .take_while(|&(at, c)| at < span.len && c != '\n')
            .count();
        (self.line, column as u32, length.max(1) as u32)
    }
}

/// The known name nearest to a mistyped one, if any is near.
pub fn nearest<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let folded = typed.to_ascii_lowercase().replace('_', "-");
    let (name, distance) = known
        .iter()
        .map(|name| (*name, edits(&folded, name)))
        .min_by_key(|(_, distance)| *distance)?;
    (distance <= name.len() / 3 + 1).then_some(name)
}

/// Levenshtein's distance in bytes; long names are far from everything.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_names_find_their_neighbour() {
        let known = ["sender-domains", "sender-ips", "recipient-domains"];
        assert_eq!(nearest("sender_domain", &known), Some("sender-domains"));
        assert_eq!(nearest("senderIps", &known), Some("sender-ips"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"x".repeat(100_000), &known), None);
    }

    #[test]
    fn columns_count_characters() {
        let mut places = Places::new("äö\"x\"\nab");
        let span = |start, len| Span { start, len };
        assert_eq!(places.locate(span(4, 3)), (1, 3, 3));
        assert_eq!(places.locate(span(8, 99)), (2, 1, 2));
    }
}
