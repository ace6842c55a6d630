//! Rules documents that are changed while they are in force: checked first, replaced in one step, with a history, and
//! never over somebody else's change.

mod digest;
pub mod effect;
mod history;
pub mod replace;
pub mod text;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use portcullis::{DocumentError, Engine, Limits, Problem, Rules};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use self::digest::digest_of;
use self::history::History;
pub use self::history::Version;
use self::replace::replace;
use self::text::TextError;

/// What is said of a version that was saved by something else.
const OUTSIDE: &str = "changed without portcullis";

/// A rules document, and who checks what it is to become.
pub struct Editor {
    engine: Engine,
    path: PathBuf,
}

/// What a file contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The text.
    pub text: String,
    /// Its SHA-256, as hex digits.
    pub digest: String,
}

/// A text that the evaluator takes, and whose tests it passes.
pub struct Checked {
    text: String,
    /// What was read from it, with the warnings.
    pub rules: Rules,
}

impl Checked {
    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Who changes a document, and what for.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// Who.
    pub author: String,
    /// What is done, such as `add "Contoso Bank"`.
    pub action: String,
    /// Why, in the author's words.
    pub comment: String,
}

/// A document was not read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be replaced.
    #[error("cannot write {}, which is as it was: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its versions cannot be read or written.
    #[error("cannot keep the versions of {}, which is as it was: {source}", path.display())]
    History {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no longer what the change was made to.
    #[error("{} has been changed meanwhile{}", path.display(), by(version))]
    Conflict {
        /// The file.
        path: PathBuf,
        /// The version that it has now.
        version: Box<Version>,
    },
    /// The change cannot be made.
    #[error("{}: {source}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Why.
        source: TextError,
    },
    /// There is no such version.
    #[error("{} has no version {version}", path.display())]
    NoVersion {
        /// The file.
        path: PathBuf,
        /// The number.
        version: u64,
    },
    /// The evaluator does not take it.
    #[error("{}: it is not a valid policy", path.display())]
    Rejected {
        /// The file.
        path: PathBuf,
        /// The text.
        text: String,
        /// What is wrong.
        problems: Vec<Problem>,
    },
    /// The evaluator did not answer.
    #[error("{}: {source}", path.display())]
    Unchecked {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DocumentError,
    },
}

fn by(version: &Version) -> String {
    let Version {
        version: number,
        author,
        action,
        ..
    } = version;
    let by = match author.as_str() {
        "" => String::new(),
        author => format!(" by {author}"),
    };
    format!("{by} (version {number}: {action})")
}

impl Editor {
    /// For a document that is there. Of a link, its target is changed.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn new(engine: Engine, path: &Path) -> Result<Self, EditError> {
        let resolved = path.canonicalize().map_err(|source| EditError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Editor {
            engine,
            path: resolved,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who checks.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What is in the file now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self) -> Result<Content, EditError> {
        read(&self.path)
    }

    /// A change of the text, by the functions in [`text`].
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn change<T>(&self, changed: Result<T, TextError>) -> Result<T, EditError> {
        changed.map_err(|source| EditError::Text {
            path: self.path.clone(),
            source,
        })
    }

    /// Has the evaluator check a text, and runs its tests.
    ///
    /// # Errors
    /// Has all that is wrong with it.
    pub async fn check(&self, text: String) -> Result<Checked, EditError> {
        let path = self.path.clone();
        match self.engine.read(text.clone()).await {
            Ok(rules) => Ok(Checked { text, rules }),
            Err(DocumentError::Rejected(problems)) => Err(EditError::Rejected {
                path,
                text,
                problems,
            }),
            Err(source) => Err(EditError::Unchecked { path, source }),
        }
    }

    /// Puts a text in the place of what has the digest `base`, and keeps both as versions.
    ///
    /// # Errors
    /// If the file has changed meanwhile, or cannot be replaced: then it is as it was.
    pub async fn save(
        &self,
        checked: Checked,
        base: &str,
        note: Note,
    ) -> Result<Version, EditError> {
        let (path, base) = (self.path.clone(), base.to_owned());
        let saving = move || save(&path, &checked.text, &base, note);
        let saved = tokio::task::spawn_blocking(saving).await;
        saved.unwrap_or_else(|error| {
            Err(EditError::Write {
                path: self.path.clone(),
                source: io::Error::other(error),
            })
        })
    }

    /// The versions that are known, the oldest first.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn versions(&self) -> Result<Vec<Version>, EditError> {
        Ok(self.history()?.versions().to_vec())
    }

