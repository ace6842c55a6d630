//! What no configuration may say, though each value of it is well-formed.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;

use super::problem::Key::{self, Name, Number};
use super::problem::Wrong;
use super::{Config, Delivery, Listener, NextHop, Outbound, TlsMode};
use portcullis::normal_domain;
use portcullis::tls::PUBLIC;
use portcullis::{MAX_STACK, Sha256, is_well_formed};

type Outcome = Result<(), Wrong>;

fn wrong<const N: usize>(keys: [Key; N], message: impl Into<String>) -> Outcome {
    Err(Wrong::new(keys, message))
}

impl Config {
    /// Looks for what cannot be.
    ///
    /// # Errors
    /// The first of it.
    pub(super) fn validate(&self) -> Outcome {
        if self.hostname.is_empty() || !self.hostname.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong(
                [Name("hostname")],
                format!("{:?} is not a host name", self.hostname),
            );
        }
        if self.listeners.is_empty() {
            return wrong([Name("listener")], "there is no [[listener]]");
        }
        for (number, listener) in self.listeners.iter().enumerate() {
            let below = [Name("listener"), Number(number)];
            listener.validate().map_err(|wrong| wrong.below(&below))?;
        }
        self.validate_tenants()?;
        self.validate_delivery()?;
        self.validate_authorities()?;
        self.validate_senders()?;
        self.validate_sandbox()?;
        self.validate_limits()?;
        self.validate_addresses()
    }

    fn validate_authorities(&self) -> Outcome {
        let mut names = HashSet::new();
        for (number, authority) in self.trust.authority.iter().enumerate() {
            let at = |key| [Name("trust"), Name("authority"), Number(number), Name(key)];
            let name = &authority.name;
            if name.trim().is_empty() || name.chars().any(char::is_control) {
                return wrong(at("name"), format!("{name:?} is not a name"));
            }
            if name == PUBLIC {
                let text = "\"public\" is the name of the ordinary roots (trust.roots)";
                return wrong(at("name"), text);
            }
            if !names.insert(name) {
                return wrong(
                    at("name"),
                    format!("there is an authority {name:?} already"),
                );
            }
            if authority.roots.is_empty() {
                return wrong(at("roots"), "an authority needs root certificates");
            }
            let tenants = authority.tenants.iter().flatten();
            let mut unknown =
                tenants.filter(|name| self.tenants.iter().all(|it| it.name != **name));
            if let Some(tenant) = unknown.next() {
                return wrong(at("tenants"), format!("there is no tenant {tenant:?}"));
            }
        }
        Ok(())
    }

    fn validate_sandbox(&self) -> Outcome {
        let limits = self.sandbox.limits();
        let at = |key| [Name("sandbox"), Name(key)];
        if limits.stack > MAX_STACK {
            let most = ByteSize(MAX_STACK as u64);
            return wrong(at("stack"), format!("the stack must be at most {most}"));
        }
        if limits.evaluation < Duration::from_millis(1) {
            return wrong(at("evaluation"), "an evaluation must have at least 1ms");
        }
        if limits.instances == 0 {
            return wrong(at("instances"), "there must be at least 1 instance");
        }
        if limits.memory < 1 << 16 {
            return wrong(at("memory"), "a policy must have at least 64KiB");
        }
        Ok(())
    }

    fn validate_limits(&self) -> Outcome {
        let limits = &self.limits;
        if limits.text_line < 1000 {
            return wrong(
                [Name("limits"), Name("text-line")],
                "a line may have 1000 octets at least (RFC 5321 section 4.5.3.1.6)",
            );
        }
        let least = [
            ("recipients", limits.recipients == 0),
            ("sessions", limits.sessions == 0),
            ("sessions-per-address", limits.sessions_per_address == 0),
            ("message-size", limits.message_size.as_u64() == 0),
            ("errors", limits.errors == 0),
            ("commands", limits.commands == 0),
            ("hops", limits.hops == 0),
        ];
        match least.iter().find(|(_, is_zero)| *is_zero) {
            Some((key, _)) => wrong([Name("limits"), Name(key)], "it must be at least 1"),
            None => Ok(()),
        }
    }

    /// No two sockets can have the same address, and one for all addresses leaves none of its port.
    fn validate_addresses(&self) -> Outcome {
        let listeners = self.listeners.iter().enumerate().map(|(number, listener)| {
            let keys = vec![Name("listener"), Number(number), Name("address")];
            (keys, "listener", listener.address)
        });
        let metrics = self.metrics.iter().map(|metrics| {
            let keys = vec![Name("metrics"), Name("address")];
            (keys, "metrics", metrics.address)
        });
        let all: Vec<_> = listeners.chain(metrics).collect();
        for (number, (keys, _, address)) in all.iter().enumerate() {
            let mut earlier = all.iter().take(number);
            if let Some((_, by, other)) = earlier.find(|(.., other)| overlap(*address, *other)) {
                let message = format!("the address {address} is taken by {by} {other}");
                return Err(Wrong::new(keys.clone(), message));
            }
        }
        Ok(())
    }

    fn validate_delivery(&self) -> Outcome {
        let at = |key| [Name("delivery"), Name(key)];
        let Delivery {
            certificate,
            key,
            source_addresses,
            port,
            mta_sts_port,
            ..
        } = &self.delivery;
        match (certificate, key) {
            (Some(_), None) => return wrong(at("certificate"), "it needs key as well"),
            (None, Some(_)) => return wrong(at("key"), "it needs certificate as well"),
            _ => {}
        }
        let of_family = |v4| source_addresses.iter().filter(move |ip| ip.is_ipv4() == v4);
        if of_family(true).count() > 1 || of_family(false).count() > 1 {
            return wrong(
                at("source-addresses"),
                "there is at most one address of each family",
            );
        }
        for (key, port) in [("port", *port), ("mta-sts-port", *mta_sts_port)] {
            if port == 0 {
                return wrong(at(key), "it must be at least 1");
            }
        }
        let connections = &self.connections;
        for (key, is_zero) in [
            ("per-route", connections.per_route == 0),
            ("messages", connections.messages == 0),
        ] {
            if is_zero {
                return wrong([Name("connections"), Name(key)], "it must be at least 1");
            }
        }
        Ok(())
    }

    /// Of outbound listeners: somebody decides about mail whose sender is no tenant's.
    fn validate_senders(&self) -> Outcome {
        for (number, listener) in self.listeners.iter().enumerate() {
            let Some(outbound) = &listener.outbound else {
                continue;
            };
            let of_listener = [Name("listener"), Number(number), Name("outbound")];
            let [list, place, own] = of_listener;
            match &outbound.tenant {
                Some(tenant) if !self.tenants.iter().any(|known| known.name == *tenant) => {
                    return wrong(
                        [list, place, own, Name("tenant")],
                        format!("there is no tenant {tenant:?}"),
                    );
                }
                None if self.tenants.len() != 1 => {
                    return wrong(
                        of_listener,
                        "it needs tenant, since there is not exactly one: it decides on mail whose sender is no tenant's, such as <>",
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn validate_tenants(&self) -> Outcome {
        let mut names = HashSet::new();
        let mut domains = HashMap::new();
        for (number, tenant) in self.tenants.iter().enumerate() {
            let at = |key| [Name("tenant"), Number(number), Name(key)];
            if tenant.name.is_empty() {
                return wrong(at("name"), "the name is empty");
            }
            if !names.insert(&tenant.name) {
                let message = format!("the name {:?} is taken by another tenant", tenant.name);
                return wrong(at("name"), message);
            }
            for (place, domain) in tenant.domains.iter().enumerate() {
                let [list, tenants, own] = at("domains");
                let at = [list, tenants, own, Number(place)];
                let Some(name) = normal_domain(domain) else {
                    return wrong(at, format!("{domain:?} is not a domain or *.domain"));
                };
                if let Some(other) = domains.insert(name, &tenant.name) {
                    let message = format!("{domain:?} belongs to tenant {other:?} already");
                    return wrong(at, message);
                }
            }
        }
        Ok(())
    }
}

/// Whether two sockets cannot listen beside each other. `[::]` takes IPv4 as well (ipv6(7), bindv6only).
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |one: IpAddr, other: IpAddr| {
        one == other || one.is_unspecified() && (one.is_ipv6() || other.is_ipv4())
    };
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() != 0 && one.port() == other.port() && (covers(a, b) || covers(b, a))
}

impl Listener {
    fn validate(&self) -> Outcome {
        if self.certificate.len() != self.key.len() {
            let key = if self.certificate.is_empty() {
                "key"
            } else {
                "certificate"
            };
            return wrong([Name(key)], "certificate and key belong together");
        }
        if self.certificate.is_empty() && self.tls == TlsMode::Implicit {
            return wrong([Name("tls")], "\"implicit\" needs a certificate");
        }
        match (&self.next_hop, &self.outbound) {
            (Some(hop), None) => hop
                .validate()
                .map_err(|wrong| wrong.below(&[Name("next-hop")])),
            (None, Some(outbound)) => outbound
                .validate(self)
                .map_err(|wrong| wrong.below(&[Name("outbound")])),
            (None, None) => wrong([], "a listener needs next-hop or outbound"),
            (Some(_), Some(_)) => wrong(
                [Name("outbound")],
                "a listener has next-hop or outbound, not both",
            ),
        }
    }
}

impl Outbound {
    fn validate(&self, listener: &Listener) -> Outcome {
        let by_certificate =
            !self.certificate_names.is_empty() || !self.certificate_fingerprints.is_empty();
        if self.clients.is_empty() && !by_certificate {
            return wrong(
                [],
                "it needs clients, certificate-names or certificate-fingerprints: it would relay for anybody",
            );
        }
        if by_certificate && listener.certificate.is_empty() {
            return wrong(
                [],
                "clients show certificates over TLS, which needs certificate and key",
            );
        }
        for (number, name) in self.certificate_names.iter().enumerate() {
            if !is_well_formed(name) {
                let message = format!("{name:?} is not a certificate name");
                return wrong([Name("certificate-names"), Number(number)], message);
            }
        }
        for (number, text) in self.certificate_fingerprints.iter().enumerate() {
            if Sha256::parse(text).is_none() {
                let message = format!("{text:?} is not a SHA-256 in hexadecimal");
                return wrong([Name("certificate-fingerprints"), Number(number)], message);
            }
        }
        Ok(())
    }
}

impl NextHop {
    fn validate(&self) -> Outcome {
        let kinds = [
            self.smtp.is_some(),
            self.lmtp.is_some(),
            self.maildir.is_some(),
        ];
        if kinds.iter().filter(|given| **given).count() != 1 {
            return wrong([], "it needs exactly one of smtp, lmtp and maildir");
        }
        if self.xclient && self.smtp.is_none() {
            return wrong([Name("xclient")], "it is for an smtp next hop");
        }
        if self.proxy_protocol.is_some() && self.maildir.is_some() {
            let message = "it is for an smtp or lmtp next hop";
            return wrong([Name("proxy-protocol")], message);
        }
        if self
            .proxy_protocol
            .is_some_and(|version| !matches!(version, 1 | 2))
        {
            return wrong([Name("proxy-protocol")], "the version is 1 or 2");
        }
        if self.recipients == Some(0) {
            return wrong([Name("recipients")], "it must be at least 1");
        }
        Ok(())
    }
}
