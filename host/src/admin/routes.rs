//! What can be asked for. `openapi.json` describes the same, and a test holds the two together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, IF_MATCH, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::access::{PAUSE, Peer};
use super::answer::{Answer, Refusal, whole};
use super::api::{Admin, Caller};
use super::page;

/// The description of the API.
pub const OPENAPI: &str = include_str!("openapi.json");

/// How long a request's body may take.
const BODY: Duration = Duration::from_secs(60);
/// The largest body that is no policy.
const SMALL: usize = 1 << 20;
/// The largest export.
const EXPORT: usize = 16 << 20;

/// What is asked of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    None,
    /// JSON of at most 1 MiB.
    Json,
    /// A rules document.
    Document,
    /// A rules document or a component.
    Policy,
    /// Whatever another product exports.
    Export,
}

/// Who may ask.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// Whoever has a token.
    Readers,
    /// Whoever may change something.
    Writers,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    State,
    Import,
    Policy,
    PutPolicy,
    Check,
    Diff,
    Effect,
    Explain,
    Connectors,
    AddConnector,
    Connector,
    PutConnector,
    RemoveConnector,
    Validate,
    Decisions,
    Live,
    Flows,
    Advice,
    Certificates,
    Versions,
    Version,
    Restore,
}

type Route = (Method, &'static str, What, For, Content);

const ROUTES: &[Route] = &[
    (
        Method::GET,
        "/api/state",
        What::State,
        For::Readers,
        Content::None,
    ),
    (
        Method::POST,
        "/api/import",
        What::Import,
        For::Writers,
        Content::Export,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/policy",
        What::Policy,
        For::Readers,
        Content::None,
    ),
    (
        Method::PUT,
        "/api/tenants/{tenant}/policy",
        What::PutPolicy,
        For::Writers,
        Content::Policy,
    ),
    (
        Method::POST,
        "/api/tenants/{tenant}/check",
        What::Check,
        For::Readers,
        Content::Document,
    ),
    (
        Method::POST,
        "/api/tenants/{tenant}/diff",
        What::Diff,
        For::Readers,
        Content::Document,
    ),
    (
        Method::POST,
        "/api/tenants/{tenant}/effect",
        What::Effect,
        For::Readers,
        Content::Document,
    ),
    (
        Method::POST,
        "/api/tenants/{tenant}/explain",
        What::Explain,
        For::Readers,
        Content::Json,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/connectors",
        What::Connectors,
        For::Readers,
        Content::None,
    ),
    (
        Method::POST,
        "/api/tenants/{tenant}/connectors",
        What::AddConnector,
        For::Writers,
        Content::Json,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/connectors/{connector}",
        What::Connector,
        For::Readers,
        Content::None,
    ),
    (
        Method::PUT,
        "/api/tenants/{tenant}/connectors/{connector}",
        What::PutConnector,
        For::Writers,
        Content::Json,
    ),
    (
        Method::DELETE,
        "/api/tenants/{tenant}/connectors/{connector}",
        What::RemoveConnector,
        For::Writers,
        Content::None,
    ),
    (
        Method::POST,
        "/api/tenants/{tenant}/connectors/{connector}/validate",
        What::Validate,
        For::Writers,
        Content::Json,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/decisions",
        What::Decisions,
        For::Readers,
        Content::None,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/decisions/live",
        What::Live,
        For::Readers,
        Content::None,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/flows",
        What::Flows,
        For::Readers,
        Content::None,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/advice",
        What::Advice,
        For::Readers,
        Content::None,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/certificates",
        What::Certificates,
        For::Readers,
        Content::None,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/versions",
        What::Versions,
        For::Readers,
        Content::None,
    ),
    (
        Method::GET,
        "/api/tenants/{tenant}/versions/{version}",
        What::Version,
        For::Readers,
        Content::None,
    ),
    (
        Method::POST,
        "/api/tenants/{tenant}/versions/{version}/restore",
        What::Restore,
        For::Writers,
        Content::None,
    ),
];

/// A request that has passed.
pub struct Asked {
    /// What stands in the path, in its order.
    segments: Vec<String>,
    /// Behind the question mark.
    query: String,
    /// The version that a change is made to.
    pub if_match: Option<String>,
    /// Whether the body is a component.
    pub is_component: bool,
    /// The body.
    pub body: Bytes,
    /// The memory that it has.
    _room: OwnedSemaphorePermit,
}

impl Asked {
    /// The tenant's name.
    pub fn tenant(&self) -> &str {
        self.segments.first().map_or("", String::as_str)
    }

    /// What stands behind the tenant.
    pub fn name(&self) -> &str {
        self.segments.get(1).map_or("", String::as_str)
    }

    /// The parameters behind the question mark.
    ///
    /// # Errors
    /// If there are others, or one has no such value.
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let parsed = serde_urlencoded::from_str(&self.query);
        parsed.map_err(|error| {
            let text = format!("the parameters of the URL: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, text)
        })
    }

    /// The body as text.
    ///
    /// # Errors
    /// If it is no UTF-8.
    pub fn text(&self) -> Result<String, Refusal> {
        String::from_utf8(self.body.to_vec())
            .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the body is not UTF-8"))
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// Where it is none.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("the body: {error}")))
    }
}

/// Answers a request.
pub async fn answer(admin: Arc<Admin>, peer: Peer, request: Request<Incoming>) -> Answer {
    match try_answer(&admin, peer, request).await {
        Ok(answer) => answer,
        Err(refusal) => {
            let mut answer = refusal.answer();
            // RFC 9110 §15.5.2, §15.5.6 and §15.6.4, RFC 6585 §4.
            let (name, value) = match refusal.status {
                StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, "Bearer".to_owned()),
                StatusCode::METHOD_NOT_ALLOWED => (ALLOW, refusal.error.clone()),
                StatusCode::SERVICE_UNAVAILABLE => (RETRY_AFTER, "1".to_owned()),
                StatusCode::TOO_MANY_REQUESTS => (RETRY_AFTER, PAUSE.as_secs().to_string()),
                _ => return answer,
            };
            if let Ok(value) = HeaderValue::from_str(&value) {
                answer.headers_mut().insert(name, value);
            }
            answer
        }
    }
}

