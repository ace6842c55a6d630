//! Policies that are ready to be published: signed by those who may, and usable.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cli::paint::printable;
use crate::cli::policy::{self, Kind, extension, read};
use crate::cli::signed::{read_statement, statement_in};
use crate::fleet::{Entry, MAX_BODY};
use crate::trust::NoLedger;
use portcullis::statement::{
    Envelope, Format, PolicyStatement, Roots, TenantStatement, Time, digest_of,
};
use portcullis::store::statement_beside;
use portcullis::{Engine, Sha256, normal_domain};

/// A policy that hosts would take.
pub(super) struct Ready {
    /// What the operators say about the tenant.
    pub(super) about: TenantStatement,
    pub(super) sequence: u64,
    pub(super) entry: Entry,
    /// The policy, if it is too large for the entry.
    pub(super) large: Option<(Sha256, Vec<u8>)>,
}

/// Of which tenant a policy is, as the statement beside it says.
pub(super) fn tenant_of(file: &Path) -> anyhow::Result<String> {
    let place = statement_beside(file);
    let said: PolicyStatement = statement_in(&place, &read_statement(&place)?)?;
    Ok(said.tenant)
}

impl Ready {
    /// Reads a policy and the statement beside it.
    ///
    /// # Errors
    /// If it cannot be used, or hosts would not take it.
    pub(super) async fn read(
        file: &Path,
        about: Envelope,
        (engine, roots): (&Engine, &Roots),
    ) -> anyhow::Result<Self> {
        let content = usable(file, engine).await?;
        let place = statement_beside(file);
        let statement = read_statement(&place)?;
        let said: PolicyStatement = statement_in(&place, &statement)?;
        let about_said: TenantStatement = about.statement()?;
        let now = Time::now();
        let tenant = roots.tenant(&about, &said.tenant, &NoLedger, now);
        tenant
            .with_context(|| format!("the statement about tenant {}", printable(&said.tenant)))?;
        let verified = roots.policy(&statement, &said.tenant, Some(&about_said), &NoLedger, now);
        let verified = verified.with_context(|| place.display().to_string())?;
        let format = Format::of(file).context("a policy is a .json or a .wasm file")?;
        let is_of = verified.is_of(format, content.len(), digest_of(&content));
        is_of.with_context(|| file.display().to_string())?;
        let (body, large) = match content.len() > MAX_BODY {
            true => (None, Some((said.sha256, content))),
            false => (Some(content), None),
        };
        Ok(Ready {
            about: about_said,
            sequence: said.sequence,
            entry: Entry::Policy {
                about,
                statement,
                body,
            },
            large,
        })
    }
}

/// A policy in a file, which can be used.
async fn usable(file: &Path, engine: &Engine) -> anyhow::Result<Vec<u8>> {
    let content = read(file)?;
    match extension(file)? {
        Kind::Document => drop(policy::read_rules(file, engine).await?),
        Kind::Component => {
            let name = file.display().to_string();
            engine.load_component(&name, content.clone()).await?;
        }
    }
    Ok(content)
}

/// Whose a domain is, in normal form.
#[derive(Default)]
pub(super) struct Owners(HashMap<String, String>);

impl Owners {
    /// Whether no other tenant has a domain of this one.
    ///
    /// # Errors
    /// Names the domain, and whose it is.
    pub(super) fn compare(&self, about: &TenantStatement) -> anyhow::Result<()> {
        for domain in about.domains.iter().filter_map(|it| normal_domain(it)) {
            if let Some(owner) = self.0.get(&domain).filter(|it| **it != about.tenant) {
                bail!(
                    "{domain} is a domain of tenants {} and {}; a domain is one tenant's",
                    printable(owner),
                    printable(&about.tenant)
                );
            }
        }
        Ok(())
    }

    /// These are the domains of a tenant.
    ///
    /// # Errors
    /// If another one has one of them.
    pub(super) fn enter(&mut self, about: &TenantStatement) -> anyhow::Result<()> {
        self.compare(about)?;
        let domains = about.domains.iter().filter_map(|it| normal_domain(it));
        self.0
            .extend(domains.map(|domain| (domain, about.tenant.clone())));
        Ok(())
    }
}
