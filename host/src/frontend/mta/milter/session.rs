//! A session as a milter hears of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::packet::{self, Agreement, Command, Packet};
use crate::frontend::ask::{Asker, Request, refusal};
use crate::frontend::header::FromField;
use crate::frontend::mta::certificates::Told;
use crate::frontend::mta::door::{ConversationError, Frontend, Patience};
use crate::frontend::mta::envelope::{self, Whose};
use crate::frontend::mta::facts::{self, Protection};
use crate::frontend::mta::sessions::{Ends, MilterGuard, Transaction};
use crate::smtp::address::Address;
use crate::smtp::connection::Connection;
use crate::smtp::reply::Reply;
use portcullis::store::Tenant;
use portcullis::{ClientAddress, Context, Decision, HeaderFrom, PeerCertificate, Security};

/// Octets of a header.
const MAX_HEADER: usize = 1 << 20;
/// Macros of one session.
const MAX_MACROS: usize = 200;
/// Recipients of one message that are remembered.
const MAX_RECIPIENTS: usize = 10_000;

/// Hears of sessions, one after another, until the server has no more.
///
/// # Errors
/// Why the conversation ends before.
pub async fn serve(
    frontend: &Arc<Frontend>,
    connection: &mut Connection,
    session: &str,
) -> Result<(), ConversationError> {
    let mut milter = Session::new(frontend, session);
    let mut patience = Patience::default();
    loop {
        let parsed = packet::parse(&connection.input).map_err(ConversationError::malformed)?;
        let Some(Packet {
            letter,
            data,
            length,
        }) = parsed
        else {
            if !patience.more(connection).await? {
                return Ok(());
            }
            continue;
        };
        patience.is_whole();
        let command = Command::of(letter, data).map_err(ConversationError::malformed)?;
        let _ = connection.input.split_to(length);
        if command == Command::Quit {
            return Ok(());
        }
        let answer = milter.hear(command).await?;
        let output = connection.output();
        match answer {
            Answer::Agreed(agreement) => agreement.write(output),
            Answer::Reply(reply) => packet::write_reply(&reply.to_line(), output),
            Answer::Continue if milter.agreement.is_answered(letter) => {
                packet::write_continue(output);
            }
            Answer::Continue => {}
        }
    }
}

enum Answer {
    Agreed(Agreement),
    Continue,
    Reply(Reply),
}

struct Session<'a> {
    frontend: &'a Arc<Frontend>,
    id: &'a str,
    asker: Asker,
    agreement: Agreement,
    transactions: u32,
    /// The facts of the session. They outlive a message, and Postfix's abort before the HELO after STARTTLS.
    client: ClientAddress,
    guard: Option<MilterGuard<'a>>,
    helo: Option<String>,
    macros: HashMap<String, String>,
    message: Option<Message>,
}

/// A message.
struct Message {
    transaction: Transaction,
    sender: String,
    recipients: Vec<Recipient>,
    header: Vec<u8>,
    is_header_too_long: bool,
}

struct Recipient {
    address: Address,
    /// Whose policy decides, if anybody's does.
    tenant: Option<Arc<Tenant>>,
}

impl Recipient {
    fn policy(&self) -> Option<(&Tenant, Option<&str>)> {
        let tenant = self.tenant.as_ref()?;
        Some((tenant, self.address.domain()))
    }
}

impl<'a> Session<'a> {
    fn new(frontend: &'a Arc<Frontend>, id: &'a str) -> Self {
        Session {
            frontend,
            id,
            asker: Asker::new(frontend.server.asking.clone()),
            agreement: Agreement::default(),
            transactions: 0,
            client: ClientAddress::Unknown,
            guard: None,
            helo: None,
            macros: HashMap::new(),
            message: None,
        }
    }

    async fn hear(&mut self, command: Command) -> Result<Answer, ConversationError> {
        match command {
            Command::Negotiate(offer) => {
                let policies = self.frontend.server.asking.policies.snapshot();
                let reads_header = policies.tenants().any(|tenant| tenant.reads_header());
                self.agreement = offer.agree(reads_header);
                return Ok(Answer::Agreed(self.agreement));
            }
            Command::Macros(letter, macros) => self.note(letter, macros),
            Command::Connect(client, port) => {
                self.client = client;
                self.asker.begin();
                let ends = self.ends(port);
                self.guard = ends.map(|ends| self.frontend.sessions.milter(ends));
            }
            Command::Helo(name) => self.helo = Some(name),
            Command::Mail(sender) => self.begin(sender),
            Command::Rcpt(recipient) => return self.recipient(recipient).await,
            Command::Header(name, value) => self.field(&name, &value),
            Command::EndOfHeader => return Ok(self.end_of_header().await),
            Command::EndOfBody | Command::Abort => self.message = None,
            Command::NewSession => {
                let agreement = self.agreement;
                *self = Session {
                    agreement,
                    transactions: self.transactions,
                    ..Session::new(self.frontend, self.id)
                };
            }
            Command::Other | Command::Quit => {}
        }
        Ok(Answer::Continue)
    }

