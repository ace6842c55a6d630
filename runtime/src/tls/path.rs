//! Whether a certificate chain leads to an authority that is trusted: RFC 5280 §6, policies, name constraints of every
//! kind and revocation lists included, as OpenSSL processes them.

#![allow(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use foreign_types::ForeignType;
use memchr::memmem;
use moka::sync::Cache;
use openssl::asn1::{Asn1Object, Asn1Time};
use openssl::error::ErrorStack;
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509CheckFlags, X509VerifyFlags, X509VerifyParam};
use openssl::x509::{
    X509, X509Crl, X509NameRef, X509PurposeId, X509Ref, X509StoreContext, X509VerifyResult,
};
use openssl_sys as ffi;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::octets::{digest_of, dns_names};
use portcullis_types::Trust;

/// Authorities between a certificate and its root.
const DEPTH: i32 = 10;
/// 112 bits of security: RSA from 2048 bits, and neither MD5 nor SHA-1 (openssl-verification-options(1)).
const LEVEL: i32 = 2;
/// OpenSSL follows one path. Where an authority is known by several certificates another one may lead on; so many
/// paths are tried.
const MOST_PATHS: usize = 8;
/// Authorities whose lists are at hand.
const MOST_AUTHORITIES: u64 = 1000;
/// The octets of a revocation list that are read; the largest in use have some ten million.
const LARGEST_CRL: u64 = 64 << 20;

/// What a certificate is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// It is a receiving server's: serverAuth.
    Server,
    /// It is a sending server's: serverAuth, clientAuth or no extended key usage at all. Public authorities no longer
    /// issue clientAuth.
    Peer,
}

/// What is to be said of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathVerification {
    /// Whether it leads to an anchor, or why not.
    pub trust: Trust,
    /// Whether an authority on the way may certify some names only.
    pub constrains_names: bool,
}

impl From<Trust> for PathVerification {
    fn from(trust: Trust) -> Self {
        PathVerification {
            trust,
            constrains_names: false,
        }
    }
}

/// What chains are held against.
pub struct Anchors {
    servers: X509Store,
    clients: X509Store,
    anchors: Vec<X509>,
    lists: Vec<Arc<Crl>>,
    /// Stores with the lists that an authority has signed, by its certificate.
    of_authorities: Cache<[u8; 32], Option<Arc<X509Store>>>,
}

/// A revocation list.
pub struct Crl {
    path: PathBuf,
    digest: [u8; 32],
    list: X509Crl,
}

impl PartialEq for Crl {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.digest == other.digest
    }
}

