//! The file in which decisions are kept, and how they are written.

use std::collections::HashMap;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portcullis::Verdict;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::DAY;
use super::record::{Connected, Count, Decided, Kept, digest_of, kept, written};
use crate::config::state_file;

/// The layout of the tables; a file of another one is begun anew.
const VERSION: i64 = 2;
/// How long another process may hold the file.
const PATIENCE: Duration = Duration::from_secs(2);
const PAGE: u64 = 4096;
/// The mode of a file that its owner alone may use.
const PRIVATE: u32 = 0o600;
/// Octets that the file of what is not yet in the tables may keep.
const MAX_LOG: u64 = 16 << 20;
/// A tenant has so many more flows, or decisions, than it may keep before some are removed.
const SLACK: i64 = 256;
/// Days that counters of connectors are kept for.
const COUNTER_DAYS: i64 = 400;
/// How often room is made for what is written in one go.
const MAX_TRIES: u32 = 4;
/// Flows whose decisions may be counted only.
const MAX_KNOWN: usize = 20_000;
/// A flow takes about as much room as so many decisions.
const FLOW_WEIGHT: i64 = 8;
/// Connections to partners that are kept of a tenant.
const CONNECTIONS: i64 = 5000;

const TABLES: &str = "
CREATE TABLE tenant (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    -- Of what came before, some is forgotten (milliseconds since 1970).
    complete_since INTEGER NOT NULL,
    -- The number of the last decision.
    last INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE flow (
    -- A number is never given twice: decisions of flows that are gone belong to no other one.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant INTEGER NOT NULL,
    day INTEGER NOT NULL,
    key BLOB NOT NULL,
    -- Whether no connector had anything to do with it.
    plain INTEGER NOT NULL,
    policy TEXT,
    context TEXT NOT NULL,
    verdict TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    count INTEGER NOT NULL,
    UNIQUE (tenant, day, key)
);
CREATE INDEX flow_by_kind ON flow (tenant, plain, last);
CREATE INDEX flow_by_time ON flow (tenant, last);
CREATE TABLE decision (
    tenant INTEGER NOT NULL,
    number INTEGER NOT NULL,
    time INTEGER NOT NULL,
    flow INTEGER NOT NULL,
    session TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    mail_from TEXT NOT NULL,
    rcpt_to TEXT NOT NULL,
    client TEXT,
    PRIMARY KEY (tenant, number)
) WITHOUT ROWID;
CREATE TABLE connector (
    tenant INTEGER NOT NULL,
    name TEXT NOT NULL,
    day INTEGER NOT NULL,
    passed INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    deferred INTEGER NOT NULL,
    audited INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (tenant, name, day)
) WITHOUT ROWID;
CREATE TABLE connection (
    tenant INTEGER NOT NULL,
    day INTEGER NOT NULL,
    key BLOB NOT NULL,
    facts TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (tenant, day, key)
) WITHOUT ROWID;
CREATE TABLE validation (
    tenant INTEGER NOT NULL,
    connector TEXT NOT NULL,
    time INTEGER NOT NULL,
    passed INTEGER NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY (tenant, connector)
) WITHOUT ROWID;
CREATE TABLE told (
    tenant INTEGER NOT NULL,
    notice TEXT NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (tenant, notice)
) WITHOUT ROWID;
";

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Decisions, and flows, of a tenant.
    pub keep: u32,
    /// Octets of the file.
    pub size: u64,
}

/// Nothing can be kept, or read of what was.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct DatabaseError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: rusqlite::Error,
}

/// The file of a configuration, in the folder of what outlives the process.
pub fn place(folder: &Path, configuration: &Path) -> PathBuf {
    state_file(folder, "decisions", configuration, "sqlite")
}

/// A file that can be read.
pub fn open_to_read(path: &Path) -> Result<Connection, DatabaseError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(PATIENCE)?;
        connection.pragma_update(None, "query_only", true)?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version == VERSION {
            true => Ok(connection),
            false => Err(rusqlite::Error::InvalidQuery),
        }
    });
    opened.map_err(|source| DatabaseError {
        path: path.into(),
        source,
    })
}

