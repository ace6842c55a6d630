//! MAIL and RCPT: who decides about the mail, and which way it goes.

use std::sync::Arc;

use super::{Recipient, Session, Transaction};
use crate::log;
use crate::policies::{Table, Tenant};
use crate::sandbox::interface::{Direction, Verdict};
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::MailParameters;
use crate::smtp::decision;
use crate::smtp::exit::{Exit, Way};
use crate::smtp::next_hop::Client;
use crate::smtp::outbound::{Failure, Lane};
use crate::smtp::relay::Sender;
use crate::smtp::reply::Reply;

/// Ways that a transaction remembers as closed.
const MOST_CLOSED: usize = 20;

impl Session {
    pub(super) async fn mail(&mut self, from: ReversePath, parameters: MailParameters) -> Reply {
        if self.context.helo.is_none() {
            return Reply::new(503, (5, 5, 1), "say EHLO first");
        }
        if self.transaction.is_some() {
            return Reply::new(503, (5, 5, 1), "a transaction is under way; RSET ends it");
        }
        if let Exit::Partners { admission, .. } = &self.listener.exit
            && !admission.admits(self.client.ip(), self.context.tls.as_ref())
        {
            tracing::warn!(session = self.id, client = %log::client(self.client.ip()), from = &*log::mailbox(from.as_str()), "relay denied: not one of the organization's servers");
            let text = "relay denied: neither your address nor your certificate is known here";
            return Reply::new(550, (5, 7, 1), text);
        }
        let offer = self.listener.exit.offer();
        if parameters
            .size
            .is_some_and(|size| size > self.message_size())
        {
            return Reply::new(
                552,
                (5, 3, 4),
                format!("a message has at most {} octets", self.message_size()),
            );
        }
        if parameters.smtputf8 && !offer.smtputf8 {
            return Reply::new(555, (5, 5, 4), "SMTPUTF8 is not offered");
        }
        let policies = self.server.policies.snapshot();
        self.instances.retain_in_force(&policies);
        self.transactions += 1;
        self.context_mut().mail_from = from.as_str().into();
        self.context_mut().header_from = None;
        self.transaction = Some(Transaction {
            id: format!("{}.{}", self.id, self.transactions),
            policies,
            from,
            parameters,
            recipients: Vec::new(),
            way: None,
            closed: Vec::new(),
            chunks: None,
        });
        Reply::new(250, (2, 1, 0), "sender ok")
    }

    pub(super) async fn rcpt(&mut self, to: Address) -> Reply {
        let Some(transaction) = &mut self.transaction else {
            return Reply::new(503, (5, 5, 1), "say MAIL first");
        };
        if transaction.chunks.is_some() {
            return Reply::new(503, (5, 5, 1), "the message has begun");
        }
        if !to.is_ascii() && !transaction.parameters.smtputf8 {
            return Reply::new(553, (5, 6, 7), "this recipient needs SMTPUTF8");
        }
        let most = self
            .settings
            .limits
            .recipients
            .min(self.listener.exit.recipients());
        if transaction.recipients.len() >= most {
            // RFC 5321 §4.5.3.1.10.
            return Reply::new(
                452,
                (4, 5, 3),
                "too many recipients, send again for this one",
            );
        }
        let tenant = match responsible(&self.listener.exit, transaction, &to) {
            Ok(tenant) => tenant.clone(),
            Err(reply) => return decision::with_id(&reply, &transaction.id),
        };
        if transaction.shares_no_header(&tenant, &self.listener.exit) {
            return Reply::new(
                452,
                (4, 5, 3),
                "send again for this recipient: another organization's policy reads the header",
            );
        }
        Arc::make_mut(&mut self.context).rcpt_to = to.as_str().into();
        let verdict = self
            .instances
            .decide(&tenant, &self.context, &transaction.id)
            .await;
        decision::log(
            &tenant,
            &self.context,
            self.client.ip(),
            &verdict,
            &transaction.id,
        );
        if let Some(reply) = decision::refusal(&verdict, &transaction.id) {
            return reply;
        }
        let way = match way(verdict, &to) {
            Ok(way) => way,
            Err(failure) => return decision::with_id(&failure.reply(), &transaction.id),
        };
        self.offer_recipient(to, tenant, &way).await
    }

    /// Offers a recipient that the policy lets pass to whoever takes the mail, whose answer counts.
    async fn offer_recipient(&mut self, to: Address, tenant: Arc<Tenant>, way: &Way) -> Reply {
        if let Err(reply) = self.open(way, &to).await {
            return reply;
        }
        let (Some(handover), Some(transaction)) = (&mut self.handover, &mut self.transaction)
        else {
            return Reply::new(451, (4, 3, 0), "the transaction was lost, try again later");
        };
        let reply = handover.rcpt(&to).await;
        if reply.is_positive() {
            transaction.recipients.push(Recipient {
                address: to,
                tenant,
            });
        }
        reply
    }

