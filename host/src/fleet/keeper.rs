//! What came of the fleet's store, held against the operators' keys: which tenants there are, and by which policies.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis::statement::{
    Accepted, Envelope, Format, MAX_NAME, Payload, PolicyStatement, Roots, StatementError, Subject,
    TenantStatement, Time, Trust, VerifyError, digest_of,
};
use portcullis::store::Snapshot;
use portcullis::{Sha256, normal_domain};

use super::entry::{Entry, EntryError, Key};
use super::status::Exception;
use crate::config::{Config, Given, OPERATOR, Ring, Tenant};
use crate::trust::{DiskLedger, DiskLedgerError, Kept, Write};

/// How many exceptions are remembered.
const MOST_EXCEPTIONS: usize = 10_000;

/// Policies that are made sure of one by one; of more, the file system is told to write all that it has.
const MAX_ALONE: usize = 16;

/// An entry is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It cannot be read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Those who sign it may not, or it is older than what is in force.
    #[error("{what}: {source}")]
    Verify {
        /// Which statement.
        what: &'static str,
        /// Why.
        source: VerifyError,
    },
    /// It is about another tenant than its key.
    #[error("it is about tenant {0:?}")]
    Key(String),
    /// A domain is none.
    #[error("{0:?} is not a domain or *.domain")]
    Domain(String),
    /// A domain is another tenant's.
    #[error("{domain} is a domain of {owner}")]
    DomainTaken {
        /// The domain, in normal form.
        domain: String,
        /// Whose it is.
        owner: String,
    },
    /// The host has a tenant of this name that is not the fleet's.
    #[error("a tenant of this name is in the configuration of the host")]
    Own,
    /// The tenant's name cannot be used.
    #[error("the name of a tenant has at most {MAX_NAME} octets, and is not {OPERATOR:?}")]
    Name,
    /// The policy is too large.
    #[error("the policy has {size} octets; {most} are allowed ([sandbox] policy-size)")]
    Size {
        /// Its size.
        size: u64,
        /// The largest.
        most: usize,
    },
    /// It cannot be kept.
    #[error("it cannot be kept on the disk: {0}")]
    Disk(String),
    /// It is in the store and cannot be had.
    #[error("the entry cannot be fetched: {0}")]
    Fetch(String),
    /// The policy is being fetched.
    #[error("the policy (sha256-{0}) is being fetched")]
    Fetching(Sha256),
    /// The policy has not come.
    #[error("the policy (sha256-{0}) cannot be fetched: {1}")]
    Body(Sha256, String),
}

impl From<DiskLedgerError> for Refusal {
    fn from(error: DiskLedgerError) -> Self {
        Refusal::Disk(error.to_string())
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Disk(error.to_string())
    }
}

/// What an entry means.
#[derive(Debug)]
pub enum Judged {
    /// A tenant has this policy from now on.
    Tenant(Box<Tenant>),
    /// A tenant is taken away.
    Retired(String),
    /// The tenant has it already.
    Same(String),
    /// It concerns others.
    Nothing,
    /// The same once the policy is there.
    NeedsBody {
        /// Its digest.
        sha256: Sha256,
        /// Its size, in octets.
        size: u64,
    },
    /// The operators have other keys.
    Root,
}

impl Judged {
    /// The tenant that has something else from now on.
    pub fn name(&self) -> Option<String> {
        match self {
            Judged::Tenant(tenant) => Some(tenant.name.clone()),
            Judged::Retired(name) => Some(name.clone()),
            Judged::Same(_) | Judged::Nothing | Judged::NeedsBody { .. } | Judged::Root => None,
        }
    }
}

/// What is in the configuration of the host: the fleet takes nothing of it away.
#[derive(Clone, Debug, Default)]
pub struct Own {
    names: HashSet<String>,
    domains: HashSet<String>,
}

impl Own {
    /// Of a configuration.
    pub fn of(config: &Config) -> Self {
        let own = || config.askable().filter(|tenant| tenant.given.is_none());
        let domains = own().flat_map(|tenant| &tenant.domains);
        Own {
            names: own().map(|tenant| tenant.name.clone()).collect(),
            domains: domains.filter_map(|it| normal_domain(it)).collect(),
        }
    }

