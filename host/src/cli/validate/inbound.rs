//! Inbound connectors: what a partner needs, or whether this one would pass.

use std::path::Path;

use anyhow::anyhow;
use rustls::pki_types::CertificateDer;
use serde::Serialize;

use super::{Outcome, Validate};
use crate::egress::partner::probe::{Check, Status, certificate_report, left};
use crate::tls::{EXPIRY_WARNING, certificates};
use portcullis::tls::{Authorities, PUBLIC, certificate};
use portcullis::{
    Certificate, Connector, Consideration, Context, Explanation, Outcome as Truth, PeerCertificate,
    Policy, Security, Tls, Trust, tls_version, tls_version_name,
};

/// How a partner stands before a connector.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Partner {
    /// What it was tried with; absent where only the demands are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tried: Option<Tried>,
    /// The requirements, and whether they are satisfied.
    pub checks: Vec<Check>,
    /// Whom mail can be sent to, to try it.
    #[serde(skip)]
    pub to: String,
}

/// The mail that a partner was tried with.
#[derive(Serialize)]
pub struct Tried {
    pub from: String,
    pub to: String,
    pub ip: Option<String>,
    pub tls: Option<&'static str>,
}

impl Validate {
    /// Tries a partner, or tells what one would need.
    pub(super) async fn try_inbound(
        &self,
        policy: &Policy,
        connector: &Connector,
        authorities: &Authorities,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let given = self.ip.is_some()
            || self.tls.is_some()
            || self.client_cert.is_some()
            || self.from.is_some();
        let context = self.mail_of(policy, connector, authorities)?;
        let explanation = policy.session().explain(&context).await?;
        let considered = own(&explanation, connector);
        let mut checks = Vec::new();
        if let Some(path) = &self.client_cert {
            checks.push(self.certificate_check(path)?);
        }
        match considered {
            Some(considered) if considered.matched == Truth::Yes => {
                // Of a session without TLS or a certificate nothing more can be said.
                let mut is_missing = false;
                checks.extend(considered.requirements.iter().map(|requirement| {
                    if is_missing
                        && requirement.satisfied != Truth::Yes
                        && is_of_session(&requirement.requirement)
                    {
                        let name = name_of(&requirement.requirement);
                        return Check::new(name, Status::None, &requirement.expected);
                    }
                    is_missing |= requirement.satisfied != Truth::Yes
                        && is_of_session(&requirement.requirement);
                    if !given {
                        return Check::new(
                            name_of(&requirement.requirement),
                            Status::None,
                            &requirement.expected,
                        );
                    }
                    check(requirement)
                }));
                if given {
                    outcome.valid = Some(
                        considered
                            .requirements
                            .iter()
                            .all(|r| r.satisfied == Truth::Yes),
                    );
                }
            }
            _ if given => {
                outcome.note = Some("it is not for this mail, so it asks nothing of it".into());
            }
            _ => {
                outcome.note = Some(
                    "say with --from, --ip, --tls and --client-cert which mail to try it with"
                        .into(),
                );
            }
        }
        outcome.partner = Some(Partner {
            tried: given.then(|| Tried {
                from: context.mail_from().to_owned(),
                to: context.rcpt_to().to_owned(),
                ip: self.ip.map(|ip| ip.to_string()),
                tls: context
                    .session_tls()
                    .and_then(|tls| tls_version_name(tls.version?)),
            }),
            checks,
            to: context.rcpt_to().to_owned(),
        });
        Ok(())
    }

    /// Mail that the connector is for, as far as the options do not say otherwise.
    fn mail_of(
        &self,
        policy: &Policy,
        connector: &Connector,
        authorities: &Authorities,
    ) -> anyhow::Result<Context> {
        let selects = &connector.selects;
        let at = |patterns: &[String]| {
            let pattern = patterns.iter().find(|pattern| *pattern != "*")?;
            let domain = pattern.strip_prefix("*.").unwrap_or(pattern);
            Some(format!("postmaster@{domain}"))
        };
        let accepted = &policy.description().accepted_domains;
        let to = self
            .to
            .clone()
            .or_else(|| at(&selects.recipient_domains))
            .or_else(|| at(accepted));
        let from = self.sender().map(str::to_owned);
        let range = selects.sender_ips.first();
        let address = range.and_then(|range| range.split('/').next()?.parse().ok());
        let from = from.or_else(|| at(&selects.sender_domains));
        let to = to.unwrap_or_else(|| "postmaster".into());
        let context = Context::inbound(self.ip.or(address), from.unwrap_or_default(), to);
        Ok(context.security(self.session(connector, authorities)?))
    }

