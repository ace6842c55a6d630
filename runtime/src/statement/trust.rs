//! Who may sign what, and what is taken.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::envelope::{Envelope, Signature};
use super::error::VerifyError;
use super::fields::{Format, Time, digest_of};
use super::ledger::{Accepted, Ledger, LedgerError, Subject};
use super::payload::{KeySet, NamedKey, PolicyStatement, Retirement, Root, TenantStatement};
use crate::Sha256;

/// A statement by those who may make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<P> {
    /// What it says.
    pub statement: P,
    /// The names of those who have signed it.
    pub signed_by: Vec<String>,
    /// What the ledger will know of it.
    pub accepted: Accepted,
    /// Whether it was accepted before: then its time may be over.
    pub is_known: bool,
}

/// The operators' keys, as they have followed each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    newest: Root,
    /// The digest of the payload of the first.
    first: Sha256,
}

impl Roots {
    /// Reads a file of root statements, oldest first. The first is trusted because it stands there; each further one is
    /// signed by those of the one before and by its own.
    ///
    /// # Errors
    /// If one cannot be read, or is not signed by those who must.
    pub fn read(json: &[u8]) -> Result<Self, VerifyError> {
        let mut all = Envelope::read_all(json)?.into_iter();
        let first = all.next().ok_or(VerifyError::NoRoot)?;
        let mut roots = Roots::first(&first)?;
        for envelope in all {
            roots = roots.followed_by(&envelope)?;
        }
        Ok(roots)
    }

    fn first(envelope: &Envelope) -> Result<Self, VerifyError> {
        let root: Root = envelope.statement()?;
        signers(envelope, &root.operators)?;
        Ok(Roots {
            newest: root,
            first: digest_of(&envelope.payload),
        })
    }

    /// With a further root.
    ///
    /// # Errors
    /// If it has not the next number, or is not signed by those of the newest and by its own.
    pub fn followed_by(&self, envelope: &Envelope) -> Result<Self, VerifyError> {
        let next: Root = envelope.statement()?;
        if self.newest.version.checked_add(1) != Some(next.version) {
            return Err(VerifyError::RootVersion {
                found: next.version,
                known: self.newest.version,
            });
        }
        signers(envelope, &self.newest.operators)?;
        signers(envelope, &next.operators)?;
        Ok(Roots {
            newest: next,
            ..self.clone()
        })
    }

    /// The newest.
    pub fn newest(&self) -> &Root {
        &self.newest
    }

    /// The digest of the first, which all others go back to.
    pub fn first_digest(&self) -> Sha256 {
        self.first
    }

