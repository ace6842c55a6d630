//! What is asked of the decisions that are kept.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::DAY;
use super::database::{DatabaseError, Written, open_to_read};
use super::record::{domain, written};

/// Decisions that are kept, to be read.
pub struct Decisions {
    connection: rusqlite::Connection,
    path: std::path::PathBuf,
}

/// A decision about a recipient.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Decision {
    /// Its number, in the order of the tenant's decisions.
    pub number: i64,
    /// When: RFC 3339, in UTC.
    pub time: String,
    /// The session's id.
    pub session: String,
    /// The transaction's id.
    pub transaction: String,
    /// The client's address or network.
    pub client: Option<String>,
    /// The facts, as a context.
    pub context: Value,
    /// The verdict.
    pub verdict: Value,
    /// The digest of the policy's file.
    pub policy: Option<String>,
}

/// Decisions of one day on the same facts.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// The facts of one of them, as a context.
    pub context: String,
    /// The verdict.
    pub verdict: String,
    /// Milliseconds since 1970.
    pub first: i64,
    /// Milliseconds since 1970.
    pub last: i64,
    /// How many they are.
    pub count: u64,
}

/// What a connector did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counters {
    /// Messages that satisfied it; of an outbound one, those that it has delivered.
    pub passed: u64,
    /// Messages that it has refused.
    pub refused: u64,
    /// Messages that it has deferred.
    pub deferred: u64,
    /// Messages that it would have refused, in audit mode.
    pub audited: u64,
    /// When it last had one: milliseconds since 1970.
    pub last: i64,
}

/// What a partner's server has shown on a day.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// As [`super::Connected`] is written.
    pub facts: Value,
    /// Milliseconds since 1970.
    pub first: i64,
    /// Milliseconds since 1970.
    pub last: i64,
    /// How many connections.
    pub count: u64,
}

/// What came of trying a connector out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Validated {
    /// When: RFC 3339, in UTC.
    pub time: String,
    /// Whether all was well.
    pub passed: bool,
    /// What was found.
    pub report: Value,
}

/// Which decisions are wanted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Filter {
    /// Those that a connector had to do with.
    pub connector: Option<String>,
    /// `accept`, `deliver`, `reject`, `defer`, or `audit` for those with a finding.
    pub verdict: Option<String>,
    /// Those with this text in an id, an address or the client.
    pub text: Option<String>,
    /// Those before this number.
    pub before: Option<i64>,
    /// Those after this number.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: Option<u32>,
}

/// At most so many decisions are read at a time, and so many if nothing is said.
const MOST: u32 = 1000;
const USUAL: u32 = 100;

impl Decision {
    /// A decision as it was just written.
    pub fn of(decision: &Written) -> Self {
        let Written {
            number,
            kept,
            decided,
            ..
        } = decision;
        Decision {
            number: *number,
            time: moment(kept.time),
            session: decided.session.to_string(),
            transaction: decided.transaction.to_string(),
            client: kept.client.clone(),
            context: serde_json::from_str(&kept.context.to_json()).unwrap_or_default(),
            verdict: written(&decided.verdict),
            policy: decided.policy.map(|digest| digest.to_string()),
        }
    }

    fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let json = |number| -> rusqlite::Result<Value> {
            let text: String = row.get(number)?;
            Ok(serde_json::from_str(&text).unwrap_or_default())
        };
        let mut context = json(7)?;
        if let Some(facts) = context.as_object_mut() {
            facts.insert("mail-from".into(), row.get::<_, String>(4)?.into());
            facts.insert("rcpt-to".into(), row.get::<_, String>(5)?.into());
            // The facts are those of the flow's first decision, of which these are another person's.
            facts.remove("helo");
            if let Some(Value::Array(addresses)) = facts.get_mut("header-from") {
                for address in addresses {
                    let own = domain(address.as_str().unwrap_or_default());
                    *address = format!("*@{own}").into();
                }
            }
        }
        Ok(Decision {
            number: row.get(0)?,
            time: moment(row.get(1)?),
            session: row.get(2)?,
            transaction: row.get(3)?,
            client: row.get(6)?,
            context,
            verdict: json(8)?,
            policy: row.get(9)?,
        })
    }
}

/// RFC 3339, in UTC, from milliseconds since 1970.
pub fn moment(milliseconds: i64) -> String {
    let nanoseconds = i128::from(milliseconds) * 1_000_000;
    let moment = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok();
    let moment = moment.and_then(|moment| moment.format(&Rfc3339).ok());
    moment.unwrap_or_default()
}

