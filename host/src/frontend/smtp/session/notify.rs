//! Notifications of RFC 3461 §5.2.2: a message has gone on to a server that sends none, and its sender wants to hear of
//! it. They are sent at once, as all mail is; one that cannot be delivered is told to the log.

use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::egress::client::{self, Sender};
use crate::egress::next_hop::{Client, ClientName, Delivery, NextHop};
use crate::egress::partner::{Outbound, PartnerPath};
use crate::egress::path::EgressPath;
use crate::frontend::ask::{Request, tenant_of};
use crate::frontend::smtp::session::{Recipient, Session, Transaction};
use crate::observe::redact;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::{Body, MailParameters, RcptParameters};
use crate::smtp::notify::decode_xtext;
use crate::smtp::reply::Reply;
use portcullis::Context;
use portcullis::store::Tenant;

/// A recipient whose sender wants to hear of it.
pub(super) struct Relayed {
    pub recipient: Recipient,
    /// The server that has the message now.
    pub server: String,
}

/// Where a notification goes.
enum Way {
    /// To the next hop of the sender's own organization.
    NextHop(Arc<NextHop>, Box<Client>),
    /// As mail of the organization goes there.
    Exchangers(Arc<Outbound>, Box<PartnerPath>),
}

/// A notification, ready to be sent.
struct Notification {
    to: Address,
    parameters: MailParameters,
    content: String,
}

impl Session {
    /// Tells the sender that the message has gone on.
    pub(super) async fn tell_of_relaying(
        &mut self,
        transaction: &Transaction,
        relayed: &[Relayed],
    ) {
        let ReversePath::Address(to) = &transaction.from else {
            return;
        };
        let Some(first) = relayed.first() else { return };
        let Some(way) = self
            .way_back(transaction, to, &first.recipient.tenant)
            .await
        else {
            let to = redact::mailbox(to.as_str());
            tracing::warn!(
                to = &*to,
                transaction = transaction.id,
                "there is no way for a notification"
            );
            return;
        };
        let Ok(permit) = self.server.notifications.clone().try_acquire_owned() else {
            let to = redact::mailbox(to.as_str());
            tracing::warn!(
                to = &*to,
                transaction = transaction.id,
                "too many notifications at a time; one was not sent"
            );
            return;
        };
        let content = content(&self.server.hostname, transaction, to, relayed);
        let notification = Notification {
            to: to.clone(),
            parameters: MailParameters {
                body: match content.is_ascii() {
                    true => Body::SevenBit,
                    false => Body::EightBitMime,
                },
                smtputf8: transaction.parameters.smtputf8,
                // RFC 8689 §5: what is told of a message is no less secret.
                require_tls: transaction.parameters.require_tls,
                ..MailParameters::default()
            },
            content,
        };
        let id = transaction.id.clone();
        let mut stopping = self.server.stopping.subscribe();
        tokio::spawn(async move {
            let _permit = permit;
            let sent = tokio::select! {
                sent = notification.send(way) => Some(sent),
                _ = stopping.wait_for(|stopping| *stopping) => None,
            };
            let Some(sent) = sent else {
                let told = redact::mailbox(notification.to.as_str());
                tracing::warn!(
                    to = &*told,
                    transaction = id,
                    "a notification was given up: the server is going down"
                );
                return;
            };
            let reply = match sent {
                Ok(reply) | Err(reply) => reply,
            };
            let to = notification.to.as_str();
            let told = redact::mailbox(to);
            match reply.is_positive() {
                true => tracing::info!(to = &*told, transaction = id, "notification sent"),
                false => {
                    let why = redact::redact(reply.text()).into_owned();
                    tracing::warn!(
                        to = &*told,
                        transaction = id,
                        code = reply.code(),
                        why,
                        "a notification was not delivered"
                    );
                }
            }
        });
    }

    /// The way to the sender: as mail to him comes here, if it does, else as the tenant's policy has it.
    async fn way_back(
        &mut self,
        transaction: &Transaction,
        to: &Address,
        by: &Tenant,
    ) -> Option<Way> {
        let tenant = tenant_of(&transaction.policies, to.domain());
        if let (Some(tenant), Some(default)) = (tenant, &self.server.notified) {
            let own = self.server.next_hops.of(&tenant.name);
            let client = Client {
                address: self.local,
                local: self.local,
                helo: self.server.hostname.to_string(),
                esmtp: true,
                name: ClientName::Unknown,
            };
            let hop = own.unwrap_or_else(|| default.clone());
            return Some(Way::NextHop(hop, Box::new(client)));
        }
        let context = Context::outbound("", to.as_str());
        let request = Request {
            tenant: by,
            context: &context,
            authorities: &self.settings.authorities,
            session: &self.id,
            transaction: &transaction.id,
        };
        let verdict = self.asker.ask(request).await.into_verdict();
        let requires_tls = transaction.parameters.require_tls;
        match self
            .listener
            .egress
            .path(verdict, &by.name, to, requires_tls)
        {
            Ok(EgressPath::Partner(outbound, path)) => Some(Way::Exchangers(outbound, path)),
            _ => None,
        }
    }
}

