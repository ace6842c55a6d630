//! HTTP: contexts in, verdicts out, and the shape of Stalwart's MTA hooks.

mod conversation;
mod nginx;
mod routes;
mod stalwart;
mod stream;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::{sleep, timeout};

use self::conversation::Conversation;
use self::stream::Prefixed;
use super::door::{ConversationError, Frontend, IDLE, REQUEST};
use crate::smtp::connection::Connection;

/// How long a client may be idle, and the header of a request may take.
const HEADER: Duration = Duration::from_secs(5 * 60);

/// Answers requests until the client has no more.
///
/// # Errors
/// Why the conversation ends before.
pub async fn serve(
    frontend: &Arc<Frontend>,
    connection: &mut Connection,
    session: &str,
    is_local: bool,
) -> Result<(), ConversationError> {
    let (stream, input) = connection.take();
    let conversation = Arc::new(Conversation::new(frontend, session, is_local));
    let service = service_fn(|request| {
        let conversation = conversation.clone();
        async move { Ok::<_, Infallible>(routes::answer(&conversation, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(64 << 10);
    let stream = TokioIo::new(Prefixed::new(input.freeze(), stream));
    let mut serving = pin!(http.serve_connection(stream, service));
    // Whoever never reads holds no connection for ever.
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = sleep(IDLE) => {
            serving.as_mut().graceful_shutdown();
            match timeout(REQUEST, serving).await {
                Ok(served) => served,
                Err(_) => return Err(ConversationError::Slow),
            }
        }
    };
    match served {
        // Nobody has asked anything for long.
        Err(error) if error.is_timeout() => Ok(()),
        served => served.map_err(|error| ConversationError::malformed(error.to_string())),
    }
}
