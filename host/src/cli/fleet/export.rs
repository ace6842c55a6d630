//! `portcullis fleet export`: a store as files.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use rustix::fs::{FlockOperation, flock, syncfs};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::ready::{Owners, Ready, tenant_of};
use super::store::{StoreArgs, WHOSE};
use crate::cli::paint::printable;
use crate::cli::signed::{read_statement, statement_in};
use crate::cli::{output, policy};
use crate::config::Ring;
use crate::fleet::{
    Entry, INDEX, Index, Key, MAX_ENTRY, Nats, Object, SHARDS, object_path, read_shard, shard_of,
    shard_to_json,
};
use crate::trust::{NoLedger, read_roots};
use portcullis::statement::{
    Envelope, Format, PolicyStatement, Retirement, Root, Roots, TenantStatement, Time, digest_of,
};
use portcullis::store::{statement_beside, tenant_statement_beside};
use portcullis::{Engine, Sha256, read_file};

/// The largest file that this command has written.
const MAX_FILE: usize = 64 << 20;
/// How the name of a file ends that takes a tenant away.
const RETIRE: &str = ".retire.dsse.json";

/// Write a store as files, for a web server, S3, a CDN, or a USB stick
///
/// Hosts follow them with `[fleet] url`. All files but index.json are named by their digest and never change, so copy index.json last.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis fleet export /srv/fleet --config portcullis.toml
  portcullis fleet export /media/usb --policies signed --root root.json")]
pub(super) struct Export {
    /// Where to
    folder: PathBuf,
    /// Not what is in NATS, but the signed policies in this folder: NAME.json or NAME.wasm with NAME.dsse.json and NAME.tenant.dsse.json, and NAME.retire.dsse.json
    #[arg(long, value_name = "FOLDER", conflicts_with = "servers")]
    policies: Option<PathBuf>,
    /// Remove files that the index names no more; hosts that still have an older one may miss them
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// What is to be written.
#[derive(Default)]
struct Content {
    /// What tells the store from others.
    store: Option<String>,
    /// The least revision that it has.
    revision: u64,
    entries: BTreeMap<Key, Written>,
    /// Policies that are too large for their entries.
    bodies: BTreeMap<Sha256, Vec<u8>>,
    /// What is not as it should be.
    wrong: Vec<String>,
}

/// An entry.
enum Written {
    /// As it came, or was made.
    New(Vec<u8>),
    /// As it was before.
    Kept(Object),
}

impl Export {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let target = Target::open(&self.folder)?;
        let before = target.before()?;
        let content = match &self.policies {
            None => of_nats(&self.store, &target).await?,
            Some(folder) => {
                let root = self.store.root()?.context(WHOSE)?;
                of_folder(folder, &root, (&target, &before)).await?
            }
        };
        let wrong = content.wrong.clone();
        let written = target.write(&before, content)?;
        let removed = match self.prune {
            true => target.prune()?,
            false => 0,
        };
        output::result(&format!(
            "{} entries, revision {} of the store of {}: {} files written, {removed} removed\n",
            written.entries, written.revision, written.store, written.files
        ))?;
        match wrong.is_empty() {
            true => Ok(()),
            false => bail!("not all is there that should be:\n{}", wrong.join("\n")),
        }
    }
}

/// What is in NATS.
async fn of_nats(store: &StoreArgs, target: &Target) -> anyhow::Result<Content> {
    let (nats, _) = store.open().await?;
    let stream = nats.stream().await?;
    let mut content = Content {
        store: Some(stream.created),
        revision: stream.last,
        ..Content::default()
    };
    for found in nats.all().await? {
        content.revision = content.revision.max(found.revision);
        let Some(value) = found.value else { continue };
        // Other keys are none of ours.
        let Some(key) = Key::read(&found.key) else {
            continue;
        };
        if value.len() > MAX_ENTRY {
            let text = format!("{key} is left out: it has more than {MAX_ENTRY} octets");
            content.wrong.push(text);
            continue;
        }
        // What no host can read, hosts tell, and know that there may be a tenant.
        let body_of = Entry::read(&value).ok().as_ref().and_then(body_of);
        if let Some((sha256, size)) = body_of.filter(|(sha256, _)| !target.has(*sha256)) {
            match body(&nats, sha256, size).await {
                Ok(body) => drop(content.bodies.insert(sha256, body)),
                // Hosts defer the tenant's mail: they would not, if they knew nothing of it.
                Err(error) => content
                    .wrong
                    .push(format!("{key} is there without its policy: {error:#}")),
            }
        }
        content.entries.insert(key, Written::New(value.to_vec()));
    }
    Ok(content)
}