impl Notification {
    async fn send(&self, way: Way) -> Result<Reply, Reply> {
        let sender = Sender {
            from: &ReversePath::Null,
            parameters: &self.parameters,
            first: client::Recipient {
                to: &self.to,
                parameters: &RcptParameters::default(),
            },
        };
        let (hop, client) = match way {
            Way::Exchangers(outbound, path) => {
                return outbound.send(&path, sender, &self.content).await;
            }
            Way::NextHop(hop, client) => (hop, client),
        };
        let mut delivery = hop.begin(&client, sender).await?;
        let reply = hand_over(&mut delivery, sender.first, &self.content).await;
        if let Some(mut own) = delivery.release() {
            own.quit().await;
        }
        reply
    }
}

async fn hand_over(
    delivery: &mut Delivery,
    to: client::Recipient<'_>,
    content: &str,
) -> Result<Reply, Reply> {
    let reply = delivery.rcpt(to).await;
    if !reply.is_positive() {
        delivery.reset().await;
        return Err(reply);
    }
    delivery.data(None).await.map_err(|begun| begun.reply())?;
    delivery.write(content.as_bytes()).await?;
    Ok(delivery.finish(&mut |_, _| {}).await.of(0))
}

/// The message (RFC 3462, RFC 3464; RFC 6533 where the envelope is internationalized). It has eight bits only if the
/// message has come with SMTPUTF8.
fn content(hostname: &str, transaction: &Transaction, to: &Address, relayed: &[Relayed]) -> String {
    let now = OffsetDateTime::now_utc();
    let boundary = format!("=_{}", transaction.id);
    let date = now.format(&Rfc2822).unwrap_or_default();
    let names: Vec<String> = relayed
        .iter()
        .map(|it| format!("    <{}> ({})\r\n", it.recipient.address, it.server))
        .collect();
    let text = format!(
        "Your message was passed on to these servers, which do not tell whether it\r\n\
         is delivered. You asked for a notification of success; there is no other.\r\n\r\n{}",
        names.concat()
    );
    let header = transaction.header.as_deref().unwrap_or_default();
    let header = String::from_utf8_lossy(header);
    let is_utf8 = transaction.parameters.smtputf8;
    let [status_type, header_type] = match is_utf8 {
        true => ["message/global-delivery-status", "message/global-headers"],
        false => ["message/delivery-status", "text/rfc822-headers"],
    };
    let status = status(hostname, transaction, relayed);
    let parts = [
        ("text/plain; charset=utf-8", text.as_str()),
        (status_type, &status),
        (header_type, &header),
    ];
    let parts: Vec<String> = parts
        .iter()
        .map(|(kind, body)| format!("--{boundary}\r\n{}", part(kind, body, is_utf8)))
        .collect();
    format!(
        "Date: {date}\r\nFrom: Mail Delivery System <postmaster@{hostname}>\r\nTo: <{to}>\r\n\
         Message-ID: <{}.relayed@{hostname}>\r\nSubject: Your message was passed on\r\n\
         Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n\
         {}--{boundary}--\r\n",
        transaction.id,
        parts.concat(),
    )
}

/// A part with its header.
fn part(kind: &str, body: &str, is_utf8: bool) -> String {
    let (encoding, body) = match (body.is_ascii(), is_utf8) {
        (true, _) => ("7bit", body.to_owned()),
        (false, true) => ("8bit", body.to_owned()),
        (false, false) => ("quoted-printable", quoted_printable::encode_to_str(body)),
    };
    format!("Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{body}\r\n")
}

/// The fields of the message, and of each recipient (RFC 3464 §2).
fn status(hostname: &str, transaction: &Transaction, relayed: &[Relayed]) -> String {
    let mut status = format!("Reporting-MTA: dns; {hostname}\r\n");
    let id = transaction.parameters.envelope_id.as_deref();
    if let Some(id) = id.and_then(decode_xtext) {
        status.push_str(&format!("Original-Envelope-Id: {id}\r\n"));
    }
    let is_utf8 = transaction.parameters.smtputf8;
    for Relayed { recipient, server } in relayed {
        status.push_str("\r\n");
        let original = recipient.parameters.original_recipient.as_deref();
        if let Some((kind, address)) = original.and_then(|it| it.split_once(';')) {
            let address = decode_xtext(address).unwrap_or_else(|| address.to_owned());
            status.push_str(&format!("Original-Recipient: {kind}; {address}\r\n"));
        }
        let kind = if is_utf8 { "utf-8" } else { "rfc822" };
        // RFC 3463 §3.2: 2.1.9, relayed to a server that sends no notifications.
        status.push_str(&format!(
            "Final-Recipient: {kind}; {}\r\nAction: relayed\r\nStatus: 2.1.9\r\nRemote-MTA: dns; {}\r\n",
            recipient.address,
            name_of(server)
        ));
    }
    status
}

/// The name of a server, without its address and port (RFC 3464 §2.3.5), or its address in brackets.
fn name_of(server: &str) -> &str {
    let end = match server.strip_prefix('[') {
        Some(_) => server.find(']').map(|at| at + 1),
        None => server.find(['[', ':']),
    };
    end.and_then(|end| server.get(..end)).unwrap_or(server)
}
