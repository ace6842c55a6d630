//! Outbound connectors are tried out: the way is followed as mail would go.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::config::{Config, TenantSeries, Timeouts};
use crate::decisions::Recorder;
use crate::egress::client::{Recipient, Sender};
use crate::egress::partner::probe::{Check, Report, Status};
use crate::egress::partner::{Outbound, OutboundResources, PartnerPath};
use crate::observe::metrics::Metrics;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::{MailParameters, RcptParameters};
use portcullis::tls::Authorities;
use portcullis::{Connector, Context, Delivery, Policy, Route as VerdictRoute, Verdict};

/// Domains of one connector that are tried.
const MAX_DOMAINS: usize = 5;

/// One way of a connector: to a domain, or to its smart hosts.
#[derive(Serialize)]
pub struct Route {
    /// Its servers, and what they have shown.
    #[serde(flatten)]
    pub report: Report,
    /// What came of the test message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Check>,
}

/// What came of following a connector.
#[derive(Default, Serialize)]
pub struct Followed {
    /// Whether mail would be delivered; absent where there is nothing to try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<bool>,
    /// Its ways.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Why something was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Followed {
    fn nothing(note: &str) -> Self {
        Followed {
            note: Some(note.into()),
            ..Followed::default()
        }
    }
}

/// The way out, made ready when the first outbound connector needs it.
pub struct EgressProbe<'a> {
    config: &'a Config,
    authorities: Authorities,
    tenant: Option<Arc<str>>,
    outbound: Option<Arc<Outbound>>,
}

impl<'a> EgressProbe<'a> {
    /// For a tenant's rules, if they are one's; not ready yet.
    pub fn new(config: &'a Config, authorities: &Authorities, tenant: Option<&str>) -> Self {
        EgressProbe {
            config,
            authorities: match tenant {
                Some(tenant) => authorities.for_tenant(tenant),
                None => authorities.clone(),
            },
            tenant: tenant.map(Arc::from),
            outbound: None,
        }
    }

    fn ready(&mut self) -> anyhow::Result<Arc<Outbound>> {
        if let Some(outbound) = &self.outbound {
            return Ok(outbound.clone());
        }
        let (resources, _) = OutboundResources::new(self.config, self.authorities.clone(), None)?;
        let outbound = Arc::new(Outbound::new(
            self.config,
            resources,
            Arc::new(Metrics::new(TenantSeries::None)),
            Arc::new(Recorder::forgetful()),
        ));
        self.outbound = Some(outbound.clone());
        Ok(outbound)
    }

    /// Follows a connector.
    pub async fn follow(
        &mut self,
        connector: &Connector,
        to: Option<&Address>,
        from: Option<&str>,
        mut progress: impl FnMut(&str),
    ) -> anyhow::Result<Followed> {
        let Some(delivery) = &connector.delivery else {
            return Ok(Followed::nothing(
                "the policy does not tell how it delivers",
            ));
        };
        let (domains, more) = domains(connector, delivery, to);
        if domains.is_empty() {
            return Ok(Followed::nothing(
                "it is for every domain; say with --to whom to try it with",
            ));
        }
        let mut followed = Followed::default();
        if more > 0 {
            followed.note = Some(format!(
                "{more} more domains were not tried; try them with --to"
            ));
        }
        let outbound = self.ready()?;
        let mut valid = true;
        for domain in domains {
            let Some(path) = PartnerPath::new(delivery.clone(), &domain) else {
                bail!("connector {:?} has no way to {domain}", connector.name);
            };
            let path = match &self.tenant {
                Some(tenant) => path.of_tenant(tenant),
                None => path,
            };
            let report = outbound.probe(&path, &mut progress).await;
            let message = match to {
                Some(to) if report.valid => {
                    progress(&format!("sending a message to {to}"));
                    Some(self.send(&outbound, &path, from, to).await?)
                }
                _ => None,
            };
            valid &= report.valid
                && message
                    .as_ref()
                    .is_none_or(|message| message.status == Status::Ok);
            followed.routes.push(Route { report, message });
        }
        followed.valid = Some(valid);
        Ok(followed)
    }

