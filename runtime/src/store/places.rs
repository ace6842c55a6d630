//! Places for those who wait for files: a file system that does not answer keeps some, and never all.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::error::Cause;
use super::turns::Turns;
use crate::file::{self, FileVersion};
use crate::sandbox::background::{Priority, run_on_thread};
use crate::sandbox::timeout::within;

/// How long a file may take to be read, and an update waits for the next one.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// Who looks at files.
#[derive(Default)]
pub struct Places {
    turns: Turns,
    /// Files that had no answer in time, and whether they have one now.
    stuck: Mutex<HashMap<PathBuf, Arc<AtomicBool>>>,
}

impl Places {
    /// Does something with a file, for which there is so much time. A file that had no answer is not asked again before
    /// it has.
    ///
    /// # Errors
    /// If the file system does not answer, or says no.
    pub async fn with<T: Send + 'static>(
        &self,
        path: &Path,
        patience: Duration,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let silent = || io::Error::other("the file system does not answer");
        if self.is_stuck(path) {
            return Err(silent());
        }
        // Who has had no turn asks nobody.
        let has_answered = Arc::new(AtomicBool::new(true));
        let done = within(patience, async {
            let turn = self.turns.of(path).await;
            let (own, answered) = (path.to_owned(), has_answered.clone());
            has_answered.store(false, Ordering::Release);
            let work = move || {
                let _turn = turn;
                let outcome = work(&own);
                answered.store(true, Ordering::Release);
                outcome
            };
            // It leaves the processors to mail.
            let done = run_on_thread(Priority::Low, work).await;
            done.unwrap_or_else(|error| Err(io::Error::other(error)))
        });
        match done.await {
            Some(outcome) => outcome,
            None => {
                let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
                stuck.insert(path.to_owned(), has_answered);
                Err(silent())
            }
        }
    }

    /// The same within [`TIMEOUT`], for a policy.
    ///
    /// # Errors
    /// If the file system does not answer, or says no.
    pub async fn with_file<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Cause> {
        let done = self.with(path, TIMEOUT, work).await;
        done.map_err(|source| Cause::Read {
            path: path.to_owned(),
            source,
        })
    }

    /// What the file system tells of a file.
    ///
    /// # Errors
    /// If it does not answer, or says no.
    pub async fn stamp(&self, path: &Path) -> Result<FileVersion, Cause> {
        self.with_file(path, FileVersion::of).await
    }

    /// Reads a file of at most so many octets, a limit of that name.
    ///
    /// # Errors
    /// If it cannot be read, or is larger.
    pub async fn read(&self, path: &Path, most: (usize, &'static str)) -> Result<Vec<u8>, Cause> {
        self.with_file(path, move |path| file::read(path, most))
            .await
    }

    fn is_stuck(&self, path: &Path) -> bool {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        stuck.retain(|_, has_answered| !has_answered.load(Ordering::Acquire));
        stuck.contains_key(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::turns::OF_FOLDER;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Waits in a folder that does not answer until the sender is dropped.
    fn hang(end: Receiver<()>) -> impl FnOnce(&Path) -> io::Result<()> {
        move |_| {
            let _ = end.recv();
            Ok(())
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_holds_up_those_in_its_folder_only() {
        let places = Places::default();
        let mut ends: Vec<Sender<()>> = Vec::new();
        for number in 0..OF_FOLDER + 3 {
            let path = PathBuf::from(format!("/silent/{number}"));
            let (end, waits) = channel();
            ends.push(end);
            let asked = places.with(&path, Duration::from_millis(5), hang(waits));
            assert!(asked.await.is_err());
        }
        let long = Duration::from_secs(60);
        let asked = places.with(Path::new("/good/a"), long, |_| Ok(5)).await;
        assert_eq!(asked.unwrap(), 5);
        let again = places.with(Path::new("/silent/0"), long, |_| Ok(5));
        assert!(again.await.is_err(), "it is not asked twice");
        // Once it answers all is as before.
        ends.clear();
        while places.is_stuck(Path::new("/silent/0")) {
            tokio::task::yield_now().await;
        }
        let asked = places.with(Path::new("/silent/0"), long, |_| Ok(5)).await;
        assert_eq!(asked.unwrap(), 5);
    }
}