impl Anchors {
    /// The anchors themselves, each of them an end of chains whoever has issued it, and revocation lists.
    ///
    /// # Errors
    /// If OpenSSL cannot take one of them.
    pub fn new(anchors: &[CertificateDer<'_>], lists: Vec<Arc<Crl>>) -> Result<Self, ErrorStack> {
        let parsed: Vec<X509> = anchors
            .iter()
            .filter_map(|anchor| X509::from_der(anchor).ok())
            .collect();
        forget_errors();
        let policies = X509VerifyFlags::POLICY_CHECK;
        Ok(Anchors {
            servers: store(&parsed, policies, Some(X509PurposeId::SSL_SERVER))?.build(),
            clients: store(&parsed, policies, Some(X509PurposeId::SSL_CLIENT))?.build(),
            anchors: parsed,
            lists,
            of_authorities: Cache::new(MOST_AUTHORITIES),
        })
    }

    /// Whether a chain can end at one of the anchors: one of its certificates is one, or is issued by one. To verify it
    /// costs far more.
    pub fn may_end(&self, chain: &[CertificateDer<'_>]) -> bool {
        let is_anchor = |name: &X509NameRef| {
            let mut anchors = self.anchors.iter();
            anchors.any(|anchor| {
                let order = anchor.subject_name().try_cmp(name);
                order.is_ok_and(|order| order.is_eq())
            })
        };
        let mut chain = chain.iter().filter_map(|der| X509::from_der(der).ok());
        let may_end = chain.any(|it| is_anchor(it.issuer_name()) || is_anchor(it.subject_name()));
        forget_errors();
        may_end
    }

    /// Verifies a chain, the own certificate first.
    pub fn verify(&self, chain: &[CertificateDer<'_>], purpose: Purpose) -> PathVerification {
        let judged = chain
            .split_first()
            .map(|(own, others)| self.try_to_judge(own, others, purpose));
        let judgement = match judged {
            Some(Ok(judgement)) => judgement,
            // What OpenSSL cannot even read.
            Some(Err(_)) | None => Trust::Invalid.into(),
        };
        forget_errors();
        judgement
    }

    fn try_to_judge(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        purpose: Purpose,
    ) -> Result<PathVerification, ErrorStack> {
        let own = X509::from_der(own)?;
        let mut between = Stack::new()?;
        for other in others {
            // One that cannot be read is part of no path.
            if let Ok(other) = X509::from_der(other) {
                between.push(other)?;
            }
        }
        let mut run = best_path(&self.servers, &own, &between)?;
        if purpose == Purpose::Peer && run.code == ffi::X509_V_ERR_INVALID_PURPOSE {
            run = best_path(&self.clients, &own, &between)?;
        }
        match trust_of(run.code, &own) {
            Trust::Trusted => self.look_closer(&run.path),
            other => Ok(other.into()),
        }
    }

    /// What OpenSSL leaves to others, on a path that is trusted otherwise.
    fn look_closer(&self, path: &[X509]) -> Result<PathVerification, ErrorStack> {
        let ders = path
            .iter()
            .map(|certificate| certificate.to_der())
            .collect::<Result<Vec<_>, _>>()?;
        let mut parsed = Vec::new();
        for der in &ders {
            match X509Certificate::from_der(der) {
                Ok((_, certificate)) => parsed.push(certificate),
                Err(_) => return Ok(Trust::Invalid.into()),
            }
        }
        if !respects_excluded_names(&parsed) {
            return Ok(Trust::Invalid.into());
        }
        if self.is_revoked(path)? {
            return Ok(Trust::Revoked.into());
        }
        let constrains =
            |authority: &X509Certificate| !matches!(authority.name_constraints(), Ok(None));
        Ok(PathVerification {
            trust: Trust::Trusted,
            constrains_names: parsed.iter().skip(1).any(constrains),
        })
    }

    /// Whether a certificate of the path, but for the anchor, is on a list of its issuer. Each is looked at by itself:
    /// a list that is missing hides none of the others. A list that is out of date counts all the same; that it is
    /// stale is told elsewhere.
    fn is_revoked(&self, path: &[X509]) -> Result<bool, ErrorStack> {
        if self.lists.is_empty() {
            return Ok(false);
        }
        for place in 0..path.len().saturating_sub(1) {
            let Some(store) = self.lists_of(&path[place + 1])? else {
                continue;
            };
            let mut rest = Stack::new()?;
            for authority in &path[place + 1..] {
                rest.push(authority.clone())?;
            }
            let run = run(&store, &path[place], &rest)?;
            match run.code {
                ffi::X509_V_ERR_CERT_REVOKED => return Ok(true),
                ffi::X509_V_OK | ffi::X509_V_ERR_UNABLE_TO_GET_CRL => {}
                code => {
                    let issuer = format!("{:?}", path[place].issuer_name());
                    let reason = unusable(code);
                    tracing::warn!(issuer, reason, "a revocation list cannot be used");
                }
            }
        }
        Ok(false)
    }

    /// The lists that an authority has signed. OpenSSL takes the newest one by its name before it looks at signatures,
    /// so that a forged list would hide a genuine one. Signatures of long lists take their time, once.
    fn lists_of(&self, authority: &X509) -> Result<Option<Arc<X509Store>>, ErrorStack> {
        let key = digest_of([&authority.to_der()?[..]]);
        if let Some(known) = self.of_authorities.get(&key) {
            return Ok(known);
        }
        let found = self.lists_signed_by(authority)?;
        self.of_authorities.insert(key, found.clone());
        Ok(found)
    }

    fn lists_signed_by(&self, authority: &X509) -> Result<Option<Arc<X509Store>>, ErrorStack> {
        let key = authority.public_key()?;
        let is_signed = |crl: &&Arc<Crl>| {
            let name = crl.list.issuer_name();
            let same = name.try_cmp(authority.subject_name());
            if !same.is_ok_and(|order| order.is_eq()) {
                return false;
            }
            let is_signed = crl.list.verify(&key).unwrap_or(false);
            if !is_signed {
                // Another authority may have the same name, and its lists beside these.
                tracing::warn!(
                    list = %crl.path.display(),
                    issuer = ?name,
                    reason = "its signature is wrong",
                    "a revocation list cannot be used"
                );
            }
            is_signed
        };
        let signed: Vec<&Arc<Crl>> = self.lists.iter().filter(is_signed).collect();
        forget_errors();
        if signed.is_empty() {
            return Ok(None);
        }
        let lists = signed.into_iter().map(|crl| &crl.list);
        Ok(Some(Arc::new(revocations(&self.anchors, lists)?)))
    }
}

/// Why a revocation list does not count, in words.
fn unusable(code: i32) -> &'static str {
    match code {
        ffi::X509_V_ERR_CRL_SIGNATURE_FAILURE => "its signature is wrong",
        ffi::X509_V_ERR_KEYUSAGE_NO_CRL_SIGN => "its issuer may not sign lists",
        ffi::X509_V_ERR_UNHANDLED_CRITICAL_CRL_EXTENSION => "it has an unknown critical extension",
        ffi::X509_V_ERR_DIFFERENT_CRL_SCOPE => "it is for other certificates",
        _ => "it does not fit its issuer",
    }
}

/// A revocation list that is out of date, or cannot be read.
pub struct BadCrl {
    /// Its file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The revocation lists of a folder, and what is wrong with some of them. Where a file cannot be used any more, the list
/// that it had `before` stays: a file that is half written must not make good what is revoked.
///
/// # Errors
/// If the folder cannot be read.
pub fn crls_of(
    folder: &Path,
    before: &[Arc<Crl>],
) -> std::io::Result<(Vec<Arc<Crl>>, Vec<BadCrl>)> {
    let (mut lists, mut bad) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // A link whose target is missing for the moment is none the less a list.
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            continue;
        }
        match read_crl(&path) {
            Ok(crl) => {
                if let Some(reason) = out_of_date(&crl.list) {
                    bad.push(BadCrl { path, reason });
                }
                lists.push(Arc::new(crl));
            }
            Err(mut reason) => {
                if let Some(known) = before.iter().find(|known| known.path == path) {
                    reason.push_str("; the list that it had before stays in force");
                    lists.push(known.clone());
                }
                bad.push(BadCrl { path, reason });
            }
        }
    }
    forget_errors();
    lists.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((lists, bad))
}

fn read_crl(path: &Path) -> Result<Crl, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.len() > LARGEST_CRL {
        return Err(format!("it has more than {LARGEST_CRL} octets"));
    }
    // What is exchanged for a pipe meanwhile must not be waited for.
    let limit = (LARGEST_CRL as usize, "the limit of revocation lists");
    let bytes = crate::file::read(path, limit).map_err(|error| error.to_string())?;
    if memmem::find_iter(&bytes, "-----BEGIN X509 CRL").count() > 1 {
        return Err("it has several lists; give each a file of its own".into());
    }
    let list =
        parsed_crl(&bytes).map_err(|_| "it is no revocation list (PEM or DER)".to_owned())?;
    Ok(Crl {
        path: path.to_owned(),
        digest: digest_of([&bytes[..]]),
        list,
    })
}