    /// Whether there is a tenant of that name, or the one before all.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

/// What is known of a tenant.
#[derive(Clone)]
struct Known {
    about: Arc<TenantStatement>,
    /// The policy that it should have.
    wanted: Option<Wanted>,
}

/// What was so before entries were judged that cannot be kept.
enum Undo {
    Known(String, Option<Known>),
    Roots(Arc<Roots>),
}

#[derive(Clone)]
struct Wanted {
    sequence: u64,
    payload: Sha256,
}

/// Keeps what came of the fleet's store, and says what it means.
pub struct Keeper {
    trust: Arc<Trust>,
    disk: Arc<DiskLedger>,
    /// Where policies are.
    folder: PathBuf,
    ring: Ring,
    policy_size: usize,
    own: Arc<ArcSwap<Own>>,
    known: HashMap<String, Known>,
    /// Whose a domain is, in normal form.
    domains: HashMap<String, String>,
    /// Whether a domain has become free that others may have wanted.
    has_released: bool,
    /// Tenants that the operators have named, though nothing may be in force of them.
    vouched: HashSet<String>,
    undo: Vec<Undo>,
    exceptions: BTreeMap<String, Exception>,
    /// How many further ones there have been.
    dropped: usize,
    /// What is to be kept of the entries that were judged.
    writes: Vec<Write>,
    /// The policies that were written, and may not be on the disk yet.
    bodies: Vec<File>,
    /// Whether there are policies that nobody has made sure of.
    is_unsure: bool,
    /// Whether policies were written, so that others may be needed no longer.
    has_written: bool,
}

impl Keeper {
    /// What was kept before, and the tenants of it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(
        trust: Arc<Trust>,
        disk: Arc<DiskLedger>,
        folder: PathBuf,
        ring: Ring,
        (policy_size, own): (usize, Arc<ArcSwap<Own>>),
    ) -> Result<(Self, Vec<Tenant>), Refusal> {
        fs::create_dir_all(&folder)?;
        let mut keeper = Keeper {
            trust,
            disk,
            folder,
            ring,
            policy_size,
            own,
            known: HashMap::new(),
            domains: HashMap::new(),
            has_released: false,
            vouched: HashSet::new(),
            undo: Vec::new(),
            dropped: 0,
            exceptions: BTreeMap::new(),
            writes: Vec::new(),
            bodies: Vec::new(),
            is_unsure: false,
            has_written: true,
        };
        let tenants = keeper.kept()?;
        keeper.tidy();
        Ok((keeper, tenants))
    }

    /// The tenants as they were accepted last.
    fn kept(&mut self) -> Result<Vec<Tenant>, Refusal> {
        let mut by_tenant: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
        for kept in self.disk.kept()? {
            by_tenant.entry(kept.tenant.clone()).or_default().push(kept);
        }
        let mut tenants = Vec::new();
        for (name, kept) in by_tenant {
            if self.own.load().names.contains(&name) {
                self.except(&name, 0, &Refusal::Own);
                continue;
            }
            match self.kept_tenant(&name, &kept) {
                Ok(tenant) => tenants.extend(tenant),
                Err(refusal) => self.except(&name, 0, &refusal),
            }
        }
        Ok(tenants)
    }

    fn kept_tenant(&mut self, name: &str, kept: &[Kept]) -> Result<Option<Tenant>, Refusal> {
        let now = Time::now();
        let about = self.accepted_of(Subject::Tenant, name, kept)?;
        let Some(about) = about.filter(|it| it.payload_type == TenantStatement::TYPE) else {
            return Ok(None);
        };
        let about = self.trust.tenant(&about, name, now);
        let about = Arc::new(about.map_err(of("tenant"))?.statement);
        let mut known = Known {
            about: about.clone(),
            wanted: None,
        };
        let statement = self.accepted_of(Subject::Policy, name, kept)?;
        let tenant = statement.map(|envelope| {
            let statement = envelope
                .statement::<PolicyStatement>()
                .map_err(unreadable)?;
            known.wanted = Some(Wanted {
                sequence: statement.sequence,
                payload: digest_of(&envelope.payload),
            });
            Ok::<_, Refusal>(self.tenant(name, &about, &statement, envelope))
        });
        self.vouched.insert(name.to_owned());
        self.enter_domains(name, &about.domains);
        self.known.insert(name.to_owned(), known);
        tenant.transpose()
    }