/// What came of a validation.
pub struct NewValidation {
    /// Whose rules have the connector.
    pub tenant: Arc<str>,
    /// The connector.
    pub connector: String,
    /// When, in milliseconds since 1970.
    pub time: i64,
    /// Whether all was well.
    pub passed: bool,
    /// What was found, as `portcullis validate --format json` has it.
    pub report: String,
}

/// What one thread writes.
pub struct Database {
    path: PathBuf,
    /// The file, as the disk knows it.
    inode: Option<u64>,
    connection: Connection,
    limits: Limits,
    tenants: HashMap<Arc<str>, i64>,
    /// What came of each tenant since it was looked whether there is too much.
    news: HashMap<i64, News>,
    /// The flows of today, by the hash of their decisions.
    known: Known,
}

/// The flows of today that are in the file.
#[derive(Default)]
struct Known {
    flows: HashMap<u64, KnownFlow>,
    /// Those that have come since somebody asked.
    fresh: Vec<u64>,
    /// Whether others are known no longer.
    is_reset: bool,
}

impl Known {
    fn forget(&mut self) {
        self.flows.clear();
        self.fresh.clear();
        self.is_reset = true;
    }
}

/// A flow that is in the file.
pub struct KnownFlow {
    id: i64,
    tenant: i64,
    day: i64,
    outcomes: Vec<(String, Outcome)>,
}

/// Rows that are new.
struct News {
    flows: i64,
    decisions: i64,
}

impl Default for News {
    /// Before the start, half of what is too much may have come.
    fn default() -> Self {
        News {
            flows: SLACK / 2,
            decisions: SLACK / 2,
        }
    }
}

/// How much of a tenant stays.
#[derive(Clone, Copy)]
struct Keep {
    flows: i64,
    decisions: i64,
}

/// A decision that was written, for those who watch.
pub struct Written {
    /// Its number, in the order of the tenant's decisions.
    pub number: i64,
    /// The tenant.
    pub tenant: Arc<str>,
    /// As it is kept.
    pub kept: Kept,
    /// As it was told.
    pub decided: Decided,
}

impl Database {
    /// Opens the file, or begins a new one. One that is damaged, or of another version, is put aside.
    pub fn open(path: &Path, limits: Limits) -> Result<Self, DatabaseError> {
        let wrong = |source| DatabaseError {
            path: path.into(),
            source,
        };
        let connection = match connect(path, limits) {
            Err(error) if is_damaged(&error) => {
                tracing::warn!(file = %path.display(), %error, "remembered decisions cannot be read; they are put aside, and a new file is begun");
                put_aside(path);
                connect(path, limits).map_err(wrong)?
            }
            connected => connected.map_err(wrong)?,
        };
        Ok(Database {
            path: path.into(),
            inode: inode(path),
            connection,
            limits,
            tenants: HashMap::new(),
            news: HashMap::new(),
            known: Known {
                is_reset: true,
                ..Known::default()
            },
        })
    }

    /// The hashes of decisions whose flows are in the file since the last time, and whether those of before are not.
    pub fn fresh(&mut self) -> (Vec<u64>, bool) {
        let is_reset = std::mem::take(&mut self.known.is_reset);
        (std::mem::take(&mut self.known.fresh), is_reset)
    }

    /// Adds decisions to flows that are in the file.
    pub fn count(&mut self, counted: &[(u64, Count)]) -> rusqlite::Result<()> {
        let known = std::mem::take(&mut self.known);
        let done = self.batch(|batch| {
            for (hash, count) in counted {
                if let Some(flow) = known.flows.get(hash) {
                    batch.count(flow, *count)?;
                }
            }
            Ok(())
        });
        self.known = known;
        done
    }

