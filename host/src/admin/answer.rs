//! What is answered, and with which headers.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use portcullis::Problem;
use serde::Serialize;
use serde_json::{Value, json};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub type Answer = Response<Body>;

/// What a page of ours may do: what is served from here, and nothing that is written into it.
const POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types worker";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// Why a request is not answered with what was asked for.
#[derive(Debug)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What is wrong, and what to do.
    pub error: String,
    /// What is wrong with a document.
    pub problems: Vec<Problem>,
    /// What else is to be known.
    pub more: Option<(&'static str, Value)>,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Refusal {
            status,
            error: error.into(),
            problems: Vec::new(),
            more: None,
        }
    }

    /// What is asked for is not there, or not for whoever asks.
    pub fn not_found(what: &str) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, what)
    }

    /// The policy that was changed is not the one that there is, which has this digest.
    pub fn stale(current: &str) -> Self {
        Refusal {
            more: Some(("current", json!({ "digest": current }))),
            ..Refusal::new(
                StatusCode::PRECONDITION_FAILED,
                "the policy has been changed meanwhile",
            )
        }
    }

    /// Something failed here.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }

    /// As an answer.
    pub fn answer(&self) -> Answer {
        let mut body = json!({ "error": self.error });
        if !self.problems.is_empty() {
            body["problems"] = json!(self.problems);
        }
        if let Some((key, value)) = &self.more {
            body[*key] = value.clone();
        }
        json_with(self.status, &body)
    }
}

/// A value as JSON.
pub fn json(value: &impl Serialize) -> Answer {
    json_with(StatusCode::OK, value)
}

/// A value as JSON, with a status.
pub fn json_with(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(bytes) => whole(status, JSON, bytes),
        Err(error) => whole(StatusCode::INTERNAL_SERVER_ERROR, JSON, error.to_string()),
    }
}

/// Octets of a type.
pub fn whole(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Answer {
    with_headers(status, kind, Full::new(bytes.into()).boxed_unsync())
}

/// Lines of JSON, as they come.
pub fn lines(lines: impl Stream<Item = Vec<u8>> + Send + 'static) -> Answer {
    let frames = lines.map(|mut line| {
        line.push(b'\n');
        Ok(Frame::data(Bytes::from(line)))
    });
    let body = StreamBody::new(frames).boxed_unsync();
    with_headers(StatusCode::OK, LINES, body)
}

/// The same with an ETag, from a digest.
pub fn tagged(mut answer: Answer, digest: &str) -> Answer {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{digest}\"")) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

fn with_headers(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
