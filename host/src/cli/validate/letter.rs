//! What to write to a partner: what its server needs, in words that its postmaster can act on.

use std::fmt::Write;

use super::Outcome;
use crate::cli::paint::printable;
use crate::egress::partner::probe::Check;
use portcullis::{Direction, Mode};

/// The requirement that the chain ends at an authority that the rules name.
const AUTHORITY: &str = "certificate-authority";

/// A letter for each connector.
pub fn text(outcomes: &[Outcome]) -> String {
    let letters: Vec<String> = outcomes.iter().map(letter).collect();
    letters.join("\n-- \n")
}

fn letter(outcome: &Outcome) -> String {
    let mut text = String::new();
    let asks_nothing = outcome
        .partner
        .as_ref()
        .is_some_and(|it| it.checks.is_empty());
    if outcome.mode == Mode::Disabled || asks_nothing {
        return format!(
            "The connector \"{}\" asks nothing of anybody.\n",
            printable(&outcome.connector)
        );
    }
    let is_inbound = outcome.direction == Direction::Inbound;
    let applies_to = printable(&outcome.applies_to);
    // Writing to a string cannot fail.
    let _ = match is_inbound {
        true => writeln!(text, "We take mail {applies_to} if your server"),
        false => writeln!(text, "We send mail {applies_to} if your server"),
    };
    text.push('\n');
    for line in demands(outcome, is_inbound) {
        let _ = writeln!(text, "- {}", printable(&line));
    }
    text.push('\n');
    let is_audited = outcome.mode == Mode::Audit;
    text.push_str(match (is_inbound, is_audited) {
        (true, false) => "Anything else is refused; the reply says what is missing.\n",
        (false, false) => "Otherwise the mail waits at our side, and is returned to its sender in the end.\n",
        (_, true) => "We are trying this out: for the time being mail flows as before, and we see what would be missing.\n",
    });
    if let Some(partner) = &outcome.partner {
        let _ = writeln!(
            text,
            "To try it, send a message to {}.",
            printable(&partner.to)
        );
    }
    text
}

fn demands(outcome: &Outcome, is_inbound: bool) -> Vec<String> {
    let Some(partner) = outcome.partner.as_ref().filter(|_| is_inbound) else {
        return vec![
            "is reached by the DNS or under the name that we have agreed on, and offers STARTTLS"
                .into(),
            format!("satisfies: {}", outcome.requires),
        ];
    };
    let names_authority = partner.checks.iter().any(|check| check.check == AUTHORITY);
    let demand = |check: &Check| demand(check, names_authority);
    let demands: Vec<String> = partner.checks.iter().map(demand).collect();
    match demands.is_empty() {
        true => vec![outcome.requires.clone()],
        false => demands,
    }
}

fn demand(check: &Check, names_authority: bool) -> String {
    let wanted = &check.detail;
    match check.check {
        "tls" => "uses STARTTLS".into(),
        "tls-version" => format!("speaks {wanted}"),
        "certificate-missing" => "shows a client certificate when it connects".into(),
        "certificate-untrusted" if names_authority => "sends all intermediates with it".into(),
        AUTHORITY => format!("has it from this authority: {wanted}"),
        "certificate-untrusted" => {
            "has it from a public authority, and sends all intermediates with it".into()
        }
        "certificate-name" => format!("has a certificate for {wanted}"),
        "certificate-fingerprint" => format!("shows the certificate with the SHA-256 {wanted}"),
        "certificate-key" => {
            format!("shows a certificate for the public key with the SHA-256 {wanted}")
        }
        "source-ip" => format!("connects from {wanted}; please tell us of changes beforehand"),
        _ => wanted.clone(),
    }
}
