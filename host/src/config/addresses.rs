//! What the sockets of a configuration are to each other.

use std::net::{IpAddr, SocketAddr};

use super::frontend::Frontend;
use super::listener::Listener;
use super::log::Metrics;
use super::problem::Key::{Name, Number};
use super::problem::{Outcome, Wrong};
use crate::socket::Place;

/// No two sockets can have the same address, and one for all addresses leaves none of its port.
pub(super) fn validate(
    listeners: &[Listener],
    frontends: &[Frontend],
    metrics: Option<&Metrics>,
) -> Outcome {
    let listeners = listeners.iter().enumerate().map(|(number, listener)| {
        let keys = vec![Name("listener"), Number(number), Name("address")];
        (keys, "listener", listener.address)
    });
    let frontends = frontends.iter().enumerate();
    let frontends = frontends.filter_map(|(number, frontend)| match frontend.place {
        Place::Tcp(address) => {
            let keys = vec![Name("frontend"), Number(number), Name("address")];
            Some((keys, "frontend", address))
        }
        Place::Unix(_) => None,
    });
    let metrics = metrics.map(|metrics| {
        let keys = vec![Name("metrics"), Name("address")];
        (keys, "metrics", metrics.address)
    });
    let all: Vec<_> = listeners.chain(frontends).chain(metrics).collect();
    for (number, (keys, _, address)) in all.iter().enumerate() {
        let mut earlier = all.iter().take(number);
        if let Some((_, by, other)) = earlier.find(|(.., other)| overlap(*address, *other)) {
            let message = format!("the address {address} is taken by {by} {other}");
            return Err(Wrong::new(keys.clone(), message));
        }
    }
    Ok(())
}

/// Whether two sockets cannot listen beside each other. `[::]` takes IPv4 as well (ipv6(7), bindv6only).
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |one: IpAddr, other: IpAddr| {
        one == other || one.is_unspecified() && (one.is_ipv6() || other.is_ipv4())
    };
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() != 0 && one.port() == other.port() && (covers(a, b) || covers(b, a))
}
