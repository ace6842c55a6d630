//! The file of what was accepted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use portcullis::Sha256;
use portcullis::statement::{Accepted, Ledger, LedgerError, Subject};
use rusqlite::{Connection, OptionalExtension, params};

use crate::config::state_file;

/// The layout of the table.
const VERSION: i64 = 1;
/// How long another process may hold the file.
const PATIENCE: Duration = Duration::from_secs(5);

const TABLES: &str = "
CREATE TABLE accepted (
    subject TEXT NOT NULL,
    tenant TEXT NOT NULL,
    -- Where sequences began.
    begins INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    -- The digest of the payload.
    payload TEXT NOT NULL,
    PRIMARY KEY (subject, tenant)
) WITHOUT ROWID;
-- Statements that came over a network, as they came. Until it is known which of them is taken there may be several.
CREATE TABLE statement (
    subject TEXT NOT NULL,
    tenant TEXT NOT NULL,
    payload TEXT NOT NULL,
    envelope TEXT NOT NULL,
    PRIMARY KEY (subject, tenant, payload)
) WITHOUT ROWID;
CREATE TABLE root (
    version INTEGER PRIMARY KEY,
    envelope TEXT NOT NULL
);
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
";

/// What was accepted cannot be told.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: what was accepted of signed statements cannot be told: {reason}. Without this file nothing protects against older statements: remove it only if you know that none is about",
    path.display()
)]
pub struct DiskLedgerError {
    path: PathBuf,
    reason: String,
}

/// The file of a configuration, in the folder of what outlives the process.
pub fn place(folder: &Path, configuration: &Path) -> PathBuf {
    state_file(folder, "statements", configuration, "sqlite")
}

/// A statement that came over a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What it is about.
    pub subject: Subject,
    /// Which tenant it is about.
    pub tenant: String,
    /// The digest of its payload.
    pub payload: Sha256,
    /// The envelope.
    pub envelope: String,
}

/// What is to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A statement.
    Keep(Kept),
    /// That a statement is accepted.
    Accept(Subject, String, Accepted),
    /// Of the statements about a tenant, the one with this payload, and no other one.
    Settle(Subject, String, Option<Sha256>),
    /// Which policy of a tenant was accepted, but not how high its sequence was.
    Forget(String),
    /// The root statement with this version.
    Root(u64, String),
}

/// What was accepted, in a file.
#[derive(Debug)]
pub struct DiskLedger {
    /// Absent if there is nothing to read, and nothing may be written.
    connection: Mutex<Option<Connection>>,
    is_read_only: bool,
    /// What several threads want to be kept goes to the disk together.
    waiting: Mutex<Vec<Arc<Order>>>,
}

#[derive(Debug)]
struct Order {
    subject: Subject,
    tenant: String,
    accepted: Accepted,
    outcome: OnceLock<Result<(), String>>,
}

impl DiskLedger {
    /// Opens the file, or begins a new one.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, DiskLedgerError> {
        let wrong = |reason: String| DiskLedgerError {
            path: path.into(),
            reason,
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|error| wrong(error.to_string()))?;
        let connection = connect(path).map_err(|error| wrong(error.to_string()))?;
        let version = version(&connection).map_err(|error| wrong(error.to_string()))?;
        match version {
            0 => begin(&connection).map_err(|error| wrong(error.to_string()))?,
            VERSION => {}
            other => return Err(wrong(format!("it has the layout {other}"))),
        }
        Ok(DiskLedger::of(Some(connection), false))
    }

    /// Opens the file, if there is one. Nothing is kept.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open_to_read(path: &Path) -> Result<Self, DiskLedgerError> {
        let wrong = |reason: String| DiskLedgerError {
            path: path.into(),
            reason,
        };
        if !path.exists() {
            return Ok(DiskLedger::of(None, true));
        }
        let opened = connect(path).and_then(|connection| {
            connection.pragma_update(None, "query_only", true)?;
            Ok((version(&connection)?, connection))
        });
        match opened.map_err(|error| wrong(error.to_string()))? {
            (VERSION, connection) => Ok(DiskLedger::of(Some(connection), true)),
            (0, _) => Ok(DiskLedger::of(None, true)),
            (other, _) => Err(wrong(format!("it has the layout {other}"))),
        }
    }

    fn of(connection: Option<Connection>, is_read_only: bool) -> Self {
        DiskLedger {
            connection: Mutex::new(connection),
            is_read_only,
            waiting: Mutex::default(),
        }
    }
}

