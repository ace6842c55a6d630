//! Postfix's policy delegation (SMTPD_POLICY_README), and whoever speaks it: Exim can send the same request.
//!
//! A request is lines of `name=value` and an empty line; the answer is `action=…` and an empty line. In trouble there
//! is no answer: Postfix asks once more, and then does what its `default_action` says.

use std::net::SocketAddr;
use std::sync::Arc;

use super::certificates::Told;
use super::door::{ConversationError, Frontend, Patience};
use super::envelope::{self, Whose};
use super::facts::{self, Protection};
use super::sessions::{Ends, Transaction};
use crate::frontend::ask::{Asker, Request, refusal};
use crate::smtp::connection::Connection;
use portcullis::store::Tenant;
use portcullis::{ClientAddress, Context, Finding, HeaderFrom, PeerCertificate, Security};

/// Octets of a request. Postfix's own limit for a line is 2,048.
const MAX_REQUEST: usize = 64 << 10;
/// Recipients of one message that are remembered.
const MOST_RECIPIENTS: usize = 10_000;
/// Findings that one answer tells.
const MOST_FINDINGS: usize = 5;

/// The attributes of one request.
#[derive(Debug, PartialEq, Eq)]
pub struct Attributes(Vec<(String, String)>);

impl Attributes {
    /// Reads a request, if it is whole: its attributes and its length.
    ///
    /// # Errors
    /// Says what is malformed.
    pub fn parse(input: &[u8]) -> Result<Option<(Attributes, usize)>, String> {
        let mut attributes: Vec<(String, String)> = Vec::new();
        let mut read = 0;
        while let Some(end) = memchr::memchr(b'\n', &input[read..]) {
            let line = &input[read..read + end];
            read += end + 1;
            if line.is_empty() {
                return match attributes.is_empty() {
                    true => Err("a request without attributes".into()),
                    false => Ok(Some((Attributes(attributes), read))),
                };
            }
            // What is no UTF-8 is no address of anybody here.
            let line = String::from_utf8_lossy(line);
            let Some((name, value)) = line.split_once('=') else {
                return Err("a line without \"=\"".into());
            };
            // Of two values one could be a client's: a name in a certificate may hold a line end.
            if attributes.iter().any(|(known, _)| known == name) {
                return Err(format!("the attribute {name:?} stands there twice"));
            }
            attributes.push((name.to_owned(), value.to_owned()));
        }
        match input.len() > MAX_REQUEST {
            true => Err(format!("a request of more than {MAX_REQUEST} octets")),
            false => Ok(None),
        }
    }

    /// The value of an attribute that was told, whatever it is.
    pub fn told(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter();
        let (_, value) = all.find(|(known, _)| known == name)?;
        Some(value)
    }

    /// The value of an attribute; empty if it was not told.
    pub fn get(&self, name: &str) -> &str {
        self.told(name).unwrap_or_default()
    }
}

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
        frontend.sessions.leave(instance, transaction);
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
        if kind != "smtpd_access_policy" {
            let text = format!("{kind:?} is no request that is answered here");
            return Err(ConversationError::malformed(text));
        }
        let (state, recipient) = (request.get("protocol_state"), request.get("recipient"));
        self.begin(request.get("instance"));
        if state != "RCPT" {
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
        let (_, transaction) = self.current.as_ref().ok_or_else(none_begun)?;
        let transaction = transaction.clone();
        let named = request.get("policy_context");
        let whose = self
            .frontend
            .whose(&transaction.policies, recipient, Some(named));
        match whose {
            Whose::Of(tenant, _) => self.decide(request, &tenant, &transaction).await,
            Whose::Nobody => Ok("DUNNO".into()),
            Whose::Unclear(reply) => Ok(reply.with_id(&transaction.id).to_line()),
        }
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
        self.asker.retain_active(&transaction.policies);
        self.current = Some((instance.to_owned(), transaction));
        self.decided.clear();
    }

    async fn decide(
        &mut self,
        request: &Attributes,
        tenant: &Arc<Tenant>,
        transaction: &Transaction,
    ) -> Result<String, ConversationError> {
        let client = facts::client_address(request.get("client_address"));
        let (sender, recipient) = (request.get("sender"), request.get("recipient"));
        let sender = match envelope::sender(sender) {
            Ok(sender) => sender,
            Err(reply) => return Ok(reply.with_id(&transaction.id).to_line()),
        };
        let joined = ends(request).and_then(|ends| self.frontend.sessions.joined(ends));
        let protection = self.protection(request);
        let context = Context::inbound(None, &*sender, recipient).client_address(client);
        let mut context = protection
            .clone()
            .add_to(context)
            // A milter brings the header.
            .header_from(match joined {
                Some(_) => HeaderFrom::Pending,
                None => HeaderFrom::Unknown,
            });
        context.set_helo(request.told("helo_name").map(str::to_owned));
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
        if let Some(reply) = refusal(&decision, &transaction.id) {
            return Ok(reply.to_line());
        }
        if let Some(joined) = joined {
            joined.accepted(&sender, recipient, tenant.clone());
        }
        Ok(accepted(decision.verdict().audit()))
    }

    fn protection(&self, request: &Attributes) -> Protection {
        match request.told("encryption_protocol") {
            None => Security::Unknown.into(),
            Some("") => Security::Plaintext.into(),
            Some(version) => {
                let cipher = request.get("encryption_cipher");
                Protection::tls(version, cipher, self.certificate(request))
            }
        }
    }

    /// A digest is told of every certificate, names only of one that Postfix trusts.
    fn certificate(&self, request: &Attributes) -> (PeerCertificate, Option<String>) {
        let Some(fingerprint) = request.told("ccert_fingerprint") else {
            return (PeerCertificate::Unknown, None);
        };
        if fingerprint.is_empty() {
            return (self.frontend.no_certificate(), None);
        }
        let issuer = facts::from_xtext(request.get("ccert_issuer"));
        let trusted = match request.told("ccert_verified") {
            Some("1" | "yes" | "true") => Some(true),
            Some(_) => Some(false),
            None => (!issuer.is_empty()).then_some(true),
        };
        self.frontend.certificate(Told {
            digest: facts::digest(fingerprint),
            key: facts::digest(request.get("ccert_pubkey_fingerprint")),
            common_name: facts::from_xtext(request.get("ccert_subject")),
            issuer,
            names: request.told("ccert_dns_names").map(names),
            trusted,
            not_after: request.get("ccert_not_after").parse().ok(),
        })
    }
}

/// A list of names, by commas.
fn names(text: &str) -> Vec<String> {
    let names = text.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_one_after_another() {
        let input = b"request=smtpd_access_policy\nsender=a=b@c.test\n\nrequest=x";
        assert!(Attributes::parse(b"sender=a\nsender=b\n\n").is_err());
        let (request, length) = Attributes::parse(input).unwrap().unwrap();
        assert_eq!(request.get("sender"), "a=b@c.test");
        assert_eq!(request.told("recipient"), None);
        assert_eq!(&input[length..], b"request=x");
        assert_eq!(Attributes::parse(&input[length..]), Ok(None));
        assert!(Attributes::parse(b"\n").is_err());
        assert!(Attributes::parse(b"no equals sign\n").is_err());
        assert!(Attributes::parse(&[b'a'; MAX_REQUEST + 1]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_read_or_refused(input in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Ok(Some((_, length))) = Attributes::parse(&input) {
                proptest::prop_assert!(length <= input.len());
            }
        }
    }
}
