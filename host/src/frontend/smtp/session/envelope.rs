//! MAIL and RCPT: who decides about the mail, and which way it goes.

use std::borrow::Cow;
use std::sync::Arc;

use crate::egress::partial::{Digest, Group, Turn};
use crate::egress::path::{Egress, NoPath};
use crate::frontend::ask::{Request, refusal, tenant_of};
use crate::frontend::header;
use crate::frontend::smtp::session::{Recipient, Session, State, Transaction};
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::{MailParameters, RcptParameters};
use crate::smtp::reply::Reply;
use portcullis::store::Tenant;
use portcullis::{Decision, Direction};

/// Why a sender or a recipient is not taken, for log and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The command is malformed.
    Syntax,
    /// Nobody here receives its mail, or the client may not send.
    RelayDenied,
    /// The message is too large.
    Size,
    /// It needs an extension that is not offered.
    Extension,
    /// Its local part could be read as another address.
    Routing,
    /// There are too many recipients.
    TooMany,
    /// It has to come in a transaction of its own.
    OwnTransaction,
    /// The policy says so. Its decision is logged.
    Policy,
    /// The next hop does not take it, or does not answer.
    NextHop,
    /// The same of a partner.
    Partner,
}

impl Reason {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Syntax => "syntax",
            Reason::RelayDenied => "relay-denied",
            Reason::Size => "size",
            Reason::Extension => "extension",
            Reason::Routing => "routing",
            Reason::TooMany => "too-many",
            Reason::OwnTransaction => "own-transaction",
            Reason::Policy => "policy",
            Reason::NextHop => "next-hop",
            Reason::Partner => "partner",
        }
    }
}

/// A reply that does not take what was asked, and why.
pub struct Rejection {
    /// What the client is told.
    pub reply: Reply,
    /// Why.
    pub reason: Reason,
}

impl Rejection {
    fn new(
        reason: Reason,
        code: u16,
        enhanced: (u8, u16, u16),
        text: impl Into<Cow<'static, str>>,
    ) -> Self {
        Rejection {
            reply: Reply::new(code, enhanced, text),
            reason,
        }
    }

    fn own_transaction(text: &'static str) -> Self {
        Rejection::new(Reason::OwnTransaction, 452, (4, 5, 3), text)
    }
}

impl Session {
    pub(super) async fn mail(&mut self, from: ReversePath, parameters: MailParameters) -> Reply {
        if self.context.helo_name().is_none() {
            return Reply::new(503, (5, 5, 1), "send EHLO first");
        }
        if self.state.transaction().is_some() {
            return Reply::new(503, (5, 5, 1), "a transaction is under way; RSET ends it");
        }
        self.smtputf8 = parameters.smtputf8;
        if let Err(rejection) = self.may_send(&parameters) {
            return self.refuse(rejection, None, from.as_str(), None, None);
        }
        let policies = self.server.asking.policies.snapshot();
        self.asker.retain_active(&policies);
        self.transactions += 1;
        self.context.set_mail_from(from.as_str());
        self.state = State::Envelope(Box::new(Transaction {
            id: format!("{}.{}", self.id, self.transactions),
            policies,
            from,
            parameters,
            recipients: Vec::new(),
            branches: Vec::new(),
            failed_paths: Vec::new(),
            turn: None,
            message: None,
            header: None,
            body: None,
            held: None,
            survey: None,
            outcomes: Vec::new(),
        }));
        Reply::new(250, (2, 1, 0), "sender ok")
    }

    fn may_send(&self, parameters: &MailParameters) -> Result<(), Rejection> {
        if let Egress::Partners { relay_clients, .. } = &self.listener.egress
            && self.user.is_none()
        {
            let clients = relay_clients.load();
            if !clients.permits(self.client.ip(), self.context.certificate()) {
                let (code, enhanced, text) = match clients.lets_log_in() {
                    // RFC 4954 §6.
                    true => (
                        530,
                        (5, 7, 0),
                        "log in first: neither your address nor your certificate is known here",
                    ),
                    false => (
                        550,
                        (5, 7, 1),
                        "relay access denied: neither your address nor your certificate is known here",
                    ),
                };
                return Err(Rejection::new(Reason::RelayDenied, code, enhanced, text));
            }
        }
        let most = self.message_size();
        if parameters.size.is_some_and(|size| size > most) {
            let text = format!("a message has at most {most} octets");
            return Err(Rejection::new(Reason::Size, 552, (5, 3, 4), text));
        }
        let offer = self.announced.extensions;
        let has_tls = self.context.session_tls().is_some();
        if parameters.require_tls && !has_tls {
            let text = "REQUIRETLS is for sessions over TLS";
            return Err(Rejection::new(Reason::Extension, 530, (5, 7, 10), text));
        }
        for (name, is_used, is_offered) in [
            ("SMTPUTF8", parameters.smtputf8, offer.smtputf8),
            ("REQUIRETLS", parameters.require_tls, offer.require_tls),
            ("DSN", parameters.uses_dsn(), offer.dsn),
            ("AUTH", parameters.auth, self.announced.login),
        ] {
            if is_used && !is_offered {
                let text = format!("{name} is not offered");
                return Err(Rejection::new(Reason::Extension, 555, (5, 5, 4), text));
            }
        }
        Ok(())
    }

