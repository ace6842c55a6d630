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
use tempfile::NamedTempFile;

use super::ready::{Owners, Ready, tenant_of};
use super::store::{StoreArgs, WHOSE};
use crate::cli::output;
use crate::cli::paint::printable;
use crate::cli::signed::{read_statement, statement_in};
use crate::config::Ring;
use crate::fleet::{
    Entry, INDEX, Index, Key, Nats, Object, SHARDS, object_path, read_shard, shard_of,
    shard_to_json,
};
use crate::trust::{NoLedger, read_roots};
use portcullis::statement::{
    Envelope, Format, PolicyStatement, Retirement, Root, Roots, TenantStatement, Time, digest_of,
};
use portcullis::store::{statement_beside, tenant_statement_beside};
use portcullis::{Sha256, read_file};

/// The largest file that this command has written.
const MOST: usize = 64 << 20;
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
struct Content {
    /// What tells the store from others.
    store: Option<String>,
    revision: Option<u64>,
    entries: BTreeMap<Key, Entry>,
    /// Policies that are too large for their entries.
    bodies: BTreeMap<Sha256, Vec<u8>>,
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
                let content = of_folder(folder, &root).await?;
                before.is_followed_by(&target, &content)?;
                content
            }
        };
        let written = target.write(&before, content)?;
        let removed = match self.prune {
            true => target.prune()?,
            false => 0,
        };
        output::result(&format!(
            "{} entries, revision {} of the store of {}: {} files written, {removed} removed\n",
            written.entries, written.revision, written.store, written.files
        ))
    }
}

