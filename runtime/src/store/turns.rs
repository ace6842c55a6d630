//! Turns for what few may do at a time: some of one folder's files, and some of all, so that a folder whose files take
//! long never has all turns.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Files of one folder at a time, and files of all folders: fewer than there are threads that look at files.
pub const OF_FOLDER: usize = 32;
const OF_ALL: usize = 256;

/// Who has a turn.
pub struct Turns {
    all: Arc<Semaphore>,
    folders: Mutex<HashMap<PathBuf, Weak<Semaphore>>>,
}

/// A turn, until it is dropped. The semaphores are never closed.
pub struct Turn {
    _of_folder: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl Default for Turns {
    fn default() -> Self {
        Turns {
            all: Arc::new(Semaphore::new(OF_ALL)),
            folders: Mutex::default(),
        }
    }
}

impl Turns {
    /// Waits for the turn of a file.
    pub async fn of(&self, path: &Path) -> Turn {
        let folder = self.folder(path.parent().unwrap_or(path));
        Turn {
            _of_folder: folder.acquire_owned().await.ok(),
            _of_all: self.all.clone().acquire_owned().await.ok(),
        }
    }

    fn folder(&self, folder: &Path) -> Arc<Semaphore> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = folders.get(folder).and_then(Weak::upgrade) {
            return known;
        }
        folders.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(Semaphore::new(OF_FOLDER));
        folders.insert(folder.to_owned(), Arc::downgrade(&new));
        new
    }
}