/// What is to be said of a list that counts all the same.
fn out_of_date(crl: &X509Crl) -> Option<String> {
    let next = crl.next_update()?;
    let now = Asn1Time::days_from_now(0).ok()?;
    let is_over = *next < *now;
    is_over.then(|| format!("it is out of date since {next}; what it revokes stays revoked"))
}

fn parsed_crl(bytes: &[u8]) -> Result<X509Crl, ErrorStack> {
    match is_der(bytes) {
        true => X509Crl::from_der(bytes),
        false => X509Crl::from_pem(bytes),
    }
}

fn is_der(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x30")
}

fn revocations<'a>(
    anchors: &[X509],
    crls: impl Iterator<Item = &'a X509Crl>,
) -> Result<X509Store, ErrorStack> {
    unsafe extern "C" {
        fn X509_STORE_add_crl(
            store: *mut ffi::X509_STORE,
            crl: *mut ffi::X509_CRL,
        ) -> std::ffi::c_int;
    }
    let flags = X509VerifyFlags::CRL_CHECK
        | X509VerifyFlags::NO_CHECK_TIME
        | X509VerifyFlags::EXTENDED_CRL_SUPPORT
        | X509VerifyFlags::USE_DELTAS;
    let builder = store(anchors, flags, None)?;
    for crl in crls {
        // SAFETY: both are valid, and the store takes a reference of its own (X509_STORE_add_crl(3)).
        let added = unsafe { X509_STORE_add_crl(builder.as_ptr(), crl.as_ptr()) };
        if added != 1 {
            return Err(ErrorStack::get());
        }
    }
    Ok(builder.build())
}

