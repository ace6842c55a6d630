//! Whether a policy is signed by those who may.

use std::path::Path;
use std::sync::Arc;

use super::error::Cause;
use super::places::Places;
use super::statements::{By, Signed, Statements, statement_beside, tenant_statement_beside};
use super::tenant::{TenantSource, Versions};
use crate::Sha256;
use crate::file::FileVersion;
use crate::sandbox::background::{Priority, run_on_thread};
use crate::statement::{
    Envelope, Format, MAX_ENVELOPE, PolicyStatement, Subject, TenantStatement, Time, Trust,
    Verified, VerifyError,
};

/// The largest file of a statement.
const MOST: (usize, &str) = (MAX_ENVELOPE, "the limit of statements");

/// What the file system tells of the statements beside a policy.
pub(super) async fn versions_of_statements(
    places: &Places,
    tenant: &TenantSource,
) -> Result<(Option<FileVersion>, Option<FileVersion>), Cause> {
    if By::of(tenant.signed.as_ref()) != By::Beside {
        return Ok((None, None));
    }
    let statement = statement_beside(&tenant.policy);
    if !places.with_file(&statement, Path::try_exists).await? {
        return Err(Cause::Unsigned(statement));
    }
    let about = tenant_statement_beside(&tenant.policy);
    let about = match places.with_file(&about, Path::try_exists).await? {
        true => Some(places.stamp(&about).await?),
        false => None,
    };
    Ok((Some(places.stamp(&statement).await?), about))
}

/// The statement about a policy of this size and digest, if it is to be signed.
pub(super) async fn verified(
    places: &Places,
    tenant: &TenantSource,
    versions: &Versions,
    size: usize,
    sha256: Sha256,
) -> Result<Option<Arc<Verified<PolicyStatement>>>, Cause> {
    let Some(Signed { trust, statements }) = &tenant.signed else {
        return Ok(None);
    };
    let Some(format) = Format::of(&tenant.policy) else {
        return Err(Cause::Kind {
            path: tenant.policy.clone(),
            reason: "a policy is a .json or a .wasm file",
        });
    };
    let (path, envelope, about) = match statements {
        Statements::Given { about, policy } => {
            (tenant.policy.clone(), policy.clone(), Some(about.clone()))
        }
        Statements::Beside => {
            let path = statement_beside(&tenant.policy);
            let envelope = envelope(places, &path).await?;
            let about = match versions.about {
                Some(_) => Some(about(places, tenant, trust.clone()).await?),
                None => None,
            };
            (path, envelope, about)
        }
    };
    let (trust, name) = (trust.clone(), tenant.name.clone());
    let verified = apart(&path, move || {
        let verified = trust.policy(&envelope, &name, about.as_deref(), Time::now())?;
        verified.is_of(format, size, sha256)?;
        Ok(verified)
    });
    Ok(Some(Arc::new(verified.await?)))
}

/// Keeps that a policy is accepted, before it is in force.
pub(super) async fn accept(
    tenant: &TenantSource,
    verified: Arc<Verified<PolicyStatement>>,
) -> Result<(), Cause> {
    let Some(Signed { trust, .. }) = &tenant.signed else {
        return Ok(());
    };
    if verified.is_known {
        return Ok(());
    }
    let (trust, name) = (trust.clone(), tenant.name.clone());
    let accepting = move || trust.accept(Subject::Policy, &name, &verified.accepted);
    apart(&tenant.policy, accepting).await
}

/// What the operators say about the tenant, in the file beside its policy.
async fn about(
    places: &Places,
    tenant: &TenantSource,
    trust: Arc<Trust>,
) -> Result<Arc<TenantStatement>, Cause> {
    let path = tenant_statement_beside(&tenant.policy);
    let envelope = envelope(places, &path).await?;
    let name = tenant.name.clone();
    let about = apart(&path, move || {
        let verified = trust.tenant(&envelope, &name, Time::now())?;
        if !verified.is_known {
            trust.accept(Subject::Tenant, &name, &verified.accepted)?;
        }
        Ok(verified.statement)
    });
    Ok(Arc::new(about.await?))
}

async fn envelope(places: &Places, path: &Path) -> Result<Arc<Envelope>, Cause> {
    let bytes = places.read(path, MOST).await?;
    let envelope = Envelope::read(&bytes).map_err(|error| Cause::Statement {
        path: path.to_owned(),
        source: error.into(),
    })?;
    Ok(Arc::new(envelope))
}

/// Verifies on a thread that may wait for the disk, and leaves the processors to mail.
async fn apart<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, VerifyError> + Send + 'static,
) -> Result<T, Cause> {
    let done = run_on_thread(Priority::Low, work).await;
    let done = done.unwrap_or_else(|error| Err(VerifyError::Ledger(error.to_string())));
    done.map_err(|source| Cause::Statement {
        path: path.to_owned(),
        source,
    })
}
