//! Changes of the fleet's tenants: signed by keys of this host, and published for all that follow the store.

use std::sync::Arc;

use hyper::StatusCode;
use portcullis::Sha256;
use portcullis::statement::{Format, Roots, SigningKey, Trust};

use crate::admin::answer::Refusal;
use crate::config;
use crate::edit::{Note, Version};
use crate::fleet::{Draft, Nats, Patience, PublishError, Release, StoreError, history, publish};

/// The longest note in a statement, in characters.
const MAX_NOTE: usize = 500;

/// Signs and publishes.
pub struct Publisher {
    fleet: config::Fleet,
    trust: Arc<Trust>,
    keys: Vec<SigningKey>,
}

impl Publisher {
    /// Publishes to this store what these keys sign.
    pub fn new(fleet: config::Fleet, trust: Arc<Trust>, keys: Vec<SigningKey>) -> Self {
        Publisher { fleet, trust, keys }
    }

    /// A connection, and the operators' keys as they are now.
    async fn open(&self) -> Result<(Nats, Arc<Roots>), Refusal> {
        let nats = Nats::connect(&self.fleet, Patience::None, "api", |_| {}).await;
        Ok((nats.map_err(away)?, self.trust.roots()))
    }

    /// Publishes a policy that was made from the one with the digest `base`, with a higher sequence than is `known`; gives
    /// its version.
    ///
    /// # Errors
    /// If there is another one meanwhile, hosts would not take it, or the store does not.
    pub async fn publish(
        &self,
        tenant: &str,
        (format, content): (Format, Vec<u8>),
        (base, known): (&str, u64),
        note: Note,
    ) -> Result<Version, Refusal> {
        let digest = crate::edit::digest_of(&content);
        let (nats, roots) = self.open().await?;
        let draft = Draft {
            tenant: tenant.into(),
            ring: self.fleet.ring,
            format,
            content,
            known,
            base: Some(Sha256::parse(base).ok_or_else(|| Refusal::stale(""))?),
            expires: None,
            note: Some(told(&note)),
        };
        let published = publish(&nats, &roots, &self.keys, draft).await;
        let published = published.map_err(refusal)?;
        Ok(Version {
            version: published.sequence,
            time: portcullis::statement::Time::now().to_string(),
            author: note.author,
            action: note.action,
            comment: note.comment,
            digest,
        })
    }

    /// The policies that the store still has of a tenant, the oldest first.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn versions(&self, tenant: &str) -> Result<Vec<Version>, Refusal> {
        let (nats, roots) = self.open().await?;
        let all = history(&nats, &roots, tenant, self.fleet.ring).await;
        let all = all.map_err(refusal)?.releases.into_iter().flatten();
        Ok(all.map(|release| version(&release)).collect())
    }

    /// The policy that had a sequence.
    ///
    /// # Errors
    /// If the store does not answer, or has none that somebody has signed who may.
    pub async fn content(&self, tenant: &str, sequence: u64) -> Result<(Format, Vec<u8>), Refusal> {
        let (nats, roots) = self.open().await?;
        let all = history(&nats, &roots, tenant, self.fleet.ring).await;
        let mut all = all.map_err(refusal)?.releases.into_iter().flatten();
        let release = all.find(|release| release.statement.sequence == sequence);
        let release = release.ok_or_else(|| Refusal::not_found("there is no such version"))?;
        let format = release.statement.format;
        let content = release.content(&nats).await.map_err(refusal)?;
        Ok((format, content))
    }
}

fn version(release: &Release) -> Version {
    let said = &release.statement;
    Version {
        version: said.sequence,
        time: said.created.to_string(),
        author: release.signed_by.join(", "),
        action: said.note.clone().unwrap_or_default(),
        comment: String::new(),
        digest: said.sha256.to_string(),
    }
}

/// What stands in the statement, for whoever looks at it elsewhere.
fn told(note: &Note) -> String {
    let Note {
        author,
        action,
        comment,
    } = note;
    let comment = match comment.as_str() {
        "" => String::new(),
        comment => format!(" ({comment})"),
    };
    let text = format!("{author}: {action}{comment}");
    text.chars().take(MAX_NOTE).collect()
}

fn away(error: StoreError) -> Refusal {
    let text = format!("the fleet's store does not answer: {error}");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
}

fn refusal(error: PublishError) -> Refusal {
    let text = error.to_string();
    match error {
        PublishError::Changed { sha256, .. } => Refusal {
            error: text,
            ..Refusal::stale(&sha256.to_string())
        },
        PublishError::Store(StoreError::Changed { .. }) => {
            Refusal::new(StatusCode::PRECONDITION_FAILED, text)
        }
        PublishError::Store(error) => away(error),
        PublishError::NoTenant(_) => Refusal::not_found(&text),
        PublishError::Retired(_) => Refusal::new(StatusCode::CONFLICT, text),
        PublishError::Verify(_) => Refusal::new(StatusCode::FORBIDDEN, text),
        PublishError::Statement(_) | PublishError::Entry(_) => {
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text)
        }
        PublishError::Body(_) => Refusal::failed(text),
    }
}