    /// Whether the file is still in its place.
    pub fn is_there(&self) -> bool {
        self.inode == inode(&self.path)
    }

    /// Puts the file aside if it is damaged.
    pub fn give_up(self, error: &rusqlite::Error) {
        if is_damaged(error) {
            tracing::warn!(file = %self.path.display(), %error, "remembered decisions are damaged; they are put aside, and a new file is begun");
            drop(self.connection);
            put_aside(&self.path);
        }
    }

    /// Writes what has happened. Where the file is full, the oldest of it goes.
    pub fn write(
        &mut self,
        decided: Vec<Decided>,
        connected: &[(Connected, i64)],
    ) -> rusqlite::Result<Vec<Written>> {
        let kept: Vec<Kept> = decided.iter().map(kept).collect();
        let mut tries = 0;
        let numbers = loop {
            match self.try_write(&decided, &kept, connected) {
                Err(error)
                    if error.sqlite_error_code() == Some(ErrorCode::DiskFull)
                        && tries < MAX_TRIES =>
                {
                    tries += 1;
                    self.make_room()?;
                }
                written => break written?,
            }
        };
        self.tidy()?;
        let all = numbers.into_iter().zip(decided.into_iter().zip(kept));
        Ok(all
            .map(|(number, (decided, kept))| Written {
                number,
                tenant: decided.tenant.clone(),
                kept,
                decided,
            })
            .collect())
    }

    fn try_write(
        &mut self,
        decided: &[Decided],
        kept: &[Kept],
        connected: &[(Connected, i64)],
    ) -> rusqlite::Result<Vec<i64>> {
        let written = self.batch(|batch| {
            let numbers = batch.decisions(decided, kept)?;
            for (connected, time) in connected {
                batch.connection(connected, *time)?;
            }
            Ok(numbers)
        });
        // A tenant may have got its number in what is undone.
        written.inspect_err(|_| self.tenants.clear())
    }