    /// Sees to it that the transaction has begun that way. The first recipient that is taken fixes it:
    /// one message has one end, and one reply.
    async fn open(&mut self, way: &Way, to: &Address) -> Result<(), Reply> {
        let Some(transaction) = &self.transaction else {
            return Err(Reply::new(503, (5, 5, 1), "say MAIL first"));
        };
        if transaction.way.as_deref() == Some(way.key()) {
            return Ok(());
        }
        let closed = transaction
            .closed
            .iter()
            .find(|(key, _)| **key == *way.key());
        if let Some((_, reply)) = closed {
            return Err(reply.clone());
        }
        if transaction.way.is_some() {
            if !transaction.recipients.is_empty() {
                return Err(Reply::new(
                    452,
                    (4, 5, 3),
                    "send again for this recipient: its mail goes another way",
                ));
            }
            self.close_way().await;
        }
        let begun = self.begin(way, to).await;
        if let Some(transaction) = &mut self.transaction {
            match &begun {
                Ok(()) => transaction.way = Some(way.key().into()),
                Err(reply) if transaction.closed.len() < MOST_CLOSED => {
                    let reply = decision::with_id(reply, &transaction.id);
                    transaction.closed.push((way.key().into(), reply));
                }
                Err(_) => {}
            }
        }
        begun
    }

    /// Begins a transaction with whoever takes the mail, for this recipient first.
    async fn begin(&mut self, way: &Way, to: &Address) -> Result<(), Reply> {
        let Some(transaction) = &self.transaction else {
            return Err(Reply::new(503, (5, 5, 1), "say MAIL first"));
        };
        let sender = Sender {
            from: &transaction.from,
            parameters: &transaction.parameters,
            first: to,
        };
        if let Some(handover) = &mut self.handover
            && handover.is_usable()
        {
            return handover.mail(sender).await.map_err(|begun| begun.reply());
        }
        let client = Client {
            address: self.client,
            local: self.local,
            helo: self.context.helo.clone().unwrap_or_default(),
            esmtp: self.esmtp,
        };
        let handover = self.listener.exit.begin(way, &client, sender).await?;
        self.handover = Some(handover);
        Ok(())
    }
}

impl Transaction {
    /// Whether a recipient cannot join those that are there already. SMTP has one reply after the
    /// header, so those whose policy decides on it share a transaction only with their own.
    fn shares_no_header(&self, tenant: &Tenant, exit: &Exit) -> bool {
        exit.direction() == Direction::Inbound
            && self.recipients.iter().any(|other| {
                other.tenant.name != tenant.name
                    && (tenant.reads_header() || other.tenant.reads_header())
            })
    }
}

/// The tenant whose policy decides: the recipient's for mail from partners, the sender's for mail to
/// them.
fn responsible<'a>(
    exit: &Exit,
    transaction: &'a Transaction,
    to: &Address,
) -> Result<&'a Arc<Tenant>, Reply> {
    match exit {
        Exit::NextHop(_) => of_recipient(&transaction.policies, to).ok_or_else(|| {
            let text = "relay denied: nobody here receives mail for this domain";
            Reply::new(550, (5, 7, 1), text)
        }),
        Exit::Partners { admission, .. } => {
            let sender = match &transaction.from {
                ReversePath::Null => None,
                ReversePath::Address(address) => address.domain(),
            };
            admission
                .tenant(&transaction.policies, sender)
                .ok_or_else(|| {
                    Reply::new(
                        451,
                        (4, 3, 0),
                        "no policy decides about this sender's mail now",
                    )
                })
        }
    }
}

fn of_recipient<'a>(policies: &'a Table, to: &Address) -> Option<&'a Arc<Tenant>> {
    match to.domain() {
        None => policies.first(),
        Some(domain) => policies.tenant(&crate::config::normal_domain(domain)?),
    }
}

/// The way that a verdict demands.
fn way(verdict: Verdict, to: &Address) -> Result<Way, Failure> {
    let Verdict::Deliver(delivery) = verdict else {
        return Ok(Way::NextHop);
    };
    let domain = to
        .domain()
        .ok_or_else(|| Failure::Impossible("an outbound recipient needs a domain".into()))?;
    Ok(Way::Lane(Box::new(Lane::new(delivery, domain)?)))
}
