//! How many connections to next hops were made, and failed.

use std::sync::LazyLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::egress::client::ClientError;

/// What became of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    outcome: &'static str,
}

/// Connections of this process, by what became of them.
pub fn connections() -> &'static Family<Outcome, Counter> {
    static CONNECTIONS: LazyLock<Family<Outcome, Counter>> = LazyLock::new(|| {
        let connections = Family::default();
        for outcome in ["connected", "failed"] {
            drop(connections.get_or_create(&Outcome { outcome }));
        }
        connections
    });
    &CONNECTIONS
}

/// Counts one.
pub fn count<T>(connected: &Result<T, ClientError>) {
    let outcome = match connected {
        Ok(_) => "connected",
        Err(_) => "failed",
    };
    connections().get_or_create(&Outcome { outcome }).inc();
}