async fn try_answer(
    admin: &Arc<Admin>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let access = admin.access();
    access.check(request.method(), request.uri(), request.headers(), &peer)?;
    let path = request.uri().path().to_owned();
    let is_get = request.method() == Method::GET;
    if is_get && path == "/api/openapi.json" {
        return Ok(whole(StatusCode::OK, "application/json", OPENAPI));
    }
    if !path.starts_with("/api/") {
        return match page::file(&path).filter(|_| is_get) {
            Some(file) => Ok(file),
            None => Err(Refusal::not_found("there is no such page")),
        };
    }
    let peer = access.origin(request.headers(), peer);
    let token = access.token(request.headers(), &peer)?;
    let (what, who, content, segments) = route(request.method(), &path)?;
    let is_let_in = match who {
        For::Readers => true,
        For::Writers => token.may_write(),
    };
    if let Some(tenant) = segments.first()
        && !token.is_for(tenant)
    {
        // Whether there is such a tenant is nothing to tell.
        return Err(Refusal::not_found("there is no such tenant"));
    }
    if !is_let_in {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "this token is for reading only",
        ));
    }
    let caller = Caller {
        token,
        peer: peer.to_string(),
    };
    let asked = read(admin, request, content, segments).await?;
    if who == For::Readers {
        return perform(admin, what, &caller, asked).await;
    }
    // What has been begun is ended and logged, though whoever asked may be gone.
    let admin = admin.clone();
    let performing = tokio::spawn(async move { perform(&admin, what, &caller, asked).await });
    performing.await.map_err(Refusal::failed)?
}

/// The route of a request, and what stands in the places of its path that have a name.
fn route(method: &Method, path: &str) -> Result<(What, For, Content, Vec<String>), Refusal> {
    let mut allowed = Vec::new();
    for (own, pattern, what, who, content) in ROUTES {
        let Some(segments) = matches(pattern, path) else {
            continue;
        };
        if own == method {
            return Ok((*what, *who, *content, segments));
        }
        allowed.push(own.as_str());
    }
    match allowed.is_empty() {
        true => Err(Refusal::not_found(
            "there is no such thing; see /api/openapi.json",
        )),
        false => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            allowed.join(", "),
        )),
    }
}

fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let (mut patterns, mut parts) = (pattern.split('/'), path.split('/'));
    let mut found = Vec::new();
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return Some(found),
            (Some(pattern), Some(part)) if pattern.starts_with('{') => {
                found.push(percent_decode_str(part).decode_utf8().ok()?.into_owned());
            }
            (Some(pattern), Some(part)) if pattern == part => {}
            _ => return None,
        }
    }
}

