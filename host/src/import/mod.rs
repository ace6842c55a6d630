//! Rules made of what other products export.
//!
//! What is certain is enforced. What is uncertain becomes a connector in audit mode and is told. What cannot be said is
//! not imported, and is told with the original text. Nothing becomes weaker than it was.

pub mod exchange;
pub mod list;
pub mod postfix;
mod read;
mod record;

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Map, Value};

pub use self::read::read;
pub use self::record::{ReadError, Record};

/// A connector as it is written in a document.
pub type Connector = Map<String, Value>;

/// What became of a source.
#[derive(Debug, Default)]
pub struct Import {
    /// The domains that the organization receives mail for, if the source has them.
    pub accepted_domains: Vec<String>,
    /// The connectors, in the order of the source.
    pub connectors: Vec<Connector>,
    /// What each part of the source became.
    pub rows: Vec<Row>,
    /// What is to be known of the whole.
    pub notes: Vec<String>,
    /// The names of the connectors.
    names: HashSet<String>,
}

/// What a part of a source became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Row {
    /// What it is there, such as `inbound "Contoso Bank"`.
    pub there: String,
    /// The names of the connectors that it became.
    pub here: Vec<String>,
    /// How they differ; nothing if they mean the same.
    pub differences: Vec<Difference>,
}

/// How what is imported differs from what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Difference {
    /// What kind it is of.
    pub kind: Kind,
    /// What differs, for a person.
    pub text: String,
}

/// What kind a difference is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It means the same, and is to be known all the same.
    Note,
    /// More is asked for than there, or it is said otherwise.
    Differs,
    /// It is uncertain, and is only reported (audit mode), or switched off.
    Uncertain,
    /// It cannot be said, and is not imported.
    NotImported,
}

impl Import {
    /// The rules document.
    pub fn document(&self) -> Value {
        let mut document = Map::new();
        if !self.accepted_domains.is_empty() {
            document.insert(
                "accepted-domains".into(),
                self.accepted_domains.clone().into(),
            );
        }
        let connectors = self.connectors.iter().cloned().map(Value::Object);
        document.insert("connectors".into(), connectors.collect());
        Value::Object(document)
    }

    /// A name for a connector that no other one has: they are unique in a document.
    fn unique(&mut self, name: &str, suffix: &str) -> String {
        const MOST: usize = 100;
        let cut = |behind: &str| -> String {
            let room = MOST.saturating_sub(behind.chars().count());
            name.chars().take(room).collect::<String>() + behind
        };
        let mut made = cut(suffix);
        let mut number = 2;
        while !self.names.insert(made.clone()) {
            made = cut(&format!("{suffix} ({number})"));
            number += 1;
        }
        made
    }

    /// Takes what came of another part in.
    pub fn join(&mut self, other: Import) {
        self.accepted_domains.extend(other.accepted_domains);
        self.rows.extend(other.rows);
        self.notes.extend(other.notes);
        for mut connector in other.connectors {
            let name = connector
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let name = self.unique(name, "");
            connector.insert("name".into(), name.into());
            self.connectors.push(connector);
        }
    }

    /// The gravest kind of a difference, if there is one.
    pub fn gravest(&self) -> Option<Kind> {
        let kinds = self.rows.iter().flat_map(|row| &row.differences);
        kinds.map(|difference| difference.kind).max()
    }

    /// Whether all of it means what it meant.
    pub fn is_same(&self) -> bool {
        self.gravest().is_none_or(|kind| kind == Kind::Note)
    }
}

impl Row {
    fn new(there: String) -> Self {
        Row {
            there,
            here: Vec::new(),
            differences: Vec::new(),
        }
    }

    fn tell(&mut self, kind: Kind, text: impl Into<String>) {
        self.differences.push(Difference {
            kind,
            text: text.into(),
        });
    }
}

/// An object without the lists that are empty.
fn object(fields: impl IntoIterator<Item = (&'static str, Vec<String>)>) -> Value {
    let fields = fields.into_iter().filter(|(_, list)| !list.is_empty());
    let fields = fields.map(|(name, list)| (name.to_owned(), Value::from(list)));
    Value::Object(fields.collect())
}