    /// What TLS has shown comes with HELO, and with the one after STARTTLS anew.
    fn note(&mut self, letter: u8, macros: Vec<(String, String)>) {
        if letter == b'H' {
            self.macros.clear();
        }
        for (name, value) in macros {
            if self.macros.len() < MAX_MACROS {
                self.macros.insert(name, value);
            }
        }
    }

    fn begin(&mut self, written: String) {
        self.transactions += 1;
        let sender = self.plain(&written, "mail_addr");
        let transaction = Transaction {
            policies: self.frontend.server.asking.policies.snapshot(),
            id: format!("{}.{}", self.id, self.transactions),
        };
        self.asker.retain_active(&transaction.policies);
        self.message = Some(Message {
            transaction,
            sender,
            recipients: Vec::new(),
            header: Vec::new(),
            is_header_too_long: false,
        });
    }

    /// The ends of the client's connection, if both are told.
    fn ends(&self, port: Option<u16>) -> Option<Ends> {
        let known = |client| match client {
            ClientAddress::Known(ip) => Some(ip),
            ClientAddress::None | ClientAddress::Unknown => None,
        };
        let server = known(facts::client_address(self.told("daemon_addr")))?;
        Some(Ends {
            client: SocketAddr::new(known(self.client)?, port?),
            server: SocketAddr::new(server, self.told("daemon_port").parse().ok()?),
        })
    }

    /// An address as the client has written it, or, where that is no plain one, as the server says that it reads it.
    fn plain(&self, written: &str, read: &str) -> String {
        let is_plain = written.is_empty() || Address::parse_recipient(written).is_ok();
        match self.told(read) {
            read if !is_plain && Address::parse(read).is_ok() => read.to_owned(),
            _ => written.to_owned(),
        }
    }

    async fn recipient(&mut self, written: String) -> Result<Answer, ConversationError> {
        let recipient = self.plain(&written, "rcpt_addr");
        let Some(message) = &self.message else {
            return Err(ConversationError::malformed("a recipient before a sender"));
        };
        let id = message.transaction.id.clone();
        let sender = match envelope::sender(&message.sender) {
            Ok(sender) => sender,
            Err(reply) => return Ok(Answer::Reply(reply.with_id(&id))),
        };
        let accepted = self
            .guard
            .as_ref()
            .and_then(|guard| guard.joined.take_accepted(&sender, &recipient));
        let whose = self
            .frontend
            .whose(&message.transaction.policies, &recipient, None);
        // Who has let it through decides on the header as well: the same policy, whatever has come since.
        let (tenant, address, is_decided) = match (whose, accepted) {
            (Whose::Unclear(reply), _) => return Ok(Answer::Reply(reply.with_id(&id))),
            (Whose::Of(_, address), Some(tenant)) => (Some(tenant), address, true),
            (Whose::Of(tenant, address), None) => (Some(tenant), address, false),
            (Whose::Nobody, accepted) => match Address::parse_recipient(&recipient) {
                Ok(address) => (accepted, address, true),
                Err(_) => return Ok(Answer::Continue),
            },
        };
        if let Some(tenant) = &tenant
            && tenant.reads_header()
            && !self.agreement.has_header()
        {
            let text = "the policy reads the From header since this connection began, try again";
            let reply = Reply::new(451, (4, 3, 5), text);
            return Ok(Answer::Reply(reply.with_id(&id)));
        }
        let recipient = Recipient { address, tenant };
        let mut others = message.recipients.iter();
        let shares = others.all(|it| envelope::may_share(recipient.policy(), it.policy()));
        if message.recipients.len() >= MAX_RECIPIENTS || !shares {
            return Ok(Answer::Reply(envelope::own_transaction().with_id(&id)));
        }
        if let (Some(tenant), false) = (&recipient.tenant, is_decided) {
            let tenant = tenant.clone();
            let context = self.context(&sender, recipient.address.as_str());
            let decision = self.ask(&tenant, &context, &id).await;
            if let Some(reply) = refusal(&decision, &id) {
                return Ok(Answer::Reply(reply));
            }
        }
        if let Some(message) = &mut self.message {
            message.recipients.push(recipient);
        }
        Ok(Answer::Continue)
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        let Some(message) = &mut self.message else {
            return;
        };
        if message.header.len() + name.len() + value.len() > MAX_HEADER {
            message.is_header_too_long = true;
            return;
        }
        message.header.extend_from_slice(name);
        message.header.push(b':');
        if !value.starts_with(b" ") {
            message.header.push(b' ');
        }
        // Servers end the lines of a folded field in LF alone.
        for line in value.split_inclusive(|octet| *octet == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            message.header.extend_from_slice(line);
            message.header.extend_from_slice(b"\r\n");
        }
        if value.is_empty() {
            message.header.extend_from_slice(b"\r\n");
        }
    }

