//! Alerts: what somebody should know is sent once, by webhook or mail, and not with every message.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::time::timeout;

use crate::advice::Notice;
use crate::config::{self, Config};
use crate::egress::client::{Recipient, Sender};
use crate::egress::next_hop::server::{Protocol, Server};
use crate::http_client::HttpClient;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::{MailParameters, RcptParameters};
use crate::tls::read_authorities;
use portcullis::tls::Roots;

/// How long sending may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something to tell, and whose it is.
#[derive(Serialize)]
pub struct Alert {
    /// The tenant.
    pub tenant: String,
    /// What to tell.
    #[serde(flatten)]
    pub notice: Notice,
}

/// What a webhook is sent.
#[derive(Serialize)]
struct Message<'a> {
    hostname: &'a str,
    alerts: &'a [Alert],
}

/// Tells the log, and whoever else is configured; false if one of them has not got it.
pub async fn send(config: &Config, roots: &Roots, alerts: &[Alert]) -> bool {
    for Alert { tenant, notice } in alerts {
        tracing::warn!(
            tenant,
            connector = notice.connector.as_deref().unwrap_or_default(),
            subject = &*portcullis::one_line(&notice.subject),
            "{}",
            portcullis::one_line(&notice.text)
        );
    }
    if alerts.is_empty() {
        return true;
    }
    let mut is_sent = true;
    if let Some(url) = &config.alerts.webhook {
        let posted = timeout(PATIENCE, post(url, roots, &config.hostname, alerts)).await;
        let posted = posted.unwrap_or_else(|_| bail_out());
        if let Err(error) = posted {
            is_sent = false;
            tracing::error!(webhook = url, "alerts could not be sent: {error:#}");
        }
    }
    if !config.alerts.mail_to.is_empty() {
        let mailed = timeout(PATIENCE, mail(config, alerts)).await;
        let mailed = mailed.unwrap_or_else(|_| bail_out());
        if let Err(error) = mailed {
            is_sent = false;
            tracing::error!("alerts could not be mailed: {error:#}");
        }
    }
    is_sent
}

fn bail_out() -> anyhow::Result<()> {
    bail!("it took longer than {} s", PATIENCE.as_secs())
}

async fn post(url: &str, roots: &Roots, hostname: &str, alerts: &[Alert]) -> anyhow::Result<()> {
    let client = HttpClient::new(roots.store().clone(), None)?;
    let body = serde_json::to_vec(&Message { hostname, alerts })?;
    let request = Request::post(url)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = client.request(request, 0, PATIENCE).await?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => bail!("the server answers {status}"),
    }
}

async fn mail(config: &Config, alerts: &[Alert]) -> anyhow::Result<()> {
    let own = &config.alerts;
    let server = own.mail_server.as_deref().unwrap_or_default();
    let hop = config::NextHopServer {
        address: server.into(),
        starttls: true,
        implicit_tls: None,
        login: None,
        proxy_protocol: None,
        recipients: None,
    };
    let (authorities, _) = read_authorities(&config.trust, None)?;
    let server = Server::new(
        &hop,
        Protocol::Smtp { xclient: false },
        config,
        &authorities,
    );
    let from = match &own.mail_from {
        Some(from) => from.clone(),
        None => format!("postmaster@{}", config.hostname),
    };
    let recipients: Vec<Address> = own
        .mail_to
        .iter()
        .map(|to| Address::parse(to))
        .collect::<Result<_, _>>()?;
    let plain = RcptParameters::default();
    let named = |to| Recipient {
        to,
        parameters: &plain,
    };
    let first = recipients.first().context("nobody to send to")?;
    let sender = ReversePath::Address(Address::parse(&from)?);
    let mut client = server
        .connect(None)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let parameters = MailParameters::default();
    let envelope = Sender {
        from: &sender,
        parameters: &parameters,
        first: named(first),
    };
    let refused = |reply: crate::smtp::reply::Reply| {
        anyhow::anyhow!("the server answers {} {}", reply.code(), reply.text())
    };
    client
        .mail(envelope)
        .await
        .map_err(|it| refused(it.reply()))?;
    for to in &recipients {
        let reply = client.rcpt(named(to)).await;
        if !reply.is_positive() {
            return Err(refused(reply));
        }
    }
    client.data(None).await.map_err(|it| refused(it.reply()))?;
    let content = letter(config, &from, alerts)?;
    client.write(content.as_bytes()).await.map_err(refused)?;
    let reply = client.finish(&mut |_, _| {}).await.of(0);
    client.quit().await;
    match reply.is_positive() {
        true => Ok(()),
        false => Err(refused(reply)),
    }
}

fn letter(config: &Config, from: &str, alerts: &[Alert]) -> anyhow::Result<String> {
    let now = OffsetDateTime::now_utc();
    let hostname = &config.hostname;
    let to: Vec<String> = config
        .alerts
        .mail_to
        .iter()
        .map(|to| format!("<{to}>"))
        .collect();
    let mut text = format!(
        "Date: {}\r\nFrom: <{from}>\r\nTo: {}\r\nMessage-ID: <{}@{hostname}>\r\n\
         Subject: Portcullis on {hostname}: {} things need attention\r\nAuto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n",
        now.format(&Rfc2822)?,
        to.join(",\r\n "),
        now.unix_timestamp_nanos(),
        alerts.len()
    );
    let mut body = String::new();
    for Alert { tenant, notice } in alerts {
        let connector = match &notice.connector {
            Some(connector) if *connector != notice.subject => format!(", {connector}"),
            _ => String::new(),
        };
        let line = format!("{tenant}{connector}: {}: {}", notice.subject, notice.text);
        body.push_str(&portcullis::one_line(&line));
        body.push_str("\r\n");
    }
    // What partners are called may be in any script, and lines as long as they like.
    text.push_str(&base64(body.as_bytes()));
    Ok(text)
}

/// RFC 2045 §6.8, with its lines.
fn base64(octets: &[u8]) -> String {
    let mut text = String::new();
    for line in octets.chunks(57) {
        text.push_str(&openssl::base64::encode_block(line));
        text.push_str("\r\n");
    }
    text
}
