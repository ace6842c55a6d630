//! A small HTTP server: `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
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

use crate::observe::metrics::Metrics;

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many clients may ask at a time, and how long one may take for it.
const MAX_CLIENTS: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait where no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the numbers.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve(metrics: Arc<Metrics>, address: SocketAddr) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(metrics = %listener.local_addr()?, "metrics server listening");
    tokio::spawn(answer(metrics, listener));
    Ok(())
}

/// Whoever wants more connections than there may be waits before one is accepted, and so takes no descriptor that mail
/// needs.
async fn answer(metrics: Arc<Metrics>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Descriptors have run out, most likely.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| {
                let response = response(&metrics, &request);
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

fn response(metrics: &Metrics, request: &Request<Incoming>) -> http::Result<Response<String>> {
    if request.uri().path() != "/metrics" {
        return Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(String::new());
    }
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
