//! What requests on one connection share, and how they are answered.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use crate::frontend::ask::{Asker, Request, tenant_of};
use crate::frontend::mta::door::Frontend;
use crate::smtp::address::Address;
use portcullis::store::{Snapshot, Tenant};
use portcullis::{Context, Decision, Direction};

/// Octets of a token's file.
const MAX_TOKEN: (usize, &str) = (4096, "the limit of a token");

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// A connection that requests come on.
pub struct Conversation {
    pub(super) frontend: Arc<Frontend>,
    session: String,
    requests: AtomicU64,
    /// Whether whoever may open the socket may ask.
    is_open: bool,
}

impl Conversation {
    /// A connection that begins.
    pub fn new(frontend: &Arc<Frontend>, session: &str, is_open: bool) -> Self {
        Conversation {
            frontend: frontend.clone(),
            session: session.to_owned(),
            requests: AtomicU64::new(0),
            is_open,
        }
    }

    /// Whether a client may ask: by who may open the socket, or by the token.
    pub fn admits(&self, headers: &HeaderMap) -> Result<(), String> {
        let Some(path) = &self.frontend.config.token else {
            return match self.is_open {
                true => Ok(()),
                false => Err("this front door needs token, a file, to be asked over TCP".into()),
            };
        };
        let shown = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let shown = shown.and_then(|shown| shown.strip_prefix(b"Bearer "));
        let token = token(path)?;
        match shown {
            Some(shown) if verify_slices_are_equal(shown, &token).is_ok() => Ok(()),
            _ => Err("the header Authorization: Bearer TOKEN is missing or wrong".into()),
        }
    }

    /// A name for what is asked now.
    pub fn transaction(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{}.{number}", self.session)
    }

    /// What a request is asked by. Each is about another client.
    pub fn asker(&self) -> Asker {
        Asker::new(self.frontend.server.asking.clone())
    }

    /// Whose policy decides: the named one, else that of the recipient's domain, or of the sender's for mail to
    /// partners.
    pub fn tenant<'a>(
        &self,
        policies: &'a Snapshot,
        named: Option<&str>,
        context: &Context,
    ) -> Option<&'a Arc<Tenant>> {
        if let Some(named) = named {
            return policies.named(named);
        }
        let configured = self.frontend.config.tenant.as_deref();
        let configured = || policies.named(configured?);
        let address = match context.direction() {
            Direction::Inbound => context.rcpt_to(),
            Direction::Outbound => context.mail_from(),
        };
        match Address::parse_recipient(address) {
            Ok(address) => tenant_of(policies, address.domain()).or_else(configured),
            Err(_) => configured(),
        }
    }

    /// Decides, counts, logs and keeps.
    pub async fn ask(
        &self,
        asker: &mut Asker,
        tenant: &Tenant,
        context: &Context,
        id: &str,
    ) -> Decision {
        let settings = self.frontend.settings();
        let request = Request {
            tenant,
            context,
            authorities: &settings.authorities,
            session: &self.session,
            transaction: id,
        };
        asker.ask(request).await
    }
}

/// The token in a file, without the end of its line. It is read each time, so that it may be replaced.
fn token(path: &Path) -> Result<Vec<u8>, String> {
    let read = portcullis::read_file(path, MAX_TOKEN);
    let octets = read.map_err(|error| {
        tracing::error!(file = %path.display(), %error, "the token of a front door cannot be read");
        "the token of this front door cannot be read".to_owned()
    })?;
    let token = octets.trim_ascii();
    match token.is_empty() {
        true => Err("the token of this front door is empty".into()),
        false => Ok(token.to_vec()),
    }
}

/// A value as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    // What is answered has no map with keys that are no text.
    let octets = serde_json::to_vec(value).unwrap_or_default();
    whole(status, "application/json", octets)
}

/// Octets of a type.
pub fn whole(status: StatusCode, kind: &'static str, octets: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(octets.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// Why a request is not answered with what was asked for.
pub fn refused(status: StatusCode, error: &str) -> Answer {
    json(status, &serde_json::json!({ "error": error }))
}
