//! The maps: what outbound connectors ask for, in Postfix's words.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::egress::partner::Outbound;
use crate::frontend::ask::Asker;
use crate::frontend::mta::door::Frontend;
use crate::frontend::mta::way_out::{ANYBODY, Decided, Mail, decide, published};
use crate::observe::redact;
use crate::postfix::{NextHop, NextHops, NotInPostfix, TlsPolicy, next_hops};
use crate::smtp::reply::Reply;
use portcullis::store::{Snapshot, Tenant};
use portcullis::{Delivery, Host, Protection, Route, SmartHost, normal_domain};

/// What a map says of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value.
    Found(String),
    /// Nothing: the next map, or Postfix's own setting, decides.
    NotFound,
    /// It cannot be told now, and why. Postfix defers the mail.
    Temporary(String),
    /// It can never be told.
    Permanent(String),
}

/// How long a question for a route may wait for what partners publish: Postfix asks nothing else meanwhile.
const A_LOOK: Duration = Duration::from_secs(3);

/// The maps, as one conversation asks them.
pub struct Maps<'a> {
    frontend: &'a Arc<Frontend>,
    session: &'a str,
    asker: Asker,
    requests: u32,
    /// The id of the request.
    id: String,
}

/// Why there is no answer.
enum Undecided {
    /// The policy may decide by more than Postfix tells: the sender, or the local part of the recipient.
    Component,
    /// Postfix cannot carry out what a connector asks for.
    NotInPostfix(String, NotInPostfix),
    /// It cannot be told now, and why.
    Now(String),
}

/// What belongs to one request.
struct Question {
    tenant: Arc<Tenant>,
    outbound: Arc<Outbound>,
    next_hops: Arc<NextHops>,
}

impl<'a> Maps<'a> {
    /// For a conversation.
    pub fn new(frontend: &'a Arc<Frontend>, session: &'a str) -> Self {
        Maps {
            frontend,
            session,
            asker: Asker::new(frontend.server.asking.clone()),
            requests: 0,
            id: String::new(),
        }
    }

    /// What a map says: the request is its name and a key.
    pub async fn answer(&mut self, request: &str) -> Answer {
        self.requests += 1;
        self.id = format!("{}.{}", self.session, self.requests);
        let Some((map, key)) = request.split_once(' ') else {
            return Answer::Permanent("a request is the name of a map and a key".into());
        };
        let policies = self.frontend.server.asking.policies.snapshot();
        self.asker.begin();
        let answer = match map {
            "tls" => self.tls(&policies, key, TlsPolicy::to_string).await,
            "tlsrpt" => self.tls(&policies, key, TlsPolicy::with_report).await,
            "route" => self.route(&policies, key).await,
            _ => {
                let text = format!("there is no map {map:?}: tls, tlsrpt and route are");
                return Answer::Permanent(text);
            }
        };
        answer.unwrap_or_else(|undecided| self.temporary(key, undecided))
    }

    fn temporary(&self, key: &str, undecided: Undecided) -> Answer {
        let (connector, why) = match undecided {
            Undecided::NotInPostfix(connector, why) => {
                let told = format!("connector {connector:?}: {why}; {}", why.hint());
                (connector, told)
            }
            Undecided::Component => (
                String::new(),
                "the policy is a component of its own making, which may decide by the sender: only the relay can ask it"
                    .into(),
            ),
            Undecided::Now(why) => (String::new(), why),
        };
        tracing::warn!(
            session = self.session,
            transaction = self.id,
            connector = &*redact::redact(&connector),
            key = &*redact::redact(key),
            why = &*redact::redact(&why),
            "Postfix is told to try again later"
        );
        Answer::Temporary(format!("{why} [{}]", self.id))
    }

    /// The policy of a destination: a recipient's domain, or the next hop that a route leads to.
    async fn tls(
        &mut self,
        policies: &Snapshot,
        key: &str,
        write: impl Fn(&TlsPolicy) -> String,
    ) -> Result<Answer, Undecided> {
        // Postfix looks below `.bank.test` when it has found nothing for the whole name.
        if key.is_empty() || key == "*" || key.starts_with('.') {
            return Ok(Answer::NotFound);
        }
        let Some(next_hop) = NextHop::parse(key) else {
            return Err(Undecided::Now(
                "no mail can go to such a destination".into(),
            ));
        };
        if next_hop.may_be_domain && is_own(policies, &domain(&next_hop.host)) {
            return Ok(Answer::NotFound);
        }
        if let Some(relay) = self
            .frontend
            .config
            .relay
            .filter(|it| is_at(&next_hop, *it))
        {
            return Ok(match relay.ip().is_loopback() {
                true => Answer::Found("may".into()),
                false => Answer::NotFound,
            });
        }
        let question = question(self.frontend, policies).await?;
        let found = self.policy_of(&question, &next_hop).await?;
        Ok(found.map_or(Answer::NotFound, |policy| Answer::Found(write(&policy))))
    }