/// The policy that is not in its entry.
fn body_of(entry: &Entry) -> Option<(Sha256, u64)> {
    let Entry::Policy {
        statement,
        body: None,
        ..
    } = entry
    else {
        return None;
    };
    let said = statement.statement::<PolicyStatement>().ok()?;
    Some((said.sha256, said.size))
}

async fn body(nats: &Nats, sha256: Sha256, size: u64) -> anyhow::Result<Vec<u8>> {
    let body = nats.body(sha256, size).await?;
    match digest_of(&body) == sha256 {
        true => Ok(body),
        false => bail!("its policy is not the one that was signed"),
    }
}

/// What is in a folder, as those who sign have put it there. What cannot be published is as it was before.
async fn of_folder(
    folder: &Path,
    root: &Path,
    (target, before): (&Target, &Before),
) -> anyhow::Result<Content> {
    let roots = read_roots(root)?;
    let engine = policy::engine(policy::limits())?;
    let mut content = Content::default();
    for envelope in Envelope::read_all(&read_file(root, (MAX_FILE, "root statements"))?)? {
        let version = envelope.statement::<Root>()?.version;
        let json = Entry::Root(envelope).to_json();
        content
            .entries
            .insert(Key::Root(version), Written::New(json));
    }
    let mut found: BTreeMap<String, (PathBuf, Entry)> = BTreeMap::new();
    for file in files_in(folder)? {
        let Signed {
            tenant,
            entry,
            large,
        } = match read_signed(&file, &engine, &roots).await {
            Ok(Some(signed)) => signed,
            Ok(None) => continue,
            Err(error) => {
                content.wrong.push(format!("{error:#}"));
                continue;
            }
        };
        // A tenant that was taken away may be there again, and the other way round.
        let other = found.get(&tenant);
        match other.map(|(_, other)| order(other).0.cmp(&order(&entry).0)) {
            Some(Ordering::Equal) => bail!(
                "{}: another file here is about the same tenant, and nobody can tell which one counts",
                file.display()
            ),
            Some(Ordering::Greater) => continue,
            Some(Ordering::Less) | None => {}
        }
        content.bodies.extend(large);
        found.insert(tenant, (file, entry));
    }
    let mut owners = Owners::default();
    for (_, entry) in found.values() {
        if let Some(about) = entry.about() {
            owners.enter(&about.statement()?)?;
        }
    }
    for (tenant, (file, entry)) in found {
        let key = Key::Tenant(Ring::All, tenant);
        match before.is_followed_by(target, &key, &entry) {
            Ok(()) => drop(content.entries.insert(key, Written::New(entry.to_json()))),
            Err(error) => content.wrong.push(format!("{}: {error:#}", file.display())),
        }
    }
    for (key, object) in &before.entries {
        if content.entries.contains_key(key) {
            continue;
        }
        let is_wrong = !content.wrong.is_empty();
        if is_wrong {
            content.entries.insert(key.clone(), Written::Kept(*object));
        } else if let Key::Tenant(_, tenant) = key {
            output::tell(&format!(
                "{} was there before and is not now; hosts keep it. portcullis sign retire takes it away\n",
                printable(tenant)
            ));
        }
    }
    Ok(content)
}

fn files_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for file in read {
        files.push(file?.path());
    }
    files.sort();
    Ok(files)
}

/// What a file says about a tenant.
struct Signed {
    tenant: String,
    entry: Entry,
    /// The policy, if it is too large for the entry.
    large: Option<(Sha256, Vec<u8>)>,
}

/// What a file says; `None` if it is no policy that is signed, and takes no tenant away.
async fn read_signed(
    file: &Path,
    engine: &Engine,
    roots: &Roots,
) -> anyhow::Result<Option<Signed>> {
    if file.to_string_lossy().ends_with(RETIRE) {
        let (tenant, entry) = retirement(file, roots)?;
        return Ok(Some(Signed {
            tenant,
            entry,
            large: None,
        }));
    }
    if Format::of(file).is_none() || !statement_beside(file).exists() {
        return Ok(None);
    }
    let about = read_statement(&tenant_statement_beside(file))?;
    let ready = Ready::read(file, about, (engine, roots)).await?;
    Ok(Some(Signed {
        tenant: tenant_of(file)?,
        entry: ready.entry,
        large: ready.large,
    }))
}

