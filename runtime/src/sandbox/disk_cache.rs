//! Compiled policies on disk.
//!
//! A compiled policy is native code, so loading one is the single place of the host where `unsafe`
//! cannot be avoided. An entry is taken only from a folder that nobody else can write, under the
//! digest of its policy and the engine's compatibility hash; it is believed as the program itself is.
//! What is no compiled module of this engine is compiled anew.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256, digest};
use rustix::fs::{FlockOperation, flock};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::observer::Observer;

/// What a folder holds of policies that nobody here needs; those that were used last stay.
const MOST_BYTES: u64 = 2 << 30;
/// What the names of compiled policies end in.
const EXTENSION: &str = ".cwasm";
/// The file that everybody holds who has the folder.
const LOCK: &str = "lock";
/// After so many bytes more, the folder is looked through.
const PRUNING_STEP: u64 = MOST_BYTES / 16;

/// A folder of compiled policies.
pub struct DiskCache {
    folder: PathBuf,
    observer: Arc<dyn Observer>,
    lock: Lock,
    /// The files that are not to be removed, by name.
    needed: Mutex<HashMap<String, Weak<str>>>,
    /// Bytes written since the folder was looked through.
    written: AtomicU64,
}

/// A policy's place in the cache. As long as somebody has one, what stands there stays.
#[derive(Clone)]
pub struct Entry {
    cache: Arc<DiskCache>,
    name: Arc<str>,
}

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// It cannot be made or looked at.
    #[error("the compile cache {}: {source}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put code there for us to run.
    #[error("the compile cache {} is not ours alone: it must be a folder owned by this user with mode 0700, in folders that nobody else can write (or with the sticky bit)", folder.display())]
    NotOurs {
        /// The folder.
        folder: PathBuf,
    },
}

