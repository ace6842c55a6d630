//! Who is let in.
//!
//! Daemons of this kind have been broken through their pages: by sites that a browser had open beside (CVE-2026-27589,
//! CVE-2026-22689), and by a proxy in front that made everybody look near. So nobody is trusted for where he is: each
//! request needs a token, the name by which it was reached is one of ours, and what a browser was told to send by
//! another site is refused.

use std::net::IpAddr;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN, UPGRADE};
use hyper::{Method, StatusCode, Uri};
use moka::sync::Cache;

use super::answer::Refusal;
use super::tokens::{NotTaken, Token, Tokens};
use crate::config::Admin;

/// Wrong tokens of one peer after which it has to wait.
const MAX_FAILURES: u32 = 10;
/// How long it has to wait.
pub const PAUSE: Duration = Duration::from_secs(60);
/// Peers that are remembered.
const MAX_PEERS: u64 = 10_000;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A user of this machine, by a Unix socket.
    User(u32),
    /// An address.
    Address(IpAddr),
}

impl std::fmt::Display for Peer {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::User(uid) => write!(to, "uid {uid}"),
            Peer::Address(ip) => ip.fmt(to),
        }
    }
}

/// What proxies add, beside all that begins with `x-forwarded-`. Somebody who sends it is one, or wants to look like
/// somebody else.
const FORWARDED: [&str; 8] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "remote-user",
    "x-remote-user",
];
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// Lets requests in, or not.
pub struct Access {
    hosts: Vec<String>,
    proxies: Vec<ipnet::IpNet>,
    trusts_local_proxies: bool,
    tokens: Tokens,
    failures: Cache<Peer, u32>,
}

impl Access {
    /// By what is configured.
    pub fn new(config: &Admin, tokens: Tokens) -> Self {
        let failures = Cache::builder().max_capacity(MAX_PEERS).time_to_live(PAUSE);
        Access {
            hosts: config.hosts.clone(),
            proxies: config.proxy_networks(),
            trusts_local_proxies: config.trusts_local_proxies(),
            tokens,
            failures: failures.build(),
        }
    }

    /// What is asked of each request, whatever it is for.
    ///
    /// # Errors
    /// What is answered instead.
    pub fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<(), Refusal> {
        let refuse = |status, text: &str| Err(Refusal::new(status, text));
        let host = single(headers, &HOST).unwrap_or_default();
        // RFC 9112 §3.2.2: the host of an absolute URI counts.
        let of_uri = uri.authority().map(|authority| authority.as_str());
        if !self.knows_host(host) || of_uri.is_some_and(|it| !self.knows_host(it)) {
            return Err(Refusal::new(
                StatusCode::MISDIRECTED_REQUEST,
                format!("this server is not known as {host:?}: add the name to [admin] hosts"),
            ));
        }
        if headers.contains_key(UPGRADE) {
            return refuse(StatusCode::BAD_REQUEST, "there is nothing to upgrade to");
        }
        let is_forwarded =
            |name: &&str| FORWARDED.contains(name) || name.starts_with(FORWARDED_PREFIX);
        let forwarded = headers.keys().map(HeaderName::as_str).find(is_forwarded);
        if let Some(name) = forwarded
            && !self.is_proxy(peer)
        {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!("{name} is taken from those in [admin] proxies only, and {peer} is none"),
            ));
        }
        if *method == Method::GET || *method == Method::HEAD {
            return Ok(());
        }
        let site = HeaderName::from_static("sec-fetch-site");
        match (single(headers, &site), single(headers, &ORIGIN)) {
            (Some("same-origin" | "none"), _) => Ok(()),
            (Some(_), _) => refuse(StatusCode::FORBIDDEN, "another site may not ask for this"),
            (None, Some(origin)) if !is_same(origin, host) => {
                refuse(StatusCode::FORBIDDEN, "another site may not ask for this")
            }
            (None, _) if headers.contains_key(&site) => refuse(
                StatusCode::FORBIDDEN,
                "Sec-Fetch-Site is there more than once",
            ),
            (None, _) => Ok(()),
        }
    }

    /// Whose request it is.
    ///
    /// # Errors
    /// What is answered instead.
    pub fn token(&self, headers: &HeaderMap, peer: &Peer) -> Result<Token, Refusal> {
        let refuse = |text: &str| Err(Refusal::new(StatusCode::UNAUTHORIZED, text));
        let shown = single(headers, &AUTHORIZATION);
        let shown = shown.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme
                .eq_ignore_ascii_case("bearer")
                .then_some(token.trim())
        });
        let Some(shown) = shown else {
            return refuse("a token is needed: portcullis admin token makes one");
        };
        match self.tokens.find(shown) {
            Ok(token) => Ok(token),
            Err(NotTaken::Unreadable) => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "tokens cannot be read; the log tells why",
            )),
            Err(NotTaken::Expired) => {
                refuse("the token has expired: portcullis admin token makes another one")
            }
            Err(NotTaken::Unknown) => {
                // Who has the right one is let in, whoever else guesses from the same place.
                let failures = self.failures.get(peer).unwrap_or(0);
                if failures >= MAX_FAILURES {
                    return Err(Refusal::new(
                        StatusCode::TOO_MANY_REQUESTS,
                        format!(
                            "too many wrong tokens from {peer}; wait {} s",
                            PAUSE.as_secs()
                        ),
                    ));
                }
                self.failures.insert(peer.clone(), failures + 1);
                tracing::warn!(%peer, "wrong token for the API");
                refuse("there is no such token: portcullis admin token makes one")
            }
        }
    }

    /// Whether a token that was taken still holds.
    pub fn holds(&self, token: &Token) -> bool {
        self.tokens.holds(token)
    }

    /// Who asks, if a proxy that is listed says so: the last address of X-Forwarded-For, which it has added itself.
    pub fn origin(&self, headers: &HeaderMap, peer: Peer) -> Peer {
        if !self.is_proxy(&peer) {
            return peer;
        }
        let mut all = headers.get_all("x-forwarded-for").iter();
        let last = all.next_back().and_then(|value| value.to_str().ok());
        let last = last.and_then(|value| value.rsplit(',').next());
        match last.and_then(|address| address.trim().parse::<IpAddr>().ok()) {
            Some(address) => Peer::Address(address.to_canonical()),
            None => peer,
        }
    }

    fn is_proxy(&self, peer: &Peer) -> bool {
        match peer {
            Peer::User(_) => self.trusts_local_proxies,
            Peer::Address(ip) => self.proxies.iter().any(|network| network.contains(ip)),
        }
    }

    /// Whether a Host header has an address, which no name server can lead here, or one of our names.
    fn knows_host(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(literal) => {
                let (address, port) = literal.split_once(']').unwrap_or_default();
                return is_ipv6(address) && (port.is_empty() || port.starts_with(':'));
            }
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name))
    }
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

