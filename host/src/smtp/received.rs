//! The trace field that a message gets on its way through (RFC 5321 §4.4).

use std::fmt::Write;
use std::net::IpAddr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use portcullis::{PeerCertificate, Tls, tls_version_name};

/// What a Received field tells.
pub struct Trace<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The client's confirmed name.
    pub name: Option<&'a str>,
    /// The argument of EHLO or HELO.
    pub helo: &'a str,
    /// Whether it was EHLO.
    pub esmtp: bool,
    /// The encryption of the session.
    pub tls: Option<&'a Tls>,
    /// Whether the client has logged in.
    pub is_authenticated: bool,
    /// Whether the transaction has SMTPUTF8.
    pub smtputf8: bool,
    /// Our own name.
    pub hostname: &'a str,
    /// The transaction.
    pub id: &'a str,
    /// The recipient, if there is one only: a list would tell each of the others.
    pub recipient: Option<&'a str>,
}

impl Trace<'_> {
    /// The field with its CRLF. The client's words are stripped of what could end it.
    pub fn field(&self, now: OffsetDateTime) -> String {
        let name = self.name.map(|name| format!("{} ", atom(name)));
        let mut field = format!(
            "Received: from {} ({}{})\r\n",
            atom(self.helo),
            name.unwrap_or_default(),
            literal(self.client)
        );
        // Writing to a string cannot fail.
        if let Some(tls) = self.tls {
            let _ = write!(
                field,
                "\t(using {} with cipher {}; ",
                tls.version.and_then(tls_version_name).unwrap_or("unknown"),
                atom(&tls.cipher)
            );
            let _ = match &tls.certificate {
                PeerCertificate::None | PeerCertificate::Unknown => {
                    write!(field, "no client certificate)\r\n")
                }
                PeerCertificate::Presented(certificate) => {
                    let trust = certificate.trust.map_or("unknown", |trust| trust.name());
                    let mut names = certificate.dns_names.iter().flatten();
                    let name = names.next().map_or("without a name", String::as_str);
                    write!(field, "client certificate {} {trust})\r\n", atom(name))
                }
            };
        }
        let _ = write!(
            field,
            "\tby {} with {} id {}",
            self.hostname,
            self.protocol(),
            self.id
        );
        if let Some(recipient) = self.recipient {
            let _ = write!(field, "\r\n\tfor <{recipient}>");
        }
        let date = now.format(&Rfc2822).unwrap_or_default();
        let _ = write!(field, ";\r\n\t{date}\r\n");
        field
    }

    /// RFC 3848, and RFC 6531 §4.3 for SMTPUTF8.
    fn protocol(&self) -> String {
        if !self.esmtp {
            return "SMTP".into();
        }
        let name = if self.smtputf8 { "UTF8SMTP" } else { "ESMTP" };
        let tls = if self.tls.is_some() { "S" } else { "" };
        let login = if self.is_authenticated { "A" } else { "" };
        format!("{name}{tls}{login}")
    }
}

/// RFC 5321 §4.1.3.
fn literal(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    }
}

/// A word from outside that cannot end a comment or a line, nor grow without bound.
fn atom(text: &str) -> String {
    let word: String = text
        .chars()
        .take(255)
        .map(|c| {
            if c.is_control()
                || c.is_whitespace()
                || matches!(c, '(' | ')' | '\\' | ';' | '<' | '>')
            {
                '?'
            } else {
                c
            }
        })
        .collect();
    if word.is_empty() {
        "unknown".into()
    } else {
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_cannot_end_the_field() {
        let trace = Trace {
            client: "::ffff:192.0.2.1".parse().unwrap(),
            name: Some("a) b.test"),
            helo: "a)\r\nSubject: x",
            esmtp: true,
            tls: None,
            is_authenticated: true,
            smtputf8: false,
            hostname: "mx.contoso.com",
            id: "abc.1",
            recipient: Some("b@contoso.com"),
        };
        assert_eq!(
            trace.field(OffsetDateTime::UNIX_EPOCH),
            "Received: from a???Subject:?x (a??b.test [192.0.2.1])\r\n\
             \tby mx.contoso.com with ESMTPA id abc.1\r\n\
             \tfor <b@contoso.com>;\r\n\
             \tThu, 01 Jan 1970 00:00:00 +0000\r\n"
        );
    }
}