    async fn end_of_header(&mut self) -> Answer {
        let Some(message) = self.message.take() else {
            return Answer::Continue;
        };
        // Those who share a message are decided on together.
        let reads = message.recipients.iter().find_map(|recipient| {
            let tenant = recipient.tenant.as_ref()?;
            tenant.reads_header().then_some((recipient, tenant))
        });
        let Some((recipient, tenant)) = reads else {
            return Answer::Continue;
        };
        let id = &message.transaction.id;
        if message.is_header_too_long {
            let reply = Reply::new(552, (5, 3, 4), "the header is too long");
            return Answer::Reply(reply.with_id(id));
        }
        let from = match FromField::read(&message.header) {
            Ok(from) => from,
            Err(reply) => return Answer::Reply(reply.with_id(id)),
        };
        let context = self.context(&message.sender, recipient.address.as_str());
        let context = context.header_from(from.fact());
        let decision = self.ask(tenant, &context, id).await;
        match from.refusal(&decision, id) {
            Some(reply) => Answer::Reply(reply),
            None => Answer::Continue,
        }
    }

    async fn ask(&mut self, tenant: &Tenant, context: &Context, transaction: &str) -> Decision {
        let settings = self.frontend.settings();
        let request = Request {
            tenant,
            context,
            authorities: &settings.authorities,
            session: self.id,
            transaction,
        };
        self.asker.ask(request).await
    }

    fn context(&self, sender: &str, recipient: &str) -> Context {
        let context = Context::inbound(None, sender, recipient).client_address(self.client);
        let mut context = self.protection().add_to(context);
        context.set_header_from(HeaderFrom::Pending);
        context.set_helo(self.helo.clone());
        context
    }

    fn told(&self, name: &str) -> &str {
        self.macros.get(name).map_or("", String::as_str)
    }

    fn protection(&self) -> Protection {
        // The policy service hears more.
        let joined = self.guard.as_ref();
        let known = joined.and_then(|guard| guard.joined.protection());
        if let Some(known) = known.filter(|known| known.is_encrypted()) {
            return known;
        }
        match self.told("tls_version") {
            "" if self.agreement.has_macros() => Security::Plaintext.into(),
            // A server that sends what it likes may keep quiet about TLS.
            "" => Security::Unknown.into(),
            version => Protection::tls(version, self.told("cipher"), self.certificate()),
        }
    }

    /// Sendmail says in `{verify}` whether there is a certificate, and whether it is trusted. Postfix gives the names of
    /// one that it trusts, and else says nothing.
    fn certificate(&self) -> (PeerCertificate, Option<String>) {
        let trusted = match self.told("verify") {
            "NO" => return (PeerCertificate::None, None),
            "OK" => Some(true),
            "FAIL" => Some(false),
            "" if !self.told("cert_issuer").is_empty() => Some(true),
            // No certificate was asked for, or nothing is said.
            _ => return (PeerCertificate::Unknown, None),
        };
        // Sendmail's subject and issuer are whole names beside their CN, Postfix's are the CN.
        let is_sendmail = !self.told("verify").is_empty();
        let cn = |own: &str, whole: &str| {
            let name = self.told(if is_sendmail { own } else { whole });
            facts::from_xtext(name)
        };
        self.frontend.certificate(Told {
            digest: facts::digest(self.told("cert_fp")).filter(|digest| !digest.is_empty()),
            common_name: cn("cn_subject", "cert_subject"),
            issuer: cn("cn_issuer", "cert_issuer"),
            trusted,
            ..Told::default()
        })
    }
}