/// The value of a header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Whether an origin is that of a Host header.
fn is_same(origin: &str, host: &str) -> bool {
    let bare = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    bare.is_some_and(|bare| bare.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Peer = Peer::User(0);

    fn access() -> (Access, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let config = Admin {
            hosts: vec!["mail.contoso.com".into()],
            proxies: vec!["10.0.0.0/8".into()],
            ..Admin::default()
        };
        let tokens = Tokens::new(folder.path().join("tokens.json"));
        (Access::new(&config, tokens), folder)
    }

    fn checked(method: Method, headers: &[(&'static str, &str)], peer: &Peer) -> Option<u16> {
        let (access, _folder) = access();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let checked = access.check(&method, &Uri::from_static("/"), &map, peer);
        checked.err().map(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for (host, status) in [
            ("localhost:8025", None),
            ("127.0.0.1", None),
            ("[::1]:80", None),
            ("MAIL.contoso.com", None),
            ("evil.test", Some(421)),
            ("localhost.evil.test", Some(421)),
            ("127.0.0.1.evil.test", Some(421)),
            ("", Some(421)),
            ("[evil.test]", Some(421)),
            ("[::1].evil.test", Some(421)),
            ("[::1", Some(421)),
        ] {
            assert_eq!(
                checked(Method::GET, &[("host", host)], &PEER),
                status,
                "{host}"
            );
        }
        let twice = [("host", "localhost"), ("host", "evil.test")];
        assert_eq!(checked(Method::GET, &twice, &PEER), Some(421));
        assert_eq!(checked(Method::GET, &[], &PEER), Some(421));
    }

    #[test]
    fn other_sites_change_nothing() {
        for (headers, status) in [
            (&[][..], None),
            (&[("sec-fetch-site", "same-origin")], None),
            (&[("sec-fetch-site", "none")], None),
            (&[("sec-fetch-site", "cross-site")], Some(403)),
            (&[("sec-fetch-site", "same-site")], Some(403)),
            (&[("origin", "http://localhost")], None),
            (&[("origin", "http://localhost:1")], Some(403)),
            (&[("origin", "null")], Some(403)),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-site", "none"),
                ],
                Some(403),
            ),
        ] {
            let all = [&[("host", "localhost")], headers].concat();
            assert_eq!(checked(Method::PUT, &all, &PEER), status, "{headers:?}");
        }
    }

    #[test]
    fn nobody_speaks_for_others_unless_listed() {
        let near = Peer::Address("10.0.0.1".parse().unwrap());
        let far = Peer::Address("192.0.2.1".parse().unwrap());
        for name in FORWARDED
            .into_iter()
            .chain(["x-forwarded-for", "x-forwarded-port"])
        {
            let headers = [("host", "localhost"), (name, "127.0.0.1")];
            assert_eq!(checked(Method::GET, &headers, &near), None, "{name}");
            for peer in [&far, &PEER] {
                assert_eq!(checked(Method::GET, &headers, peer), Some(403), "{name}");
            }
        }
        let upgrade = [("host", "localhost"), ("upgrade", "websocket")];
        assert_eq!(checked(Method::GET, &upgrade, &PEER), Some(400));
    }

    #[test]
    fn whoever_guesses_has_to_wait() {
        let (access, _folder) = access();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer wrong".parse().unwrap());
        let status = |peer: &Peer| {
            let found = access.token(&headers, peer);
            found.unwrap_err().status.as_u16()
        };
        for _ in 0..MAX_FAILURES {
            assert_eq!(status(&PEER), 401);
        }
        assert_eq!(status(&PEER), 429);
        assert_eq!(status(&Peer::User(1)), 401);
    }
}