    /// The statement that was accepted; of one that was kept when the process ended, it is not known whether it would
    /// have been.
    fn accepted_of(
        &self,
        subject: Subject,
        name: &str,
        kept: &[Kept],
    ) -> Result<Option<Envelope>, Refusal> {
        let accepted = self.trust.accepted(subject, name).map_err(of("ledger"))?;
        let mut of_subject = kept.iter().filter(|it| it.subject == subject);
        let found = match accepted {
            Some(accepted) => of_subject.find(|it| it.payload == accepted.payload),
            None => of_subject.next_back(),
        };
        let envelope = found.map(|kept| Envelope::read(kept.envelope.as_bytes()));
        envelope.transpose().map_err(unreadable)
    }

    /// What an entry means.
    ///
    /// # Errors
    /// Why it is not taken. What is in force stays.
    pub fn judge(&mut self, key: &Key, entry: &Entry) -> Result<Judged, Refusal> {
        let (ring, name) = match (key, entry) {
            (Key::Root(_), Entry::Root(root)) => return self.root(root),
            (Key::Tenant(ring, name), _) => (*ring, name),
            (Key::Root(_), _) => return Err(EntryError::Both.into()),
        };
        if ring < self.ring {
            return Ok(Judged::Nothing);
        }
        if name.len() > MAX_NAME || name == OPERATOR {
            return Err(Refusal::Name);
        }
        if self.own.load().names.contains(name) {
            return Err(Refusal::Own);
        }
        let found = entry.tenant()?;
        if found != *name {
            return Err(Refusal::Key(found));
        }
        match entry {
            Entry::Root(_) => Err(EntryError::Both.into()),
            Entry::Retired(retire) => self.retire(name, retire),
            Entry::Policy {
                about,
                statement,
                body,
            } => {
                let judged = self.policy(name, about, statement, body.as_deref());
                // What is tried out in a ring may be newer than what all have.
                match judged {
                    Err(Refusal::Verify {
                        source: VerifyError::Rollback { .. },
                        ..
                    }) if ring != self.ring => Ok(Judged::Nothing),
                    judged => judged,
                }
            }
        }
    }

    /// The next root, if it is the next.
    fn root(&mut self, root: &Envelope) -> Result<Judged, Refusal> {
        let roots = self.trust.roots();
        let version = super::entry::root_version(root)?;
        if version <= roots.newest().version {
            self.exceptions.remove(&Key::Root(version).to_string());
            return Ok(Judged::Nothing);
        }
        let next = roots.followed_by(root).map_err(of("root"))?;
        self.writes.push(Write::Root(version, root.to_json()));
        self.undo.push(Undo::Roots(roots));
        self.trust.exchange(next);
        self.exceptions.remove(&Key::Root(version).to_string());
        Ok(Judged::Root)
    }

    fn retire(&mut self, name: &str, retire: &Envelope) -> Result<Judged, Refusal> {
        let verified = self.trust.retirement(retire, name, Time::now());
        let verified = verified.map_err(of("retire"))?;
        self.accept(name, retire, verified.accepted);
        self.settle(Subject::Policy, name, None);
        // Under whatever statement it comes back, its policies need new signatures.
        self.writes.push(Write::Forget(name.into()));
        self.exceptions.remove(name);
        self.vouched.remove(name);
        let known = self.known.remove(name);
        self.exchange_domains(name, &[]);
        self.undo.push(Undo::Known(name.into(), known.clone()));
        match known {
            Some(_) => Ok(Judged::Retired(name.into())),
            None => Ok(Judged::Nothing),
        }
    }

