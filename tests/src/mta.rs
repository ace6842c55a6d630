//! The organization's own server, which has a queue and tries again: a Postfix or an Exim.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::exim::Exim;
use crate::fan_out::SENDER;
use crate::postfix::Postfix;

/// How the sending server sees a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has been delivered.
    Sent,
    /// It is tried again.
    Deferred,
    /// It is returned.
    Failed,
}

/// The organization's own server.
pub enum Mta {
    /// A Postfix.
    Postfix(Postfix),
    /// An Exim.
    Exim(Exim),
}

impl Mta {
    /// A Postfix that sends all mail to `relay`, but that to the sender to `home`.
    pub fn postfix(relay: SocketAddr, home: SocketAddr) -> Mta {
        let settings = format!(
            "myhostname = mta.contoso.com
relayhost = [{}]:{}
transport_maps = inline:{{ contoso.com=smtp:[{}]:{} }}
minimal_backoff_time = 3000s
maximal_backoff_time = 3000s
queue_run_delay = 3000s
smtp_connection_cache_on_demand = no
smtp_tls_security_level = may",
            relay.ip(),
            relay.port(),
            home.ip(),
            home.port()
        );
        Mta::Postfix(Postfix::start(&settings, None))
    }

    /// An Exim that does the same.
    pub fn exim(relay: SocketAddr, home: SocketAddr) -> Mta {
        let routers = format!(
            "home:
  driver = manualroute
  domains = contoso.com
  transport = remote
  route_list = * {}::{} byname
  self = send
relay:
  driver = manualroute
  transport = remote
  route_list = * {}::{} byname
  self = send
",
            home.ip(),
            home.port(),
            relay.ip(),
            relay.port()
        );
        let transports = "remote:
  driver = smtp
  allow_localhost
";
        Mta::Exim(Exim::start_with("", &routers, transports))
    }

    /// Gives it a message to send.
    pub fn submit(&self, to: &[&str], text: &str) {
        match self {
            Mta::Postfix(postfix) => postfix.submit(SENDER, to, text),
            Mta::Exim(exim) => exim.submit(SENDER, to, text),
        }
    }

    /// Its log.
    pub fn log(&self) -> String {
        match self {
            Mta::Postfix(postfix) => postfix.log(),
            Mta::Exim(exim) => exim.log(),
        }
    }

    /// What it has written down for these recipients, attempt by attempt.
    pub fn attempts(&self, recipients: &[&str]) -> BTreeMap<String, Vec<State>> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| match self {
            Mta::Postfix(_) => postfix_attempt(line),
            Mta::Exim(_) => exim_attempt(line),
        });
        let mut attempts: BTreeMap<String, Vec<State>> = BTreeMap::new();
        for recipient in recipients {
            attempts.insert((*recipient).to_owned(), Vec::new());
        }
        for (recipient, state) in lines {
            if let Some(states) = attempts.get_mut(recipient) {
                states.push(state);
            }
        }
        attempts
    }

    /// The recipients that it still tries to reach.
    pub fn pending(&self, recipients: &[&str]) -> Vec<String> {
        let attempts = self.attempts(recipients).into_iter();
        let pending =
            attempts.filter(|(_, states)| matches!(states.last(), None | Some(State::Deferred)));
        pending.map(|(recipient, _)| recipient).collect()
    }

    /// Has the queue tried once more, and waits until it has been tried for each of these.
    pub fn try_again(&self, recipients: &[&str]) {
        match self {
            Mta::Exim(exim) => exim.run_queue(),
            Mta::Postfix(postfix) => {
                let before = self.attempts(recipients);
                let pending = self.pending(recipients);
                postfix.flush();
                self.wait_for_attempts(&pending, &before);
            }
        }
    }

    /// Waits until these have been tried once more than they had been.
    pub fn wait_for_attempts(&self, recipients: &[String], before: &BTreeMap<String, Vec<State>>) {
        let Mta::Postfix(postfix) = self else { return };
        postfix.wait_for_queue(|_| {
            let names: Vec<&str> = recipients.iter().map(String::as_str).collect();
            let attempts = self.attempts(&names);
            let tried = |name: &String| {
                let earlier = before.get(name).map_or(0, Vec::len);
                attempts[name].len() > earlier
            };
            recipients.iter().all(tried)
        });
        // Nothing is being tried any more.
        postfix.wait_for_queue(|queue| !queue.contains('*'));
    }

    /// Waits until its queue is empty.
    pub fn wait_until_empty(&self) {
        match self {
            Mta::Postfix(postfix) => {
                postfix.wait_for_queue(|queue| queue.contains("Mail queue is empty"));
            }
            Mta::Exim(exim) => exim.wait_until_idle(),
        }
    }
}

/// `..., to=<a@bank.test>, ..., status=sent (250 ...)`
fn postfix_attempt(line: &str) -> Option<(&str, State)> {
    let (recipient, rest) = line.split_once(": to=<")?.1.split_once('>')?;
    let status = rest.split_once(" status=")?.1.split(' ').next()?;
    let state = match status {
        "sent" => State::Sent,
        "bounced" => State::Failed,
        _ => State::Deferred,
    };
    Some((recipient, state))
}

/// `2026-01-01 00:00:00 1aBcDe-000001-AA => a@bank.test R=relay T=remote ...`
fn exim_attempt(line: &str) -> Option<(&str, State)> {
    let mut words = line.split(' ').skip(3);
    let state = match words.next()? {
        "=>" | "->" => State::Sent,
        "==" => State::Deferred,
        "**" => State::Failed,
        _ => return None,
    };
    Some((words.next()?.trim_end_matches(':'), state))
}