async fn read(
    admin: &Admin,
    request: Request<Incoming>,
    content: Content,
    segments: Vec<String>,
) -> Result<Asked, Refusal> {
    let (head, body) = request.into_parts();
    let kind = kind_of(&head.headers);
    let is_component = content == Content::Policy && kind == "application/wasm";
    let is_json = matches!(content, Content::Json | Content::Document | Content::Policy);
    if is_json && !is_component && kind != "application/json" {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the Content-Type is to be application/json",
        ));
    }
    let most = match content {
        Content::None | Content::Json => SMALL,
        Content::Document | Content::Policy => admin.largest_policy(),
        Content::Export => EXPORT,
    };
    let room = room(admin, &head.headers, most)?;
    let reading = timeout(BODY, Limited::new(body, most).collect()).await;
    let body = match reading {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {most} octets"),
            ));
        }
        Ok(Err(error)) => {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, error.to_string()));
        }
        Err(_) => {
            let text = "the body took too long";
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text));
        }
    };
    Ok(Asked {
        segments,
        query: head.uri.query().unwrap_or_default().to_owned(),
        if_match: if_match(&head.headers)?,
        is_component,
        body,
        _room: room,
    })
}

/// Answers a request of a peer that has too many connections already.
pub async fn turn_away(request: Request<Incoming>) -> Answer {
    // What is sent and not read would take the answer with it (RFC 9112 §9.6).
    let _ = Limited::new(request.into_body(), SMALL).collect().await;
    let text = "you have too many connections; close some, and ask again";
    let mut answer = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text).answer();
    let headers = answer.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Memory for a body, of which there is so much for all.
fn room(admin: &Admin, headers: &HeaderMap, most: usize) -> Result<OwnedSemaphorePermit, Refusal> {
    let length = headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
    let length = length.and_then(|it| it.parse::<usize>().ok());
    let wanted = length.unwrap_or(most).min(most).div_ceil(1 << 10);
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    admin.bodies().try_acquire_many_owned(wanted).map_err(|_| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too much is being sent by others just now; ask again, with a Content-Length",
        )
    })
}

fn kind_of(headers: &HeaderMap) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    kind.unwrap_or_default().trim().to_ascii_lowercase()
}

/// The digest in If-Match (RFC 9110 §13.1.1).
fn if_match(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let wrong = || {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "If-Match is to be the ETag that was read",
        )
    };
    let Some(value) = headers.get(IF_MATCH) else {
        return Ok(None);
    };
    let tag = value.to_str().map_err(|_| wrong())?.trim();
    let digest = tag.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
    digest.map(|it| Some(it.to_owned())).ok_or_else(wrong)
}

async fn perform(
    admin: &Arc<Admin>,
    what: What,
    caller: &Caller,
    asked: Asked,
) -> Result<Answer, Refusal> {
    match what {
        What::State => admin.state(caller).await,
        What::Import => admin.import(&asked).await,
        What::Policy => admin.policy(&asked).await,
        What::PutPolicy => admin.put_policy(caller, asked).await,
        What::Check => admin.check(&asked).await,
        What::Diff => admin.diff(&asked).await,
        What::Effect => admin.effect(&asked).await,
        What::Explain => admin.explain(&asked).await,
        What::Connectors => admin.connectors(&asked).await,
        What::AddConnector => admin.add_connector(caller, asked).await,
        What::Connector => admin.connector(&asked).await,
        What::PutConnector => admin.put_connector(caller, asked).await,
        What::RemoveConnector => admin.remove_connector(caller, asked).await,
        What::Validate => admin.validate(caller, &asked).await,
        What::Decisions => admin.decisions(&asked).await,
        What::Live => admin.live(caller, &asked),
        What::Flows => admin.flows(&asked).await,
        What::Advice => admin.advice(&asked).await,
        What::Certificates => admin.certificates(&asked).await,
        What::Versions => admin.versions(&asked).await,
        What::Version => admin.version(&asked).await,
        What::Restore => admin.restore(caller, asked).await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_description_has_what_there_is() {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = description["paths"].as_object().unwrap();
        let described = paths.iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods
                .filter(|method| *method != "parameters")
                .map(move |method| format!("{} {path}", method.to_uppercase()))
        });
        let mut described: Vec<String> = described.collect();
        let own = ROUTES
            .iter()
            .map(|(method, path, ..)| format!("{method} {path}"));
        let mut own: Vec<String> = own.collect();
        own.push("GET /api/openapi.json".into());
        own.sort();
        described.sort();
        assert_eq!(described, own);
    }

    #[test]
    fn names_in_a_path_may_have_any_characters() {
        let found = matches(
            "/api/tenants/{tenant}/connectors/{connector}",
            "/api/tenants/a%2Fb/connectors/Caf%C3%A9%20%3F",
        );
        assert_eq!(found, Some(vec!["a/b".into(), "Café ?".into()]));
        assert_eq!(matches("/a/{b}", "/a/%ff"), None);
        assert_eq!(matches("/a/{b}", "/a/b/c"), None);
    }
}
