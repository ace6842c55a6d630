//! Publishing: what is put follows what there is, is signed with the next sequence, and is what hosts take.

use portcullis::Sha256;
use portcullis::statement::{
    Envelope, Format, PolicyStatement, Roots, SigningKey, StatementError, TenantStatement, Time,
    VerifyError, digest_of,
};

use super::entry::{Entry, EntryError, Key, MAX_BODY};
use super::nats::Nats;
use super::store::StoreError;
use crate::config::Ring;
use crate::trust::NoLedger;

/// A policy is not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tenant has none that it could follow.
    #[error("there is no policy of tenant {0:?} in the store")]
    NoTenant(String),
    /// The tenant was taken away.
    #[error(
        "tenant {0:?} was retired; a statement about it with a higher sequence brings it back (portcullis sign tenant, then fleet put)"
    )]
    Retired(String),
    /// It would be none that the store may have.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// It was made from another one than there is.
    #[error(
        "sequence {sequence} is in the store, which is another policy than the one that was changed"
    )]
    Changed {
        /// The sequence of the newest.
        sequence: u64,
        /// The digest of the newest.
        sha256: Sha256,
    },
    /// It cannot be signed so.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// Hosts would not take it.
    #[error("hosts would not take it: {0}")]
    Verify(#[from] VerifyError),
    /// The policy that was signed is not there.
    #[error("the policy (sha256-{0}) in the store is not the one that was signed")]
    Body(Sha256),
}

/// The newest entry of a key.
pub struct Newest {
    /// What it says; `None` if there is none, or nobody can read it: then it is replaced.
    pub entry: Option<Entry>,
    /// What another one must follow.
    pub revision: u64,
}

impl Newest {
    /// Reads it.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn of(nats: &Nats, key: &Key) -> Result<Self, StoreError> {
        let found = nats.get(key).await?;
        let revision = found.as_ref().map_or(0, |found| found.revision);
        let entry = found.and_then(|found| Entry::read(&found.value?).ok());
        Ok(Newest { entry, revision })
    }

    /// What the operators say about the tenant, whoever has signed that.
    pub fn about(&self) -> Option<&Envelope> {
        self.entry.as_ref().and_then(Entry::about)
    }

    /// What it says about the policy, if those have signed it who may. Whoever can write to the store can put anything
    /// there, which is as if it were not there.
    pub fn policy(&self, roots: &Roots, tenant: &str) -> Option<PolicyStatement> {
        let Some(Entry::Policy {
            about, statement, ..
        }) = &self.entry
        else {
            return None;
        };
        let about = roots.tenant(about, tenant, &NoLedger, Time::now()).ok()?;
        // It may have expired since.
        let then = statement.statement::<PolicyStatement>().ok()?.created;
        let about = Some(&about.statement);
        let verified = roots.policy(statement, tenant, about, &NoLedger, then);
        Some(verified.ok()?.statement)
    }

    fn is_retired(&self, roots: &Roots, tenant: &str) -> bool {
        let Some(Entry::Retired(retirement)) = &self.entry else {
            return false;
        };
        let verified = roots.retirement(retirement, tenant, &NoLedger, Time::now());
        verified.is_ok()
    }
}

/// What is to be published.
pub struct Draft {
    /// The tenant.
    pub tenant: String,
    /// The hosts that get it.
    pub ring: Ring,
    /// What the policy is written in.
    pub format: Format,
    /// The policy.
    pub content: Vec<u8>,
    /// The one that it was made from, if it must be the newest.
    pub base: Option<Sha256>,
    /// A sequence that is known otherwise: the next is higher.
    pub known: u64,
    /// From then on it is not taken.
    pub expires: Option<Time>,
    /// What people should know about it.
    pub note: Option<String>,
}

/// What was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its sequence.
    pub sequence: u64,
    /// The revision of the store.
    pub revision: u64,
}

/// Signs a policy with the next sequence, and puts it, if nobody else was first.
///
/// # Errors
/// If hosts would not take it, or the store does not.
pub async fn publish(
    nats: &Nats,
    roots: &Roots,
    keys: &[SigningKey],
    draft: Draft,
) -> Result<Published, PublishError> {
    let tenant = &draft.tenant;
    let key = |ring| Key::Tenant(ring, tenant.clone());
    let newest = Newest::of(nats, &key(draft.ring)).await?;
    let other = match draft.ring {
        Ring::All => Ring::Canary,
        Ring::Canary => Ring::All,
    };
    let other = Newest::of(nats, &key(other)).await?;
    if newest.is_retired(roots, tenant) || other.is_retired(roots, tenant) {
        return Err(PublishError::Retired(tenant.clone()));
    }
    // What is tried out by others is no base of what all have, and counts as a sequence.
    let all = history(nats, roots, tenant, Ring::Canary).await?;
    let current = match history(nats, roots, tenant, draft.ring).await {
        Ok(own) => own.newest().cloned(),
        Err(PublishError::Store(error)) => return Err(error.into()),
        // Of this ring there is nothing that counts.
        Err(_) => None,
    };
    let current = current.or_else(|| all.newest().cloned());
    let highest = all.newest().map_or(0, |it| it.sequence).max(draft.known);
    if let (Some(base), Some(current)) = (draft.base, current)
        && base != current.sha256
    {
        return Err(PublishError::Changed {
            sequence: current.sequence,
            sha256: current.sha256,
        });
    }
    let (about, said) = all.about;
    let statement = PolicyStatement {
        tenant: tenant.clone(),
        sequence: (highest + 1).max(said.policies_from.unwrap_or(0)),
        created: Time::now(),
        not_before: None,
        expires: draft.expires,
        format: draft.format,
        sha256: digest_of(&draft.content),
        size: draft.content.len() as u64,
        note: draft.note,
    };
    let mut envelope = Envelope::of(&statement)?;
    // Whose keys they are is nobody else's business.
    let may_sign = |key: &&SigningKey| said.policies.has(key.public());
    for key in keys.iter().filter(may_sign) {
        envelope.sign(key);
    }
    let is_large = draft.content.len() > MAX_BODY;
    let entry = Entry::Policy {
        about,
        statement: envelope,
        body: (!is_large).then(|| draft.content.clone()),
    };
    verify(roots, tenant, &entry)?;
    let json = entry.to_json();
    // What nobody can read is not put.
    Entry::read(&json)?;
    if is_large {
        nats.put_body(statement.sha256, &draft.content).await?;
    }
    let revision = nats.put(&key(draft.ring), json, newest.revision).await?;
    Ok(Published {
        sequence: statement.sequence,
        revision,
    })
}

