//! The outcome for a person.

use std::fmt::Write;

use super::Outcome;
use crate::cli::paint::{Painter, printable};
use crate::egress::partner::probe::{Check, Status};

/// All outcomes, a block each, and a line in the end.
pub fn text(outcomes: &[Outcome], paint: Painter) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        block(&mut text, outcome, paint);
        text.push('\n');
    }
    let failed = outcomes.iter().filter(|o| o.valid == Some(false)).count();
    let summary = summary(outcomes, failed);
    let _ = if failed > 0 {
        writeln!(text, "{}", paint.bad(summary))
    } else {
        writeln!(text, "{summary}")
    };
    text
}

fn summary(outcomes: &[Outcome], failed: usize) -> String {
    let connectors = |count: usize, kind: &str| match count {
        1 => format!("1 {kind}connector"),
        count => format!("{count} {kind}connectors"),
    };
    let tried = outcomes.iter().filter(|o| o.valid.is_some()).count();
    let waits = |outcome: &&Outcome| {
        let partner = outcome.partner.as_ref();
        partner.is_some_and(|partner| partner.tried.is_none())
    };
    let waiting = outcomes.iter().filter(waits).count();
    let mut parts = Vec::new();
    if tried > 0 || waiting == 0 {
        parts.push(format!(
            "{tried} of {} tried, {} would work, {failed} would not",
            connectors(outcomes.len(), ""),
            tried - failed
        ));
    }
    if waiting > 0 {
        parts.push(format!(
            "{} not tried: give --ip, --tls, --client-cert",
            connectors(waiting, "inbound ")
        ));
    }
    parts.join("; ")
}

// Writing to a string cannot fail.
fn block(text: &mut String, outcome: &Outcome, paint: Painter) {
    let verdict = match outcome.valid {
        Some(true) => format!("{}", paint.good("would work")),
        Some(false) => format!("{}", paint.bad("would not work")),
        None => format!("{}", paint.dim("not tried")),
    };
    let _ = writeln!(
        text,
        "{} ({}, {}): {verdict}",
        paint.strong(printable(&outcome.connector)),
        outcome.direction,
        outcome.mode
    );
    let _ = writeln!(
        text,
        "  {} → {}",
        printable(&outcome.applies_to),
        printable(&outcome.requires)
    );
    if let Some(note) = &outcome.note {
        let _ = writeln!(text, "  {}", printable(note));
    }
    for route in &outcome.routes {
        let _ = writeln!(text, "  {}", printable(&route.report.target));
        checks(text, "    ", &route.report.checks, paint);
        for server in &route.report.servers {
            let _ = writeln!(text, "    {}", printable(&server.server));
            checks(text, "      ", &server.checks, paint);
        }
        if let Some(message) = &route.message {
            checks(text, "    ", std::slice::from_ref(message), paint);
        }
    }
    if let Some(partner) = &outcome.partner {
        match &partner.tried {
            Some(tried) => {
                let sender = match tried.from.as_str() {
                    "" => "<>",
                    from => from,
                };
                let _ = writeln!(
                    text,
                    "  mail from {} to {}",
                    printable(sender),
                    printable(&tried.to)
                );
            }
            None if !partner.checks.is_empty() => {
                let _ = writeln!(text, "  a partner needs:");
            }
            None => {}
        }
        checks(text, "    ", &partner.checks, paint);
    }
}

fn checks(text: &mut String, indent: &str, checks: &[Check], paint: Painter) {
    const NAME: usize = 23;
    for check in checks {
        let name = format!("{:NAME$}", check.check);
        let status = match check.status {
            Status::Ok => format!("{}", paint.good("ok  ")),
            Status::Warning => format!("{}", paint.strong("warn")),
            Status::Failed => format!("{}", paint.bad("FAIL")),
            Status::None => format!("{}", paint.dim("-   ")),
        };
        let _ = writeln!(
            text,
            "{indent}{name}  {status}  {}",
            printable(&check.detail)
        );
        if let Some(hint) = check.hint {
            let _ = writeln!(text, "{indent}{:NAME$}        → {hint}", "");
        }
    }
}