fn store(
    anchors: &[X509],
    flags: X509VerifyFlags,
    purpose: Option<X509PurposeId>,
) -> Result<X509StoreBuilder, ErrorStack> {
    let mut builder = X509StoreBuilder::new()?;
    for anchor in anchors {
        builder.add_cert(anchor.clone())?;
    }
    let mut parameters = X509VerifyParam::new()?;
    let anchored = X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::TRUSTED_FIRST;
    parameters.set_flags(flags | anchored)?;
    parameters.set_depth(DEPTH);
    parameters.set_auth_level(LEVEL);
    // A common name is a name for us only where no name constraints are, so that they need not be held against it.
    parameters.set_hostflags(X509CheckFlags::NEVER_CHECK_SUBJECT);
    if let Some(purpose) = purpose {
        parameters.set_purpose(purpose)?;
    }
    accept_any_policy(&parameters)?;
    builder.set_param(&parameters)?;
    Ok(builder)
}

/// RFC 5280 §6.1.1 (c): any policy will do, as long as one is left where an authority asks for one. Unless it is told
/// so, OpenSSL fails every chain with requireExplicitPolicy.
fn accept_any_policy(parameters: &X509VerifyParam) -> Result<(), ErrorStack> {
    const ANY_POLICY: &str = "2.5.29.32.0";
    unsafe extern "C" {
        fn X509_VERIFY_PARAM_set1_policies(
            parameters: *mut ffi::X509_VERIFY_PARAM,
            policies: *const ffi::stack_st_ASN1_OBJECT,
        ) -> std::ffi::c_int;
    }
    let mut policies = Stack::new()?;
    policies.push(Asn1Object::from_str(ANY_POLICY)?)?;
    // SAFETY: both are valid, and live longer than the call, which copies the policies (X509_VERIFY_PARAM_set_flags(3)).
    let done = unsafe { X509_VERIFY_PARAM_set1_policies(parameters.as_ptr(), policies.as_ptr()) };
    match done {
        1 => Ok(()),
        _ => Err(ErrorStack::get()),
    }
}

/// What came of looking for a path.
struct Run {
    code: i32,
    path: Vec<X509>,
}