    /// Does all of it, or nothing.
    fn batch<T>(
        &mut self,
        write: impl FnOnce(&mut Batch<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let written = write(&mut Batch {
            transaction: &transaction,
            tenants: &mut self.tenants,
            news: &mut self.news,
            known: &mut self.known,
        })?;
        transaction.commit()?;
        Ok(written)
    }

    /// Keeps what came of a validation.
    pub fn validated(&mut self, validated: &NewValidation) -> rusqlite::Result<()> {
        let NewValidation {
            tenant,
            connector,
            time,
            passed,
            report,
        } = validated;
        self.batch(|batch| {
            let tenant = batch.tenant(tenant, *time)?;
            batch.transaction.execute(
                "INSERT OR REPLACE INTO validation VALUES (?, ?, ?, ?, ?)",
                params![tenant, connector, time, passed, report],
            )?;
            Ok(())
        })
    }

    /// Which of these notices have not been told since then. Others that were told no longer hold, and are forgotten.
    pub fn untold(
        &mut self,
        tenant: &Arc<str>,
        notices: &[String],
        time: i64,
        since: i64,
    ) -> rusqlite::Result<Vec<bool>> {
        self.batch(|batch| {
            let tenant = batch.tenant(tenant, time)?;
            let mut known: HashMap<String, i64> = {
                let mut find = batch
                    .transaction
                    .prepare("SELECT notice, time FROM told WHERE tenant = ?")?;
                let rows = find.query_map([tenant], |row| Ok((row.get(0)?, row.get(1)?)))?;
                rows.collect::<rusqlite::Result<_>>()?
            };
            let is_new = |notice: &String| known.get(notice).is_none_or(|told| *told <= since);
            let untold = notices.iter().map(is_new).collect();
            known.retain(|notice, _| !notices.contains(notice));
            for notice in known.keys() {
                batch.transaction.execute(
                    "DELETE FROM told WHERE tenant = ? AND notice = ?",
                    params![tenant, notice],
                )?;
            }
            Ok(untold)
        })
    }

    /// Notes that these notices were told.
    pub fn told(
        &mut self,
        tenant: &Arc<str>,
        notices: &[String],
        time: i64,
    ) -> rusqlite::Result<()> {
        self.batch(|batch| {
            let tenant = batch.tenant(tenant, time)?;
            for notice in notices {
                batch.transaction.execute(
                    "INSERT OR REPLACE INTO told VALUES (?, ?, ?)",
                    params![tenant, notice, time],
                )?;
            }
            Ok(())
        })
    }

    /// Removes what is too much of each tenant that has got more.
    fn tidy(&mut self) -> rusqlite::Result<()> {
        let is_full = |news: &News| news.flows >= SLACK || news.decisions >= SLACK;
        let full = self.news.iter().filter(|(_, news)| is_full(news));
        let full: Vec<(i64, bool)> = full
            .map(|(tenant, news)| (*tenant, news.flows >= SLACK))
            .collect();
        let keep = i64::from(self.limits.keep);
        for (tenant, has_flows) in full {
            let transaction = self.connection.transaction()?;
            let keep = Keep {
                flows: keep,
                decisions: keep,
            };
            forget(&transaction, tenant, keep)?;
            transaction.commit()?;
            if has_flows {
                self.known.forget();
            }
            let none = News {
                flows: 0,
                decisions: 0,
            };
            self.news.insert(tenant, none);
        }
        Ok(())
    }

    /// Removes the oldest of those that have most, until a quarter of all is gone: what one has too much of costs no other
    /// one.
    fn make_room(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let count = |table: &str| -> rusqlite::Result<HashMap<i64, i64>> {
            let sql = format!("SELECT tenant, count(*) FROM {table} GROUP BY tenant");
            let mut statement = transaction.prepare(&sql)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        let (flows, decisions) = (count("flow")?, count("decision")?);
        let of =
            |counts: &HashMap<i64, i64>, tenant: i64| counts.get(&tenant).copied().unwrap_or(0);
        let size = |tenant: i64| of(&flows, tenant) * FLOW_WEIGHT + of(&decisions, tenant);
        let mut tenants: Vec<i64> = flows.keys().chain(decisions.keys()).copied().collect();
        tenants.sort_unstable_by_key(|tenant| std::cmp::Reverse((size(*tenant), *tenant)));
        tenants.dedup();
        let all: i64 = tenants.iter().map(|tenant| size(*tenant)).sum();
        let mut gone = 0;
        for tenant in tenants {
            if gone * 4 >= all.max(1) {
                break;
            }
            let half = |count: i64| (count / 2).max(1);
            let keep = Keep {
                flows: half(of(&flows, tenant)),
                decisions: half(of(&decisions, tenant)),
            };
            forget(&transaction, tenant, keep)?;
            gone += size(tenant) / 2;
        }
        transaction.commit()?;
        self.known.forget();
        Ok(())
    }
}

fn inode(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|file| file.ino())
}

fn connect(path: &Path, limits: Limits) -> rusqlite::Result<Connection> {
    // Who writes to whom is nobody else's business; the files beside it get the same mode.
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(PRIVATE)
        .open(path);
    if let Ok(file) = file {
        let _ = file.set_permissions(Permissions::from_mode(PRIVATE));
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "page_size", PAGE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // What the last second brought may be lost with the power, and nothing else.
    connection.pragma_update(None, "synchronous", "normal")?;
    let log = MAX_LOG.min(limits.size / 4);
    let pages = (limits.size - log) / PAGE;
    connection.pragma_update(None, "journal_size_limit", log)?;
    connection.pragma_update(None, "wal_autocheckpoint", (log / PAGE / 2).max(16))?;
    connection.pragma_update(None, "max_page_count", pages.max(64))?;
    connection.set_prepared_statement_cache_capacity(32);
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
        ))?;
    } else if version != VERSION {
        return Err(rusqlite::Error::InvalidQuery);
    }
    Ok(connection)
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(error, rusqlite::Error::InvalidQuery)
        || matches!(
            code,
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
        )
}