    async fn send(
        &self,
        outbound: &Outbound,
        path: &PartnerPath,
        from: Option<&str>,
        to: &Address,
    ) -> anyhow::Result<Check> {
        let sender = match from {
            None | Some("") => ReversePath::Null,
            Some(from) => ReversePath::Address(
                Address::parse(from).with_context(|| format!("--from {from}"))?,
            ),
        };
        let parameters = MailParameters::default();
        let envelope = Sender {
            from: &sender,
            parameters: &parameters,
            first: Recipient {
                to,
                parameters: &RcptParameters::default(),
            },
        };
        let content = message(&self.config.hostname, &sender, to)?;
        Ok(match outbound.send(path, envelope, &content).await {
            Ok(reply) if reply.is_positive() => {
                let detail = format!("{} {}", reply.code(), reply.text());
                Check::new("message", Status::Ok, detail)
            }
            Ok(reply) | Err(reply) => {
                let detail = format!("{} {}", reply.code(), reply.text());
                let hint = "the partner's server refuses this message: its reply says why";
                Check {
                    hint: Some(hint),
                    ..Check::new("message", Status::Failed, detail)
                }
            }
        })
    }
}

/// The domains that a connector is tried with, and how many are left out.
fn domains(
    connector: &Connector,
    delivery: &Delivery,
    to: Option<&Address>,
) -> (Vec<String>, usize) {
    if let Some(domain) = to.and_then(Address::domain) {
        return (vec![domain.to_owned()], 0);
    }
    let patterns = &connector.selects.recipient_domains;
    // Smart hosts are the same for each domain.
    if let VerdictRoute::SmartHosts(_) = delivery.route {
        let any = patterns
            .first()
            .map_or("any.invalid", |pattern| base(pattern));
        let any = if any == "*" { "any.invalid" } else { any };
        return (vec![any.to_owned()], 0);
    }
    let named: Vec<String> = patterns
        .iter()
        .filter(|pattern| *pattern != "*")
        .map(|pattern| base(pattern).to_owned())
        .collect();
    let more = named.len().saturating_sub(MAX_DOMAINS);
    (named.into_iter().take(MAX_DOMAINS).collect(), more)
}

fn base(pattern: &str) -> &str {
    pattern.strip_prefix("*.").unwrap_or(pattern)
}

/// The connector that decides about mail to an address.
pub async fn connector_for(
    policy: &Policy,
    to: &Address,
    from: Option<&str>,
) -> anyhow::Result<String> {
    let context = Context::outbound(from.unwrap_or_default(), to.as_str());
    let decision = policy.session().try_decide(&context).await?;
    match decision.into_verdict() {
        Verdict::Deliver(delivery) => delivery.connector.ok_or_else(|| {
            anyhow!("no connector is for {to}: its mail goes by MX, with TLS if it is offered")
        }),
        _ => bail!("the policy refuses mail to {to}; `portcullis explain` tells why"),
    }
}

fn message(hostname: &str, sender: &ReversePath, to: &Address) -> anyhow::Result<String> {
    let now = OffsetDateTime::now_utc();
    let from = match sender {
        ReversePath::Null => format!("postmaster@{hostname}"),
        ReversePath::Address(address) => address.to_string(),
    };
    Ok(format!(
        "Date: {}\r\nFrom: <{from}>\r\nTo: <{to}>\r\nMessage-ID: <{}@{hostname}>\r\n\
         Subject: Connector validation\r\nAuto-Submitted: auto-generated\r\n\r\n\
         This message was sent by \"portcullis validate\" to try out a connector.\r\n",
        now.format(&Rfc2822)?,
        now.unix_timestamp_nanos(),
    ))
}

/// What is tried with where no configuration is given: a person waits for it.
pub fn default_config() -> Config {
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let seconds = Duration::from_secs;
    Config {
        hostname,
        timeouts: Timeouts {
            connect: seconds(10),
            handshake: seconds(15),
            reply: seconds(30),
            ..Timeouts::default()
        },
        ..Config::default()
    }
}