fn run(store: &X509Store, own: &X509Ref, others: &Stack<X509>) -> Result<Run, ErrorStack> {
    let mut context = X509StoreContext::new()?;
    context.init(store, own, others, |context| {
        let is_good = context.verify_cert()?;
        let error = context.error();
        let path = context.chain().into_iter().flatten();
        Ok(Run {
            code: match (is_good, error) {
                // Never trusted by accident.
                (false, X509VerifyResult::OK) => ffi::X509_V_ERR_UNSPECIFIED,
                (_, error) => error.as_raw(),
            },
            path: path.map(X509Ref::to_owned).collect(),
        })
    })
}

/// The first path that is good, else the first one. After one that is not, the next is looked for without the
/// authority that is farthest away: a constraint or an end that does not fit comes from there.
fn best_path(store: &X509Store, own: &X509Ref, others: &Stack<X509>) -> Result<Run, ErrorStack> {
    let first = run(store, own, others)?;
    if first.code == ffi::X509_V_OK {
        return Ok(first);
    }
    let is_same =
        |a: &X509Ref, b: &X509Ref| matches!((a.to_der(), b.to_der()), (Ok(a), Ok(b)) if a == b);
    let mut left: Vec<X509> = others.iter().map(X509Ref::to_owned).collect();
    let mut path = first.path.clone();
    for _ in 1..MOST_PATHS {
        let farthest = path.iter().skip(1).rev();
        let known = farthest
            .filter_map(|authority| left.iter().position(|other| is_same(other, authority)))
            .next();
        let Some(place) = known else {
            break;
        };
        left.remove(place);
        let mut others = Stack::new()?;
        for other in &left {
            others.push(other.clone())?;
        }
        let next = run(store, own, &others)?;
        if next.code == ffi::X509_V_OK {
            return Ok(next);
        }
        path = next.path;
    }
    Ok(first)
}

/// Whether no wildcard of the certificate spans a name that an authority must not certify, which OpenSSL lets pass
/// (RFC 5280 §4.2.1.10).
fn respects_excluded_names(path: &[X509Certificate]) -> bool {
    use x509_parser::extensions::GeneralName;
    let Some((own, authorities)) = path.split_first() else {
        return true;
    };
    let names = dns_names(own);
    let wildcards: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_prefix("*."))
        .collect();
    let excluded = authorities
        .iter()
        .filter_map(|authority| authority.name_constraints().ok().flatten())
        .filter_map(|constraints| constraints.value.excluded_subtrees.as_ref())
        .flatten();
    let spanned = |subtree: &x509_parser::extensions::GeneralSubtree| match &subtree.base {
        GeneralName::DNSName(name) => wildcards.iter().any(|base| {
            let parent = name.split_once('.').map(|(_, parent)| parent);
            parent.is_some_and(|parent| parent.eq_ignore_ascii_case(base))
        }),
        _ => false,
    };
    !excluded.into_iter().any(spanned)
}

fn trust_of(code: i32, own: &X509Ref) -> Trust {
    match code {
        ffi::X509_V_OK => Trust::Trusted,
        ffi::X509_V_ERR_CERT_HAS_EXPIRED => Trust::Expired,
        ffi::X509_V_ERR_CERT_NOT_YET_VALID => Trust::NotYetValid,
        ffi::X509_V_ERR_CERT_REVOKED => Trust::Revoked,
        ffi::X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT
        | ffi::X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
        | ffi::X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
        | ffi::X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN
        | ffi::X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE
        | ffi::X509_V_ERR_CERT_UNTRUSTED => Trust::UnknownIssuer,
        // Whatever else is wrong with it, nobody vouches for it.
        _ if is_own_issuer(own) => Trust::UnknownIssuer,
        _ => Trust::Invalid,
    }
}

fn is_own_issuer(own: &X509Ref) -> bool {
    let order = own.subject_name().try_cmp(own.issuer_name());
    order.is_ok_and(|order| order.is_eq())
}

/// What a run leaves in this thread's list of errors would be told of what comes next.
fn forget_errors() {
    drop(ErrorStack::get());
}
