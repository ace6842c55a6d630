//! Postfix's policy delegation (SMTPD_POLICY_README), and whoever speaks it: Exim can send the same request.
//!
//! A request is lines of `name=value` and an empty line; the answer is `action=…` and an empty line. In trouble there
//! is no answer: Postfix asks once more, and then does what its `default_action` says.

use std::net::SocketAddr;
use std::sync::Arc;

use super::attributes::Attributes;
use super::delivery::{self, Question};
use super::door::{ConversationError, Frontend, Patience};
use super::envelope::{self, Whose};
use super::facts::{self, Protection};
use super::sessions::{Ends, Transaction};
use crate::frontend::ask::{Asker, Request, refusal};
use crate::smtp::connection::Connection;
use portcullis::store::{Snapshot, Tenant};
use portcullis::{ClientAddress, Finding, HeaderFrom};

/// Recipients of one message that are remembered.
const MOST_RECIPIENTS: usize = 10_000;
/// What an answer also says where the policy decides on the header, and the server will tell it.
const HEADER_NEEDED: &str = "\nmessage_header=needed";
/// The answer to a message whose header was to be told, and is not.
const NO_HEADER: &str =
    "451 4.3.5 the policy reads the header, and the mail server does not tell it";
/// The answer to one with a header whose recipient's policy is gone.
const NO_POLICY: &str = "451 4.3.5 the policy for this recipient is gone, try again later";
/// Findings that one answer tells.
const MOST_FINDINGS: usize = 5;

/// Answers requests until the server has no more.
///
/// # Errors
/// Why the conversation ends before.
pub async fn serve(
    frontend: &Arc<Frontend>,
    connection: &mut Connection,
    session: &str,
) -> Result<(), ConversationError> {
    let mut conversation = Conversation {
        frontend,
        session,
        asker: Asker::new(frontend.server.asking.clone()),
        current: None,
        transactions: 0,
        decided: Vec::new(),
    };
    let ended = conversation.run(connection).await;
    if let Some((instance, transaction)) = conversation.current.take() {
        frontend.sessions.leave(&instance, &transaction);
    }
    ended
}

struct Conversation<'a> {
    frontend: &'a Arc<Frontend>,
    session: &'a str,
    asker: Asker,
    /// The message that is asked about, by Postfix's name for it.
    current: Option<(String, Transaction)>,
    transactions: u32,
    /// Its recipients that have been decided about.
    decided: Vec<String>,
}

