//! Showing the problems of a document: the line, a caret under the cause, a hint.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::paint::{self, printable, printable_lines};
use crate::config::ConfigError;
use portcullis::{Problem, Severity};

/// More of a line than this is cut away around the place.
const WIDEST: usize = 160;

/// The problems of the document at `path`, as text for a person.
pub fn problems(path: &str, document: &str, problems: &[Problem], colour: bool) -> String {
    let lines: Vec<&str> = document.lines().collect();
    let mut text = String::new();
    for problem in problems {
        let line = lines
            .get(problem.line.saturating_sub(1) as usize)
            .copied()
            .unwrap_or_default();
        // One character stands for another, so places stay.
        text.push_str(&rendered(
            &printable(path),
            &printable(line),
            problem,
            colour,
        ));
        text.push_str("\n\n");
    }
    text.push_str(&summary(path, problems.iter().map(|it| it.severity)));
    text.push('\n');
    text
}

/// The line of a configuration in which something is wrong, with a caret under it.
pub fn line_of_configuration(error: &ConfigError, colour: bool) -> Option<String> {
    let ConfigError::Wrong { path, problem } = error else {
        return None;
    };
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let shown = Problem {
        severity: Severity::Error,
        code: problem.code.into(),
        path: printable(&problem.path),
        line: number(problem.line),
        column: number(problem.column),
        length: number(problem.length),
        message: printable(&problem.message),
        hint: None,
    };
    let (path, line) = (path.display().to_string(), printable(&problem.excerpt));
    let shown = rendered(&printable(&path), &line, &shown, colour);
    // What is wrong and in which file was said before.
    let lines = shown.lines().skip(2).map(|line| format!("{line}\n"));
    Some(lines.collect())
}

fn rendered(path: &str, line: &str, problem: &Problem, colour: bool) -> String {
    let renderer = match colour {
        true => Renderer::styled(),
        false => Renderer::plain(),
    };
    let span = byte_span(line, problem.column, problem.length);
    let (shown, span) = cut(line, span);
    let before = shown.get(..span.start).unwrap_or_default();
    let column = before.chars().count() + 1;
    let text = renderer.render(&[group(path, shown, span, problem)]);
    // The renderer counts from where the line was cut.
    let place = |column| format!("{path}:{}:{column}", problem.line);
    match column == problem.column as usize {
        true => text,
        false => text.replacen(&place(column), &place(problem.column as usize), 1),
    }
}

fn group<'a>(path: &'a str, line: &'a str, span: Range<usize>, problem: &'a Problem) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let annotation = AnnotationKind::Primary
        .span(span)
        .label(printable(&problem.path));
    let snippet = Snippet::source(line)
        .line_start(problem.line as usize)
        .path(path)
        .annotation(annotation);
    let group = level
        .primary_title(&*problem.message)
        .id(&*problem.code)
        .element(snippet);
    match &problem.hint {
        Some(hint) => group.element(Level::HELP.message(&**hint)),
        None => group,
    }
}

/// Column and length in characters, as bytes of the line.
fn byte_span(line: &str, column: u32, length: u32) -> Range<usize> {
    let at = |characters: usize| {
        line.char_indices()
            .nth(characters)
            .map_or(line.len(), |(at, _)| at)
    };
    let first = column.saturating_sub(1) as usize;
    at(first)..at(first.saturating_add(length as usize))
}

/// The part of a very long line that shows the place.
fn cut(line: &str, span: Range<usize>) -> (&str, Range<usize>) {
    if line.len() <= WIDEST {
        return (line, span);
    }
    let start = line.floor_char_boundary(span.start.saturating_sub(WIDEST / 4));
    let end = line.floor_char_boundary((start + WIDEST).min(line.len()));
    (
        &line[start..end],
        span.start - start..span.end.min(end) - start,
    )
}

/// How many problems of each severity there are.
pub fn summary(path: &str, severities: impl Iterator<Item = Severity>) -> String {
    let (errors, warnings): (Vec<_>, Vec<_>) = severities.partition(|it| *it == Severity::Error);
    let count = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    format!(
        "{path}: {}, {}",
        count(errors.len(), "error"),
        count(warnings.len(), "warning")
    )
}

/// An error and its causes, each once: many errors quote their cause.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// An error for a person: a line, and the line of the configuration that is wrong, if it is that.
pub fn told(error: &anyhow::Error) -> String {
    let of_configuration = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ConfigError>());
    let colour = paint::wanted(&std::io::stderr());
    let shown = of_configuration.and_then(|error| line_of_configuration(error, colour));
    format!(
        "portcullis: {}\n{}",
        printable_lines(&chain(error)),
        shown.unwrap_or_default()
    )
}
