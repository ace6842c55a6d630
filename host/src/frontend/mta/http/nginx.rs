//! nginx's `auth_http` for mail (ngx_mail_auth_http_module): it asks once in a session, at its first recipient, and passes
//! all that follows on. So it says where sessions go; it enforces nothing for further recipients.

use std::net::SocketAddr;

use hyper::header::HeaderValue;
use hyper::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::conversation::{Answer, Conversation, refused, whole};
use crate::frontend::ask::refusal;
use crate::frontend::mta::certificates::Told;
use crate::frontend::mta::envelope::{self, Whose};
use crate::frontend::mta::facts::{self, Protection};
use crate::smtp::reply::Reply;
use portcullis::tls::certificate;
use portcullis::{ClientAddress, Context, HeaderFrom, PeerCertificate, Security, Sha256, Trust};

/// Seconds after which nginx takes the next command; without it, a refusal ends the session.
const WAIT: &str = "1";

/// Answers a request.
pub async fn answer(conversation: &Conversation, headers: &HeaderMap) -> Answer {
    let Some(server) = conversation.frontend.config.nginx_server else {
        let text = "this front door needs nginx-server: where accepted sessions go";
        return refused(StatusCode::NOT_FOUND, text);
    };
    let id = conversation.transaction();
    match decide(conversation, headers, &id).await {
        None => passed_on(server),
        Some(reply) => turned_away(&reply.with_id(&id)),
    }
}

/// The reply that refuses the first recipient; `None` if it is taken.
async fn decide(conversation: &Conversation, headers: &HeaderMap, id: &str) -> Option<Reply> {
    let frontend = &conversation.frontend;
    let told = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // Without a recipient nginx has been asked to log in, or asks too early.
    let Some(recipient) = told("Auth-SMTP-To").map(path) else {
        let text = "nginx tells no recipient: smtp_auth none is needed";
        return Some(Reply::new(451, (4, 3, 5), text));
    };
    let sender = match envelope::sender(told("Auth-SMTP-From").map_or("@", path)) {
        Ok(sender) => sender,
        Err(reply) => return Some(reply),
    };
    let policies = frontend.server.asking.policies.snapshot();
    let tenant = match frontend.whose(&policies, recipient, None) {
        Whose::Of(tenant, _) => tenant,
        Whose::Nobody => return None,
        Whose::Unclear(reply) => return Some(reply),
    };
    let client = told("Client-IP").map_or(ClientAddress::Unknown, facts::client_address);
    let context = Context::inbound(None, sender, recipient).client_address(client);
    let mut context = protection(conversation, headers)
        .add_to(context)
        .header_from(HeaderFrom::Unknown);
    context.set_helo(told("Auth-SMTP-Helo").map(str::to_owned));
    let mut asker = conversation.asker();
    let decision = conversation.ask(&mut asker, &tenant, &context, id).await;
    refusal(&decision, id)
}

/// The address in `RCPT TO:<b@contoso.com> NOTIFY=NEVER`, as nginx passes it on.
fn path(command: &str) -> &str {
    let rest = command
        .split_once(':')
        .map_or(command, |(_, rest)| rest)
        .trim();
    let path = rest.strip_prefix('<').unwrap_or(rest);
    path.rsplit_once('>').map_or(path, |(path, _)| path)
}

fn protection(conversation: &Conversation, headers: &HeaderMap) -> Protection {
    let told = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if told("Auth-SSL") != Some("on") {
        return Security::Plaintext.into();
    }
    let frontend = &conversation.frontend;
    let verify = told("Auth-SSL-Verify");
    let certificate = match (verify, told("Auth-SSL-Cert").and_then(parse)) {
        (_, Some(shown)) => {
            let authorities = &frontend.settings().authorities;
            let facts = certificate::facts(&[shown], authorities);
            // nginx passes no intermediate certificates on: what they would prove is not disproved.
            let trusted = verify == Some("SUCCESS") || facts.trust == Some(Trust::Trusted);
            frontend.certificate(Told {
                digest: facts.sha256.map(octets),
                key: facts.key_sha256.map(octets),
                names: facts.dns_names,
                trusted: Some(trusted),
                not_after: facts.not_after,
                ..Told::default()
            })
        }
        (Some("NONE"), None) => (PeerCertificate::None, None),
        (_, None) => (frontend.no_certificate(), None),
    };
    let version = told("Auth-SSL-Protocol").unwrap_or_default();
    Protection::tls(
        version,
        told("Auth-SSL-Cipher").unwrap_or_default(),
        certificate,
    )
}

/// A certificate in PEM, with `%XX` for what a header cannot carry.
fn parse(text: &str) -> Option<CertificateDer<'static>> {
    let pem: Vec<u8> = percent_decode_str(text).collect();
    CertificateDer::from_pem_slice(&pem).ok()
}

fn octets(digest: Sha256) -> Vec<u8> {
    digest
        .0
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect()
}

fn passed_on(server: SocketAddr) -> Answer {
    with_headers(&[
        ("auth-status", "OK"),
        ("auth-server", &server.ip().to_string()),
        ("auth-port", &server.port().to_string()),
    ])
}

fn turned_away(reply: &Reply) -> Answer {
    let enhanced = reply.enhanced().map(|it| format!(" {it}"));
    let code = format!("{}{}", reply.code(), enhanced.unwrap_or_default());
    with_headers(&[
        ("auth-status", &reply.one_line()),
        ("auth-error-code", &code),
        ("auth-wait", WAIT),
    ])
}

fn with_headers(all: &[(&'static str, &str)]) -> Answer {
    let mut answer = whole(StatusCode::OK, "text/plain", "");
    for (name, value) in all {
        match HeaderValue::from_str(value) {
            Ok(value) => drop(answer.headers_mut().insert(*name, value)),
            Err(error) => {
                return refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
            }
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_commands() {
        for (command, address) in [
            ("MAIL FROM:<a@bank.test>", "a@bank.test"),
            ("mail from: <a@bank.test> SIZE=1", "a@bank.test"),
            (
                "RCPT TO:<\"a>b\"@bank.test> NOTIFY=NEVER",
                "\"a>b\"@bank.test",
            ),
            ("MAIL FROM:<>", ""),
            ("a@bank.test", "a@bank.test"),
        ] {
            assert_eq!(path(command), address, "{command}");
        }
    }
}