    /// A statement about a tenant, by the operators.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn tenant(
        &self,
        envelope: &Envelope,
        tenant: &str,
        ledger: &dyn Ledger,
        now: Time,
    ) -> Result<Verified<TenantStatement>, VerifyError> {
        let statement: TenantStatement = envelope.statement()?;
        is_about(&statement.tenant, tenant)?;
        let known = ledger.accepted(Subject::Tenant, tenant)?;
        let found = found(envelope, statement.sequence, 0);
        let is_known = in_order(&found, known.as_ref())?;
        let signed_by = self.by_operators(envelope, is_known, now)?;
        if !is_known {
            is_in_time(None, statement.expires, now)?;
        }
        Ok(Verified {
            statement,
            signed_by,
            accepted: found,
            is_known,
        })
    }

    /// The retirement of a tenant, by the operators.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn retirement(
        &self,
        envelope: &Envelope,
        tenant: &str,
        ledger: &dyn Ledger,
        now: Time,
    ) -> Result<Verified<Retirement>, VerifyError> {
        let statement: Retirement = envelope.statement()?;
        is_about(&statement.tenant, tenant)?;
        let known = ledger.accepted(Subject::Tenant, tenant)?;
        let found = found(envelope, statement.sequence, 0);
        let is_known = in_order(&found, known.as_ref())?;
        let signed_by = self.by_operators(envelope, is_known, now)?;
        Ok(Verified {
            statement,
            signed_by,
            accepted: found,
            is_known,
        })
    }

    /// The policy of a tenant, by those whom the statement about the tenant names; without one, by the operators.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn policy(
        &self,
        envelope: &Envelope,
        tenant: &str,
        about: Option<&TenantStatement>,
        ledger: &dyn Ledger,
        now: Time,
    ) -> Result<Verified<PolicyStatement>, VerifyError> {
        let statement: PolicyStatement = envelope.statement()?;
        is_about(&statement.tenant, tenant)?;
        let known = ledger.accepted(Subject::Policy, tenant)?;
        let known_from = known.map_or(0, |known| known.from);
        let from = about.and_then(|about| about.policies_from);
        let from = from.map_or(known_from, |from| from.max(known_from));
        let found = found(envelope, statement.sequence, from);
        let is_same = known.is_some_and(|known| known.payload == found.payload);
        let is_known = match known {
            Some(_) if is_same => true,
            _ if statement.sequence < from => {
                return Err(VerifyError::TooLow {
                    found: statement.sequence,
                    least: from,
                });
            }
            // What was accepted before counts no longer.
            Some(known) if known.from < from => false,
            known => in_order(&found, known.as_ref())?,
        };
        let signed_by = match about {
            Some(about) => self.by_others(envelope, &about.policies, is_known, now)?,
            None => self.by_operators(envelope, is_known, now)?,
        };
        if !is_known {
            is_in_time(statement.not_before, statement.expires, now)?;
        }
        Ok(Verified {
            statement,
            signed_by,
            accepted: found,
            is_known,
        })
    }

    fn by_operators(
        &self,
        envelope: &Envelope,
        is_known: bool,
        now: Time,
    ) -> Result<Vec<String>, VerifyError> {
        self.by_others(envelope, &self.newest.operators, is_known, now)
    }

    /// What was accepted stays so when keys are exchanged: mail does not stop because a key is no longer used. The
    /// ledger knows its digest.
    fn by_others(
        &self,
        envelope: &Envelope,
        keys: &KeySet,
        is_known: bool,
        now: Time,
    ) -> Result<Vec<String>, VerifyError> {
        match signers(envelope, keys) {
            Err(_) if is_known => Ok(Vec::new()),
            Ok(names) if is_known => Ok(names),
            Ok(_) if self.newest.expires <= now => Err(VerifyError::RootExpired {
                version: self.newest.version,
                expired: self.newest.expires,
            }),
            signers => signers,
        }
    }
}

/// The operators' keys as they are now, and what was accepted.
#[derive(Debug)]
pub struct Trust {
    roots: ArcSwap<Roots>,
    ledger: Box<dyn Ledger>,
}

impl Trust {
    /// What these operators sign is taken, in the order that a ledger remembers.
    pub fn new(roots: Roots, ledger: impl Ledger + 'static) -> Self {
        Trust {
            roots: ArcSwap::from_pointee(roots),
            ledger: Box::new(ledger),
        }
    }

    /// The operators' keys now.
    pub fn roots(&self) -> Arc<Roots> {
        self.roots.load_full()
    }

    /// From now on the keys are these.
    pub fn exchange(&self, roots: Roots) {
        self.roots.store(Arc::new(roots));
    }

    /// [`Roots::tenant`] by the keys now.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn tenant(
        &self,
        envelope: &Envelope,
        tenant: &str,
        now: Time,
    ) -> Result<Verified<TenantStatement>, VerifyError> {
        self.roots().tenant(envelope, tenant, &*self.ledger, now)
    }

    /// [`Roots::retirement`] by the keys now.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn retirement(
        &self,
        envelope: &Envelope,
        tenant: &str,
        now: Time,
    ) -> Result<Verified<Retirement>, VerifyError> {
        self.roots()
            .retirement(envelope, tenant, &*self.ledger, now)
    }

    /// [`Roots::policy`] by the keys now.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn policy(
        &self,
        envelope: &Envelope,
        tenant: &str,
        about: Option<&TenantStatement>,
        now: Time,
    ) -> Result<Verified<PolicyStatement>, VerifyError> {
        self.roots()
            .policy(envelope, tenant, about, &*self.ledger, now)
    }

    /// The newest statement that was accepted about a tenant.
    ///
    /// # Errors
    /// If that cannot be told.
    pub fn accepted(
        &self,
        subject: Subject,
        tenant: &str,
    ) -> Result<Option<Accepted>, VerifyError> {
        Ok(self.ledger.accepted(subject, tenant)?)
    }

    /// Keeps that a statement is accepted. This may wait for the disk.
    ///
    /// # Errors
    /// If it cannot be kept: then the statement is not taken.
    pub fn accept(
        &self,
        subject: Subject,
        tenant: &str,
        accepted: &Accepted,
    ) -> Result<(), VerifyError> {
        Ok(self.ledger.accept(subject, tenant, accepted)?)
    }
}