    pub(super) async fn rcpt(&mut self, to: Address, parameters: RcptParameters) -> Reply {
        self.pipelines |= self.connection.has_unread();
        let mut transaction = match std::mem::replace(&mut self.state, State::Idle) {
            State::Envelope(transaction) => transaction,
            State::Idle => return Reply::new(503, (5, 5, 1), "send MAIL first"),
            message @ State::Chunks(..) => {
                self.state = message;
                return Reply::new(503, (5, 5, 1), "the message has begun");
            }
        };
        let mut tenant = None;
        let added = self
            .add_recipient(&mut transaction, &to, parameters, &mut tenant)
            .await;
        let reply = added.unwrap_or_else(|rejection| {
            let from = transaction.from.as_str();
            let tenant = tenant.as_deref();
            self.refuse(
                rejection,
                Some(&transaction),
                from,
                Some(to.as_str()),
                tenant,
            )
        });
        self.state = State::Envelope(transaction);
        reply
    }

    /// Refuses a sender or a recipient: by an id that is found in the log.
    pub(super) fn refuse(
        &self,
        rejection: Rejection,
        transaction: Option<&Transaction>,
        from: &str,
        to: Option<&str>,
        tenant: Option<&Tenant>,
    ) -> Reply {
        let Rejection { mut reply, reason } = rejection;
        if reply.code() == 452 && self.pipelines && reason != Reason::TooMany {
            // Exim takes a 452 beside recipients that were taken for "in the same way, but later": it bounces these too
            // where the message is refused for the others. A 451 it takes for what it is.
            reply = reply.with_code(451);
        }
        let id = transaction.map_or(&*self.id, |transaction| &*transaction.id);
        self.server.asking.metrics.refused(reason.name());
        if reason != Reason::Policy {
            let envelope = [Some(from), to];
            let client = self.client.ip();
            let told = |text| {
                crate::observe::redact::mailboxes_in(client, envelope.into_iter().flatten(), text)
                    .into_owned()
            };
            let what = if to.is_some() { "recipient" } else { "sender" };
            tracing::info!(
                reason = reason.name(),
                code = reply.code(),
                reply = told(reply.text()),
                cause = told(reply.cause().unwrap_or_default()),
                tenant = tenant.map_or("", |tenant| &tenant.name),
                client = %crate::observe::redact::client(self.client.ip()),
                from = &*crate::observe::redact::mailbox(from),
                to = &*crate::observe::redact::mailbox(to.unwrap_or_default()),
                session = self.id,
                transaction = transaction.map_or("", |transaction| &transaction.id),
                "{what} refused"
            );
        }
        reply.with_id(id)
    }

    /// Adds a recipient, if its policy and the server that gets its mail accept it. The tenant is told as soon as it
    /// is found.
    async fn add_recipient(
        &mut self,
        transaction: &mut Transaction,
        to: &Address,
        parameters: RcptParameters,
        tenant: &mut Option<Arc<Tenant>>,
    ) -> Result<Reply, Rejection> {
        if parameters.uses_dsn() && !self.announced.extensions.dsn {
            let text = "DSN is not offered";
            return Err(Rejection::new(Reason::Extension, 555, (5, 5, 4), text));
        }
        let original = parameters.original_recipient.as_deref();
        if original.is_some_and(|it| !it.is_ascii()) && !transaction.parameters.smtputf8 {
            let text = "this ORCPT needs SMTPUTF8";
            return Err(Rejection::new(Reason::Extension, 553, (5, 6, 7), text));
        }
        if !to.is_ascii() && !transaction.parameters.smtputf8 {
            let text = "this recipient needs SMTPUTF8";
            return Err(Rejection::new(Reason::Extension, 553, (5, 6, 7), text));
        }
        self.has_no_route(to)?;
        // RFC 5321 §4.5.3.1.10.
        let too_many = || {
            let text = "too many recipients, send again for this one";
            Rejection::new(Reason::TooMany, 452, (4, 5, 3), text)
        };
        if transaction.recipients.len() >= self.settings.limits.recipients {
            return Err(too_many());
        }
        let lacks_tenants = self.settings.may_lack_tenants();
        let of = responsible(&self.listener.egress, transaction, to, lacks_tenants)?.clone();
        *tenant = Some(of.clone());
        if transaction.shares_no_header(&of, to, &self.listener.egress) {
            return Err(Rejection::own_transaction(
                "send again for this recipient: what its policy makes of the header is told by itself",
            ));
        }
        self.context.set_rcpt_to(to.as_str());
        let decision = self.ask(&of, &transaction.id).await;
        if let Some(reply) = refusal(&decision, &transaction.id) {
            let reason = Reason::Policy;
            return Err(Rejection { reply, reason });
        }
        let path = self.listener.egress.path(
            decision.into_verdict(),
            &of.name,
            to,
            transaction.parameters.require_tls,
        )?;
        let same_way = |other: &&Recipient| other.path.key() == path.key();
        if transaction.recipients.iter().filter(same_way).count() >= path.recipients() {
            return Err(too_many());
        }
        let recipient = Recipient {
            parameters,
            egress: Digest::of_egress(&path.outcome_key(to)),
            digest: Digest::of_recipient(transaction.from.as_str(), to.as_str()),
            address: to.clone(),
            tenant: of,
            path: Arc::new(path),
        };
        let turn = self.turn_of(transaction, &recipient)?;
        let digest = recipient.digest;
        let may_have_it = matches!(turn, Some((_, Group::Delivered)))
            || turn.is_none() && self.server.partial.owes(digest);
        let again = may_have_it.then(|| recipient.clone());
        let offered = self.offer_recipient(transaction, recipient).await;
        let reply = match (offered, again) {
            (Err(Rejection { reply, .. }), Some(recipient)) => {
                transaction.add_without_branch(recipient, reply)
            }
            (offered, _) => offered?,
        };
        if let Some((message, group)) = turn {
            self.server.partial.begun(message, group, digest);
            transaction.turn = turn;
        }
        Ok(reply)
    }