    fn session(
        &self,
        connector: &Connector,
        authorities: &Authorities,
    ) -> anyhow::Result<Security> {
        let identified = &connector.selects.certificate_names;
        let shown = match &self.client_cert {
            Some(path) => PeerCertificate::Presented(facts(path, authorities)?),
            // The connector is for mail that shows such a certificate.
            None if !identified.is_empty() => {
                PeerCertificate::Presented(like(identified, authorities))
            }
            None => PeerCertificate::None,
        };
        let version = match &self.tls {
            Some(version) => version.as_str(),
            None if shown != PeerCertificate::None => "TLSv1.3",
            None => return Ok(Security::Plaintext),
        };
        let version = if version.starts_with("TLS") {
            version.to_owned()
        } else {
            format!("TLSv{version}")
        };
        let number = tls_version(&version)
            .ok_or_else(|| anyhow!("--tls {version}: not a version such as 1.2 or TLSv1.3"))?;
        Ok(Security::Encrypted(Tls {
            version: Some(number),
            cipher: "any cipher".into(),
            certificate: shown,
        }))
    }

    fn certificate_check(&self, path: &Path) -> anyhow::Result<Check> {
        let chain = chain(path)?;
        let report = chain.first().and_then(|own| certificate_report(own));
        let report = report.ok_or_else(|| anyhow!("{}: not a certificate", path.display()))?;
        let detail = format!(
            "for {}, {}, {}, issued by {}",
            report.names.join(", "),
            left(report.days_left),
            report.key,
            report.issuer
        );
        let status = if report.days_left < EXPIRY_WARNING {
            Status::Warning
        } else {
            Status::Ok
        };
        let hint = "the partner has to renew it; after that day its mail is refused";
        Ok(Check {
            hint: (status == Status::Warning).then_some(hint),
            ..Check::new("certificate", status, detail)
        })
    }
}

/// The connector's own part of an explanation.
fn own<'a>(explanation: &'a Explanation, connector: &Connector) -> Option<&'a Consideration> {
    explanation
        .considered
        .iter()
        .find(|considered| considered.connector == connector.name)
}

/// Whether a requirement is one of TLS, each of which builds on the one before.
fn is_of_session(requirement: &str) -> bool {
    requirement.starts_with("tls") || requirement.starts_with("certificate")
}

fn check(requirement: &portcullis::RequirementOutcome) -> Check {
    let name = name_of(&requirement.requirement);
    if requirement.satisfied == Truth::Yes {
        return Check::new(name, Status::Ok, &requirement.fact);
    }
    let detail = format!("{}; wanted: {}", requirement.fact, requirement.expected);
    Check {
        hint: hint(name),
        ..Check::new(name, Status::Failed, detail)
    }
}

/// The requirement's stable name; that of a policy of somebody else's is "requirement".
fn name_of(requirement: &str) -> &'static str {
    const KNOWN: [&str; 9] = [
        "tls",
        "tls-version",
        "certificate-missing",
        "certificate-untrusted",
        "certificate-name",
        "certificate-fingerprint",
        "certificate-key",
        "certificate-authority",
        "source-ip",
    ];
    KNOWN
        .into_iter()
        .find(|known| *known == requirement)
        .unwrap_or("requirement")
}

fn hint(requirement: &str) -> Option<&'static str> {
    Some(match requirement {
        "tls" => {
            "the partner has to use STARTTLS towards you (TLS level \"encrypt\" or above at its side)"
        }
        "tls-version" => "the partner's server is too old, or set to old versions of TLS",
        "certificate-missing" => {
            "the partner's server has to be given a client certificate to show"
        }
        "certificate-untrusted" => {
            "its authority is unknown here or its intermediates are missing: add the authority as a [[trust.authority]] and name it in \"certificate-authorities\", or have the partner send the whole chain"
        }
        "certificate-name" => {
            "agree with the partner on the name, and put it into \"certificate-names\""
        }
        "certificate-fingerprint" => {
            "the partner has another certificate now: agree on its SHA-256 anew"
        }
        "certificate-key" => "the partner has another key now: agree on its SHA-256 anew",
        "certificate-authority" => {
            "the partner's certificate comes from another authority than agreed"
        }
        "source-ip" => {
            "ask the partner for all addresses that it sends from, and put them into \"source-ips\""
        }
        _ => return None,
    })
}

fn chain(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    Ok(certificates(path)?)
}

fn facts(path: &Path, authorities: &Authorities) -> anyhow::Result<Certificate> {
    Ok(certificate::facts(&chain(path)?, authorities))
}

/// A trusted certificate with these names, from whichever authority the connector accepts.
fn like(names: &[String], authorities: &Authorities) -> Certificate {
    let name = |pattern: &String| pattern.strip_prefix("*.").unwrap_or(pattern).to_owned();
    let named = authorities.named().iter();
    let anchors = std::iter::once(PUBLIC).chain(named.map(|authority| &*authority.name));
    Certificate {
        dns_names: Some(names.iter().map(name).collect()),
        trust: Some(Trust::Trusted),
        anchors: Some(anchors.map(String::from).collect()),
        ..Certificate::default()
    }
}
