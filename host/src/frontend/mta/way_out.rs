//! What connectors say of mail that another server sends to partners.

use std::sync::Arc;

use super::door::Frontend;
use crate::egress::partner::{PartnerPath, Published};
use crate::frontend::ask::{Asker, Request, refusal};
use crate::smtp::address::Address;
use crate::smtp::reply::Reply;
use portcullis::store::Tenant;
use portcullis::{
    ClientAddress, Context, Dane, Delivery, MtaSts, Protection, Route, Security, Verdict,
};

/// Who receives mail at every domain (RFC 5321 section 4.5.1): rules decide alike about all of a domain.
pub const ANYBODY: &str = "postmaster";

/// Mail to partners, as far as it is told.
pub struct Mail<'a> {
    /// Whose connectors decide.
    pub tenant: &'a Arc<Tenant>,
    /// The sender; empty if nobody tells.
    pub sender: &'a str,
    /// The recipient.
    pub recipient: &'a str,
    /// Whether it is mail, and not a question about a domain.
    pub is_mail: bool,
    /// The id of the conversation.
    pub session: &'a str,
    /// The id of the question.
    pub transaction: &'a str,
}

/// What a policy says of it.
pub enum Decided {
    /// How it is delivered; without a connector, none is about it.
    Delivered(Box<Delivery>),
    /// It is refused, for good or for now.
    Refused(Reply),
}

/// Asks the policy.
///
/// # Errors
/// Why it cannot be told now.
pub async fn decide(
    frontend: &Frontend,
    asker: &mut Asker,
    mail: &Mail<'_>,
) -> Result<Decided, String> {
    // What servers write may be no address of SMTP; the domain is what rules decide by.
    let recipient = match Address::parse(mail.recipient) {
        Ok(address) => address.as_str().to_owned(),
        Err(_) => match mail.recipient.rsplit_once('@') {
            Some((_, domain)) => format!("{ANYBODY}@{domain}"),
            None => return Err("the recipient has no domain".into()),
        },
    };
    let context = Context::outbound(mail.sender, recipient)
        .client_address(ClientAddress::Unknown)
        .security(Security::Unknown);
    let settings = frontend.settings();
    let request = Request {
        tenant: mail.tenant,
        context: &context,
        authorities: &settings.authorities,
        session: mail.session,
        transaction: mail.transaction,
    };
    let decision = match mail.is_mail {
        true => asker.ask(request).await,
        false => asker.look_up(request).await,
    };
    if let Some(reply) = refusal(&decision, mail.transaction) {
        return Ok(Decided::Refused(reply));
    }
    match decision.into_verdict() {
        Verdict::Deliver(delivery) => Ok(Decided::Delivered(Box::new(delivery))),
        _ => Err("the policy decides about mail of the other direction".into()),
    }
}

/// What is published about the servers that mail to a domain goes to, as far as the protection asks for it.
///
/// # Errors
/// Why it cannot be told now.
pub async fn published(
    frontend: &Frontend,
    tenant: &Tenant,
    protection: &Protection,
    route: Route,
    domain: &str,
) -> Result<Published, String> {
    if protection.mta_sts == MtaSts::None && protection.dane != Dane::Opportunistic {
        return Ok(Published::NOTHING);
    }
    let outbound = frontend.outbound()?;
    let delivery = Delivery {
        connector: None,
        route,
        tls: protection.clone(),
        audit_tls: None,
        audit_connector: None,
        audit: Vec::new(),
    };
    let Some(path) = PartnerPath::new(delivery, domain) else {
        return Err("no mail can go to such a domain".into());
    };
    let published = outbound.published(&path.of_tenant(&tenant.name)).await;
    published.map_err(|failure| failure.to_string())
}
