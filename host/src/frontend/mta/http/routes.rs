//! What can be asked for. `openapi.json` describes the same, and a test holds the two together.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::conversation::{Answer, Conversation, json as json_answer, refused, whole};
use super::{nginx, stalwart};
use crate::frontend::mta::door::REQUEST;
use portcullis::Context;

/// The description of what can be asked for.
const OPENAPI: &str = include_str!("openapi.json");

/// Octets of a body.
const MAX_BODY: usize = 16 << 20;
/// Contexts of a body.
const MOST_LINES: usize = 100_000;
const LINES: &str = "application/x-ndjson";

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Evaluate,
    Explain,
    Stalwart,
    Nginx,
    OpenApi,
}

const ROUTES: [(Method, &str, What); 5] = [
    (Method::POST, "/v1/evaluate", What::Evaluate),
    (Method::POST, "/v1/explain", What::Explain),
    (Method::POST, "/v1/stalwart", What::Stalwart),
    (Method::GET, "/v1/nginx", What::Nginx),
    (Method::GET, "/v1/openapi.json", What::OpenApi),
];

/// Answers a request.
pub async fn answer(conversation: &Conversation, request: Request<Incoming>) -> Answer {
    if let Err(error) = conversation.admits(request.headers()) {
        return refused(StatusCode::UNAUTHORIZED, &error);
    }
    let what = match what(request.method(), request.uri().path()) {
        Ok(what) => what,
        Err(answer) => return *answer,
    };
    let tenant = request.uri().query().and_then(tenant_in);
    let kind = request.headers().get(CONTENT_TYPE);
    let is_lines = kind.and_then(|kind| kind.to_str().ok()) == Some(LINES);
    if what == What::OpenApi {
        return whole(StatusCode::OK, "application/json", OPENAPI);
    }
    if what == What::Nginx {
        return nginx::answer(conversation, request.headers()).await;
    }
    let body = match read(request).await {
        Ok(body) => body,
        Err(answer) => return *answer,
    };
    match what {
        What::Stalwart => stalwart::answer(conversation, &body).await,
        What::Evaluate if is_lines => lines(conversation, tenant.as_deref(), &body, what).await,
        What::Explain if is_lines => lines(conversation, tenant.as_deref(), &body, what).await,
        _ => match one(conversation, tenant.as_deref(), &body, what).await {
            Ok(value) => json_answer(StatusCode::OK, &value),
            Err((status, error)) => refused(status, &error),
        },
    }
}

fn what(method: &Method, path: &str) -> Result<What, Box<Answer>> {
    let mut of_path = ROUTES
        .iter()
        .filter(|(_, known, _)| *known == path)
        .peekable();
    if of_path.peek().is_none() {
        let text = "there is nothing here: see /v1/openapi.json";
        return Err(refused(StatusCode::NOT_FOUND, text).into());
    }
    match of_path.find(|(known, ..)| known == method) {
        Some((.., what)) => Ok(*what),
        None => {
            let text = "it is asked by another method: see /v1/openapi.json";
            Err(refused(StatusCode::METHOD_NOT_ALLOWED, text).into())
        }
    }
}

fn tenant_in(query: &str) -> Option<String> {
    let mut pairs = query.split('&');
    let value = pairs.find_map(|pair| pair.strip_prefix("tenant="))?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

async fn read(request: Request<Incoming>) -> Result<Bytes, Box<Answer>> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    match timeout(REQUEST, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => {
            let text = "the body is longer than 16 MiB, or ends in the middle";
            Err(refused(StatusCode::PAYLOAD_TOO_LARGE, text).into())
        }
        Err(_) => {
            let text = "the body took longer than 30 s";
            Err(refused(StatusCode::REQUEST_TIMEOUT, text).into())
        }
    }
}

/// A context a line in, an answer a line out. What is wrong with a line stands in its place.
async fn lines(
    conversation: &Conversation,
    tenant: Option<&str>,
    body: &[u8],
    what: What,
) -> Answer {
    if memchr::memchr_iter(b'\n', body).count() > MOST_LINES {
        let text = "the body has more than 100,000 lines";
        return refused(StatusCode::PAYLOAD_TOO_LARGE, text);
    }
    let mut out = Vec::new();
    for (number, line) in body.split(|octet| *octet == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let value = match one(conversation, tenant, line, what).await {
            Ok(value) => value,
            Err((_, error)) => json!({ "error": error, "line": number + 1 }),
        };
        // A value always has a text.
        let _ = serde_json::to_writer(&mut out, &value);
        out.push(b'\n');
    }
    let mut answer = whole(StatusCode::OK, LINES, out);
    let kind = HeaderValue::from_static(LINES);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

type Refused = (StatusCode, String);

async fn one(
    conversation: &Conversation,
    named: Option<&str>,
    body: &[u8],
    what: What,
) -> Result<Value, Refused> {
    let unprocessable = |error: String| (StatusCode::UNPROCESSABLE_ENTITY, error);
    let text = std::str::from_utf8(body).map_err(|error| unprocessable(error.to_string()))?;
    let context = Context::from_json(text).map_err(|error| unprocessable(shortened(error)))?;
    let policies = conversation.frontend.server.asking.policies.snapshot();
    let Some(tenant) = conversation.tenant(&policies, named, &context) else {
        let error = match named {
            Some(named) => format!("there is no tenant {named:?}"),
            None => "no tenant has the domain of this mail, and none is named (?tenant=)".into(),
        };
        return Err((StatusCode::NOT_FOUND, error));
    };
    let mut asker = conversation.asker();
    let failed = |error: String| (StatusCode::INTERNAL_SERVER_ERROR, error);
    let value = match what {
        What::Explain => {
            let explained = asker.explain(tenant, &context).await;
            let explained = explained.map_err(|error| failed(error.to_string()))?;
            serde_json::to_value(explained)
        }
        _ => {
            let id = conversation.transaction();
            let decision = conversation.ask(&mut asker, tenant, &context, &id).await;
            serde_json::to_value(decision.verdict())
        }
    };
    value.map_err(|error| failed(error.to_string()))
}

/// An error may quote what was sent.
fn shortened(mut error: String) -> String {
    const MOST: usize = 1000;
    if error.len() > MOST {
        error.truncate(error.floor_char_boundary(MOST));
        error.push('…');
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_all_routes_and_no_others() {
        let description: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let paths = description["paths"].as_object().expect("paths");
        let mut described: Vec<(String, String)> = Vec::new();
        for (path, methods) in paths {
            for method in methods.as_object().expect("methods").keys() {
                described.push((method.to_uppercase(), path.clone()));
            }
        }
        let mut known: Vec<(String, String)> = ROUTES
            .iter()
            .map(|(method, path, _)| (method.to_string(), (*path).to_owned()))
            .collect();
        described.sort();
        known.sort();
        assert_eq!(described, known);
    }
}
