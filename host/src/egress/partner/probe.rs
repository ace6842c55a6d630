//! Looking at a route as it would be taken, step by step, without mail.
//!
//! The steps are those of a delivery, by the same code, so what passes here is what delivers.

use std::fmt;
use std::net::SocketAddr;

use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::egress::client::{Cause, ClientError, LoginError, Sender};
use crate::egress::partner::dane::Demand;
use crate::egress::partner::endpoint::Endpoint;
use crate::egress::partner::failure::{Failure, ProtectionError, ResultType};
use crate::egress::partner::mta_sts::Mode;
use crate::egress::partner::outbound::Outbound;
use crate::egress::partner::resources::OutboundResources;
use crate::egress::partner::route::{MAX_HOSTS, PartnerPath, Target};
use crate::egress::partner::servers::Servers;
use crate::egress::partner::verify::Requirements;
use crate::smtp::reply::Reply;
use crate::smtp::sasl::Mechanism;
use crate::tls::EXPIRY_WARNING;
use portcullis::tls::{Purpose, certificate};
use portcullis::{Dane, MtaSts, TlsLevel, Trust, any_satisfies, tls_version_name};

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Good enough, but worth a look.
    Warning,
    /// Mail would not be delivered.
    Failed,
    /// Not asked for, or not there.
    None,
}

/// A step.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Check {
    /// Its stable name.
    pub check: &'static str,
    /// What came of it.
    pub status: Status,
    /// In words.
    pub detail: String,
    /// The likely cause and the next step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
}

impl Check {
    /// A step without a hint.
    pub fn new(check: &'static str, status: Status, detail: impl fmt::Display) -> Self {
        Check {
            check,
            status,
            detail: detail.to_string(),
            hint: None,
        }
    }

    fn failed(check: &'static str, detail: impl fmt::Display, hint: &'static str) -> Self {
        Check {
            hint: Some(hint),
            ..Check::new(check, Status::Failed, detail)
        }
    }
}

/// A route.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Where mail goes.
    pub target: String,
    /// Whether some server of it may be given mail.
    pub valid: bool,
    /// What concerns all of it.
    pub checks: Vec<Check>,
    /// Its servers, in the order in which they are tried.
    pub servers: Vec<ServerReport>,
}

/// A server.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServerReport {
    /// Its name and address.
    pub server: String,
    /// Whether it may be given mail.
    pub valid: bool,
    /// The highest level that it reaches: `plaintext`, `encrypt`, `verify` or `name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<&'static str>,
    /// The steps.
    pub checks: Vec<Check>,
    /// The certificate that it showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateReport>,
}

/// A certificate.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CertificateReport {
    /// The subject.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// The days that it has left; negative once it is over.
    pub days_left: i64,
    /// The kind and size of its key.
    pub key: String,
    /// The SHA-256 of it.
    pub sha256: String,
}

impl Report {
    fn failed(target: String, check: Check) -> Self {
        Report {
            target,
            valid: false,
            checks: vec![check],
            servers: Vec::new(),
        }
    }
}

impl Outbound {
    /// Looks at a path. `progress` hears of each step before it is taken.
    pub async fn probe(&self, path: &PartnerPath, mut progress: impl FnMut(&str)) -> Report {
        let resources = self.resources();
        let target = path.target.to_string();
        progress(&format!("{target}: looking for its servers"));
        let deadline = Instant::now() + resources.timeouts.route;
        let mut servers =
            match Servers::new(&self.this_host, &resources, path, deadline, MAX_HOSTS).await {
                Ok(servers) => servers,
                Err(failure) => return Report::failed(target, of_failure("resolve", &failure)),
            };
        let mut checks = vec![Check::new(
            "resolve",
            Status::Ok,
            format!("{} to try", count(servers.stops.len(), "server")),
        )];
        checks.extend(dnssec_check(&resources.dns.strips()));
        checks.push(self.mta_sts_check(&resources, path).await);
        let mut reports = Vec::new();
        while let Some(server) = servers.next().await {
            let report = match server {
                Ok(approach) => {
                    progress(&format!("{}: connecting", approach.peer));
                    self.probe_server(&resources, &approach).await
                }
                Err(failure) => ServerReport {
                    server: place_of(&failure).unwrap_or(&target).to_owned(),
                    checks: vec![of_failure(step_of(&failure), &failure)],
                    ..ServerReport::default()
                },
            };
            reports.push(report);
        }
        Report {
            valid: reports.iter().any(|report| report.valid),
            target,
            checks,
            servers: reports,
        }
    }