/// The sequences that hosts hold against those that they have: of what the operators say about the tenant, then of the
/// policy. With 0 for what cannot be told.
fn order(entry: &Entry) -> (u64, u64) {
    let about = entry.about().map(Envelope::statement::<TenantStatement>);
    match about {
        Some(about) => (about.map_or(0, |it| it.sequence), entry.sequence()),
        None => (entry.sequence(), 0),
    }
}

fn told((about, policy): (u64, u64)) -> String {
    format!("sequence {policy} (of the tenant {about})")
}

fn retirement(file: &Path, roots: &Roots) -> anyhow::Result<(String, Entry)> {
    let envelope = read_statement(file)?;
    let said: Retirement = statement_in(file, &envelope)?;
    let verified = roots.retirement(&envelope, &said.tenant, &NoLedger, Time::now());
    verified.with_context(|| file.display().to_string())?;
    Ok((said.tenant, Entry::Retired(envelope)))
}

/// The folder that is written to.
struct Target {
    folder: PathBuf,
    /// Nobody else writes to it meanwhile.
    lock: File,
}

/// What is in it already.
struct Before {
    index: Option<Index>,
    entries: BTreeMap<Key, Object>,
}

impl Before {
    /// Whether hosts that have this take an entry.
    fn is_followed_by(&self, target: &Target, key: &Key, entry: &Entry) -> anyhow::Result<()> {
        let Some(object) = self.entries.get(key) else {
            return Ok(());
        };
        let place = target.folder.join(object.path());
        let of_place = || format!("cannot read {}", place.display());
        let old = read_file(&place, (MAX_FILE, "an entry")).with_context(of_place)?;
        // What nobody can read is followed by anything.
        let Ok(old) = Entry::read(&old) else {
            return Ok(());
        };
        let (was, is) = (order(&old), order(entry));
        let are_policies = was.1 > 0 && is.1 > 0;
        let is_other = old.to_json() != entry.to_json();
        if is.0 < was.0 || are_policies && (is.1 < was.1 || is.1 == was.1 && is != was) {
            bail!(
                "{} was there before, and hosts take no lower one than they have; it is {} now",
                told(was),
                told(is)
            );
        }
        if is_other && are_policies && is == was {
            bail!(
                "another policy with {} was there before, and hosts take the first",
                told(was)
            );
        }
        Ok(())
    }
}

/// What was written.
struct Account {
    store: String,
    revision: u64,
    entries: usize,
    files: usize,
}