fn put_aside(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let name = |more: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(more);
            PathBuf::from(name)
        };
        let _ = std::fs::rename(name(end), name(&format!(".damaged{end}")));
    }
}

/// Removes flows and decisions of a tenant until so many are left: first flows that no connector had anything to do
/// with, as long as they are more than half.
fn forget(transaction: &Transaction<'_>, tenant: i64, keep: Keep) -> rusqlite::Result<()> {
    let count = |plain: i64| -> rusqlite::Result<i64> {
        transaction.query_row(
            "SELECT count(*) FROM flow WHERE tenant = ? AND plain = ?",
            params![tenant, plain],
            |row| row.get(0),
        )
    };
    let (plain, others) = (count(1)?, count(0)?);
    let too_many = (plain + others - keep.flows).max(0);
    let of_plain = too_many.min((plain - keep.flows / 2).max(0));
    let of_others = too_many - of_plain;
    for (kind, number) in [(1, of_plain), (0, of_others)] {
        if number == 0 {
            continue;
        }
        let last: Option<i64> = transaction.query_row(
            "SELECT max(last) FROM (SELECT last FROM flow WHERE tenant = ? AND plain = ? ORDER BY last LIMIT ?)",
            params![tenant, kind, number],
            |row| row.get(0),
        )?;
        transaction.execute(
            "DELETE FROM flow WHERE id IN (SELECT id FROM flow WHERE tenant = ? AND plain = ? ORDER BY last LIMIT ?)",
            params![tenant, kind, number],
        )?;
        transaction.execute(
            "UPDATE tenant SET complete_since = max(complete_since, ?) WHERE id = ?",
            params![last, tenant],
        )?;
    }
    transaction.execute(
        "DELETE FROM decision WHERE tenant = ?1 AND number <= (SELECT last FROM tenant WHERE id = ?1) - ?2",
        params![tenant, keep.decisions],
    )?;
    transaction.execute(
        "DELETE FROM connector WHERE tenant = ?1 AND day < (SELECT max(day) FROM connector WHERE tenant = ?1) - ?2",
        params![tenant, COUNTER_DAYS],
    )?;
    transaction.execute(
        "DELETE FROM connection WHERE tenant = ?1 AND (day, key) NOT IN
             (SELECT day, key FROM connection WHERE tenant = ?1 ORDER BY last DESC LIMIT ?2)",
        params![tenant, CONNECTIONS],
    )?;
    Ok(())
}

/// What is written in one transaction.
struct Batch<'a> {
    transaction: &'a Transaction<'a>,
    tenants: &'a mut HashMap<Arc<str>, i64>,
    news: &'a mut HashMap<i64, News>,
    known: &'a mut Known,
}

/// A flow of a batch.
struct NewFlow {
    /// The first decision of it in the batch.
    example: usize,
    first: i64,
    last: i64,
    count: i64,
    id: i64,
}

/// What a connector did to the messages of a batch.
#[derive(Default)]
struct Tally {
    passed: i64,
    refused: i64,
    deferred: i64,
    audited: i64,
    last: i64,
}

#[derive(Clone, Copy)]
enum Outcome {
    Passed,
    Refused,
    Deferred,
    Audited,
}

impl Tally {
    fn add(&mut self, outcome: Outcome, time: i64, number: i64) {
        self.last = self.last.max(time);
        *match outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Refused => &mut self.refused,
            Outcome::Deferred => &mut self.deferred,
            Outcome::Audited => &mut self.audited,
        } += number;
    }
}