    /// Sends a message by a path, and gives the partner's final reply.
    ///
    /// # Errors
    /// The reply that stopped it before the message was sent.
    pub async fn send(
        &self,
        path: &PartnerPath,
        sender: Sender<'_>,
        content: &str,
    ) -> Result<Reply, Reply> {
        let mut lease = self.begin(path, sender, false).await?;
        let client = lease.client();
        let accepted = client.rcpt(sender.first).await;
        let outcome = if accepted.is_positive() {
            match client.data(None).await {
                Ok(()) => match client.write(content.as_bytes()).await {
                    Ok(()) => Ok(client.finish(&mut |_, _| {}).await.of(0)),
                    Err(reply) => Err(reply),
                },
                Err(not_begun) => Err(not_begun.reply()),
            }
        } else {
            Err(accepted)
        };
        client.quit().await;
        outcome
    }

    async fn mta_sts_check(&self, resources: &OutboundResources, path: &PartnerPath) -> Check {
        let name = "mta-sts";
        let Target::Mx(domain) = &path.target else {
            return Check::new(name, Status::None, "only for the route \"mx\"");
        };
        if path.protection.mta_sts == MtaSts::None {
            return Check::new(name, Status::None, "not looked at");
        }
        let standing = resources.mta_sts_of(domain).await;
        if let Some(last_error) = &standing.last_error {
            return Check {
                check: name,
                status: Status::Warning,
                detail: last_error.to_string(),
                hint: Some(hint(last_error)),
            };
        }
        match standing.policy {
            None => Check::new(name, Status::None, "the domain has no policy"),
            Some(policy) => {
                let mode = match policy.mode {
                    Mode::Enforce => "enforce",
                    Mode::Testing => "testing",
                    Mode::None => "none",
                };
                let detail = format!("{mode}: {}", policy.mx.join(", "));
                Check::new(name, Status::Ok, detail)
            }
        }
    }

    async fn probe_server(&self, resources: &OutboundResources, server: &Endpoint) -> ServerReport {
        let mut report = ServerReport {
            server: server.peer.to_string(),
            ..ServerReport::default()
        };
        let begun = Instant::now();
        let (mut client, tls) = match self.begin_tls(resources, server).await {
            Ok(begun) => begun,
            Err(failure) => {
                report.checks.push(of_failure("connect", &failure));
                return report;
            }
        };
        let way = if server.implicit_tls { " over TLS" } else { "" };
        let detail = format!("greeted{way} within {} ms", begun.elapsed().as_millis());
        report
            .checks
            .push(Check::new("connect", Status::Ok, detail));
        let requirements = server.requirements();
        if let Err(why) = tls {
            report.without_tls(&requirements, &why);
            client.quit().await;
            return report;
        }
        if let Some(session) = client.tls_session() {
            let version = session.version().map(u16::from);
            let detail = format!(
                "{} with {}",
                version
                    .and_then(tls_version_name)
                    .unwrap_or("an unknown version"),
                session.cipher()
            );
            report
                .checks
                .push(Check::new("starttls", Status::Ok, detail));
            report.look_at((&session.chain(), version), &requirements, server);
        }
        if report.valid {
            let logged_in = self.log_in(server, &mut client).await;
            report.note_login(logged_in);
        }
        client.quit().await;
        report
    }
}

impl ServerReport {
    fn note_login(&mut self, logged_in: Result<Option<Mechanism>, LoginError>) {
        let check = match logged_in {
            Ok(None) => return,
            Ok(Some(mechanism)) => {
                let detail = format!("logged in by {}", mechanism.name());
                Check::new("login", Status::Ok, detail)
            }
            Err(why) => {
                self.valid = false;
                Check::failed("login", &why, login_hint(&why))
            }
        };
        self.checks.push(check);
    }

    fn without_tls(&mut self, requirements: &Requirements, why: &ProtectionError) {
        self.reached = Some("plaintext");
        self.valid = !requirements.need_tls();
        let status = if self.valid {
            Status::Warning
        } else {
            Status::Failed
        };
        self.checks.push(Check {
            check: "starttls",
            status,
            detail: why.to_string(),
            hint: Some(hint(why)),
        });
    }