    /// Asks a tenant's policy about the context as it is.
    pub(super) async fn ask(&mut self, tenant: &Tenant, transaction: &str) -> Decision {
        let request = Request {
            tenant,
            context: &self.context,
            authorities: &self.settings.authorities,
            session: &self.id,
            transaction,
        };
        self.asker.ask(request).await
    }

    /// A recipient that a server behind us could read as somebody else's is decided on by the wrong policy.
    fn has_no_route(&self, to: &Address) -> Result<(), Rejection> {
        if self.listener.config.allow_untrusted_routing {
            return Ok(());
        }
        let is_local = matches!(self.listener.egress, Egress::NextHop { .. });
        match to.hidden_route(is_local) {
            None => Ok(()),
            Some(sign) => Err(Rejection::new(
                Reason::Routing,
                550,
                (5, 1, 3),
                format!(
                    "the local part could be read as a route, a file or a program: {sign:?} is not taken in it"
                ),
            )),
        }
    }

    /// Whether a recipient may be part of this transaction, if what became of earlier messages to it and others has
    /// not been told yet.
    fn turn_of(
        &self,
        transaction: &Transaction,
        recipient: &Recipient,
    ) -> Result<Option<(Digest, Group)>, Rejection> {
        let partial = &self.server.partial;
        let taken = !transaction.recipients.is_empty();
        match partial.turn(recipient.digest, transaction.turn, taken) {
            Turn::Free => Ok(None),
            Turn::Group(message, group) => Ok(Some((message, group))),
            Turn::Later => Err(Rejection::own_transaction(
                "send again for this recipient: what becomes of the message for it is told by itself",
            )),
        }
    }
}

impl Transaction {
    /// Whether a recipient cannot join those that are there already.
    fn shares_no_header(&self, tenant: &Tenant, to: &Address, exit: &Egress) -> bool {
        let joins = |other: &Recipient| {
            header::may_share(
                (tenant, to.domain()),
                (&other.tenant, other.address.domain()),
            )
        };
        exit.direction() == Direction::Inbound && !self.recipients.iter().all(joins)
    }
}

/// The tenant whose policy decides: the recipient's for mail from partners, the sender's for mail to
/// them.
fn responsible<'a>(
    exit: &Egress,
    transaction: &'a Transaction,
    to: &Address,
    lacks_tenants: bool,
) -> Result<&'a Arc<Tenant>, Rejection> {
    match exit {
        Egress::NextHop { .. } => tenant_of(&transaction.policies, to.domain()).ok_or_else(|| {
            if lacks_tenants {
                let text = "it cannot be told whose domain this is, try again later";
                return Rejection::new(Reason::Policy, 451, (4, 3, 5), text);
            }
            let text = "relay access denied";
            Rejection::new(Reason::RelayDenied, 550, (5, 7, 1), text)
        }),
        Egress::Partners { relay_clients, .. } => {
            let sender = match &transaction.from {
                ReversePath::Null => None,
                ReversePath::Address(address) => address.domain(),
            };
            relay_clients
                .load()
                .tenant(&transaction.policies, sender)
                .ok_or_else(|| {
                    let text = "no policy decides about this sender's mail now";
                    Rejection::new(Reason::Policy, 451, (4, 3, 0), text)
                })
        }
    }
}

impl From<NoPath> for Rejection {
    fn from(no_path: NoPath) -> Self {
        match no_path {
            NoPath::Domain => {
                let text = "no mail can go to such a domain";
                Rejection::new(Reason::Partner, 550, (5, 1, 2), text)
            }
            NoPath::Direction => {
                let text = "the policy decides about mail of the other direction, try again later";
                Rejection::new(Reason::Policy, 451, (4, 3, 5), text)
            }
        }
    }
}
