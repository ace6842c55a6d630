//! Who is trusted: the ordinary roots, and authorities of partners by name.

use std::sync::Arc;

use portcullis_types::Trust;
use rustls::pki_types::CertificateDer;

use super::path::{PathVerification, Purpose};
use super::roots::Roots;
use super::verifier::is_provable;

/// The name of the authority that stands for the ordinary roots.
pub const PUBLIC: &str = "public";

/// The ordinary roots, and authorities by name. Cheap to clone.
#[derive(Clone, PartialEq)]
pub struct Authorities {
    public: Roots,
    named: Arc<[Authority]>,
}

/// An authority that is trusted where a connector names it.
#[derive(Clone, PartialEq)]
pub struct Authority {
    /// Its name in rules.
    pub name: Arc<str>,
    /// Its roots.
    pub roots: Roots,
    /// The tenants whose rules may name it; all, if absent.
    pub tenants: Option<Vec<String>>,
}

/// What verifying a chain gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Whether the chain is trusted, or why not.
    pub trust: Trust,
    /// The authorities whose roots it ends at.
    pub anchors: Vec<String>,
    /// Whether an authority in the chain may certify some names only.
    pub constrains_names: bool,
}

impl Authorities {
    /// The ordinary roots, and authorities beside them.
    pub fn new(public: Roots, named: Vec<Authority>) -> Self {
        Authorities {
            public,
            named: named.into(),
        }
    }

    /// The ordinary roots.
    pub fn public(&self) -> &Roots {
        &self.public
    }

    /// The authorities beside them.
    pub fn named(&self) -> &[Authority] {
        &self.named
    }

    /// Verifies a chain, the own certificate first, against all authorities.
    pub fn verify(&self, chain: &[CertificateDer<'_>], purpose: Purpose) -> Verification {
        if !chain.first().is_some_and(is_provable) {
            // Nobody knows whether the peer has the key, so it may be somebody else's certificate.
            return Verification {
                trust: Trust::Invalid,
                anchors: Vec::new(),
                constrains_names: false,
            };
        }
        let ordinary = self.public.verify(chain, purpose);
        // Whoever connects must not have us verify its chain once for each partner.
        let others = self
            .named
            .iter()
            .filter(|authority| authority.roots.may_end(chain))
            .map(|authority| (&*authority.name, authority.roots.verify(chain, purpose)));
        let all = std::iter::once((PUBLIC, ordinary)).chain(others);
        let mut verification = Verification {
            trust: ordinary.trust,
            anchors: Vec::new(),
            constrains_names: false,
        };
        for (name, path) in all {
            verification.add(name, path);
        }
        verification
    }

    /// Those that a tenant's rules may name.
    pub fn for_tenant(&self, tenant: &str) -> Authorities {
        if !self.differ_by_tenant() {
            return self.clone();
        }
        let named = self.named.iter().filter(|it| it.may_be_named_by(tenant));
        Authorities {
            public: self.public.clone(),
            named: named.cloned().collect(),
        }
    }

    /// The anchors that a tenant's rules may name.
    pub fn anchors_for<'a>(
        &self,
        tenant: &str,
        anchors: impl IntoIterator<Item = &'a String>,
    ) -> Vec<String> {
        let may_name = |anchor: &str| {
            let authority = self.named.iter().find(|it| &*it.name == anchor);
            authority.is_none_or(|authority| authority.may_be_named_by(tenant))
        };
        let anchors = anchors.into_iter().filter(|anchor| may_name(anchor));
        anchors.cloned().collect()
    }

    /// Whether a tenant's rules may name an authority: there is one of that name, and it is for this tenant.
    pub fn has(&self, name: &str, tenant: &str) -> bool {
        let mut named = self.named.iter();
        name == PUBLIC || named.any(|it| &*it.name == name && it.may_be_named_by(tenant))
    }

    /// Whether some tenants may name authorities that others may not.
    pub fn differ_by_tenant(&self) -> bool {
        self.named
            .iter()
            .any(|authority| authority.tenants.is_some())
    }
}

impl Authority {
    fn may_be_named_by(&self, tenant: &str) -> bool {
        let tenants = self.tenants.as_ref();
        tenants.is_none_or(|tenants| tenants.iter().any(|it| it == tenant))
    }
}

impl Verification {
    fn add(&mut self, name: &str, path: PathVerification) {
        match path.trust {
            Trust::Trusted => {
                self.trust = Trust::Trusted;
                self.anchors.push(name.to_owned());
                self.constrains_names |= path.constrains_names;
            }
            // Another reason says more than that the chain ends elsewhere.
            other if self.trust == Trust::UnknownIssuer => self.trust = other,
            _ => {}
        }
    }
}
