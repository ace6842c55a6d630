//! AUTH (RFC 4954): PLAIN and LOGIN over TLS, for those who send mail to partners. The file has hashes of passwords,
//! which SCRAM cannot be answered from.

use std::sync::Arc;

use crate::egress::path::Egress;
use crate::egress::relay_clients::RelayClients;
use crate::frontend::smtp::session::{Next, Session};
use crate::observe::redact;
use crate::smtp::connection::Line;
use crate::smtp::reply::Reply;
use crate::smtp::sasl::{self, Claim};
use tokio::time::{sleep, timeout};

/// A line of an exchange (RFC 4954 §4.6).
const EXCHANGE_LINE: usize = 12_288;
/// Characters of a name in the log.
const SHOWN_NAME: usize = 100;
/// What EHLO announces.
pub(super) const OFFER: &str = "AUTH PLAIN LOGIN";

/// Why an exchange has ended before there was a claim.
enum Ended {
    /// With this reply.
    Refused(Reply),
    /// With the connection.
    Lost(Next),
}

impl Session {
    /// Whether clients may log in: where they may show a name at all, and nobody listens.
    pub(super) fn offers_login(&self) -> bool {
        self.login_names().is_some() && self.context.session_tls().is_some()
    }

    fn login_names(&self) -> Option<Arc<RelayClients>> {
        match &self.listener.egress {
            Egress::Partners { relay_clients, .. } => {
                let clients = relay_clients.load_full();
                clients.lets_log_in().then_some(clients)
            }
            Egress::NextHop { .. } => None,
        }
    }

    pub(super) async fn auth(&mut self, mechanism: &str, initial: Option<String>) -> Next {
        let Some(clients) = self.login_names() else {
            return Reply::new(502, (5, 5, 1), "AUTH is not offered here").into();
        };
        if self.context.session_tls().is_none() {
            let text = "log in over TLS only: send STARTTLS first";
            return Reply::new(538, (5, 7, 11), text).into();
        }
        if !self.esmtp {
            return Reply::new(503, (5, 5, 1), "send EHLO first").into();
        }
        if self.user.is_some() || self.state.transaction().is_some() {
            let text = "log in once, and not within a transaction";
            return Reply::new(503, (5, 5, 1), text).into();
        }
        let claim = match mechanism {
            "PLAIN" => self.claim_by_plain(initial).await,
            "LOGIN" => self.claim_by_login(initial).await,
            _ => {
                let text = "this mechanism is not offered; PLAIN and LOGIN are";
                Err(Ended::Refused(Reply::new(504, (5, 5, 4), text)))
            }
        };
        match claim {
            Ok(claim) => self.verify(&clients, claim).await.into(),
            Err(Ended::Refused(reply)) => reply.into(),
            Err(Ended::Lost(next)) => next,
        }
    }

    async fn claim_by_plain(&mut self, initial: Option<String>) -> Result<Claim, Ended> {
        let message = self.response(initial, "").await?;
        Claim::plain(&message).ok_or_else(|| Ended::Refused(undecodable()))
    }

    async fn claim_by_login(&mut self, initial: Option<String>) -> Result<Claim, Ended> {
        let username = self.response(initial, "Username:").await?;
        let password = self.response(None, "Password:").await?;
        let text = |octets| String::from_utf8(octets).map_err(|_| Ended::Refused(undecodable()));
        let (username, password) = (text(username)?, text(password)?);
        if username.is_empty() || password.is_empty() {
            return Err(Ended::Refused(undecodable()));
        }
        Ok(Claim { username, password })
    }

    /// What the client answers to a challenge, or has answered already.
    async fn response(&mut self, given: Option<String>, challenge: &str) -> Result<Vec<u8>, Ended> {
        let line = match given {
            Some(given) => given.into_bytes(),
            None => {
                let challenge = sasl::encode(challenge.as_bytes());
                self.connection.queue(&Reply::plain(334, challenge));
                match self.line_of_at_most(EXCHANGE_LINE).await {
                    Ok(Line::Whole(line)) => line.to_vec(),
                    Ok(Line::TooLong(_)) => {
                        let text = "the line of the exchange is too long";
                        return Err(Ended::Refused(Reply::new(500, (5, 5, 6), text)));
                    }
                    Ok(Line::BareLineFeed(_)) => return Err(Ended::Refused(undecodable())),
                    Ok(Line::Closed) => return Err(Ended::Lost(Next::Lost(super::End::Gone))),
                    Err(next) => return Err(Ended::Lost(next)),
                }
            }
        };
        if line == b"*" {
            return Err(Ended::Refused(Reply::new(501, (5, 7, 0), "cancelled")));
        }
        let text = std::str::from_utf8(&line).ok();
        text.and_then(sasl::decode)
            .ok_or_else(|| Ended::Refused(undecodable()))
    }

    async fn verify(&mut self, clients: &Arc<RelayClients>, claim: Claim) -> Reply {
        let (client, name) = (self.client.ip(), claim.username.clone());
        let most = self.settings.limits.login_failures;
        let server = self.server.clone();
        let patience = self.settings.timeouts.handshake;
        let turn = timeout(patience, server.guesses.turn(client, &name)).await;
        let fits = match (&turn, server.guesses.may_try(client, &name, most)) {
            (Err(_), _) => None,
            (Ok(_), true) => self.fits(clients, claim).await.map(Some),
            (Ok(_), false) => Some(None),
        };
        let wait = (fits == Some(Some(false))).then(|| server.guesses.wrong(client, &name));
        drop(turn);
        if let Some(wait) = wait {
            sleep(wait).await;
        }
        let (reply, outcome) = match fits {
            Some(Some(true)) => {
                server.guesses.right(client, &name);
                self.user = Some(name.clone());
                (Reply::new(235, (2, 7, 0), "welcome"), "accepted")
            }
            Some(Some(false)) => {
                let text = "name or password is wrong";
                (Reply::new(535, (5, 7, 8), text), "refused")
            }
            Some(None) => {
                let text = "too many wrong passwords, try again in a quarter of an hour";
                (Reply::new(454, (4, 7, 0), text), "limited")
            }
            None => {
                let text = "nobody can log in now, try again later";
                (Reply::new(454, (4, 7, 0), text), "unavailable")
            }
        };
        self.server.asking.metrics.login(outcome);
        let shown: String = name.chars().take(SHOWN_NAME).collect();
        tracing::info!(
            outcome,
            user = &*redact::mailbox(&shown),
            client = %redact::client(client),
            session = self.id,
            "login"
        );
        reply.with_id(&self.id)
    }

    /// Whether a claim is true; absent if that cannot be told now. However many ask, some processors are left for mail.
    async fn fits(&mut self, clients: &Arc<RelayClients>, claim: Claim) -> Option<bool> {
        let permit = self.server.verifications.clone().acquire_owned();
        let permit = timeout(self.settings.timeouts.handshake, permit).await;
        let permit = permit.ok()?.ok()?;
        let clients = clients.clone();
        let verifying = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            clients.verify(&claim)
        });
        verifying.await.ok()?
    }
}

fn undecodable() -> Reply {
    let text = "that is no response of this mechanism in base64";
    Reply::new(501, (5, 5, 2), text)
}
