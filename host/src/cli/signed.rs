//! By whom a policy is signed, as statements beside it say.

use std::path::Path;

use anyhow::Context as _;

use super::paint::printable;
use crate::trust::NoLedger;
use portcullis::read_file;
use portcullis::statement::{
    Envelope, Format, MAX_ENVELOPE, Payload, PolicyStatement, Roots, Time, digest_of,
};
use portcullis::store::{statement_beside, tenant_statement_beside};

/// Says by whom a policy is signed, by the statement beside it.
///
/// # Errors
/// If it is not, or by others.
pub(super) fn policy(path: &Path, content: &[u8], roots: &Roots) -> anyhow::Result<String> {
    let place = statement_beside(path);
    let envelope = read_statement(&place)?;
    let found: PolicyStatement = statement_in(&place, &envelope)?;
    let about = tenant_statement_beside(path);
    let about = match about.exists() {
        true => {
            let envelope = read_statement(&about)?;
            let verified = roots.tenant(&envelope, &found.tenant, &NoLedger, Time::now());
            Some(verified.with_context(|| about.display().to_string())?)
        }
        false => None,
    };
    let about = about.as_ref().map(|about| &about.statement);
    let verified = roots.policy(&envelope, &found.tenant, about, &NoLedger, Time::now());
    let verified = verified.with_context(|| place.display().to_string())?;
    let format = Format::of(path).context("a policy is a .json or a .wasm file")?;
    let is_of = verified.is_of(format, content.len(), digest_of(content));
    is_of.with_context(|| path.display().to_string())?;
    let until = verified.statement.expires;
    let until = until.map(|until| format!(", to be taken until {until}"));
    let note = verified.statement.note.iter();
    let note: String = note.map(|note| format!(" ({})", printable(note))).collect();
    Ok(format!(
        "tenant {}, signed by {}, sequence {}{}{note}",
        printable(&verified.statement.tenant),
        printable(&verified.signed_by.join(", ")),
        verified.statement.sequence,
        until.unwrap_or_default()
    ))
}

/// Reads an envelope; the error names the file.
pub(super) fn read_statement(path: &Path) -> anyhow::Result<Envelope> {
    let most = (MAX_ENVELOPE, "the limit of statements");
    let bytes = read_file(path, most).with_context(|| format!("cannot read {}", path.display()))?;
    Envelope::read(&bytes).with_context(|| path.display().to_string())
}

/// The statement in an envelope; the error names the file.
pub(super) fn statement_in<P: Payload>(path: &Path, envelope: &Envelope) -> anyhow::Result<P> {
    let found = envelope.statement();
    found.with_context(|| path.display().to_string())
}