impl Decisions {
    /// Opens a file.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        Ok(Decisions {
            connection: open_to_read(path)?,
            path: path.into(),
        })
    }

    fn wrong(&self, source: rusqlite::Error) -> DatabaseError {
        DatabaseError {
            path: self.path.clone(),
            source,
        }
    }

    /// What a tenant has, if anything of it is kept.
    fn of_tenant<T: Default>(
        &self,
        tenant: &str,
        read: impl FnOnce(i64) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let find = "SELECT id FROM tenant WHERE name = ?";
        let id = self.connection.query_row(find, [tenant], |row| row.get(0));
        let read = match id.optional() {
            Ok(Some(id)) => read(id),
            Ok(None) => Ok(T::default()),
            Err(error) => Err(error),
        };
        read.map_err(|source| self.wrong(source))
    }

    /// The tenant's decisions, the last ones first.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn last(&self, tenant: &str, filter: &Filter) -> Result<Vec<Decision>, DatabaseError> {
        const FIND: &str = "
            SELECT d.number, d.time, d.session, d.transaction_id, d.mail_from, d.rcpt_to, d.client,
                   f.context, f.verdict, f.policy
            FROM decision d JOIN flow f ON f.id = d.flow AND f.tenant = d.tenant
            WHERE d.tenant = ?1 AND d.number < ?2 AND d.number > ?7
              AND (?3 IS NULL OR d.flow IN (
                  SELECT id FROM flow WHERE tenant = ?1 AND (
                      json_extract(verdict, '$.connector') = ?3
                      OR EXISTS (SELECT 1 FROM json_each(verdict, '$.connectors') WHERE value = ?3)
                      OR EXISTS (SELECT 1 FROM json_each(verdict, '$.audit')
                                 WHERE json_extract(value, '$.connector') = ?3))))
              AND (?4 IS NULL OR d.flow IN (
                  SELECT id FROM flow WHERE tenant = ?1 AND CASE ?4
                      WHEN 'audit' THEN json_array_length(verdict, '$.audit') > 0
                      ELSE json_extract(verdict, '$.verdict') = ?4 END))
              AND (?5 IS NULL OR instr(lower(d.transaction_id || ' ' || d.session || ' ' || d.mail_from || ' '
                  || d.rcpt_to || ' ' || ifnull(d.client, '')), lower(?5)) > 0)
            ORDER BY d.number DESC LIMIT ?6";
        self.of_tenant(tenant, |id| {
            let mut statement = self.connection.prepare(FIND)?;
            let limit = filter.limit.unwrap_or(USUAL).min(MOST);
            let before = filter.before.unwrap_or(i64::MAX);
            let rows = statement.query_map(
                params![
                    id,
                    before,
                    filter.connector,
                    filter.verdict,
                    filter.text,
                    limit,
                    filter.after.unwrap_or(0)
                ],
                Decision::of_row,
            )?;
            rows.collect()
        })
    }

    /// The tenant's flows that had a message since then, the last ones first, at most so many.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn flows(&self, tenant: &str, since: i64, limit: u32) -> Result<Vec<Flow>, DatabaseError> {
        const FIND: &str = "SELECT context, verdict, first, last, count FROM flow
            WHERE tenant = ? AND last >= ? ORDER BY last DESC LIMIT ?";
        self.of_tenant(tenant, |id| {
            let mut statement = self.connection.prepare(FIND)?;
            let rows = statement.query_map(params![id, since, limit], |row| {
                Ok(Flow {
                    context: row.get(0)?,
                    verdict: row.get(1)?,
                    first: row.get(2)?,
                    last: row.get(3)?,
                    count: row.get(4)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Since when nothing of the tenant has been forgotten, in milliseconds since 1970.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn complete_since(&self, tenant: &str) -> Result<i64, DatabaseError> {
        const FIND: &str = "SELECT complete_since FROM tenant WHERE id = ?";
        self.of_tenant(tenant, |id| {
            self.connection.query_row(FIND, [id], |row| row.get(0))
        })
    }

    /// When each of the tenant's connectors first had a decision, in milliseconds since 1970.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn first_seen(&self, tenant: &str) -> Result<BTreeMap<String, i64>, DatabaseError> {
        const FIND: &str = "SELECT name, min(day) FROM connector WHERE tenant = ? GROUP BY name";
        self.of_tenant(tenant, |id| {
            let mut statement = self.connection.prepare(FIND)?;
            let rows = statement.query_map([id], |row| {
                let day: i64 = row.get(1)?;
                Ok((row.get(0)?, day * 1000 * DAY))
            })?;
            rows.collect()
        })
    }

    /// What the tenant's connectors did in the last days, today included.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn counters(
        &self,
        tenant: &str,
        now: i64,
        days: i64,
    ) -> Result<BTreeMap<String, Counters>, DatabaseError> {
        const FIND: &str =
            "SELECT name, sum(passed), sum(refused), sum(deferred), sum(audited), max(last)
            FROM connector WHERE tenant = ? AND day > ? GROUP BY name";
        self.of_tenant(tenant, |id| {
            let mut statement = self.connection.prepare(FIND)?;
            let from = now.div_euclid(1000 * DAY) - days;
            let rows = statement.query_map(params![id, from], |row| {
                let counters = Counters {
                    passed: row.get(1)?,
                    refused: row.get(2)?,
                    deferred: row.get(3)?,
                    audited: row.get(4)?,
                    last: row.get(5)?,
                };
                Ok((row.get(0)?, counters))
            })?;
            rows.collect()
        })
    }

    /// What partners' servers have shown since then, the last ones first.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn connections(&self, tenant: &str, since: i64) -> Result<Vec<Connection>, DatabaseError> {
        const FIND: &str = "SELECT facts, first, last, count FROM connection
            WHERE tenant = ? AND last >= ? ORDER BY last DESC";
        self.of_tenant(tenant, |id| {
            let mut statement = self.connection.prepare(FIND)?;
            let rows = statement.query_map(params![id, since], |row| {
                let facts: String = row.get(0)?;
                Ok(Connection {
                    facts: serde_json::from_str(&facts).unwrap_or_default(),
                    first: row.get(1)?,
                    last: row.get(2)?,
                    count: row.get(3)?,
                })
            })?;
            rows.collect()
        })
    }

    /// What came of trying each connector out.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn validations(&self, tenant: &str) -> Result<BTreeMap<String, Validated>, DatabaseError> {
        const FIND: &str =
            "SELECT connector, time, passed, report FROM validation WHERE tenant = ?";
        self.of_tenant(tenant, |id| {
            let mut statement = self.connection.prepare(FIND)?;
            let rows = statement.query_map([id], |row| {
                let report: String = row.get(3)?;
                let validated = Validated {
                    time: moment(row.get(1)?),
                    passed: row.get(2)?,
                    report: serde_json::from_str(&report).unwrap_or_default(),
                };
                Ok((row.get(0)?, validated))
            })?;
            rows.collect()
        })
    }
}