impl Batch<'_> {
    fn tenant(&mut self, name: &Arc<str>, time: i64) -> rusqlite::Result<i64> {
        if let Some(id) = self.tenants.get(name) {
            return Ok(*id);
        }
        let id = self.transaction.query_row(
            "INSERT INTO tenant (name, complete_since) VALUES (?, ?)
             ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
            params![&**name, time],
            |row| row.get(0),
        )?;
        self.tenants.insert(name.clone(), id);
        Ok(id)
    }

    /// Writes decisions, and gives the number of each.
    fn decisions(&mut self, decided: &[Decided], kept: &[Kept]) -> rusqlite::Result<Vec<i64>> {
        let mut flows: HashMap<(i64, i64, [u8; 16]), NewFlow> = HashMap::new();
        let mut tallies: HashMap<(i64, i64, &str), Tally> = HashMap::new();
        let mut places = Vec::with_capacity(kept.len());
        for (number, (decided, kept)) in decided.iter().zip(kept).enumerate() {
            let tenant = self.tenant(&decided.tenant, kept.time)?;
            let day = kept.time.div_euclid(1000 * DAY);
            let place = (tenant, day, kept.key);
            let flow = flows.entry(place).or_insert(NewFlow {
                example: number,
                first: kept.time,
                last: kept.time,
                count: 0,
                id: 0,
            });
            flow.first = flow.first.min(kept.time);
            flow.last = flow.last.max(kept.time);
            flow.count += 1;
            places.push(place);
            for (name, outcome) in outcomes(&decided.verdict) {
                let tally = tallies.entry((tenant, day, name)).or_default();
                tally.add(outcome, kept.time, 1);
            }
        }
        for (place, flow) in &mut flows {
            let (decided, kept) = (&decided[flow.example], &kept[flow.example]);
            self.flow(*place, flow, decided, kept)?;
            self.know(*place, flow.id, decided);
        }
        for ((tenant, day, name), tally) in tallies {
            self.tally(tenant, day, name, &tally)?;
        }
        let mut newest: HashMap<i64, i64> = HashMap::new();
        let mut insert = self
            .transaction
            .prepare_cached("INSERT INTO decision VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        let mut numbers = Vec::with_capacity(kept.len());
        for ((place, kept), decided) in places.iter().zip(kept).zip(decided) {
            let tenant = place.0;
            let number = match newest.get(&tenant) {
                Some(newest) => newest + 1,
                None => self.last(tenant)? + 1,
            };
            newest.insert(tenant, number);
            insert.execute(params![
                tenant,
                number,
                kept.time,
                flows.get(place).map(|flow| flow.id),
                decided.session,
                decided.transaction,
                kept.mail_from,
                kept.rcpt_to,
                kept.client
            ])?;
            self.news.entry(tenant).or_default().decisions += 1;
            numbers.push(number);
        }
        for (tenant, number) in newest {
            self.transaction
                .prepare_cached("UPDATE tenant SET last = ? WHERE id = ?")?
                .execute([number, tenant])?;
        }
        Ok(numbers)
    }

    /// The number of a tenant's last decision.
    fn last(&self, tenant: i64) -> rusqlite::Result<i64> {
        self.transaction
            .prepare_cached("SELECT last FROM tenant WHERE id = ?")?
            .query_row([tenant], |row| row.get(0))
    }

    fn flow(
        &mut self,
        (tenant, day, key): (i64, i64, [u8; 16]),
        flow: &mut NewFlow,
        decided: &Decided,
        kept: &Kept,
    ) -> rusqlite::Result<()> {
        let known: Option<i64> = self
            .transaction
            .prepare_cached(
                "UPDATE flow SET count = count + ?, last = max(last, ?)
                 WHERE tenant = ? AND day = ? AND key = ? RETURNING id",
            )?
            .query_row(params![flow.count, flow.last, tenant, day, key], |row| {
                row.get(0)
            })
            .optional()?;
        if let Some(id) = known {
            flow.id = id;
            return Ok(());
        }
        let mut insert = self.transaction.prepare_cached(
            "INSERT INTO flow (tenant, day, key, plain, policy, context, verdict, first, last, count)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        let policy = decided.policy.map(|digest| digest.to_string());
        flow.id = insert.insert(params![
            tenant,
            day,
            key,
            is_plain(&decided.verdict),
            policy,
            kept.context.to_json(),
            written(&decided.verdict).to_string(),
            flow.first,
            flow.last,
            flow.count
        ])?;
        self.news.entry(tenant).or_default().flows += 1;
        Ok(())
    }

    /// From now on, decisions like this one may be counted only.
    fn know(&mut self, (tenant, day, _): (i64, i64, [u8; 16]), id: i64, decided: &Decided) {
        let mut known = self.known.flows.values();
        if known.next().is_some_and(|other| other.day != day) || self.known.flows.len() >= MAX_KNOWN
        {
            self.known.forget();
        }
        let outcomes = outcomes(&decided.verdict);
        let flow = KnownFlow {
            id,
            tenant,
            day,
            outcomes: outcomes.map(|(name, it)| (name.to_owned(), it)).collect(),
        };
        self.known.flows.insert(decided.hash, flow);
        self.known.fresh.push(decided.hash);
    }

    fn count(&mut self, flow: &KnownFlow, count: Count) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("UPDATE flow SET count = count + ?, last = max(last, ?) WHERE id = ?")?
            .execute(params![count.number, count.last, flow.id])?;
        for (name, outcome) in &flow.outcomes {
            let mut tally = Tally::default();
            tally.add(
                *outcome,
                count.last,
                i64::try_from(count.number).unwrap_or(i64::MAX),
            );
            self.tally(flow.tenant, flow.day, name, &tally)?;
        }
        Ok(())
    }

    fn tally(&self, tenant: i64, day: i64, name: &str, tally: &Tally) -> rusqlite::Result<()> {
        let mut add = self.transaction.prepare_cached(
            "INSERT INTO connector VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (tenant, name, day) DO UPDATE SET
                 passed = passed + excluded.passed, refused = refused + excluded.refused,
                 deferred = deferred + excluded.deferred, audited = audited + excluded.audited,
                 last = max(last, excluded.last)",
        )?;
        add.execute(params![
            tenant,
            name,
            day,
            tally.passed,
            tally.refused,
            tally.deferred,
            tally.audited,
            tally.last
        ])?;
        Ok(())
    }

    fn connection(&mut self, connected: &Connected, time: i64) -> rusqlite::Result<()> {
        let tenant = self.tenant(&connected.tenant, time)?;
        let facts = serde_json::to_string(connected).unwrap_or_default();
        let key = digest_of(facts.as_bytes());
        let mut add = self.transaction.prepare_cached(
            "INSERT INTO connection VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1)
             ON CONFLICT (tenant, day, key) DO UPDATE SET
                 last = max(last, excluded.last), count = count + 1",
        )?;
        let day = time.div_euclid(1000 * DAY);
        add.execute(params![tenant, day, key, facts, time])?;
        Ok(())
    }
}

/// Whether no connector had anything to do with a decision.
fn is_plain(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Accept(acceptance) => {
            acceptance.connectors.is_empty() && acceptance.audit.is_empty()
        }
        Verdict::Deliver(delivery) => delivery.connector.is_none() && delivery.audit.is_empty(),
        Verdict::Reject(_) | Verdict::Defer(_) => false,
    }
}

/// What each connector did that a verdict names.
fn outcomes(verdict: &Verdict) -> impl Iterator<Item = (&str, Outcome)> {
    let (names, outcome): (&[String], _) = match verdict {
        Verdict::Accept(acceptance) => (&acceptance.connectors, Outcome::Passed),
        Verdict::Deliver(delivery) => (delivery.connector.as_slice(), Outcome::Passed),
        Verdict::Reject(refusal) => (refusal.connector.as_slice(), Outcome::Refused),
        Verdict::Defer(refusal) => (refusal.connector.as_slice(), Outcome::Deferred),
    };
    let audited = verdict.audit().iter();
    names
        .iter()
        .map(move |name| (&**name, outcome))
        .chain(audited.map(|finding| (&*finding.connector, Outcome::Audited)))
}
