//! Stalwart's MTA hooks: it asks at stages of a session, with all recipients so far, and at DATA with the header.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::conversation::{Answer, Conversation, json as json_answer, refused};
use crate::frontend::ask::refusal;
use crate::frontend::header::FromField;
use crate::frontend::mta::envelope::{self, Whose};
use crate::frontend::mta::facts::{self, Protection};
use crate::smtp::reply::Reply;
use portcullis::store::Snapshot;
use portcullis::{Context, HeaderFrom, PeerCertificate, Security};

#[derive(Deserialize)]
struct Hook {
    context: HookContext,
    envelope: Option<Envelope>,
    message: Option<Message>,
}

#[derive(Deserialize)]
struct HookContext {
    stage: String,
    client: Client,
    tls: Option<HookTls>,
}

#[derive(Deserialize)]
struct Client {
    ip: String,
    helo: Option<String>,
}

#[derive(Deserialize)]
struct HookTls {
    version: String,
    #[serde(default)]
    cipher: String,
}

#[derive(Deserialize)]
struct Envelope {
    from: Mailbox,
    to: Vec<Mailbox>,
}

#[derive(Deserialize)]
struct Mailbox {
    address: String,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    headers: Vec<(String, String)>,
}

/// Answers a hook. At RCPT the last recipient is the new one; at DATA all are decided about, now with the header.
pub async fn answer(conversation: &Conversation, body: &[u8]) -> Answer {
    let mut json = serde_json::Deserializer::from_slice(body);
    let hook: Hook = match serde_path_to_error::deserialize(&mut json) {
        Ok(hook) => hook,
        Err(error) => {
            let error = format!("{}: {}", error.path(), error.inner());
            return refused(StatusCode::UNPROCESSABLE_ENTITY, &error);
        }
    };
    let id = conversation.transaction();
    let policies = conversation.frontend.server.asking.policies.snapshot();
    let Some(envelope) = &hook.envelope else {
        return match hook.context.stage.as_str() {
            "rcpt" | "data" => refused(StatusCode::UNPROCESSABLE_ENTITY, "envelope is missing"),
            _ => json_answer(StatusCode::OK, &told(None)),
        };
    };
    let reply = match hook.context.stage.as_str() {
        "rcpt" => recipient(conversation, &policies, &hook, envelope, &id).await,
        "data" => header(conversation, &policies, &hook, envelope, &id).await,
        _ => Ok(()),
    };
    let reply = reply.err().map(|reply| reply.with_id(&id));
    json_answer(StatusCode::OK, &told(reply))
}

fn told(reply: Option<Reply>) -> Value {
    match reply {
        None => json!({ "action": "accept" }),
        Some(reply) => json!({
            "action": "reject",
            "response": {
                "status": reply.code(),
                "enhanced_status": reply.enhanced().map(|it| it.to_string()),
                "message": reply.one_line(),
                "disconnect": false,
            },
        }),
    }
}

impl Hook {
    fn context(&self, from: &str, to: &str) -> Context {
        let client = &self.context.client;
        let protection = match &self.context.tls {
            None => Security::Plaintext.into(),
            // It asks clients for no certificate, so whether they have one nobody knows.
            Some(tls) => {
                let certificate = (PeerCertificate::Unknown, None);
                Protection::tls(&tls.version, &tls.cipher, certificate)
            }
        };
        let context = Context::inbound(None, from, to);
        let context = context.client_address(facts::client_address(&client.ip));
        let mut context = protection.add_to(context);
        context.set_helo(client.helo.clone());
        context
    }
}

async fn recipient(
    conversation: &Conversation,
    policies: &Snapshot,
    hook: &Hook,
    envelope: &Envelope,
    id: &str,
) -> Result<(), Reply> {
    let Some((to, earlier)) = envelope.to.split_last() else {
        return Ok(());
    };
    let whose = |to: &Mailbox| conversation.frontend.whose(policies, &to.address, None);
    let own = match whose(to) {
        Whose::Unclear(reply) => return Err(reply),
        own => own,
    };
    // SMTP has one reply after the header.
    let shares = |other: &Mailbox| envelope::may_share(own.policy(), whose(other).policy());
    if !earlier.iter().all(shares) {
        return Err(envelope::own_transaction());
    }
    let Whose::Of(tenant, address) = own else {
        return Ok(());
    };
    let sender = envelope::sender(&envelope.from.address)?;
    let context = hook.context(&sender, address.as_str());
    let mut asker = conversation.asker();
    let decision = conversation.ask(&mut asker, &tenant, &context, id).await;
    refusal(&decision, id).map_or(Ok(()), Err)
}

/// The first refusal is that of the message. Those who let it ask at DATA only are decided about here.
async fn header(
    conversation: &Conversation,
    policies: &Snapshot,
    hook: &Hook,
    envelope: &Envelope,
    id: &str,
) -> Result<(), Reply> {
    let fields = hook.message.as_ref().map(|message| {
        let fields = message.headers.iter();
        let lines = fields.map(|(name, value)| format!("{name}:{}\r\n", folded(value)));
        lines.collect::<String>()
    });
    let mut asker = conversation.asker();
    for to in &envelope.to {
        let (tenant, address) = match conversation.frontend.whose(policies, &to.address, None) {
            Whose::Of(tenant, address) => (tenant, address),
            Whose::Unclear(reply) => return Err(reply),
            Whose::Nobody => continue,
        };
        let sender = envelope::sender(&envelope.from.address)?;
        let context = hook.context(&sender, address.as_str());
        let from = match (&fields, tenant.reads_header()) {
            (Some(fields), true) => Some(FromField::read(fields.as_bytes())?),
            _ => None,
        };
        let fact = from.as_ref().map_or(HeaderFrom::Unknown, FromField::fact);
        let context = context.header_from(fact);
        let decision = conversation.ask(&mut asker, &tenant, &context, id).await;
        let reply = match from {
            Some(from) => from.refusal(&decision, id),
            None => refusal(&decision, id),
        };
        if let Some(reply) = reply {
            return Err(reply);
        }
    }
    Ok(())
}

/// A value as it stands behind a field's name.
fn folded(value: &str) -> String {
    let value = value.trim_end_matches(['\r', '\n']);
    let lines: Vec<&str> = value.lines().collect();
    let space = match value.starts_with([' ', '\t']) {
        true => "",
        false => " ",
    };
    format!("{space}{}", lines.join("\r\n"))
}