    /// The certificates, and what they are worth.
    fn look_at(
        &mut self,
        (chain, version): (&[rustls::pki_types::CertificateDer<'_>], Option<u16>),
        requirements: &Requirements,
        server: &Endpoint,
    ) {
        let trust = server.authorities.verify(chain, Purpose::Server).trust;
        self.certificate = chain.first().and_then(|own| certificate_report(own));
        let wanted = match &requirements.protection.level {
            TlsLevel::Name(wanted) => Some(wanted),
            _ => None,
        };
        let named = self.certificate.as_ref().is_some_and(|certificate| {
            wanted.is_some_and(|wanted| any_satisfies(&certificate.names, wanted))
        });
        self.reached = Some(match (trust, named) {
            (Trust::Trusted, true) => "name",
            (Trust::Trusted, false) => "verify",
            _ => "encrypt",
        });
        if let Some(certificate) = &self.certificate {
            self.checks.push(certificate.check());
        }
        self.checks.push(dane_check(server, chain));
        match requirements.verify(chain, version, &server.authorities) {
            Ok(()) => {
                self.valid = true;
                let detail = format!(
                    "{} is asked for, {} is reached",
                    requirements.protection.level.name(),
                    self.reached.unwrap_or("nothing")
                );
                self.checks.push(Check::new("level", Status::Ok, detail));
            }
            Err(why) => self.checks.push(Check::failed("level", &why, hint(&why))),
        }
    }
}

impl CertificateReport {
    fn check(&self) -> Check {
        let detail = format!(
            "for {}, {}, {}, issued by {}",
            match &self.names[..] {
                [] => "no name".to_owned(),
                names => names.join(", "),
            },
            left(self.days_left),
            self.key,
            self.issuer
        );
        if self.days_left < EXPIRY_WARNING {
            let hint =
                "it has to be renewed; until then note the day, and ask who is in charge of it";
            return Check {
                hint: Some(hint),
                ..Check::new("certificate", Status::Warning, detail)
            };
        }
        Check::new("certificate", Status::Ok, detail)
    }
}

/// A warning if nothing can be proven through the name servers.
fn dnssec_check(strips: &[SocketAddr]) -> Option<Check> {
    if strips.is_empty() {
        return None;
    }
    let servers: Vec<String> = strips.iter().map(SocketAddr::to_string).collect();
    let detail = format!(
        "{} withholds DNSSEC signatures, so DANE does not apply",
        servers.join(", ")
    );
    Some(Check {
        hint: Some(
            "run a validating resolver on this machine (unbound), or name one in [dns] servers",
        ),
        ..Check::new("dnssec", Status::Warning, detail)
    })
}

fn dane_check(server: &Endpoint, chain: &[rustls::pki_types::CertificateDer<'_>]) -> Check {
    let name = "dane";
    if server.protection.dane == Dane::None {
        return Check::new(name, Status::None, "not looked at");
    }
    match &*server.dane {
        Demand::None if server.candidate.secure => {
            Check::new(name, Status::None, "the server has no TLSA records")
        }
        Demand::None => Check::new(
            name,
            Status::None,
            "DNSSEC does not prove the way to the server, so TLSA records would not count",
        ),
        Demand::Encrypted => Check::new(
            name,
            Status::Ok,
            "there are TLSA records, but none that SMTP uses: TLS is asked for",
        ),
        Demand::Records { records, .. } => {
            match server
                .dane
                .verify(chain, &server.requirements().identities())
            {
                Ok(()) => {
                    let detail = format!(
                        "the certificate is what the {} asked for",
                        count(records.len(), "TLSA record")
                    );
                    Check::new(name, Status::Ok, detail)
                }
                Err(why) => Check::failed(name, &why, hint(&why)),
            }
        }
    }
}

/// What a certificate (DER) says about itself.
pub fn certificate_report(own: &[u8]) -> Option<CertificateReport> {
    let (_, parsed) = X509Certificate::from_der(own).ok()?;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, own);
    Some(CertificateReport {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        names: certificate::dns_names(&parsed),
        days_left: (parsed.validity().not_after.timestamp() - now).div_euclid(24 * 60 * 60),
        key: key_kind(&parsed),
        sha256: digest
            .as_ref()
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect(),
    })
}

fn key_kind(certificate: &X509Certificate) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("ECDSA {}", point.key_size()),
        _ => {
            let algorithm = &certificate.public_key().algorithm.algorithm;
            match algorithm.to_id_string().as_str() {
                "1.3.101.112" => "Ed25519".into(),
                other => format!("key of kind {other}"),
            }
        }
    }
}

/// How long a certificate is good for, in words.
pub fn left(days: i64) -> String {
    match days {
        0 => "expires today".into(),
        1 => "expires tomorrow".into(),
        days if days < 0 => format!("expired {} ago", count(days.unsigned_abs() as usize, "day")),
        days => format!("expires in {days} days"),
    }
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

fn place_of(failure: &Failure) -> Option<&str> {
    match failure {
        Failure::Unprotected { peer, .. } | Failure::Loop(peer) => Some(peer),
        Failure::NoHosts(name) => Some(name),
        _ => None,
    }
}

/// The step that a server fails at which is not reached.
fn step_of(failure: &Failure) -> &'static str {
    match failure {
        Failure::Hop(_) => "connect",
        _ => "resolve",
    }
}

