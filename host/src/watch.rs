//! Watching files: which of them may have changed.
//!
//! Folders are watched, not files: a file that is replaced, or stands behind a link that is switched,
//! is seen only there. An event costs one look-up, however many files there are. Whether a file has
//! really changed is found by looking at it, after it is watched: a change between the two is seen as
//! well.
//!
//! All of this is done on a thread of its own: a file system that does not answer, such as that of another machine, holds
//! up nothing else.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf, absolute};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use portcullis::store::FileVersion;

/// Editors and deployments touch a file several times; this much quiet ends a change.
const QUIET: Duration = Duration::from_millis(50);
/// A change that does not end is looked at in between.
const MAX_ROUNDS: u32 = 40;
/// How often files are looked at although changes are told, and how often where they are not.
const LOOK: Duration = Duration::from_secs(30);
const LOOK_OFTEN: Duration = Duration::from_secs(2);
/// How long a file system has to answer, and how many files of a folder are asked for alone then.
const ANSWER: Duration = Duration::from_secs(1);
const MAX_ALONE: usize = 32;
/// How long whoever wants files to be watched waits for that.
const PATIENCE: Duration = Duration::from_secs(5);
/// Links that are followed on the way to a file; more go round in circles.
const MAX_LINKS: usize = 8;
/// Paths that are kept until somebody asks; with more of them, all files are looked at.
const MAX_PATHS: usize = 100_000;

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

/// Files that are watched, on a thread of its own.
pub struct Watch {
    orders: UnboundedSender<Order>,
    changes: UnboundedReceiver<Changed>,
}

/// Which files to watch.
#[derive(Default)]
pub struct Files {
    /// Files.
    pub files: Vec<(PathBuf, Subject)>,
    /// Folders of which each file matters.
    pub folders: Vec<(PathBuf, Subject)>,
}

/// What the thread is asked to do, and who waits for it.
struct Order {
    files: Files,
    /// Whether others are watched no longer.
    only: bool,
    done: oneshot::Sender<()>,
}

impl Watch {
    /// Nothing is watched yet. Where this machine does not tell of changes, files are looked at often.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn new() -> std::io::Result<Self> {
        let (orders, mut asked) = unbounded_channel::<Order>();
        let (told, changes) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let watching = async move {
            let mut watched = Watched::new();
            loop {
                tokio::select! {
                    order = asked.recv() => match order {
                        Some(order) => watched.obey(order).await,
                        None => return,
                    },
                    changed = watched.changed() => {
                        if told.send(changed).is_err() {
                            return;
                        }
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || {
                runtime.block_on(watching);
                runtime.shutdown_background();
            })?;
        Ok(Watch { orders, changes })
    }

    /// Watches these files and no others. Folders stay watched, which costs nothing.
    pub async fn set(&self, files: Files) {
        self.order(files, true).await;
    }

    /// Watches files too, or anew: the links on the way to them may have changed.
    pub async fn add(&self, files: Files) {
        self.order(files, false).await;
    }

    async fn order(&self, files: Files, only: bool) {
        let (done, waiting) = oneshot::channel();
        // The thread ends with this.
        let _ = self.orders.send(Order { files, only, done });
        if timeout(PATIENCE, waiting).await.is_err() {
            tracing::warn!("a file system does not answer; changes of files may be seen late");
        }
    }

    /// Waits until something may have changed, and it is quiet again. Given up in between, nothing is forgotten.
    pub async fn changed(&mut self) -> Changed {
        match self.changes.recv().await {
            Some(changed) => changed,
            // The thread ends with this.
            None => std::future::pending().await,
        }
    }
}

/// What the thread has to do with.
struct Watched {
    /// Absent where this machine tells of no changes.
    watcher: Option<RecommendedWatcher>,
    pending: Arc<Pending>,
    subjects: HashMap<PathBuf, BTreeSet<Subject>>,
    /// Folders of which each file matters.
    whole: HashMap<PathBuf, Subject>,
    folders: HashSet<PathBuf>,
    /// The files themselves as they were last, for changes that nobody tells of.
    files: HashMap<PathBuf, File>,
    /// Whether there are folders whose changes are not told.
    is_blind: bool,
    next_look: Instant,
    /// Looks that have no answer yet, by the place that was looked at: it is not looked at again meanwhile.
    stuck: HashMap<PathBuf, JoinHandle<Vec<Looked>>>,
}

/// A file as it is now, and whether it is another than before.
type Looked = (PathBuf, Option<FileVersion>, bool);

/// What came of looking at files.
#[derive(Default)]
struct Looks {
    looked: Vec<Looked>,
    /// The files on file systems that do not answer.
    silent: HashSet<PathBuf>,
}

/// A file as it was last.
#[derive(Clone, PartialEq)]
struct File {
    subjects: BTreeSet<Subject>,
    stamp: Option<FileVersion>,
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

impl Paths {
    fn is_empty(&self) -> bool {
        self.seen.is_empty() && !self.overflow
    }
}

impl Watched {
    fn new() -> Self {
        let pending = Arc::<Pending>::default();
        let noted = pending.clone();
        let watcher = notify::recommended_watcher(move |event| noted.note(event));
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "changes of files are not told here; they are looked at every {} s", LOOK_OFTEN.as_secs());
        });
        Watched {
            is_blind: watcher.is_err(),
            watcher: watcher.ok(),
            pending,
            subjects: HashMap::new(),
            whole: HashMap::new(),
            folders: HashSet::new(),
            files: HashMap::new(),
            next_look: Instant::now() + LOOK,
            stuck: HashMap::new(),
        }
    }