impl DiskCache {
    /// Opens the folder; makes it if it is missing.
    ///
    /// # Errors
    /// If it cannot be made, or if others can write to it.
    pub fn open(folder: &Path, observer: Arc<dyn Observer>) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Io {
            folder: folder.into(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let metadata = fs::symlink_metadata(folder).map_err(failed)?;
        let ours = metadata.is_dir()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.permissions().mode() & 0o077 == 0;
        if !ours || !stays(folder).map_err(failed)? {
            return Err(CacheError::NotOurs {
                folder: folder.into(),
            });
        }
        Ok(DiskCache {
            lock: Lock::share(&folder.join(LOCK)).map_err(failed)?,
            folder: folder.into(),
            observer,
            needed: Mutex::default(),
            written: AtomicU64::new(0),
        })
    }

    /// The place of a policy.
    pub fn entry(self: &Arc<Self>, engine: &Engine, policy: &[u8]) -> Entry {
        let name: Arc<str> = file_name(engine, policy).into();
        let mut needed = self.needed();
        let known = needed.get(&*name).and_then(Weak::upgrade);
        let name = known.unwrap_or_else(|| {
            needed.insert(name.to_string(), Arc::downgrade(&name));
            name
        });
        Entry {
            cache: self.clone(),
            name,
        }
    }

    fn needed(&self) -> MutexGuard<'_, HashMap<String, Weak<str>>> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looking through a folder of ten thousand files after each of them would take minutes.
    fn prune_at_times(&self, written: u64) {
        let before = self.written.fetch_add(written, Ordering::Relaxed);
        if before + written < PRUNING_STEP {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        if let Err(error) = self.prune(MOST_BYTES) {
            let what = format!("old compiled policies are not removed: {error}");
            self.observer.cache_failed(&self.folder, &what);
        }
    }

    /// Removes of what nobody here needs that which was not used for longest, until the rest fits.
    fn prune(&self, most: u64) -> io::Result<()> {
        let mut needed = self.needed();
        needed.retain(|_, name| name.strong_count() > 0);
        // Another daemon that has this folder needs policies that nobody here knows of.
        let Some(_alone) = self.lock.alone()? else {
            return Ok(());
        };
        let mut files = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let name = file.file_name();
            let name = name.to_str().unwrap_or_default();
            if !name.ends_with(EXTENSION) || needed.contains_key(name) {
                continue;
            }
            // It may be gone meanwhile.
            if let Ok(metadata) = file.metadata() {
                files.push((metadata.modified()?, metadata.len(), file.path()));
            }
        }
        files.sort_unstable_by(|a, b| b.cmp(a));
        let mut total = 0;
        for (_, size, path) in files {
            total += size;
            if total > most {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// A lock that all who have the folder share (flock(2)); it ends with the process.
#[derive(Debug)]
struct Lock(fs::File);

impl Lock {
    fn share(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        flock(&file, FlockOperation::LockShared)?;
        Ok(Lock(file))
    }

    /// The right to remove what others might need, if there are no others.
    fn alone(&self) -> io::Result<Option<Alone<'_>>> {
        match flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Alone(&self.0))),
            // On the way to an exclusive lock the shared one may be lost.
            Err(rustix::io::Errno::WOULDBLOCK) => {
                flock(&self.0, FlockOperation::LockShared)?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The exclusive lock, which is shared again when this is dropped.
struct Alone<'a>(&'a fs::File);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        // It cannot fail: nobody else has an exclusive one.
        let _ = flock(self.0, FlockOperation::LockShared);
    }
}

/// Whether nobody else can put another folder in the place of this one.
fn stays(folder: &Path) -> io::Result<bool> {
    const STICKY: u32 = 0o1000;
    let own = rustix::process::geteuid().as_raw();
    let whole = fs::canonicalize(folder)?;
    for above in whole.ancestors().skip(1) {
        let metadata = fs::symlink_metadata(above)?;
        let mode = metadata.permissions().mode();
        let guarded = mode & 0o022 == 0 || mode & STICKY != 0;
        if !guarded || ![0, own].contains(&metadata.uid()) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Entry {
    pub fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    pub fn path(&self) -> PathBuf {
        self.cache.folder.join(&*self.name)
    }

    /// Bytes of what stands there; `None` if nothing does.
    pub fn size(&self) -> Option<u64> {
        Some(fs::metadata(self.path()).ok()?.len())
    }

    /// The component, if it was compiled before. Its file is mapped, not read: what is not used of it
    /// takes no memory.
    pub fn load(&self, engine: &Engine) -> Option<Component> {
        let path = self.path();
        // A pipe would be waited for.
        if !path.is_file() {
            return None;
        }
        // SAFETY: this file came from `precompile_component` of a compatible engine: it stands in a folder
        // that only this user can write, and came there whole, by renaming, after it was on the disk.
        match unsafe { Component::deserialize_file(engine, &path) } {
            Ok(component) => {
                // The time of the last use is only a hint for pruning.
                let _ = fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
                Some(component)
            }
            Err(error) => {
                let what = format!("a compiled policy is damaged and is compiled again: {error:#}");
                self.cache.observer.cache_failed(&path, &what);
                None
            }
        }
    }

    /// Keeps what the compiler has made of the module.
    pub fn keep(&self, engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
        let path = self.path();
        if let Err(error) = write(&path, code) {
            let what = format!("a compiled policy cannot be stored: {error}");
            self.cache.observer.cache_failed(&path, &what);
        }
        self.cache.prune_at_times(code.len() as u64);
        match self.load(engine) {
            Some(component) => Ok(component),
            None => component(engine, code),
        }
    }
}

/// A component of code that the compiler has just made, or that was compiled when this program was built. Code for
/// another processor or of other settings is an error.
pub fn component(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: it is called, as `keep` is, with what `precompile_component` has given to `compiler` or to the build
    // script, in this program or in its subprocess.
    unsafe { Component::deserialize(engine, code) }
}

fn file_name(engine: &Engine, policy: &[u8]) -> String {
    let mut compatibility = Digest(Context::new(&SHA256));
    engine
        .precompile_compatibility_hash()
        .hash(&mut compatibility);
    let engine = compatibility.0.finish();
    format!(
        "{}-{}{EXTENSION}",
        hex(digest(&SHA256, policy).as_ref()),
        hex(&engine.as_ref()[..8])
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes an entry in one step: others see all of it or none.
fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(code)?;
    // A file that is mapped must not turn out shorter than it was after the power has failed.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

struct Digest(Context);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::Nobody;
    use crate::sandbox::background::{Cancel, Priority};
    use crate::sandbox::compiler::Compiler;

    fn open(folder: &Path) -> Result<DiskCache, CacheError> {
        DiskCache::open(folder, Arc::new(Nobody))
    }

    fn minimal_component() -> Vec<u8> {
        wat::parse_str("(component)").unwrap()
    }

    fn compile(entry: &Entry, engine: &Engine, component: &[u8]) {
        Compiler::InProcess
            .compile(
                engine,
                Some(entry),
                component,
                Priority::Low,
                &Cancel::default(),
            )
            .unwrap();
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with(LOCK))
            .collect()
    }

    #[test]
    fn a_damaged_entry_is_rebuilt() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Arc::new(open(&folder.path().join("cache")).unwrap());
        let engine = Engine::default();
        let component = minimal_component();
        let entry = cache.entry(&engine, &component);
        assert!(entry.load(&engine).is_none());
        compile(&entry, &engine, &component);
        let [file] = &files(&cache.folder)[..] else {
            panic!("one entry was written")
        };
        let good = fs::read(file).unwrap();
        let garbled: Vec<u8> = good.iter().map(|byte| !byte).collect();
        for damaged in [&b""[..], &good[..good.len() / 2], &garbled] {
            fs::remove_file(file).unwrap();
            fs::write(file, damaged).unwrap();
            assert!(entry.load(&engine).is_none());
            compile(&entry, &engine, &component);
            assert_eq!(fs::read(file).unwrap(), good);
            assert!(entry.load(&engine).is_some());
        }
    }

    #[test]
    fn a_folder_that_others_can_exchange_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        for (mode, is_taken) in [
            (0o777, false),
            (0o770, false),
            (0o1777, true),
            (0o755, true),
        ] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open(&path).is_ok(), is_taken, "{mode:o}");
        }
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        open(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(open(&path), Err(CacheError::NotOurs { .. })));
        let link = folder.path().join("link");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(open(&link), Err(CacheError::NotOurs { .. })));
    }

    #[test]
    fn what_was_used_last_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(&folder.path().join("cache")).unwrap();
        for (name, age) in [("a.cwasm", 3), ("b.cwasm", 1), ("c.cwasm", 2), ("other", 9)] {
            let path = cache.folder.join(name);
            fs::write(&path, [0; 10]).unwrap();
            let time = SystemTime::now() - std::time::Duration::from_secs(age);
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
        let names = || {
            let mut names = files(&cache.folder);
            names.sort();
            names
        };
        let before = names();
        let other = open(&cache.folder).unwrap();
        cache.prune(25).unwrap();
        assert_eq!(names(), before, "another daemon has the folder");
        drop(other);
        cache.prune(25).unwrap();
        let left = ["b.cwasm", "c.cwasm", "other"].map(|name| cache.folder.join(name));
        assert_eq!(names(), left);
    }

    #[test]
    fn what_is_needed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Arc::new(open(&folder.path().join("cache")).unwrap());
        let engine = Engine::default();
        let component = minimal_component();
        let entry = cache.entry(&engine, &component);
        compile(&entry, &engine, &component);
        let again = cache.entry(&engine, &component);
        drop(entry);
        cache.prune(0).unwrap();
        assert!(again.size().is_some());
        drop(again);
        cache.prune(0).unwrap();
        assert!(files(&cache.folder).is_empty());
    }
}