fn of_failure(check: &'static str, failure: &Failure) -> Check {
    let hint = match failure {
        Failure::Hop(ClientError { cause, .. }) => match cause {
            Cause::Io(_) => {
                "nothing listens there, or a firewall refuses: check the address, the port and what may leave your network"
            }
            Cause::TimedOut => {
                "a firewall drops the connection, or the server is overloaded; many networks block port 25 outward"
            }
            Cause::Closed => {
                "the server hangs up at once: it may not want your address (blocklist, missing reverse DNS)"
            }
            Cause::Unasked => {
                "the server does not wait for its turn, or something between you speaks in its place"
            }
            Cause::Refused(_) => {
                "the server does not want this connection: read its reply, and ask its postmaster"
            }
        },
        Failure::Unprotected { why, .. } => hint(why),
        Failure::NotPublic { .. } => {
            "if you want mail to go there, add its network to [delivery] private-networks"
        }
        Failure::Login { why, .. } => login_hint(why),
        Failure::NoRequireTls { .. } => "the partner's server has to support REQUIRETLS",
        Failure::Loop(_) => "the route leads back to this host: check smart-hosts and MX records",
        Failure::Dns(_) => {
            "the name server does not answer: check [dns], and whether it passes on DNSSEC"
        }
        Failure::NoHosts(_) => "the name is misspelt, or its records are missing",
        Failure::NullMx(_) => "the domain says that it receives no mail; is it the right one?",
        Failure::Impossible(_) => "the policy asks for what can never be: correct the rules",
        Failure::TimedOut(_) | Failure::Busy(_) => "try again later",
    };
    Check::failed(check, failure, hint)
}

/// The likely cause of not being let in, and the next step.
fn login_hint(why: &LoginError) -> &'static str {
    match why {
        LoginError::NoTls => {
            "the smart host has to offer STARTTLS, or TLS from the first octet (port 465, or implicit-tls = true)"
        }
        LoginError::Password(_) => "check password-file of [[delivery.smart-host]]",
        LoginError::Unproven(_) => {
            "the certificate has to be a trusted one for the name that the rules have; or give certificate-name or certificate-fingerprints of [[delivery.smart-host]]"
        }
        LoginError::NoMechanism(offered) if offered.is_empty() => {
            "the server lets nobody log in at this port: submission is at 587 or 465, as a rule"
        }
        LoginError::NoMechanism(_) => {
            "ask the provider for SCRAM-SHA-256, PLAIN or LOGIN; some want a password for applications instead of OAuth"
        }
        LoginError::Refused(..) | LoginError::Pause => {
            "check username and password-file of [[delivery.smart-host]]; the provider's log tells more"
        }
        LoginError::Sasl(..) => {
            "the password is wrong, or the server is not the one that knows it; its log tells more"
        }
        LoginError::Lost(_) => "try again later; the provider's log tells more",
    }
}

/// The likely cause of a result, and the next step.
fn hint(why: &ProtectionError) -> &'static str {
    if let Some(remedy) = why.remedy {
        return remedy;
    }
    match why.result {
        ResultType::StarttlsNotSupported => {
            "the partner has to switch STARTTLS on; if it says that it is on, something between you strips the offer"
        }
        ResultType::CertificateHostMismatch => {
            "add the name to \"names\" if the partner confirms it; otherwise you are not speaking with the partner"
        }
        ResultType::CertificateExpired => "the partner has to renew its certificate",
        ResultType::CertificateNotTrusted => {
            "the server does not send its intermediate certificates, or its authority is private: have the first mended, add the second as a [[trust.authority]] and name it in \"certificate-authorities\""
        }
        ResultType::ValidationFailure => {
            "the TLS of the server is broken or too old (at least TLS 1.2 is needed); the partner's log tells more"
        }
        ResultType::TlsaInvalid => {
            "the partner has changed its certificate and not its TLSA records, or the other way round"
        }
        ResultType::DnssecInvalid => {
            "the signatures of the partner's zone are broken or have run out, or somebody forges answers"
        }
        ResultType::DaneRequired => {
            "the partner has to publish TLSA records in a signed zone, or \"dane\" has to be \"opportunistic\""
        }
        ResultType::StsPolicyFetchError | ResultType::StsWebpkiInvalid => {
            "the partner's policy server is broken; until it is mended mail goes as if there were no policy"
        }
        ResultType::StsPolicyInvalid => {
            "the partner's policy is malformed; until it is mended mail goes as if there were none"
        }
    }
}