    /// The route of a recipient's mail.
    async fn route(&mut self, policies: &Snapshot, key: &str) -> Result<Answer, Undecided> {
        // Postfix looks for `*`, too. It also looks for senders, which look like recipients.
        let Some((_, domain)) = key.rsplit_once('@') else {
            return Ok(Answer::NotFound);
        };
        if is_own(policies, domain) {
            return Ok(Answer::NotFound);
        }
        let question = match (
            question(self.frontend, policies).await,
            self.frontend.config.relay,
        ) {
            // It knows all that the policy may want to know.
            (Err(Undecided::Component), Some(relay)) => {
                return Ok(Answer::Found(format!("smtp:{}", bracketed(relay))));
            }
            (question, _) => question?,
        };
        let delivery = match self.delivery(&question.tenant, key, true).await? {
            None => return Ok(Answer::NotFound),
            Some(Decided::Refused(reply)) => return Ok(Answer::Found(refusing(&reply))),
            Some(Decided::Delivered(delivery)) => delivery,
        };
        // Postfix asks about the next hops later on, and does not tell for whom.
        is_described(&question, &delivery)?;
        let port = question.outbound.resources().config.port;
        let direct = next_hops::transport(&delivery.route, port);
        let Some(relay) = self.frontend.config.relay else {
            return Ok(Answer::Found(direct));
        };
        let looking = self.is_carried_out(&question, &delivery, domain);
        match timeout(A_LOOK, looking).await {
            Ok(false) => Ok(Answer::Found(format!("smtp:{}", bracketed(relay)))),
            // Postfix asks about the next hop when it delivers.
            Ok(true) | Err(_) => Ok(Answer::Found(direct)),
        }
    }

    /// Whether Postfix can carry out what is asked of all next hops of a delivery, as far as it can be told now.
    async fn is_carried_out(
        &mut self,
        question: &Question,
        delivery: &Delivery,
        domain: &str,
    ) -> bool {
        let port = question.outbound.resources().config.port;
        for next_hop in hops(delivery, domain, port) {
            let policy = self.policy_of(question, &next_hop).await;
            if matches!(policy, Err(Undecided::NotInPostfix(..))) {
                return false;
            }
        }
        true
    }

    /// The one policy for a next hop, whosever mail goes there.
    async fn policy_of(
        &mut self,
        question: &Question,
        next_hop: &NextHop,
    ) -> Result<Option<TlsPolicy>, Undecided> {
        if next_hop.may_be_domain
            && let Some(policy) = self.policy_of_domain(question, next_hop).await?
        {
            return Ok(Some(policy));
        }
        let mut found = Vec::new();
        let mut connectors = Vec::new();
        let port = question.outbound.resources().config.port;
        for wanted in question.next_hops.at(next_hop) {
            let host = SmartHost {
                host: next_hop.host.clone(),
                port: Some(next_hop.port.unwrap_or(port)),
            };
            let route = Route::SmartHosts(vec![host]);
            let protection = next_hops::of_host(&wanted.protection, &next_hop.host);
            let policy = policy(
                self.frontend,
                question,
                &protection,
                route,
                "",
                &wanted.connector,
            );
            found.push(policy.await?);
            connectors.push(wanted.connector.clone());
        }
        if found.is_empty() && self.frontend.was_next_hop(next_hop).await {
            // Postfix has looked for its route before the rules were changed, and does so again when it tries again.
            let why = "this next hop is that of rules which are no longer in force";
            return Err(Undecided::Now(why.into()));
        }
        TlsPolicy::strictest(&found)
            .map_err(|why| Undecided::NotInPostfix(connectors.join(", "), why))
    }

    /// The policy for mail to the exchangers of a domain, or to an address in its place; `None` if no connector is about
    /// it.
    async fn policy_of_domain(
        &mut self,
        question: &Question,
        next_hop: &NextHop,
    ) -> Result<Option<TlsPolicy>, Undecided> {
        let domain = domain(&next_hop.host);
        let recipient = format!("{ANYBODY}@{domain}");
        let delivery = match self.delivery(&question.tenant, &recipient, false).await? {
            None => return Ok(None),
            Some(Decided::Refused(_)) => {
                return Err(Undecided::Now(format!("mail to {domain} is refused")));
            }
            Some(Decided::Delivered(delivery)) => delivery,
        };
        is_described(question, &delivery)?;
        let connector = delivery.connector.unwrap_or_default();
        // Postfix goes to the domain, wherever the connector leads.
        let asked = &delivery.tls;
        let policy = policy(
            self.frontend,
            question,
            asked,
            Route::Mx,
            &domain,
            &connector,
        );
        policy.await.map(Some)
    }