    fn policy(
        &mut self,
        name: &str,
        about: &Envelope,
        statement: &Envelope,
        body: Option<&[u8]>,
    ) -> Result<Judged, Refusal> {
        let (about, is_new) = self.about(name, about)?;
        let verified = self
            .trust
            .policy(statement, name, Some(&about), Time::now());
        let verified = verified.map_err(of("policy"))?;
        let said = &verified.statement;
        let payload = verified.accepted.payload;
        let known = self.known.get(name).and_then(|known| known.wanted.as_ref());
        let is_same = known.is_some_and(|it| it.payload == payload) && !is_new;
        // What has failed may succeed now.
        if is_same && !self.exceptions.contains_key(name) {
            return Ok(Judged::Same(name.into()));
        }
        if said.size > self.policy_size as u64 {
            let (size, most) = (said.size, self.policy_size);
            return Err(Refusal::Size { size, most });
        }
        let place = self.place(said);
        let is_there = fs::read(&place).is_ok_and(|there| digest_of(&there) == said.sha256);
        if !is_there {
            let Some(body) = body else {
                let (sha256, size) = (said.sha256, said.size);
                return Ok(Judged::NeedsBody { sha256, size });
            };
            let is_of = verified.is_of(said.format, body.len(), digest_of(body));
            is_of.map_err(of("policy"))?;
            self.write(&place, body)?;
        }
        self.keep(Subject::Policy, name, statement);
        let tenant = self.tenant(name, &about, said, statement.clone());
        let wanted = Some(Wanted {
            sequence: said.sequence,
            payload,
        });
        let before = self.known.insert(name.into(), Known { about, wanted });
        self.undo.push(Undo::Known(name.into(), before));
        Ok(Judged::Tenant(Box::new(tenant)))
    }

    /// What the operators say about a tenant, and whether that is new.
    fn about(
        &mut self,
        name: &str,
        envelope: &Envelope,
    ) -> Result<(Arc<TenantStatement>, bool), Refusal> {
        let verified = match (
            self.trust.tenant(envelope, name, Time::now()),
            self.known.get(name),
        ) {
            // Whoever publishes for another ring may not have had the newest.
            (Err(VerifyError::Rollback { .. }), Some(known)) => {
                return Ok((known.about.clone(), false));
            }
            (verified, _) => verified.map_err(of("tenant"))?,
        };
        if let (true, Some(known)) = (verified.is_known, self.known.get(name)) {
            return Ok((known.about.clone(), false));
        }
        // It is a tenant, whether it can have all that it claims or not.
        self.vouched.insert(name.into());
        self.may_have(name, &verified.statement.domains)?;
        self.accept(name, envelope, verified.accepted);
        self.exchange_domains(name, &verified.statement.domains);
        let about = Arc::new(verified.statement);
        // Its policy may be refused, and it is the tenant all the same.
        if let Some(known) = self.known.get_mut(name) {
            self.undo
                .push(Undo::Known(name.into(), Some(known.clone())));
            known.about = about.clone();
        }
        Ok((about, true))
    }

    /// Whether no domain is somebody else's: nobody's mail comes under another's rules because somebody claims it.
    fn may_have(&self, name: &str, domains: &[String]) -> Result<(), Refusal> {
        let own = self.own.load();
        for domain in domains {
            let Some(domain) = normal_domain(domain) else {
                return Err(Refusal::Domain(domain.clone()));
            };
            let owner = match self.domains.get(&domain) {
                Some(owner) if owner != name => format!("tenant {owner:?}"),
                _ if own.domains.contains(&domain) => "the configuration of the host".into(),
                _ => continue,
            };
            return Err(Refusal::DomainTaken { domain, owner });
        }
        Ok(())
    }

    fn enter_domains(&mut self, name: &str, domains: &[String]) {
        let domains = domains.iter().filter_map(|it| normal_domain(it));
        self.domains.extend(domains.map(|it| (it, name.to_owned())));
    }

    /// A tenant has these domains, and no others any more.
    fn exchange_domains(&mut self, name: &str, domains: &[String]) {
        let before = self.domains.extract_if(|_, owner| owner == name);
        let before: Vec<String> = before.map(|(domain, _)| domain).collect();
        self.enter_domains(name, domains);
        let is_free = |domain: &String| !self.domains.contains_key(domain);
        self.has_released |= before.iter().any(is_free);
    }