impl DiskLedger {
    /// Keeps all of this, or nothing: it is on the disk when this ends.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub fn write(&self, writes: &[Write]) -> Result<(), DiskLedgerError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.with(|connection| {
            let transaction = connection.transaction()?;
            writes.iter().try_for_each(|it| it.run(&transaction))?;
            transaction.commit()
        })
    }

    /// All statements that are kept.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn kept(&self) -> Result<Vec<Kept>, DiskLedgerError> {
        self.with(|connection| {
            let query = "SELECT subject, tenant, payload, envelope FROM statement";
            let mut query = connection.prepare(query)?;
            let kept = query.query_map((), |row| {
                let (subject, payload): (String, String) = (row.get(0)?, row.get(2)?);
                Ok(Kept {
                    subject: match &*subject {
                        "tenant" => Subject::Tenant,
                        _ => Subject::Policy,
                    },
                    tenant: row.get(1)?,
                    payload: Sha256::parse(&payload).ok_or(rusqlite::Error::InvalidQuery)?,
                    envelope: row.get(3)?,
                })
            })?;
            kept.collect()
        })
    }

    /// The root statements that are kept, oldest first.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn roots(&self) -> Result<Vec<String>, DiskLedgerError> {
        self.with(|connection| {
            let mut query = connection.prepare("SELECT envelope FROM root ORDER BY version")?;
            let roots = query.query_map((), |row| row.get(0))?;
            roots.collect()
        })
    }

    /// A value that is kept under a name.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn meta(&self, name: &str) -> Result<Option<String>, DiskLedgerError> {
        self.with(|connection| {
            let query = "SELECT value FROM meta WHERE name = ?";
            let found = connection.query_row(query, [name], |row| row.get(0));
            found.optional()
        })
    }

    /// Keeps a value under a name.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub fn set_meta(&self, name: &str, value: &str) -> Result<(), DiskLedgerError> {
        self.with(|connection| {
            let keep = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)";
            connection.execute(keep, [name, value]).map(drop)
        })
    }

    /// Does something with the file; without one there is nothing.
    fn with<T: Default>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, DiskLedgerError> {
        let mut connection = lock(&self.connection);
        let Some(connection) = &mut *connection else {
            return Ok(T::default());
        };
        let path = connection.path().map(PathBuf::from).unwrap_or_default();
        work(connection).map_err(|error| DiskLedgerError {
            path,
            reason: error.to_string(),
        })
    }
}

impl Write {
    fn run(&self, connection: &Connection) -> rusqlite::Result<()> {
        match self {
            Write::Keep(kept) => connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO statement (subject, tenant, payload, envelope) VALUES (?, ?, ?, ?)",
                )?
                .execute(params![
                    name(kept.subject),
                    kept.tenant,
                    kept.payload.to_string(),
                    kept.envelope
                ]),
            Write::Accept(subject, tenant, accepted) => {
                return keep(connection, *subject, tenant, accepted);
            }
            Write::Settle(subject, tenant, payload) => connection
                .prepare_cached(
                    "DELETE FROM statement WHERE subject = ? AND tenant = ? AND payload IS NOT ?",
                )?
                .execute(params![
                    name(*subject),
                    tenant,
                    payload.map(|payload| payload.to_string())
                ]),
            Write::Forget(tenant) => connection
                .prepare_cached("UPDATE accepted SET payload = ? WHERE subject = 'policy' AND tenant = ?")?
                .execute(params![Sha256::default().to_string(), tenant]),
            Write::Root(version, envelope) => connection.execute(
                "INSERT OR REPLACE INTO root (version, envelope) VALUES (?, ?)",
                params![version, envelope],
            ),
        }
        .map(drop)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // What is accepted is on the disk before it is in force.
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    let begin = format!("BEGIN EXCLUSIVE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;");
    connection.execute_batch(&begin).or_else(|error| {
        // Another process may have been first.
        match version(connection) {
            Ok(VERSION) => Ok(()),
            _ => Err(error),
        }
    })
}

impl Ledger for DiskLedger {
    fn accepted(&self, subject: Subject, tenant: &str) -> Result<Option<Accepted>, LedgerError> {
        let connection = lock(&self.connection);
        let Some(connection) = &*connection else {
            return Ok(None);
        };
        find(connection, subject, tenant).map_err(|error| LedgerError {
            what: "read",
            reason: error.to_string(),
        })
    }

