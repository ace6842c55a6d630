//! Inbound connectors: what a partner needs, or whether this one would pass.

use std::path::Path;
use std::sync::Arc;

use anyhow::anyhow;
use rustls::pki_types::CertificateDer;
use serde::Serialize;

use super::{Outcome, Validate};
use crate::cli::policy::Open;
use crate::egress::partner::probe::{Check, Status, certificate_report, left};
use crate::tls::{Roots, SOON, certificate, certificates};
use portcullis::json;
use portcullis::sandbox::interface::{
    Certificate, Connector, Consideration, Context, Direction, Explanation, Tls,
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
        open: &Open,
        connector: &Connector,
        roots: &Roots,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let given = self.ip.is_some()
            || self.tls.is_some()
            || self.client_cert.is_some()
            || self.from.is_some();
        let context = Arc::new(self.mail_of(open, connector, roots)?);
        let explanation = open.instance().await?.explain(&context).await?;
        let considered = own(&explanation, connector);
        let mut checks = Vec::new();
        if let Some(path) = &self.client_cert {
            checks.push(self.certificate_check(path)?);
        }
        match considered {
            Some(considered) if considered.matched => {
                // Of a session without TLS or a certificate nothing more can be said.
                let mut is_missing = false;
                checks.extend(considered.requirements.iter().map(|requirement| {
                    if is_missing
                        && !requirement.satisfied
                        && is_of_session(&requirement.requirement)
                    {
                        let name = name_of(&requirement.requirement);
                        return Check::new(name, Status::None, &requirement.expected);
                    }
                    is_missing |= !requirement.satisfied && is_of_session(&requirement.requirement);
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
                    outcome.valid = Some(considered.requirements.iter().all(|r| r.satisfied));
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
                from: context.mail_from.clone(),
                to: context.rcpt_to.clone(),
                ip: self.ip.map(|ip| ip.to_string()),
                tls: context
                    .tls
                    .as_ref()
                    .map(|tls| json::tls_version_name(tls.version)),
            }),
            checks,
            to: context.rcpt_to.clone(),
        });
        Ok(())
    }

    /// Mail that the connector is for, as far as the options do not say otherwise.
    fn mail_of(
        &self,
        open: &Open,
        connector: &Connector,
        roots: &Roots,
    ) -> anyhow::Result<Context> {
        let selects = &connector.selects;
        let at = |patterns: &[String]| {
            let pattern = patterns.iter().find(|pattern| *pattern != "*")?;
            let domain = pattern.strip_prefix("*.").unwrap_or(pattern);
            Some(format!("postmaster@{domain}"))
        };
        let accepted = &open.module.description.accepted_domains;
        let to = self
            .to
            .clone()
            .or_else(|| at(&selects.recipient_domains))
            .or_else(|| at(accepted));
        let from = self.sender().map(str::to_owned);
        let range = selects.sender_ips.first();
        let address = range.and_then(|range| range.split('/').next()?.parse().ok());
        Ok(Context {
            direction: Direction::Inbound,
            client_ip: self.ip.or(address).map(json::ip_address),
            helo: None,
            tls: self.session(connector, roots)?,
            mail_from: from
                .or_else(|| at(&selects.sender_domains))
                .unwrap_or_default(),
            rcpt_to: to.unwrap_or_else(|| "postmaster".into()),
            header_from: None,
            attributes: Vec::new(),
        })
    }

    fn session(&self, connector: &Connector, roots: &Roots) -> anyhow::Result<Option<Tls>> {
        let identified = &connector.selects.certificate_names;
        let shown = match &self.client_cert {
            Some(path) => Some(facts(path, roots)?),
            // The connector is for mail that shows such a certificate.
            None if !identified.is_empty() => Some(like(identified)),
            None => None,
        };
        let version = match &self.tls {
            Some(version) => version.as_str(),
            None if shown.is_some() => "TLSv1.3",
            None => return Ok(None),
        };
        let version = if version.starts_with("TLS") {
            version.to_owned()
        } else {
            format!("TLSv{version}")
        };
        let number = json::tls_version(&version)
            .ok_or_else(|| anyhow!("--tls {version}: not a version such as 1.2 or TLSv1.3"))?;
        Ok(Some(Tls {
            version: number,
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
        let status = if report.days_left < SOON {
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

fn check(requirement: &portcullis::sandbox::interface::RequirementOutcome) -> Check {
    let name = name_of(&requirement.requirement);
    if requirement.satisfied {
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
    const KNOWN: [&str; 7] = [
        "tls",
        "tls-version",
        "certificate-missing",
        "certificate-untrusted",
        "certificate-name",
        "certificate-fingerprint",
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
            "its authority is unknown here or its intermediates are missing: add the authority to trust.additional-roots, or have the partner send the whole chain"
        }
        "certificate-name" => {
            "agree with the partner on the name, and put it into \"certificate-names\""
        }
        "certificate-fingerprint" => {
            "the partner has another certificate now: agree on its SHA-256 anew"
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

fn facts(path: &Path, roots: &Roots) -> anyhow::Result<Certificate> {
    Ok(certificate::facts(&chain(path)?, roots))
}

/// A trusted certificate with these names.
fn like(names: &[String]) -> Certificate {
    let name = |pattern: &String| pattern.strip_prefix("*.").unwrap_or(pattern).to_owned();
    Certificate {
        dns_names: names.iter().map(name).collect(),
        subject: String::new(),
        issuer: String::new(),
        sha256: (0, 0, 0, 0),
        not_after: None,
        trust: portcullis::sandbox::interface::Trust::Trusted,
    }
}
