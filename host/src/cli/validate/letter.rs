//! What to write to a partner: what its server needs, in words that its postmaster can act on.

use std::fmt::Write;

use super::Outcome;
use crate::cli::paint::printable;
use crate::egress::partner::probe::Check;
use portcullis::{Direction, Mode};

/// The requirement that the chain ends at an authority that the rules name.
const AUTHORITY: &str = "certificate-authority";

/// What a partner is told of a connector.
pub struct Sheet {
    /// The connector.
    pub connector: String,
    /// What the list is about; `None` if nothing is asked.
    about: Option<String>,
    /// What is asked.
    demands: Vec<String>,
    /// What becomes of anything else.
    otherwise: &'static str,
    /// Whom to write to, to try it.
    to: Option<String>,
}

/// A letter for each connector.
pub fn text(outcomes: &[Outcome]) -> String {
    let letters = outcomes.iter().map(|outcome| sheet(outcome).text());
    letters.collect::<Vec<_>>().join("\n-- \n")
}

/// What a partner is told of a connector that was tried with `--letter`.
pub fn sheet(outcome: &Outcome) -> Sheet {
    let asks_nothing = outcome
        .partner
        .as_ref()
        .is_some_and(|it| it.checks.is_empty());
    let is_inbound = outcome.direction == Direction::Inbound;
    let applies_to = &outcome.applies_to;
    let is_mute = outcome.mode == Mode::Disabled || asks_nothing;
    Sheet {
        connector: outcome.connector.clone(),
        about: (!is_mute).then(|| match is_inbound {
            true => format!("We take mail {applies_to} if your server"),
            false => format!("We send mail {applies_to} if your server"),
        }),
        demands: demands(outcome, is_inbound),
        otherwise: match (is_inbound, outcome.mode == Mode::Audit) {
            (true, false) => "Anything else is refused; the reply says what is missing.",
            (false, false) => {
                "Otherwise the mail waits at our side, and is returned to its sender in the end."
            }
            (_, true) => {
                "We are trying this out: for the time being mail flows as before, and we see what would be missing."
            }
        },
        to: outcome.partner.as_ref().map(|partner| partner.to.clone()),
    }
}

impl Sheet {
    /// As text for a mail.
    pub fn text(&self) -> String {
        let Some(about) = &self.about else {
            let connector = printable(&self.connector);
            return format!("The connector \"{connector}\" asks nothing of anybody.\n");
        };
        let mut text = format!("{}\n\n", printable(about));
        for demand in &self.demands {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "- {}", printable(demand));
        }
        let _ = writeln!(text, "\n{}", self.otherwise);
        if let Some(to) = &self.to {
            let _ = writeln!(text, "To try it, send a message to {}.", printable(to));
        }
        text
    }

    /// As a page of its own.
    pub fn html(&self, organization: &str, contact: &str) -> String {
        let title = match organization {
            "" => "Secure mail".to_owned(),
            organization => format!("Secure mail with {organization}"),
        };
        let mut body = format!("<h1>{}</h1>\n", escaped(&title));
        match &self.about {
            None => body.push_str("<p>We ask nothing of your server.</p>\n"),
            Some(about) => {
                let items = self
                    .demands
                    .iter()
                    .map(|it| format!("<li>{}</li>\n", escaped(it)));
                let _ = write!(
                    body,
                    "<p>{}</p>\n<ul>\n{}</ul>\n<p>{}</p>\n",
                    escaped(about),
                    items.collect::<String>(),
                    self.otherwise
                );
            }
        }
        if let Some(to) = &self.to {
            let to = escaped(to);
            let _ = writeln!(
                body,
                "<p>To try it, send a message to <code>{to}</code>. If it is refused, the reply says what is missing, with an id by which we find it.</p>"
            );
        }
        let _ = writeln!(body, "<p>Questions: <code>{}</code></p>", escaped(contact));
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>body {{ font: 16px/1.5 sans-serif; max-width: 45rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark; }}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
            escaped(&title)
        )
    }
}

/// A text that is nothing but text in HTML.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in printable(text).chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
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
