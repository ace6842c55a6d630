//! A policy that is asked by HTTP: `POST /v1/evaluate` and `/v1/explain`, with a context as the body, as the front door of
//! `portcullis run` is. `portcullis build --http` puts it around a policy.
//!
//! Whatever goes wrong is an answer without a verdict, which defers the mail.

// Elsewhere nothing is exported: it is only checked.
#![cfg_attr(not(target_arch = "wasm32"), allow(dead_code))]

/// Generated from `wit/` by wit-bindgen; the tests of `tests/` compare, and write it.
#[allow(
    clippy::all,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unsafe_code,
    unused
)]
#[rustfmt::skip]
mod bindings;

use portcullis_types::{Direction, Verdict, parse_context};
use serde_json::{Value, json};
use wasip2::http::types::{
    Fields, IncomingBody, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::StreamError;

use crate::bindings::portcullis::policy::evaluation as policy;

portcullis_types::conversions!(crate::bindings::portcullis::policy::evaluation);

/// Octets of a context.
const MOST: usize = 1 << 20;
/// Octets that a stream takes at a time (wasi:io, `blocking-write-and-flush`).
const CHUNK: usize = 4096;

struct Component;

// Other linkers do not take such names.
#[cfg(target_arch = "wasm32")]
wasip2::http::proxy::export!(Component);

impl wasip2::exports::http::incoming_handler::Guest for Component {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let (status, value) = match answer(&request) {
            Ok(value) => (200, value),
            Err((status, error)) => (status, json!({ "error": error })),
        };
        respond(out, status, &value);
    }
}

/// The status of an error, and what is wrong.
type Refused = (u16, String);

fn answer(request: &IncomingRequest) -> Result<Value, Refused> {
    let target = request.path_with_query().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    if !matches!(path, "/v1/evaluate" | "/v1/explain") {
        let text = "there is nothing here: post to /v1/evaluate or /v1/explain";
        return Err((404, text.into()));
    }
    if !matches!(request.method(), Method::Post) {
        return Err((405, "it is asked by POST".into()));
    }
    let body = String::from_utf8(read(request)?);
    let body = body.map_err(|error| (422, error.utf8_error().to_string()))?;
    let context = parse_context(&body).map_err(|error| (422, error))?;
    let direction = context.direction;
    let context = context.into();
    match path {
        "/v1/explain" => {
            let mut explanation = portcullis_types::Explanation::from(policy::explain(&context));
            explanation.verdict = checked(explanation.verdict, direction)?;
            Ok(json!(explanation))
        }
        _ => {
            let verdict = Verdict::from(policy::evaluate(&context));
            Ok(json!(checked(verdict, direction)?))
        }
    }
}

/// A verdict that can be carried out: of the direction that was asked about, with codes of its class.
fn checked(mut verdict: Verdict, asked: Direction) -> Result<Verdict, Refused> {
    if let (Verdict::Accept(_), Direction::Outbound) | (Verdict::Deliver(_), Direction::Inbound) =
        (&verdict, asked)
    {
        return Err((500, "the verdict is for the other direction".into()));
    }
    verdict.correct_codes();
    Ok(verdict)
}

fn read(request: &IncomingRequest) -> Result<Vec<u8>, Refused> {
    let broken = || (400, "the body ends in the middle".to_owned());
    let body = request.consume().map_err(|()| broken())?;
    let stream = body.stream().map_err(|()| broken())?;
    let mut octets = Vec::new();
    loop {
        match stream.blocking_read(CHUNK as u64) {
            Ok(chunk) => octets.extend(chunk),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(_)) => return Err(broken()),
        }
        if octets.len() > MOST {
            return Err((413, "the body is longer than 1 MiB".into()));
        }
    }
    drop(stream);
    drop(IncomingBody::finish(body));
    Ok(octets)
}

/// Who has gone away is not answered.
fn respond(out: ResponseOutparam, status: u16, value: &Value) {
    let headers = Fields::new();
    let _ = headers.set("content-type", &[b"application/json".to_vec()]);
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(status);
    let body = response.body();
    ResponseOutparam::set(out, Ok(response));
    let Ok(body) = body else {
        return;
    };
    if let Ok(stream) = body.write() {
        for chunk in value.to_string().as_bytes().chunks(CHUNK) {
            if stream.blocking_write_and_flush(chunk).is_err() {
                return;
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
}