    /// What a connector says of mail to a recipient; `None` if none is about it.
    async fn delivery(
        &mut self,
        tenant: &Arc<Tenant>,
        recipient: &str,
        is_mail: bool,
    ) -> Result<Option<Decided>, Undecided> {
        let mail = Mail {
            tenant,
            sender: "",
            recipient,
            is_mail,
            session: self.session,
            transaction: &self.id,
        };
        let decided = decide(self.frontend, &mut self.asker, &mail).await;
        match decided.map_err(Undecided::Now)? {
            Decided::Delivered(delivery) if is_nothing(&delivery) => Ok(None),
            decided => Ok(Some(decided)),
        }
    }
}

/// Who decides, and by what.
async fn question(frontend: &Frontend, policies: &Snapshot) -> Result<Question, Undecided> {
    let outbound = frontend.outbound().map_err(Undecided::Now)?;
    let named = frontend.config.tenant.as_deref();
    let mut all = policies.tenants();
    let tenant = match (named, all.next(), all.next()) {
        (Some(name), ..) => policies.named(name),
        (None, only, None) => only,
        (None, ..) => {
            let why = "there are several tenants: the [[frontend]] needs \"tenant\", whose outbound connectors these are";
            return Err(Undecided::Now(why.into()));
        }
    };
    let Some(tenant) = tenant.cloned() else {
        return Err(Undecided::Now("its tenant is not there".into()));
    };
    if !tenant.decides_by_domain() {
        return Err(Undecided::Component);
    }
    let port = outbound.resources().config.port;
    let next_hops = frontend.next_hops(&tenant, port).await;
    let next_hops = next_hops.map_err(Undecided::Now)?;
    Ok(Question {
        tenant,
        outbound,
        next_hops,
    })
}

/// The next hops that Postfix asks about when mail takes this way.
fn hops(delivery: &Delivery, domain: &str, port: u16) -> Vec<NextHop> {
    match &delivery.route {
        Route::Mx => NextHop::parse(domain).into_iter().collect(),
        Route::SmartHosts(hosts) => hosts.iter().map(|it| NextHop::of(it, port)).collect(),
    }
}

/// A policy that sends mail to smart hosts which it does not describe cannot be told of when Postfix asks about them.
fn is_described(question: &Question, delivery: &Delivery) -> Result<(), Undecided> {
    let Route::SmartHosts(hosts) = &delivery.route else {
        return Ok(());
    };
    let port = question.outbound.resources().config.port;
    let is_described = |host: &SmartHost| {
        let mut uses = question.next_hops.at(&NextHop::of(host, port));
        uses.any(|it| it.protection == delivery.tls)
    };
    match hosts.iter().all(is_described) {
        true => Ok(()),
        false => Err(Undecided::Now(
            "the policy sends mail to other smart hosts than it describes".into(),
        )),
    }
}

/// What Postfix must demand of the servers of a route.
async fn policy(
    frontend: &Frontend,
    question: &Question,
    protection: &Protection,
    route: Route,
    domain: &str,
    connector: &str,
) -> Result<TlsPolicy, Undecided> {
    let published = published(frontend, &question.tenant, protection, route, domain).await;
    TlsPolicy::of(protection, Some(&published.map_err(Undecided::Now)?))
        .map_err(|why| Undecided::NotInPostfix(connector.to_owned(), why))
}

/// Postfix's own transports for what is not delivered: `error` returns it, `retry` keeps it.
fn refusing(reply: &Reply) -> String {
    let transport = match reply.is_permanent() {
        true => "error",
        false => "retry",
    };
    let enhanced = reply.enhanced().map(|it| format!("{it} "));
    let enhanced = enhanced.unwrap_or_default();
    format!("{transport}:{enhanced}{}", reply.text())
}

/// Whether a delivery is what it would be without a policy.
fn is_nothing(delivery: &Delivery) -> bool {
    delivery.connector.is_none()
        && delivery.route == Route::Mx
        && delivery.tls == Protection::OPPORTUNISTIC
}

/// Whether mail to a domain stays here.
fn is_own(policies: &Snapshot, domain: &str) -> bool {
    normal_domain(domain).is_some_and(|domain| policies.tenant(&domain).is_some())
}

/// Whether a next hop is our own listener.
fn is_at(next_hop: &NextHop, relay: SocketAddr) -> bool {
    next_hop.host == Host::Address(relay.ip()) && next_hop.port == Some(relay.port())
}

fn bracketed(address: SocketAddr) -> String {
    format!("[{}]:{}", address.ip(), address.port())
}

/// A domain as it stands in an address; an address in its place is in brackets, and that of IPv6 has a tag (RFC 5321
/// section 4.1.3).
fn domain(host: &Host) -> String {
    match host {
        Host::Name(name) => name.clone(),
        Host::Address(address) if address.is_ipv6() => format!("[IPv6:{address}]"),
        Host::Address(address) => format!("[{address}]"),
    }
}