    /// Whether a domain has become free since somebody asked.
    pub fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.has_released)
    }

    /// A statement about a tenant, or its retirement, holds from now on.
    fn accept(&mut self, name: &str, envelope: &Envelope, accepted: Accepted) {
        self.keep(Subject::Tenant, name, envelope);
        self.writes
            .push(Write::Accept(Subject::Tenant, name.into(), accepted));
        self.settle(Subject::Tenant, name, Some(accepted.payload));
    }

    fn keep(&mut self, subject: Subject, name: &str, envelope: &Envelope) {
        self.writes.push(Write::Keep(Kept {
            subject,
            tenant: name.into(),
            payload: digest_of(&envelope.payload),
            envelope: envelope.to_json(),
        }));
    }

    fn settle(&mut self, subject: Subject, name: &str, payload: Option<Sha256>) {
        self.writes
            .push(Write::Settle(subject, name.into(), payload));
    }

    /// Keeps what came of the entries that were judged: it is on the disk when this ends.
    ///
    /// # Errors
    /// If it cannot be kept. Then nothing of it may be handed over.
    pub fn commit(&mut self) -> Result<(), Refusal> {
        let (bodies, writes) = (
            std::mem::take(&mut self.bodies),
            std::mem::take(&mut self.writes),
        );
        let folder = File::open(&self.folder)?;
        match bodies.len() {
            0 if !self.is_unsure => {}
            1..=MAX_ALONE if !self.is_unsure => {
                // If that fails, others may be in doubt as well.
                self.is_unsure = true;
                bodies.iter().try_for_each(File::sync_all)?;
                folder.sync_all()?;
            }
            _ => rustix::fs::syncfs(&folder).map_err(io::Error::from)?,
        }
        self.is_unsure = false;
        self.disk.write(&writes)?;
        self.undo.clear();
        Ok(())
    }

    /// What was judged could not be kept: all is as before, and it has to come again.
    pub fn undo(&mut self) {
        self.is_unsure |= !self.bodies.is_empty();
        (self.writes, self.bodies) = (Vec::new(), Vec::new());
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Roots(roots) => self.trust.exchange(Roots::clone(&roots)),
                Undo::Known(name, Some(known)) => drop(self.known.insert(name, known)),
                Undo::Known(name, None) => drop(self.known.remove(&name)),
            }
        }
        self.domains.clear();
        let all: Vec<(String, Arc<TenantStatement>)> = self
            .known
            .iter()
            .map(|(name, known)| (name.clone(), known.about.clone()))
            .collect();
        for (name, about) in all {
            self.enter_domains(&name, &about.domains);
        }
    }

    fn tenant(
        &self,
        name: &str,
        about: &Arc<TenantStatement>,
        said: &PolicyStatement,
        envelope: Envelope,
    ) -> Tenant {
        Tenant {
            name: name.into(),
            domains: about.domains.clone(),
            policy: self.place(said),
            tests: None,
            next_hop: None,
            file: None,
            given: Some(Given {
                about: about.clone(),
                policy: Arc::new(envelope),
            }),
        }
    }

    fn place(&self, said: &PolicyStatement) -> PathBuf {
        let name = format!("{}.{}", said.sha256, said.format.name());
        self.folder.join(name)
    }

    /// Keeps a policy that was fetched, if it is the one.
    ///
    /// # Errors
    /// If it is not, or cannot be kept.
    pub fn keep_body(
        &mut self,
        sha256: Sha256,
        format: Format,
        body: &[u8],
    ) -> Result<(), Refusal> {
        let found = digest_of(body);
        if found != sha256 {
            let reason = format!("what came has the SHA-256 {found}");
            return Err(Refusal::Body(sha256, reason));
        }
        self.write(
            &self.folder.join(format!("{sha256}.{}", format.name())),
            body,
        )
    }

    /// Writes a file as a whole.
    fn write(&mut self, place: &Path, body: &[u8]) -> Result<(), Refusal> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        io::Write::write_all(&mut file, body)?;
        let file = file.persist(place).map_err(|error| error.error)?;
        self.bodies.push(file);
        self.has_written = true;
        Ok(())
    }

    /// Takes note of what became of tenants that were handed over: each has what it should, or is an exception.
    pub fn note(&mut self, names: &HashSet<String>, policies: &Snapshot) {
        let mut settled = Vec::new();
        for name in names {
            let Some(wanted) = self.known.get(name).and_then(|known| known.wanted.as_ref()) else {
                continue;
            };
            let (sequence, payload) = (wanted.sequence, wanted.payload);
            let tenant = policies.named(name);
            let in_force = tenant.and_then(|tenant| tenant.in_force?.sequence);
            let taken = tenant.and_then(|it| it.statement());
            if taken.is_some_and(|taken| taken.accepted.payload == payload) {
                self.exceptions.remove(name);
                // It is known by the ledger: what was kept beside it is needed no longer.
                settled.push(Write::Settle(Subject::Policy, name.clone(), Some(payload)));
                continue;
            }
            let rejected = tenant.and_then(|tenant| tenant.rejected.clone());
            let is_pending = rejected.is_none();
            let reason = rejected.map_or("it is still being read".into(), |it| it.to_string());
            self.exceptions.insert(
                name.clone(),
                Exception {
                    tenant: name.clone(),
                    sequence,
                    in_force,
                    reason,
                    is_pending,
                },
            );
        }
        if let Err(error) = self.disk.write(&settled) {
            tracing::warn!(%error, "older statements are still kept");
        }
    }

    /// Takes note of an entry that is not taken; it was to have this sequence.
    pub fn except(&mut self, name: &str, sequence: u64, refusal: &Refusal) {
        let exception = Exception {
            tenant: name.into(),
            sequence,
            in_force: None,
            reason: refusal.to_string(),
            is_pending: matches!(refusal, Refusal::Fetching(_)),
        };
        match self.exceptions.len() < MOST_EXCEPTIONS || self.exceptions.contains_key(name) {
            true => drop(self.exceptions.insert(name.into(), exception)),
            false => self.dropped += 1,
        }
    }

    /// Whether the operators have named a tenant.
    pub fn is_vouched(&self, name: &str) -> bool {
        self.vouched.contains(name)
    }

    /// The tenants of the fleet that the configuration of the host has taken over.
    pub fn taken_over(&self) -> Vec<Exception> {
        let own = self.own.load();
        let names = own
            .names
            .iter()
            .filter(|name| self.known.contains_key(*name));
        let exception = |name: &String| Exception {
            tenant: name.clone(),
            sequence: 0,
            in_force: None,
            reason: Refusal::Own.to_string(),
            is_pending: false,
        };
        names.map(exception).collect()
    }

    /// How many exceptions are not remembered.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Whether there is a tenant, as the operators say, that this host has nothing of.
    pub fn lacks(&self, policies: &Snapshot) -> bool {
        let has = |name: &str| policies.named(name).is_some_and(|it| it.has_policy());
        let mut excepted = self.exceptions.keys();
        self.dropped > 0 || excepted.any(|name| self.vouched.contains(name) && !has(name))
    }

    /// An entry is no longer there.
    pub fn settled(&mut self, name: &str) {
        self.exceptions.remove(name);
    }

    /// Those that have not what they should.
    pub fn exceptions(&self) -> impl Iterator<Item = &Exception> {
        self.exceptions.values()
    }

    /// Whether there is such a tenant.
    pub fn has(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// The tenants that there are.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.known.keys()
    }

    /// Removes policies that nobody has any more, if there may be some.
    pub fn tidy(&mut self) {
        if !std::mem::take(&mut self.has_written) {
            return;
        }
        // Where it cannot be told which are needed, all stay.
        let Ok(kept) = self.disk.kept() else {
            return;
        };
        let of_policies = kept.iter().filter(|it| it.subject == Subject::Policy);
        let places = of_policies.filter_map(|kept| {
            let envelope = Envelope::read(kept.envelope.as_bytes()).ok()?;
            Some(self.place(&envelope.statement::<PolicyStatement>().ok()?))
        });
        let used: HashSet<PathBuf> = places.collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if !used.contains(&entry.path()) {
                // The next time, otherwise.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn of(what: &'static str) -> impl Fn(VerifyError) -> Refusal {
    move |source| Refusal::Verify { what, source }
}

fn unreadable(error: StatementError) -> Refusal {
    Refusal::Disk(error.to_string())
}