    async fn obey(&mut self, order: Order) {
        if order.only {
            self.subjects.clear();
            self.whole.clear();
            self.files.clear();
            self.is_blind = self.watcher.is_none();
        }
        let files: Vec<_> = order
            .files
            .files
            .into_iter()
            .map(|(file, subject)| {
                // Changes are told with absolute paths.
                (absolute(&file).unwrap_or(file), subject)
            })
            .collect();
        let unknown = files.iter().map(|(file, _)| (file.clone(), None));
        let silent = self.look_at(unknown.collect()).await.silent;
        for (file, subject) in files {
            match silent.contains(&file) {
                // The kernel would not answer either who asks it to tell of changes there.
                true => self.file(file).subjects.insert(subject),
                false => self.add(&file, subject),
            };
        }
        for (folder, subject) in order.files.folders {
            let folder = absolute(&folder).unwrap_or(folder);
            let within = folder.join(".");
            let silent = self.look_at(vec![(within.clone(), None)]).await.silent;
            if !silent.contains(&within) {
                self.add_folder(&folder, subject);
            }
        }
        // Whoever has asked may have given up.
        let _ = order.done.send(());
    }

    fn file(&mut self, file: PathBuf) -> &mut File {
        self.files.entry(file).or_insert(File {
            subjects: BTreeSet::new(),
            stamp: None,
        })
    }

    /// Looks at files, on threads that may wait for them: a folder at a time, and where that has no answer, a file at a
    /// time.
    async fn look_at(&mut self, files: Vec<(PathBuf, Option<FileVersion>)>) -> Looks {
        let mut looks = Looks::default();
        let mut by_folder: HashMap<PathBuf, Vec<(PathBuf, Option<FileVersion>)>> = HashMap::new();
        for (file, stamp) in files {
            let of_folder = by_folder.entry(folder(&file)).or_default();
            of_folder.push((file, stamp));
        }
        let silent = self.answers_of(by_folder.clone(), &mut looks).await;
        let mut by_file = HashMap::new();
        for folder in silent {
            let files = by_folder.remove(&folder).unwrap_or_default();
            for (number, (file, stamp)) in files.into_iter().enumerate() {
                match number < MAX_ALONE {
                    true => drop(by_file.insert(file.clone(), vec![(file, stamp)])),
                    false => drop(looks.silent.insert(file)),
                }
            }
        }
        let silent = self.answers_of(by_file, &mut looks).await;
        looks.silent.extend(silent);
        looks
    }

    /// Gives those places that have no answer in time.
    async fn answers_of(
        &mut self,
        places: HashMap<PathBuf, Vec<(PathBuf, Option<FileVersion>)>>,
        looks: &mut Looks,
    ) -> Vec<PathBuf> {
        let mut silent = Vec::new();
        let mut looking = Vec::new();
        self.stuck.retain(|_, looking| !looking.is_finished());
        for (place, files) in places {
            match self.stuck.contains_key(&place) {
                true => silent.push(place),
                false => looking.push((place, spawn_blocking(move || look_at(files)))),
            }
        }
        let deadline = Instant::now() + ANSWER;
        for (place, mut looking) in looking {
            match timeout_at(deadline, &mut looking).await {
                Ok(looked) => looks.looked.extend(looked.unwrap_or_default()),
                Err(_) => {
                    self.stuck.insert(place.clone(), looking);
                    silent.push(place);
                }
            }
        }
        silent
    }

