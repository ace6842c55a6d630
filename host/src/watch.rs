//! Watching files: which of them may have changed.
//!
//! Folders are watched, not files: a file that is replaced, or stands behind a link that is switched,
//! is seen only there. An event costs one look-up, however many files there are. Whether a file has
//! really changed is found by looking at it, after it is watched: a change between the two is seen as
//! well.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Editors and deployments touch a file several times; this much quiet ends a change.
const QUIET: Duration = Duration::from_millis(50);
/// A change that does not end is looked at in between.
const MOST_ROUNDS: u32 = 40;
/// Links that are followed on the way to a file; more go round in circles.
const MOST_LINKS: usize = 8;
/// Paths that are kept until somebody asks; with more of them, all files are looked at.
const MOST_PATHS: usize = 100_000;

/// What a file is to the one who watches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Anything else than a policy: the configuration, certificates.
    Settings,
    /// The policy of the tenant with that number.
    Policy(usize),
}

/// What may have changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Changed {
    /// Anything.
    All,
    /// The policies of these tenants.
    Policies(BTreeSet<usize>),
}

/// Files that are watched.
pub struct Watch {
    watcher: RecommendedWatcher,
    pending: Arc<Pending>,
    subjects: HashMap<PathBuf, BTreeSet<Subject>>,
    folders: HashSet<PathBuf>,
}

/// What has happened since somebody asked.
#[derive(Default)]
struct Pending {
    paths: Mutex<Paths>,
    happened: Notify,
}

#[derive(Default)]
struct Paths {
    seen: HashSet<PathBuf>,
    /// More than can be told.
    overflow: bool,
}

impl Watch {
    /// Nothing is watched yet.
    ///
    /// # Errors
    /// If this machine does not tell of changes.
    pub fn new() -> notify::Result<Self> {
        let pending = Arc::<Pending>::default();
        let noted = pending.clone();
        Ok(Watch {
            watcher: notify::recommended_watcher(move |event| noted.note(event))?,
            pending,
            subjects: HashMap::new(),
            folders: HashSet::new(),
        })
    }

    /// Watches these files and no others. Folders stay watched, which costs nothing.
    pub fn set<'a>(&mut self, files: impl IntoIterator<Item = (&'a Path, Subject)>) {
        self.subjects.clear();
        for (file, subject) in files {
            self.add(file, subject);
        }
    }

    /// Watches a file too, or anew: the links on the way to it may have changed.
    pub fn add(&mut self, file: &Path, subject: Subject) {
        let mut places = BTreeSet::new();
        // Changes are told with absolute paths.
        let file = absolute(file).unwrap_or_else(|_| file.to_owned());
        places_of(&file, MOST_LINKS, &mut places);
        for place in places {
            self.watch_folder(folder(&place));
            self.subjects.entry(place).or_default().insert(subject);
        }
    }

    fn watch_folder(&mut self, folder: PathBuf) {
        if self.folders.contains(&folder) {
            return;
        }
        match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.folders.insert(folder);
            }
            Err(error) => {
                tracing::error!(folder = %folder.display(), %error, "changes cannot be watched; SIGHUP reloads");
            }
        }
    }

    /// Waits until something may have changed, and it is quiet again.
    pub async fn changed(&mut self) -> Changed {
        loop {
            self.pending.happened.notified().await;
            let mut rounds = 0;
            while rounds < MOST_ROUNDS
                && timeout(QUIET, self.pending.happened.notified())
                    .await
                    .is_ok()
            {
                rounds += 1;
            }
            let paths = self.pending.take();
            if let Some(changed) = self.concerned(paths) {
                return changed;
            }
        }
    }

    /// What these paths are to us; nothing, if they are other people's files.
    fn concerned(&mut self, paths: Paths) -> Option<Changed> {
        let mut policies = BTreeSet::new();
        let mut all = paths.overflow;
        for path in paths.seen {
            // What came in place of a folder has to be watched anew. Those who look through a link are
            // known; a real folder may have held anything.
            let was_folder = self.folders.remove(&path);
            let Some(subjects) = self.subjects.get(&path) else {
                all |= was_folder;
                continue;
            };
            for subject in subjects {
                match subject {
                    Subject::Settings => all = true,
                    Subject::Policy(number) => {
                        policies.insert(*number);
                    }
                }
            }
        }
        match (all, policies.is_empty()) {
            (true, _) => Some(Changed::All),
            (false, false) => Some(Changed::Policies(policies)),
            (false, true) => None,
        }
    }
}

impl Pending {
    fn note(&self, event: notify::Result<notify::Event>) {
        let mut paths = self.lock();
        match event {
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => return,
            Ok(event) if !event.need_rescan() && paths.seen.len() < MOST_PATHS => {
                paths.seen.extend(event.paths);
            }
            _ => paths.overflow = true,
        }
        drop(paths);
        self.happened.notify_one();
    }

    fn take(&self) -> Paths {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Paths> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// A file, and each link on the way to it.
fn places_of(file: &Path, links: usize, places: &mut BTreeSet<PathBuf>) {
    places.insert(folder(file).join(file.file_name().unwrap_or_default()));
    for link in file.ancestors() {
        let (Ok(target), Ok(rest)) = (std::fs::read_link(link), file.strip_prefix(link)) else {
            continue;
        };
        places.insert(folder(link).join(link.file_name().unwrap_or_default()));
        let mut target = folder(link).join(target);
        if !rest.as_os_str().is_empty() {
            target.push(rest);
        }
        if links > 0 {
            places_of(&target, links - 1, places);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[tokio::test]
    async fn a_change_is_told_of_those_whom_it_concerns() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a.json", "b.json", "settings.toml"] {
            fs::write(path(name), "1").unwrap();
        }
        let mut watch = Watch::new().unwrap();
        watch.set([
            (&*path("a.json"), Subject::Policy(0)),
            (&*path("b.json"), Subject::Policy(1)),
            (&*path("settings.toml"), Subject::Settings),
        ]);
        fs::write(path("unknown"), "2").unwrap();
        fs::write(path("new"), "2").unwrap();
        fs::rename(path("new"), path("b.json")).unwrap();
        assert_eq!(watch.changed().await, Changed::Policies([1].into()));
        fs::write(path("settings.toml"), "2").unwrap();
        assert_eq!(watch.changed().await, Changed::All);
    }

    #[tokio::test]
    async fn relative_paths_are_watched() {
        let folder = tempfile::tempdir_in(".").unwrap();
        let file = Path::new(folder.path().file_name().unwrap()).join("a.json");
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::new().unwrap();
        watch.set([(&*file, Subject::Policy(0))]);
        fs::write(&file, "2").unwrap();
        assert_eq!(watch.changed().await, Changed::Policies([0].into()));
    }

    #[tokio::test]
    async fn a_switched_link_changes_what_stands_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("a.json"), version).unwrap();
        }
        symlink("v1", path("data")).unwrap();
        symlink("data/a.json", path("a.json")).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.set([(&*path("a.json"), Subject::Policy(7))]);
        symlink("v2", path("next")).unwrap();
        fs::rename(path("next"), path("data")).unwrap();
        assert_eq!(watch.changed().await, Changed::Policies([7].into()));
        watch.add(&path("a.json"), Subject::Policy(7));
        fs::write(path("v2").join("a.json"), "edited").unwrap();
        assert_eq!(watch.changed().await, Changed::Policies([7].into()));
    }
}