impl Target {
    fn open(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let lock = File::open(folder)
            .with_context(|| format!("cannot open the folder {}", folder.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => bail!("another export writes to {}", folder.display()),
            Err(error) => {
                let text = format!("{} cannot be locked", folder.display());
                return Err(anyhow::Error::from(error).context(text));
            }
        }
        Ok(Target {
            folder: folder.to_owned(),
            lock,
        })
    }

    fn before(&self) -> anyhow::Result<Before> {
        let place = self.folder.join(INDEX);
        if !place.exists() {
            return Ok(Before {
                index: None,
                entries: BTreeMap::new(),
            });
        }
        let of_place = || {
            format!(
                "{} is damaged; export to another folder, or remove it to begin anew",
                place.display()
            )
        };
        let index = read_file(&place, (MAX_FILE, "an index")).with_context(of_place)?;
        let index = Index::read(&index).with_context(of_place)?;
        let mut entries = BTreeMap::new();
        for (number, shard) in index.shards.iter().enumerate() {
            if let Some(shard) = shard {
                let place = self.folder.join(shard.path());
                let of_place = || place.display().to_string();
                let shard = read_file(&place, (MAX_FILE, "a shard")).with_context(of_place)?;
                entries.extend(read_shard(&shard, number).with_context(of_place)?);
            }
        }
        Ok(Before {
            index: Some(index),
            entries,
        })
    }

    /// Writes files, and the index once all others are on the disk.
    fn write(&self, before: &Before, content: Content) -> anyhow::Result<Account> {
        let mut files = 0;
        for body in content.bodies.values() {
            files += usize::from(self.put(body)?.1);
        }
        let mut shards: Vec<BTreeMap<&Key, Object>> = vec![BTreeMap::new(); SHARDS];
        for (key, entry) in &content.entries {
            let (object, is_new) = match entry {
                Written::New(json) => self.put(json)?,
                Written::Kept(object) => (*object, false),
            };
            files += usize::from(is_new);
            shards[shard_of(key)].insert(key, object);
        }
        let mut named = Vec::with_capacity(SHARDS);
        for shard in shards
            .iter()
            .map(|shard| shard.iter().map(|(key, object)| (*key, object)))
        {
            let json = (shard.len() > 0).then(|| shard_to_json(shard));
            let put = json.map(|json| self.put(&json)).transpose()?;
            files += usize::from(put.is_some_and(|(_, is_new)| is_new));
            named.push(put.map(|(object, _)| object));
        }
        let of_before = before.index.as_ref();
        let is_same = of_before.is_some_and(|it| it.shards == named);
        let of_store = |index: &&Index| content.store.as_ref().is_none_or(|it| *it == index.store);
        let before = of_before.filter(of_store);
        // Hosts notice by the revision that there is more than before.
        let after = before.map_or(1, |index| index.revision + u64::from(!is_same));
        let revision = content.revision.max(after);
        let store = before.map(|index| index.store.clone()).or(content.store);
        let store = store.unwrap_or_else(|| Time::now().to_string());
        let index = Index::of(store.clone(), revision, named);
        if of_before != Some(&index) {
            self.put_index(&index)?;
            files += 1;
        } else if files > 0 {
            // What was damaged was written again.
            syncfs(&self.lock).context("the disk does not take it")?;
        }
        Ok(Account {
            store,
            revision,
            entries: content.entries.len(),
            files,
        })
    }

    fn has(&self, sha256: Sha256) -> bool {
        let there = fs::read(self.folder.join(object_path(sha256)));
        there.is_ok_and(|there| digest_of(&there) == sha256)
    }

    /// Writes a file that is named by its digest, unless it is there.
    fn put(&self, content: &[u8]) -> anyhow::Result<(Object, bool)> {
        let object = Object::of(content);
        let place = self.folder.join(object.path());
        // What was cut off is written again.
        let is_there = fs::read(&place).is_ok_and(|there| digest_of(&there) == object.sha256);
        if !is_there {
            let write = || {
                temporary(&place, content)?
                    .persist(&place)
                    .map_err(|it| it.error)
            };
            write().with_context(|| unwritable(&place))?;
        }
        Ok((object, !is_there))
    }

    /// Writes the index, once all that it names is on the disk.
    fn put_index(&self, index: &Index) -> anyhow::Result<()> {
        let place = self.folder.join(INDEX);
        let write = || {
            syncfs(&self.lock)?;
            let file = temporary(&place, &index.to_json())?;
            file.as_file().sync_all()?;
            file.persist(&place).map_err(|error| error.error)?;
            self.lock.sync_all()
        };
        write().with_context(|| unwritable(&place))
    }

    /// Removes what the index does not name; gives how many files.
    fn prune(&self) -> anyhow::Result<usize> {
        let before = self.before()?;
        let shards = before.index.iter().flat_map(|index| &index.shards);
        let mut named: HashSet<PathBuf> = shards
            .flatten()
            .chain(before.entries.values())
            .map(|object| self.folder.join(object.path()))
            .collect();
        for object in before.entries.values() {
            let place = self.folder.join(object.path());
            let entry = read_file(&place, (MAX_FILE, "an entry"))
                .with_context(|| format!("cannot read {}", place.display()))?;
            let body = Entry::read(&entry).ok().as_ref().and_then(body_of);
            named.extend(body.map(|(sha256, _)| self.folder.join(object_path(sha256))));
        }
        let mut removed = 0;
        let objects = self.folder.join("sha256");
        for folder in fs::read_dir(&objects).into_iter().flatten() {
            let folder = folder?;
            // Links lead to what is somebody else's.
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let place = file.path();
                let digest = Sha256::parse(&file.file_name().to_string_lossy());
                let is_ours = digest.is_some_and(|it| self.folder.join(object_path(it)) == place);
                if is_ours && file.file_type()?.is_file() && !named.contains(&place) {
                    fs::remove_file(&place)
                        .with_context(|| format!("cannot remove {}", place.display()))?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// A file beside a place with what is to be there, which anybody may read: a web server gives it away.
fn temporary(place: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let folder = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    file.write_all(content)?;
    Ok(file)
}

fn unwritable(place: &Path) -> String {
    format!("cannot write {}", place.display())
}
