//! The facts about one recipient of one message.

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_types::{
    self as types, Certificate, ClientAddress, Direction, HeaderFrom, PeerCertificate, Security,
    Tls,
};

use crate::bindings::evaluation;

/// The facts about one recipient of one message. Cheap to clone.
///
/// Facts that the caller cannot tell must be given as unknown, not left out: what is left out is known not to be there.
///
/// ```
/// use portcullis::{Context, Security};
///
/// let context = Context::inbound("203.0.113.7".parse().ok(), "alice@contosobank.com", "bob@contoso.com")
///     .helo("mail.contosobank.com")
///     .security(Security::Unknown);
/// assert_eq!(context.rcpt_to(), "bob@contoso.com");
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    lowered: Arc<evaluation::Context>,
    client_ip: ClientAddress,
    security: Arc<Security>,
}

impl Context {
    /// Mail that arrives for one of the organization's recipients, from a client without TLS. The client has no address
    /// if it is connected by a local socket. The null reverse-path is empty. Addresses may stand in angle brackets, as
    /// they do in SMTP.
    pub fn inbound(
        client_ip: impl Into<Option<IpAddr>>,
        mail_from: impl Into<String>,
        rcpt_to: impl Into<String>,
    ) -> Self {
        let context = Context::new(Direction::Inbound, mail_from.into(), rcpt_to.into());
        match client_ip.into() {
            Some(ip) => context.client_address(ClientAddress::Known(ip.to_canonical())),
            None => context,
        }
    }

    /// Mail that the organization sends.
    pub fn outbound(mail_from: impl Into<String>, rcpt_to: impl Into<String>) -> Self {
        Context::new(Direction::Outbound, mail_from.into(), rcpt_to.into())
    }

    fn new(direction: Direction, mail_from: String, rcpt_to: String) -> Self {
        let (mail_from, rcpt_to) = (address(mail_from), address(rcpt_to));
        Context {
            lowered: Arc::new(evaluation::Context {
                direction: direction.into(),
                client_ip: evaluation::ClientAddress::None,
                helo: None,
                security: evaluation::SessionSecurity::Plaintext,
                mail_from,
                rcpt_to,
                header_from: evaluation::HeaderFrom::Pending,
                attributes: Vec::new(),
            }),
            client_ip: ClientAddress::None,
            security: Arc::new(Security::Plaintext),
        }
    }

    /// With the client's address.
    pub fn client_address(mut self, address: ClientAddress) -> Self {
        self.client_ip = address;
        self.lowered_mut().client_ip = address.into();
        self
    }

    /// With the argument of EHLO or HELO.
    pub fn helo(mut self, helo: impl Into<String>) -> Self {
        self.set_helo(helo.into());
        self
    }

    /// In an encrypted session.
    pub fn tls(self, tls: Tls) -> Self {
        self.security(Security::Encrypted(tls))
    }

    /// In a session with this protection.
    pub fn security(mut self, security: Security) -> Self {
        self.set_security(security);
        self
    }

    /// With the From header.
    pub fn header_from(mut self, header: HeaderFrom) -> Self {
        self.set_header_from(header);
        self
    }

    /// With a fact that the interface has no field for. The built-in evaluator knows [`types::COMMON_NAME`] only.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.lowered_mut().attributes.push(evaluation::Attribute {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// Sets the argument of EHLO or HELO.
    pub fn set_helo(&mut self, helo: impl Into<Option<String>>) {
        self.lowered_mut().helo = helo.into();
    }

    /// Sets the protection of the session.
    pub fn set_security(&mut self, security: Security) {
        self.lowered_mut().security = security.clone().into();
        self.security = Arc::new(security);
    }

    /// Sets the envelope sender. The From header is pending from then on.
    pub fn set_mail_from(&mut self, mail_from: impl Into<String>) {
        let lowered = self.lowered_mut();
        lowered.mail_from = address(mail_from.into());
        lowered.header_from = evaluation::HeaderFrom::Pending;
    }