    fn accept(
        &self,
        subject: Subject,
        tenant: &str,
        accepted: &Accepted,
    ) -> Result<(), LedgerError> {
        if self.is_read_only {
            return Ok(());
        }
        let order = Arc::new(Order {
            subject,
            tenant: tenant.into(),
            accepted: *accepted,
            outcome: OnceLock::new(),
        });
        lock(&self.waiting).push(order.clone());
        let mut connection = lock(&self.connection);
        // Whoever had the file before may have written this as well.
        if order.outcome.get().is_none() {
            let together = std::mem::take(&mut *lock(&self.waiting));
            let outcome = match &mut *connection {
                Some(connection) => write(connection, &together).map_err(|it| it.to_string()),
                None => Err("there is no file".into()),
            };
            for order in together {
                let _ = order.outcome.set(outcome.clone());
            }
        }
        let outcome = order.outcome.get().cloned();
        let outcome = outcome.unwrap_or_else(|| Err("it was not written".into()));
        outcome.map_err(|reason| LedgerError {
            what: "kept",
            reason,
        })
    }
}

fn find(
    connection: &Connection,
    subject: Subject,
    tenant: &str,
) -> rusqlite::Result<Option<Accepted>> {
    let query = "SELECT begins, sequence, payload FROM accepted WHERE subject = ? AND tenant = ?";
    let mut query = connection.prepare_cached(query)?;
    let accepted = |row: &rusqlite::Row<'_>| {
        let payload: String = row.get(2)?;
        Ok(Accepted {
            from: row.get(0)?,
            sequence: row.get(1)?,
            payload: Sha256::parse(&payload).ok_or(rusqlite::Error::InvalidQuery)?,
        })
    };
    query
        .query_row(params![name(subject), tenant], accepted)
        .optional()
}

fn write(connection: &mut Connection, orders: &[Arc<Order>]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for order in orders {
        keep(&transaction, order.subject, &order.tenant, &order.accepted)?;
    }
    transaction.commit()
}

fn keep(
    connection: &Connection,
    subject: Subject,
    tenant: &str,
    accepted: &Accepted,
) -> rusqlite::Result<()> {
    let mut keep = connection.prepare_cached(
        "INSERT INTO accepted (subject, tenant, begins, sequence, payload)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (subject, tenant) DO UPDATE
         SET begins = ?3, sequence = ?4, payload = ?5
         WHERE (?3, ?4) > (begins, sequence)",
    )?;
    let keeping = keep.execute(params![
        name(subject),
        tenant,
        accepted.from,
        accepted.sequence,
        accepted.payload.to_string()
    ]);
    keeping.map(drop)
}

fn name(subject: Subject) -> &'static str {
    match subject {
        Subject::Tenant => "tenant",
        Subject::Policy => "policy",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(from: u64, sequence: u64) -> Accepted {
        Accepted {
            sequence,
            payload: Sha256([sequence, from, 0, 0]),
            from,
        }
    }

    #[test]
    fn the_newest_stays_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/accepted.sqlite");
        let ledger = DiskLedger::open(&path).unwrap();
        assert_eq!(ledger.accepted(Subject::Policy, "a").unwrap(), None);
        for (from, sequence) in [(0, 7), (0, 5), (3, 4), (0, 9), (3, 5), (3, 4)] {
            let accepted = accepted(from, sequence);
            ledger.accept(Subject::Policy, "a", &accepted).unwrap();
        }
        ledger
            .accept(Subject::Tenant, "a", &accepted(0, 1))
            .unwrap();
        drop(ledger);
        for ledger in [
            DiskLedger::open(&path).unwrap(),
            DiskLedger::open_to_read(&path).unwrap(),
        ] {
            let known = |subject, tenant| ledger.accepted(subject, tenant).unwrap();
            assert_eq!(known(Subject::Policy, "a"), Some(accepted(3, 5)));
            assert_eq!(known(Subject::Tenant, "a"), Some(accepted(0, 1)));
            assert_eq!(known(Subject::Policy, "b"), None);
        }
    }

    #[test]
    fn many_threads_are_written_together() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = DiskLedger::open(&folder.path().join("accepted.sqlite")).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let ledger = &ledger;
                scope.spawn(move || {
                    for sequence in 1..20 {
                        let tenant = thread.to_string();
                        let accepted = accepted(0, sequence);
                        ledger.accept(Subject::Policy, &tenant, &accepted).unwrap();
                        let known = ledger.accepted(Subject::Policy, &tenant).unwrap();
                        assert_eq!(known, Some(accepted));
                    }
                });
            }
        });
    }

    #[test]
    fn what_only_reads_begins_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accepted.sqlite");
        let ledger = DiskLedger::open_to_read(&path).unwrap();
        ledger
            .accept(Subject::Policy, "a", &accepted(0, 1))
            .unwrap();
        assert_eq!(ledger.accepted(Subject::Policy, "a").unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accepted.sqlite");
        std::fs::write(&path, "this is not a database, and long enough to be seen").unwrap();
        let error = DiskLedger::open(&path).unwrap_err().to_string();
        assert!(error.contains("accepted.sqlite") && error.contains("remove it only"));
    }
}