/// Whether hosts would take an entry; gives the sequence of its policy.
///
/// # Errors
/// If they would not.
pub fn verify(roots: &Roots, tenant: &str, entry: &Entry) -> Result<u64, PublishError> {
    let Entry::Policy {
        about, statement, ..
    } = entry
    else {
        return Err(PublishError::NoTenant(tenant.into()));
    };
    let now = Time::now();
    let about = roots.tenant(about, tenant, &NoLedger, now)?.statement;
    let verified = roots.policy(statement, tenant, Some(&about), &NoLedger, now)?;
    Ok(verified.statement.sequence)
}

/// A policy that was published.
pub struct Release {
    /// What is said about it.
    pub statement: PolicyStatement,
    /// The names of those who have signed it.
    pub signed_by: Vec<String>,
    body: Option<Vec<u8>>,
}

impl Release {
    /// The policy.
    ///
    /// # Errors
    /// If it is not there any more.
    pub async fn content(self, nats: &Nats) -> Result<Vec<u8>, PublishError> {
        let PolicyStatement { sha256, size, .. } = self.statement;
        let content = match self.body {
            Some(body) => body,
            None => nats.body(sha256, size).await?,
        };
        match digest_of(&content) == sha256 {
            true => Ok(content),
            false => Err(PublishError::Body(sha256)),
        }
    }
}

/// What the store still has of a tenant.
pub struct History {
    /// What the operators say about it.
    about: (Envelope, TenantStatement),
    /// Its policies, the oldest first. Whoever can write to the store can put anything there: so what those who may sign
    /// now have not signed then is an error with its sequence.
    pub releases: Vec<Result<Release, (u64, VerifyError)>>,
}

impl History {
    fn newest(&self) -> Option<&PolicyStatement> {
        let releases = self.releases.iter().filter_map(|it| it.as_ref().ok());
        releases
            .map(|it| &it.statement)
            .max_by_key(|it| it.sequence)
    }
}

/// What the store still has of a tenant for the hosts of a ring.
///
/// # Errors
/// If the store does not answer, or there is no tenant.
pub async fn history(
    nats: &Nats,
    roots: &Roots,
    tenant: &str,
    ring: Ring,
) -> Result<History, PublishError> {
    let rings = [Ring::All, Ring::Canary];
    let keys = rings.iter().filter(|it| **it >= ring);
    let mut found = Vec::new();
    for ring in keys {
        found.extend(nats.history(&Key::Tenant(*ring, tenant.into())).await?);
    }
    let entries = found.iter().filter_map(|found| found.value.as_deref());
    let entries: Vec<Entry> = entries.filter_map(|it| Entry::read(it).ok()).collect();
    let about = newest_about(roots, tenant, &entries)?;
    let mut all: Vec<Result<Release, (u64, VerifyError)>> = Vec::new();
    for entry in entries {
        let Entry::Policy {
            statement, body, ..
        } = entry
        else {
            continue;
        };
        let Ok(said) = statement.statement::<PolicyStatement>() else {
            continue;
        };
        // It may have expired since.
        let verified = roots.policy(&statement, tenant, Some(&about.1), &NoLedger, said.created);
        let verified = verified.and_then(|verified| {
            if let Some(body) = &body {
                verified.is_of(said.format, body.len(), digest_of(body))?;
            }
            Ok(Release {
                statement: verified.statement,
                signed_by: verified.signed_by,
                body,
            })
        });
        all.push(verified.map_err(|error| (said.sequence, error)));
    }
    let sequence = |it: &Result<Release, (u64, VerifyError)>| match it {
        Ok(release) => (release.statement.sequence, false),
        Err((sequence, _)) => (*sequence, true),
    };
    all.sort_by_key(sequence);
    // What was tried out and then given to all is there twice.
    all.dedup_by_key(|it| sequence(it));
    Ok(History {
        about,
        releases: all,
    })
}

/// The newest statement about a tenant that counts.
fn newest_about(
    roots: &Roots,
    tenant: &str,
    entries: &[Entry],
) -> Result<(Envelope, TenantStatement), PublishError> {
    let (mut newest, mut refused): (Option<(Envelope, TenantStatement)>, _) = (None, None);
    for about in entries.iter().filter_map(Entry::about) {
        match roots.tenant(about, tenant, &NoLedger, Time::now()) {
            Ok(verified) => {
                let found = verified.statement;
                let is_newer = |known: &(_, TenantStatement)| known.1.sequence < found.sequence;
                if newest.as_ref().is_none_or(is_newer) {
                    newest = Some((about.clone(), found));
                }
            }
            Err(error) => refused = Some(error),
        }
    }
    match (newest, refused) {
        (Some(newest), _) => Ok(newest),
        (None, Some(error)) => Err(error.into()),
        (None, None) => Err(PublishError::NoTenant(tenant.into())),
    }
}