/// What is in NATS.
async fn of_nats(store: &StoreArgs, target: &Target) -> anyhow::Result<Content> {
    let (nats, _) = store.open().await?;
    let stream = nats.stream().await?;
    let (mut entries, mut bodies) = (BTreeMap::new(), BTreeMap::new());
    let mut last = stream.last;
    for found in nats.all().await? {
        last = last.max(found.revision);
        let Some(value) = found.value else { continue };
        let (Some(key), Ok(entry)) = (Key::read(&found.key), Entry::read(&value)) else {
            let name = printable(&found.key).to_string();
            output::tell(&format!("{name} is left out: no host can read it\n"));
            continue;
        };
        if let Some((sha256, size)) = body_of(&entry).filter(|(sha256, _)| !target.has(*sha256)) {
            match body(&nats, sha256, size).await {
                Ok(body) => drop(bodies.insert(sha256, body)),
                Err(error) => {
                    output::tell(&format!("{key} is left out: {error:#}\n"));
                    continue;
                }
            }
        }
        entries.insert(key, entry);
    }
    Ok(Content {
        store: Some(stream.created),
        revision: Some(last),
        entries,
        bodies,
    })
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

/// What is in a folder, as those who sign have put it there.
async fn of_folder(folder: &Path, root: &Path) -> anyhow::Result<Content> {
    let roots = read_roots(root)?;
    let mut content = Content {
        store: None,
        revision: None,
        entries: BTreeMap::new(),
        bodies: BTreeMap::new(),
    };
    for envelope in Envelope::read_all(&read_file(root, (MOST, "root statements"))?)? {
        let version = envelope.statement::<Root>()?.version;
        content
            .entries
            .insert(Key::Root(version), Entry::Root(envelope));
    }
    let read = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for file in read {
        files.push(file?.path());
    }
    files.sort();
    let mut owners = Owners::default();
    for file in &files {
        let name = file.to_string_lossy();
        let (tenant, entry) = if name.ends_with(RETIRE) {
            retirement(file, &roots)?
        } else if Format::of(file).is_some() && statement_beside(file).exists() {
            let about = read_statement(&tenant_statement_beside(file))?;
            let ready = Ready::read(file, about, &roots).await?;
            owners.enter(&ready.about)?;
            content.bodies.extend(ready.large);
            (tenant_of(file)?, ready.entry)
        } else {
            continue;
        };
        let key = Key::Tenant(Ring::All, tenant);
        // A tenant that was taken away may be there again, and the other way round.
        let other = content.entries.get(&key);
        match other.map(|other| order(other).0.cmp(&order(&entry).0)) {
            Some(Ordering::Equal) => bail!(
                "{name}: another file here is about the same tenant, and nobody can tell which one counts"
            ),
            Some(Ordering::Greater) => {}
            Some(Ordering::Less) | None => drop(content.entries.insert(key, entry)),
        }
    }
    Ok(content)
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
    /// Whether hosts that have this take what comes now.
    fn is_followed_by(&self, target: &Target, content: &Content) -> anyhow::Result<()> {
        for (key, object) in &self.entries {
            let Key::Tenant(_, tenant) = key else {
                continue;
            };
            let tenant = printable(tenant);
            let Some(entry) = content.entries.get(key) else {
                output::tell(&format!(
                    "{tenant} was there before and is not now; hosts keep it. portcullis sign retire takes it away\n"
                ));
                continue;
            };
            let old = read_file(&target.folder.join(object.path()), (MOST, "an entry"))?;
            let old = Entry::read(&old).map_or((0, 0), |it| order(&it));
            let new = order(entry);
            if new < old {
                bail!(
                    "{tenant}: {} was there before, and hosts take no lower one than they have; it is {} now",
                    told(old),
                    told(new)
                );
            }
        }
        Ok(())
    }
}

/// What was written.
struct Written {
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
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .with_context(|| format!("somebody else writes to {}", folder.display()))?;
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
        let of_place = || place.display().to_string();
        let index = read_file(&place, (MOST, "an index")).with_context(of_place)?;
        let index = Index::read(&index).with_context(of_place)?;
        let mut entries = BTreeMap::new();
        for (number, shard) in index.shards.iter().enumerate() {
            if let Some(shard) = shard {
                let place = self.folder.join(shard.path());
                let of_place = || place.display().to_string();
                let shard = read_file(&place, (MOST, "a shard")).with_context(of_place)?;
                entries.extend(read_shard(&shard, number).with_context(of_place)?);
            }
        }
        Ok(Before {
            index: Some(index),
            entries,
        })
    }

    /// Writes files, and the index once all others are on the disk.
    fn write(&self, before: &Before, content: Content) -> anyhow::Result<Written> {
        let mut files = 0;
        for body in content.bodies.values() {
            files += usize::from(self.put(body)?.1);
        }
        let mut shards: Vec<BTreeMap<&Key, Object>> = vec![BTreeMap::new(); SHARDS];
        for (key, entry) in &content.entries {
            let (object, is_new) = self.put(&entry.to_json())?;
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
        let (store, revision) = match (content.store, content.revision, of_before) {
            (Some(store), Some(revision), _) => (store, revision),
            (_, _, Some(index)) => {
                let revision = index.revision + u64::from(!is_same);
                (index.store.clone(), revision)
            }
            _ => (Time::now().to_string(), 1),
        };
        let index = Index::of(store.clone(), revision, named);
        if of_before != Some(&index) {
            self.put_index(&index)?;
            files += 1;
        }
        Ok(Written {
            store,
            revision,
            entries: content.entries.len(),
            files,
        })
    }

    fn has(&self, sha256: Sha256) -> bool {
        self.folder.join(object_path(sha256)).exists()
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
            let entry = read_file(&self.folder.join(object.path()), (MOST, "an entry"))?;
            let body = Entry::read(&entry).ok().as_ref().and_then(body_of);
            named.extend(body.map(|(sha256, _)| self.folder.join(object_path(sha256))));
        }
        let mut removed = 0;
        for folder in fs::read_dir(self.folder.join("sha256"))
            .into_iter()
            .flatten()
        {
            for file in fs::read_dir(folder?.path()).into_iter().flatten() {
                let place = file?.path();
                let name = place.file_name().unwrap_or_default().to_string_lossy();
                // Whatever else is there is somebody's.
                if Sha256::parse(&name).is_some() && !named.contains(&place) {
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