    /// The content of a version.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn content(&self, version: u64) -> Result<String, EditError> {
        let history = self.history()?;
        let known = history
            .versions()
            .iter()
            .find(|known| known.version == version);
        let known = known.ok_or_else(|| EditError::NoVersion {
            path: self.path.clone(),
            version,
        })?;
        history
            .content(known)
            .map_err(|source| unkept(&self.path, source))
    }

    fn history(&self) -> Result<History, EditError> {
        History::read(&self.path).map_err(|source| unkept(&self.path, source))
    }
}

fn read(path: &Path) -> Result<Content, EditError> {
    let limit = Limits::default().policy_size as u64;
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_string(&mut text));
    let unreadable = |source| EditError::Read {
        path: path.to_owned(),
        source,
    };
    read.map_err(unreadable)?;
    if text.len() as u64 > limit {
        let limit = bytesize::ByteSize(limit);
        return Err(unreadable(io::Error::other(format!(
            "it is larger than {limit}"
        ))));
    }
    Ok(Content {
        digest: digest_of(text.as_bytes()),
        text,
    })
}

fn unkept(path: &Path, source: io::Error) -> EditError {
    EditError::History {
        path: path.to_owned(),
        source,
    }
}

fn save(path: &Path, text: &str, base: &str, note: Note) -> Result<Version, EditError> {
    let unkept = |source| unkept(path, source);
    let mut history = History::lock(path).map_err(unkept)?;
    let current = read(path)?;
    let known = settled(&mut history, &current).map_err(unkept)?;
    if current.digest != base {
        return Err(EditError::Conflict {
            path: path.to_owned(),
            version: Box::new(known),
        });
    }
    if current.text == text {
        return Ok(known);
    }
    let version = version(known.version + 1, text, note);
    history.add(version.clone(), text).map_err(unkept)?;
    if let Err(source) = replace(path, text.as_bytes()) {
        if let Err(error) = history.take_back() {
            tracing::warn!(file = %path.display(), %error, "a version is kept that was never in force");
        }
        return Err(EditError::Write {
            path: path.to_owned(),
            source,
        });
    }
    if let Err(error) = history.tidy() {
        tracing::warn!(file = %path.display(), %error, "old versions cannot be removed");
    }
    Ok(version)
}

/// The version that is in the file. One that something else has written is kept as well.
fn settled(history: &mut History, current: &Content) -> io::Result<Version> {
    let versions = history.versions();
    let last = versions.last();
    if let Some(last) = last.filter(|last| last.digest == current.digest) {
        return Ok(last.clone());
    }
    let known = versions
        .iter()
        .rev()
        .find(|known| known.digest == current.digest);
    let action = match (last, known) {
        (None, _) => "as it was found".into(),
        (_, Some(known)) => format!("found as in version {}", known.version),
        (_, None) => OUTSIDE.into(),
    };
    let number = last.map_or(1, |last| last.version + 1);
    let note = Note {
        action,
        ..Note::default()
    };
    let version = version(number, &current.text, note);
    history.add(version.clone(), &current.text)?;
    Ok(version)
}

fn version(number: u64, text: &str, note: Note) -> Version {
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(0).unwrap_or(now);
    Version {
        version: number,
        // Years of five digits have no such form.
        time: now.format(&Rfc3339).unwrap_or_default(),
        author: note.author,
        action: note.action,
        comment: note.comment,
        digest: digest_of(text.as_bytes()),
    }
}