impl Verified<PolicyStatement> {
    /// Whether a policy of this format, size in octets and digest is the one that is meant.
    ///
    /// # Errors
    /// What differs.
    pub fn is_of(&self, format: Format, size: usize, sha256: Sha256) -> Result<(), VerifyError> {
        let signed = &self.statement;
        if format != signed.format {
            return Err(VerifyError::format(format, signed.format));
        }
        if size as u64 != signed.size {
            return Err(VerifyError::Policy {
                what: "size",
                found: size.to_string(),
                signed: signed.size.to_string(),
            });
        }
        match sha256 == signed.sha256 {
            true => Ok(()),
            false => Err(VerifyError::Policy {
                what: "SHA-256",
                found: sha256.to_string(),
                signed: signed.sha256.to_string(),
            }),
        }
    }
}

impl From<LedgerError> for VerifyError {
    fn from(error: LedgerError) -> Self {
        VerifyError::Ledger(error.to_string())
    }
}

fn found(envelope: &Envelope, sequence: u64, from: u64) -> Accepted {
    Accepted {
        sequence,
        payload: digest_of(&envelope.payload),
        from,
    }
}

/// Whether it is the one that was accepted; an older one is refused.
fn in_order(found: &Accepted, known: Option<&Accepted>) -> Result<bool, VerifyError> {
    let Some(known) = known else {
        return Ok(false);
    };
    if found.payload == known.payload {
        return Ok(true);
    }
    match found.sequence.cmp(&known.sequence) {
        std::cmp::Ordering::Greater => Ok(false),
        std::cmp::Ordering::Equal => Err(VerifyError::Conflict(found.sequence)),
        std::cmp::Ordering::Less => Err(VerifyError::Rollback {
            found: found.sequence,
            known: known.sequence,
        }),
    }
}

fn is_about(found: &str, wanted: &str) -> Result<(), VerifyError> {
    match found == wanted {
        true => Ok(()),
        false => Err(VerifyError::Tenant {
            found: found.into(),
            wanted: wanted.into(),
        }),
    }
}

fn is_in_time(
    not_before: Option<Time>,
    expires: Option<Time>,
    now: Time,
) -> Result<(), VerifyError> {
    if let Some(not_before) = not_before.filter(|it| *it > now) {
        return Err(VerifyError::NotYet { not_before, now });
    }
    match expires.filter(|it| *it <= now) {
        Some(expired) => Err(VerifyError::Expired { expired, now }),
        None => Ok(()),
    }
}

/// The names of those of the keys that have signed, if they are enough.
fn signers(envelope: &Envelope, keys: &KeySet) -> Result<Vec<String>, VerifyError> {
    let octets = envelope.signed_octets();
    let mut signed: Vec<&NamedKey> = Vec::new();
    for signature in &envelope.signatures {
        let is_new = |key: &&NamedKey| !signed.contains(key);
        let by = candidates(signature, keys)
            .filter(is_new)
            .find(|key| key.key.has_signed(&octets, &signature.octets));
        signed.extend(by);
    }
    if signed.len() < keys.threshold {
        let all = keys.keys.iter();
        let all = all.map(|key| format!("{} ({})", key.name, key.key.id()));
        return Err(VerifyError::Signatures {
            valid: signed.len(),
            threshold: keys.threshold,
            signers: all.collect::<Vec<_>>().join(", "),
        });
    }
    Ok(signed.into_iter().map(|key| key.name.clone()).collect())
}

/// The key that a signature names; all, if it names none of them, since the name is a hint.
fn candidates<'a>(signature: &Signature, keys: &'a KeySet) -> impl Iterator<Item = &'a NamedKey> {
    let id = signature.key_id.as_deref();
    let named = keys.keys.iter().find(|key| Some(&*key.key.id()) == id);
    let all = named.is_none().then_some(&keys.keys[..]);
    named.into_iter().chain(all.unwrap_or_default())
}