impl Conversation<'_> {
    async fn run(&mut self, connection: &mut Connection) -> Result<(), ConversationError> {
        let mut patience = Patience::default();
        loop {
            let parsed = Attributes::parse(&connection.input);
            match parsed.map_err(ConversationError::malformed)? {
                Some((attributes, length)) => {
                    patience.is_whole();
                    let _ = connection.input.split_to(length);
                    let action = self.answer(&attributes).await?;
                    let output = connection.output();
                    output.extend_from_slice(b"action=");
                    output.extend_from_slice(action.as_bytes());
                    output.extend_from_slice(b"\n\n");
                }
                None if !patience.more(connection).await? => return Ok(()),
                None => {}
            }
        }
    }

    /// The action for a request.
    async fn answer(&mut self, request: &Attributes) -> Result<String, ConversationError> {
        let kind = request.get("request");
        if matches!(kind, delivery::ROUTE | delivery::CERTIFICATE) {
            self.transactions += 1;
            let question = Question {
                frontend: self.frontend,
                attributes: request,
                session: self.session,
                transaction: &format!("{}.{}", self.session, self.transactions),
            };
            return Ok(question.answer(&mut self.asker).await);
        }
        if kind != "smtpd_access_policy" {
            let text = format!("{kind:?} is no request that is answered here");
            return Err(ConversationError::malformed(text));
        }
        let (state, recipient) = (request.get("protocol_state"), request.get("recipient"));
        self.begin(request.get("instance"));
        if state != "RCPT" && !request.has_header() {
            if self
                .frontend
                .sessions
                .awaits_header(request.get("instance"))
            {
                return Ok(NO_HEADER.into());
            }
            if matches!(state, "VRFY" | "ETRN") || self.decided.iter().any(|it| it == recipient) {
                return Ok("DUNNO".into());
            }
            // At the end of several recipients none is named, and before the first there is none.
            if recipient.is_empty() {
                return Ok(match self.decided.is_empty() {
                    false => "DUNNO".into(),
                    true => misplaced(),
                });
            }
        }
        if request.has_header() {
            self.frontend.sessions.header_told(request.get("instance"));
        }
        let (_, transaction) = self.current.as_ref().ok_or_else(none_begun)?;
        let transaction = transaction.clone();
        let named = request.get("policy_context");
        let whose = self
            .frontend
            .whose(&transaction.policies, recipient, Some(named));
        if self.needs_own_transaction(request, &transaction.policies, &whose) {
            return Ok(envelope::own_transaction()
                .with_id(&transaction.id)
                .to_line());
        }
        match whose {
            Whose::Of(tenant, _) => self.decide(request, &tenant, &transaction).await,
            // The policy that has let it through read the header.
            Whose::Nobody if request.has_header() => Ok(NO_POLICY.into()),
            Whose::Nobody => Ok("DUNNO".into()),
            Whose::Unclear(reply) => Ok(reply.with_id(&transaction.id).to_line()),
        }
    }

    /// Whether a recipient needs a message of its own, because its policy would make another thing of the header than that
    /// of the message's first recipient.
    fn needs_own_transaction(
        &self,
        request: &Attributes,
        policies: &Snapshot,
        recipient: &Whose,
    ) -> bool {
        let first = request.get("message_recipient");
        if !request.header_follows() || first.is_empty() || matches!(recipient, Whose::Unclear(_)) {
            return false;
        }
        let named = request.get("policy_context");
        let first = self.frontend.whose(policies, first, Some(named));
        !envelope::may_share(first.policy(), recipient.policy())
    }

    /// The message that a request is about. It keeps the policies that it began with.
    fn begin(&mut self, instance: &str) {
        let is_current = |current: &(String, Transaction)| current.0 == instance;
        if !instance.is_empty() && self.current.as_ref().is_some_and(is_current) {
            return;
        }
        let resumed = match instance {
            "" => None,
            instance => self.frontend.sessions.resume(instance),
        };
        let transaction = resumed.unwrap_or_else(|| {
            self.transactions += 1;
            Transaction {
                policies: self.frontend.server.asking.policies.snapshot(),
                id: format!("{}.{}", self.session, self.transactions),
            }
        });
        let sessions = &self.frontend.sessions;
        match &self.current {
            Some((instance, transaction)) => sessions.leave(instance, transaction),
            // Exim asks on a connection of its own each time, and the next one may come before this one has ended.
            None => sessions.leave(instance, &transaction),
        }
        self.asker.begin();
        self.current = Some((instance.to_owned(), transaction));
        self.decided.clear();
    }

    async fn decide(
        &mut self,
        request: &Attributes,
        tenant: &Arc<Tenant>,
        transaction: &Transaction,
    ) -> Result<String, ConversationError> {
        let recipient = request.get("recipient");
        let sender = match envelope::sender(request.get("sender")) {
            Ok(sender) => sender,
            Err(reply) => return Ok(reply.with_id(&transaction.id).to_line()),
        };
        let joined = ends(request).and_then(|ends| self.frontend.sessions.joined(ends));
        let protection = self.protection(request);
        let from = match tenant.reads_header() {
            true => request.from_field(),
            false => Ok(None),
        };
        let from = match from {
            Ok(from) => from,
            Err(reply) => return Ok(reply.with_id(&transaction.id).to_line()),
        };
        let follows = request.header_follows();
        let header = match &from {
            Some(from) => from.fact(),
            // A milter brings it.
            None if follows || joined.is_some() && !request.has_header() => HeaderFrom::Pending,
            None => HeaderFrom::Unknown,
        };
        let context = request.context(&sender, protection.clone(), header);
        let settings = self.frontend.settings();
        let decision = self
            .asker
            .ask(Request {
                tenant,
                context: &context,
                authorities: &settings.authorities,
                session: self.session,
                transaction: &transaction.id,
            })
            .await;
        if self.decided.len() < MOST_RECIPIENTS {
            self.decided.push(recipient.to_owned());
        }
        if let Some(joined) = &joined {
            joined.protected(protection);
        }
        let refused = match &from {
            Some(from) => from.refusal(&decision, &transaction.id),
            None => refusal(&decision, &transaction.id),
        };
        if let Some(reply) = refused {
            return Ok(reply.to_line());
        }
        if let Some(joined) = joined {
            joined.accepted(&sender, recipient, tenant.clone());
        }
        let mut action = accepted(decision.verdict().audit());
        if follows && tenant.reads_header() {
            action += HEADER_NEEDED;
            let sessions = &self.frontend.sessions;
            sessions.await_header(request.get("instance"), transaction);
        }
        Ok(action)
    }

    fn protection(&self, request: &Attributes) -> Protection {
        let no_certificate = self.frontend.no_certificate();
        request.protection(no_certificate, |told| self.frontend.certificate(told))
    }
}

/// Both ends of the client's connection, if they are told.
fn ends(request: &Attributes) -> Option<Ends> {
    let socket = |address: &str, port: &str| match facts::client_address(request.get(address)) {
        ClientAddress::Known(ip) => Some(SocketAddr::new(ip, request.get(port).parse().ok()?)),
        ClientAddress::None | ClientAddress::Unknown => None,
    };
    Some(Ends {
        client: socket("client_address", "client_port")?,
        server: socket("server_address", "server_port")?,
    })
}

fn none_begun() -> ConversationError {
    ConversationError::malformed("no message has begun")
}

/// Nothing is decided where Postfix has no recipient yet, and nobody would notice.
fn misplaced() -> String {
    "451 4.3.5 the policy decides about recipients: check_policy_service belongs in smtpd_recipient_restrictions"
        .into()
}

/// `OK` would end Postfix's other restrictions. A warning is logged by Postfix too.
fn accepted(audit: &[Finding]) -> String {
    if audit.is_empty() {
        return "DUNNO".into();
    }
    let told = audit.iter().take(MOST_FINDINGS);
    let told: Vec<String> = told
        .map(|finding| format!("{} would refuse ({})", finding.connector, finding.failed))
        .collect();
    let told = told.join(", ");
    format!("WARN portcullis: {}", portcullis::one_line(&told))
}