    /// Sets the envelope recipient.
    pub fn set_rcpt_to(&mut self, rcpt_to: impl Into<String>) {
        self.lowered_mut().rcpt_to = address(rcpt_to.into());
    }

    /// Sets the From header.
    pub fn set_header_from(&mut self, header: HeaderFrom) {
        self.lowered_mut().header_from = header.into();
    }

    /// The direction of the mail.
    pub fn direction(&self) -> Direction {
        self.lowered.direction.into()
    }

    /// The client's address, in canonical form.
    pub fn client_ip(&self) -> ClientAddress {
        self.client_ip
    }

    /// The argument of EHLO or HELO.
    pub fn helo_name(&self) -> Option<&str> {
        self.lowered.helo.as_deref()
    }

    /// The protection of the session.
    pub fn session_security(&self) -> &Security {
        &self.security
    }

    /// The encryption of the session, if it is known to be encrypted.
    pub fn session_tls(&self) -> Option<&Tls> {
        match &*self.security {
            Security::Encrypted(tls) => Some(tls),
            Security::Plaintext | Security::Unknown => None,
        }
    }

    /// The certificate that the peer presented, if that is known.
    pub fn certificate(&self) -> Option<&Certificate> {
        match &self.session_tls()?.certificate {
            PeerCertificate::Presented(certificate) => Some(certificate),
            PeerCertificate::None | PeerCertificate::Unknown => None,
        }
    }

    /// The envelope sender.
    pub fn mail_from(&self) -> &str {
        &self.lowered.mail_from
    }

    /// The envelope recipient.
    pub fn rcpt_to(&self) -> &str {
        &self.lowered.rcpt_to
    }

    /// Whether the From header has been read.
    pub fn has_header(&self) -> bool {
        matches!(
            self.lowered.header_from,
            evaluation::HeaderFrom::Addresses(_)
        )
    }

    /// The From header.
    pub fn header(&self) -> HeaderFrom {
        self.lowered.header_from.clone().into()
    }

    /// Reads the JSON form (`docs/spec.md`, section 2).
    ///
    /// # Errors
    /// Says what is wrong, and where in the text.
    pub fn from_json(text: &str) -> Result<Self, String> {
        types::parse_context(text).map(Context::from)
    }

    /// The JSON form, with which the evaluation can be repeated: `portcullis explain --context`.
    pub fn to_json(&self) -> String {
        let context = types::Context::from(evaluation::Context::clone(&self.lowered));
        serde_json::to_string(&context).unwrap_or_default()
    }

    pub(crate) fn lowered(&self) -> &Arc<evaluation::Context> {
        &self.lowered
    }

    fn lowered_mut(&mut self) -> &mut evaluation::Context {
        Arc::make_mut(&mut self.lowered)
    }
}

/// An address without what surrounds it: of `<a@b>`, no rule for `b` would apply. What is no address stays as it is.
fn address(text: String) -> String {
    let is_bare = |first: char| !first.is_whitespace() && first != '<';
    // What begins so and has no bracket at its end has nothing around it.
    if text.starts_with(is_bare) && text.ends_with(|last: char| last.is_ascii_alphanumeric()) {
        return text;
    }
    match types::mailbox(&text) {
        Some(inside) if inside.len() < text.len() => inside.to_owned(),
        _ => text,
    }
}

impl From<types::Context> for Context {
    fn from(context: types::Context) -> Self {
        Context {
            client_ip: context.client_ip,
            security: Arc::new(context.security.clone()),
            lowered: Arc::new(context.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_out_of_their_brackets() {
        let mut context = Context::inbound(None, "<alice@contosobank.com>", " bob@contoso.com ");
        assert_eq!(context.mail_from(), "alice@contosobank.com");
        assert_eq!(context.rcpt_to(), "bob@contoso.com");
        context.set_mail_from("<>");
        assert_eq!(context.mail_from(), "");
        context.set_rcpt_to("\"a>\"@b.test");
        assert_eq!(context.rcpt_to(), "\"a>\"@b.test");
    }
}