    fn add(&mut self, file: &Path, subject: Subject) -> bool {
        let mut places = BTreeSet::new();
        places_of(file, MAX_LINKS, &mut places);
        for place in places {
            let place = self.watch_place(place);
            self.subjects.entry(place).or_default().insert(subject);
        }
        let stamp = FileVersion::of(file).ok();
        let known = self.file(file.to_owned());
        known.stamp = stamp;
        known.subjects.insert(subject)
    }

    /// Watches all files of a folder, those that will be there as well.
    fn add_folder(&mut self, folder: &Path, subject: Subject) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            self.add(&entry.path(), subject);
        }
        self.watch_folder(folder);
        self.whole.insert(folder.to_owned(), subject);
    }

    /// Watches for something in its folder; where that is not there, for the first of the folders that is missing.
    fn watch_place(&mut self, place: PathBuf) -> PathBuf {
        let mut place = place;
        loop {
            let folder = folder(&place);
            if self.watch_folder(&folder) || folder.exists() || folder == place {
                return place;
            }
            place = folder;
        }
    }

    fn watch_folder(&mut self, folder: &Path) -> bool {
        if self.folders.contains(folder) {
            return true;
        }
        let Some(watcher) = &mut self.watcher else {
            return false;
        };
        match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.folders.insert(folder.to_owned());
                true
            }
            Err(error) => {
                if folder.exists() {
                    tracing::warn!(folder = %folder.display(), %error, "changes are not told here; files are looked at every {} s", LOOK_OFTEN.as_secs());
                    self.is_blind = true;
                }
                false
            }
        }
    }

    async fn changed(&mut self) -> Changed {
        loop {
            if self.pending.lock().is_empty() {
                let pending = self.pending.clone();
                // A look that takes long hides no event.
                let looked = tokio::select! {
                    () = pending.happened.notified() => None,
                    changed = self.looked_in_time() => Some(changed),
                };
                match looked {
                    Some(Some(changed)) => return changed,
                    Some(None) => continue,
                    None => {}
                }
            }
            let mut rounds = 0;
            while rounds < MAX_ROUNDS
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

    /// Waits until it is time to look, and looks.
    async fn looked_in_time(&mut self) -> Option<Changed> {
        sleep_until(self.next_look).await;
        self.next_look = Instant::now() + if self.is_blind { LOOK_OFTEN } else { LOOK };
        self.look().await
    }

    /// Looks at the files themselves: there are file systems that tell of no changes, such as those of other machines.
    async fn look(&mut self) -> Option<Changed> {
        let files = self.files.iter();
        let files = files.map(|(path, file)| (path.clone(), file.stamp.clone()));
        let looks = self.look_at(files.collect()).await;
        let mut subjects = BTreeSet::new();
        for (path, stamp, is_other) in looks.looked {
            if let (true, Some(known)) = (is_other, self.files.get_mut(&path)) {
                subjects.extend(known.subjects.iter().copied());
                known.stamp = stamp;
            }
        }
        what_of(subjects, false)
    }

    /// What these paths are to us; nothing, if they are other people's files.
    fn concerned(&mut self, paths: Paths) -> Option<Changed> {
        let mut concerned = BTreeSet::new();
        let mut all = paths.overflow;
        for path in paths.seen {
            // What came in place of a folder has to be watched anew. Those who look through a link are
            // known; a real folder may have held anything.
            let was_folder = self.folders.remove(&path);
            concerned.extend(self.whole.get(&folder(&path)).copied());
            match self.subjects.get(&path) {
                Some(subjects) => concerned.extend(subjects.iter().copied()),
                None => all |= was_folder,
            }
        }
        what_of(concerned, all)
    }
}

fn look_at(files: Vec<(PathBuf, Option<FileVersion>)>) -> Vec<Looked> {
    let now = |(path, before): (PathBuf, Option<FileVersion>)| {
        // Links on the way are asked for later as well.
        places_of(&path, MAX_LINKS, &mut BTreeSet::new());
        let stamp = FileVersion::of(&path).ok();
        let is_other = stamp != before;
        (path, stamp, is_other)
    };
    files.into_iter().map(now).collect()
}

/// What has changed if these have; nothing if there are none.
fn what_of(subjects: BTreeSet<Subject>, all: bool) -> Option<Changed> {
    if all || subjects.contains(&Subject::Settings) {
        return Some(Changed::All);
    }
    let number = |subject| match subject {
        Subject::Policy(number) => Some(number),
        Subject::Settings => None,
    };
    let policies: BTreeSet<usize> = subjects.into_iter().filter_map(number).collect();
    (!policies.is_empty()).then_some(Changed::Policies(policies))
}

impl Pending {
    fn note(&self, event: notify::Result<notify::Event>) {
        let mut paths = self.lock();
        match event {
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => return,
            Ok(event) if !event.need_rescan() && paths.seen.len() < MAX_PATHS => {
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

    async fn set(watch: &mut Watched, files: &[(impl AsRef<Path>, Subject)]) {
        let (done, _) = oneshot::channel();
        let files = files.iter();
        let files = files.map(|(path, subject)| (path.as_ref().to_owned(), *subject));
        let files = Files {
            files: files.collect(),
            folders: Vec::new(),
        };
        let order = Order {
            files,
            only: true,
            done,
        };
        watch.obey(order).await;
    }

    #[tokio::test]
    async fn a_change_is_told_of_those_whom_it_concerns() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a.json", "b.json", "settings.toml"] {
            fs::write(path(name), "1").unwrap();
        }
        let mut watch = Watched::new();
        set(
            &mut watch,
            &[
                (path("a.json"), Subject::Policy(0)),
                (path("b.json"), Subject::Policy(1)),
                (path("settings.toml"), Subject::Settings),
            ],
        )
        .await;
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
        let mut watch = Watched::new();
        set(&mut watch, &[(&file, Subject::Policy(0))]).await;
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
        let mut watch = Watched::new();
        set(&mut watch, &[(path("a.json"), Subject::Policy(7))]).await;
        symlink("v2", path("next")).unwrap();
        fs::rename(path("next"), path("data")).unwrap();
        assert_eq!(watch.changed().await, Changed::Policies([7].into()));
        watch.add(&path("a.json"), Subject::Policy(7));
        fs::write(path("v2").join("a.json"), "edited").unwrap();
        assert_eq!(watch.changed().await, Changed::Policies([7].into()));
    }

    #[tokio::test]
    async fn what_happens_while_nobody_waits_is_told_later() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        fs::write(&file, "1").unwrap();
        let mut watch = Watched::new();
        set(&mut watch, &[(&file, Subject::Policy(0))]).await;
        fs::write(&file, "2").unwrap();
        // Given up when the change has been noticed, and is not quiet yet.
        while watch.pending.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        tokio::select! {
            biased;
            _ = watch.changed() => unreachable!("it takes a while to be quiet"),
            () = tokio::time::sleep(QUIET / 5) => {}
        }
        assert_eq!(watch.changed().await, Changed::Policies([0].into()));
    }

    #[tokio::test]
    async fn a_folder_that_comes_back_is_watched_again() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        let file = inner.join("rules.json");
        let mut watch = Watched::new();
        set(&mut watch, &[(&file, Subject::Policy(3))]).await;
        for step in ["a", "a/b"] {
            fs::create_dir(folder.path().join(step)).unwrap();
            assert_eq!(
                watch.changed().await,
                Changed::Policies([3].into()),
                "{step}"
            );
            watch.add(&file, Subject::Policy(3));
        }
        fs::write(&file, "1").unwrap();
        assert_eq!(watch.changed().await, Changed::Policies([3].into()));
        fs::remove_dir_all(&inner).unwrap();
        watch.changed().await;
        set(&mut watch, &[(&file, Subject::Policy(3))]).await;
        fs::create_dir(&inner).unwrap();
        assert_eq!(watch.changed().await, Changed::Policies([3].into()));
    }

    #[tokio::test]
    async fn files_are_looked_at_where_nobody_tells_of_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        fs::write(&file, "1").unwrap();
        let mut watch = Watched::new();
        watch.watcher = None;
        set(&mut watch, &[(&file, Subject::Policy(0))]).await;
        assert_eq!(watch.look().await, None);
        fs::write(&file, "22").unwrap();
        assert_eq!(watch.look().await, Some(Changed::Policies([0].into())));
        assert_eq!(watch.look().await, None);
    }
}
