//! A small HTTP server: `/metrics`, and `/live` and `/ready` for balancers and supervisors.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::http;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::frontend::smtp::listener::Server;
use crate::observe::metrics::Now;

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many clients may ask at a time, and how long one may take for it.
const MAX_CLIENTS: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait where no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Tenants that are named.
const MAX_NAMED: usize = 100;

/// Serves the numbers, and whether this server is ready. Whoever wants more connections than there may be waits before
/// one is accepted, and so takes no descriptor that mail needs.
pub async fn serve(server: Arc<Server>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Descriptors have run out, most likely.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| {
                let response = response(&server, &request);
                async move { response }
            });
            let serving = http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever is slower, or gone, has no answer.
            let _ = timeout(TIMEOUT, serving).await;
        });
    }
}

fn response(server: &Server, request: &Request<Incoming>) -> http::Result<Response<String>> {
    let (status, text) = match request.uri().path() {
        "/metrics" => return metrics(server, request),
        "/live" => (StatusCode::OK, "live\n".into()),
        "/ready" => readiness(server, request.uri().query() == Some("strict")),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .body(text)
}

/// Whether mail may come. A tenant whose policy is not taken keeps no other tenant's mail away, unless whoever asks is
/// strict.
fn readiness(server: &Server, is_strict: bool) -> (StatusCode, String) {
    if let Some(obstacle) = obstacle(server) {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{obstacle}\n"));
    }
    let policies = server.asking.policies.snapshot();
    let tenants = policies.tenants().chain(policies.before());
    let failing = tenants.filter(|it| it.rejected.is_some());
    let failing: Vec<&str> = failing.map(|it| &*it.name).take(MAX_NAMED).collect();
    let status = match is_strict && !failing.is_empty() {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    };
    let named = failing
        .iter()
        .map(|name| format!("new policy rejected: {name}\n"));
    (status, format!("ready\n{}", named.collect::<String>()))
}

/// What keeps all mail away.
fn obstacle(server: &Server) -> Option<&'static str> {
    let policies = server.asking.policies.snapshot();
    let is_listening = server.is_listening.load(Ordering::Relaxed);
    match () {
        () if *server.draining.borrow() => Some("draining"),
        () if !is_listening => Some("policies are still being read"),
        () if policies.tenants().next().is_none() && server.settings.load().may_lack_tenants() => {
            Some("there are no tenants yet")
        }
        () => None,
    }
}

/// How things are.
fn now(server: &Server) -> Now {
    let engine = server.asking.policies.engine();
    let policies = server.asking.policies.snapshot();
    let tenants = policies.tenants().chain(policies.before());
    let ends = tenants.filter_map(|it| Some(it.statement()?.statement.expires?.unix()));
    Now {
        is_ready: obstacle(server).is_none(),
        tenants: policies.tenants().count(),
        policy_expires: ends.min(),
        sessions_limit: server.settings.load().limits.sessions,
        instances: engine.instances(),
        instances_limit: engine.limits().instances as usize,
    }
}

fn metrics(server: &Server, request: &Request<Incoming>) -> http::Result<Response<String>> {
    let metrics = &server.asking.metrics;
    metrics.set(&now(server));
    let accepted = request.headers().get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    match accepted.any(|value| value.contains("application/openmetrics-text")) {
        true => Response::builder()
            .header(CONTENT_TYPE, OPEN_METRICS)
            .body(metrics.open_metrics()),
        false => Response::builder()
            .header(CONTENT_TYPE, PLAIN)
            .body(metrics.prometheus()),
    }
}
