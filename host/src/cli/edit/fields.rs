//! The fields of a connector, as options and as questions: one table for both.

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use portcullis::Direction;
use serde_json::{Map, Value};

/// A connector as it is written in a document.
pub type Connector = Map<String, Value>;

/// A field of a connector, whose value is one text or several.
pub struct Field {
    /// The option, without dashes.
    pub option: &'static str,
    /// What stands for its value in the help.
    placeholder: &'static str,
    /// What the option's help says.
    pub help: &'static str,
    kind: Kind,
    path: &'static [&'static str],
    /// The direction that has it; `None` if both have.
    direction: Option<Direction>,
}

enum Kind {
    Text,
    List,
    /// `true`, or absent.
    Flag,
    Number,
    /// `enforce`, `audit` or `disabled`: `mode` and `enabled` in one.
    Mode,
    /// Encryption: `true`, which a least version includes.
    Encryption,
    /// The least version of an encrypted session.
    Version,
    /// `mx`, or smart hosts.
    Route,
}

const IN: Option<Direction> = Some(Direction::Inbound);
const OUT: Option<Direction> = Some(Direction::Outbound);

macro_rules! fields {
    ($($option:literal $placeholder:literal $direction:ident $kind:ident [$($path:literal),*] $help:literal;)*) => {
        &[$(Field {
            option: $option,
            placeholder: $placeholder,
            help: $help,
            kind: Kind::$kind,
            path: &[$($path),*],
            direction: $direction,
        }),*]
    };
}

/// Of both directions.
const BOTH: Option<Direction> = None;

/// All fields, in the order in which they are asked for.
pub const FIELDS: &[Field] = fields! {
    "name" "NAME" BOTH Text ["name"] "Its name, which refusals and logs show";
    "comment" "TEXT" BOTH Text ["comment"] "A remark for people";
    "mode" "MODE" BOTH Mode ["mode"] "enforce, audit (reports, and refuses nothing) or disabled";
    "from" "DOMAIN" IN List ["from", "sender-domains"] "Senders' domains that it is for: x.com, *.x.com or *";
    "from-ip" "RANGE" IN List ["from", "sender-ips"] "Clients' addresses that it is for: 203.0.113.0/24";
    "from-certificate" "NAME" IN List ["from", "certificate-names"] "Names in clients' certificates that it is for";
    "to" "DOMAIN" BOTH List ["recipient-domains"] "Recipients' domains that it is for";
    "except-from" "DOMAIN" IN List ["except", "sender-domains"] "Senders' domains that it is not for";
    "except-from-ip" "RANGE" IN List ["except", "sender-ips"] "Clients' addresses that it is not for";
    "except-from-certificate" "NAME" IN List ["except", "certificate-names"] "Names in clients' certificates that it is not for";
    "except-to" "DOMAIN" BOTH List ["except", "recipient-domains"] "Recipients' domains that it is not for";
    "match-header-from" "" IN Flag ["match-header-from"] "Senders in the From header count as well";
    "tls" "" IN Encryption ["require", "tls"] "Require an encrypted session";
    "smart-host" "HOST" OUT Route ["route"] "Deliver to this host instead of the MX: mx.x.com, or [203.0.113.9]:25";
    "level" "LEVEL" OUT Text ["tls", "level"] "opportunistic, encrypt (always TLS), verify (a trusted certificate) or name (with one of the names)";
    "server-name" "NAME" OUT List ["tls", "names"] "A name that the server's certificate must have, at level name";
    "min-version" "VERSION" BOTH Version ["min-version"] "Require this TLS version or a later one: TLSv1.3";
    "certificate-name" "NAME" IN List ["require", "certificate-names"] "Require a trusted certificate with this name";
    "certificate-fingerprint" "SHA256" BOTH List ["certificate-fingerprints"] "Require this certificate";
    "certificate-key" "SHA256" BOTH List ["certificate-keys"] "Require a certificate with this public key";
    "certificate-authority" "NAME" BOTH List ["certificate-authorities"] "Require a certificate of this authority, of the configuration, or public";
    "source-ip" "RANGE" IN List ["require", "source-ips"] "Require that the client has such an address";
    "dane" "USE" OUT Text ["dane"] "opportunistic, mandatory or none";
    "mta-sts" "USE" OUT Text ["mta-sts"] "opportunistic or none";
    "reply" "TEXT" IN Text ["reply", "text"] "Added to the reply of a refusal";
    "reply-code" "CODE" IN Number ["reply", "code"] "The code of a refusal's reply: 550 to 559";
    "reply-enhanced" "CODE" IN Text ["reply", "enhanced"] "Its enhanced code: 5.7.1";
};

/// The field of an option.
pub fn field(option: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.option == option)
}

impl Field {
    /// Whether connectors of a direction have it.
    pub fn is_of(&self, direction: Direction) -> bool {
        self.direction.is_none_or(|own| own == direction)
    }

    /// Whether it has several values.
    pub fn is_list(&self) -> bool {
        matches!(self.kind, Kind::List | Kind::Route)
    }

    /// Whether its option has no value.
    pub fn is_flag(&self) -> bool {
        matches!(self.kind, Kind::Flag | Kind::Encryption)
    }

    /// Where it stands in a connector of a direction.
    fn place(&self, direction: Direction) -> Vec<&'static str> {
        let group = match (self.option, direction) {
            ("to", Direction::Inbound) => Some("from"),
            ("to", Direction::Outbound) => Some("to"),
            ("min-version", Direction::Inbound) => Some("require"),
            ("min-version", Direction::Outbound) => Some("tls"),
            (option, direction)
                if option.starts_with("certificate-") && self.direction.is_none() =>
            {
                Some(match direction {
                    Direction::Inbound => "require",
                    Direction::Outbound => "tls",
                })
            }
            _ => None,
        };
        group.into_iter().chain(self.path.iter().copied()).collect()
    }

    /// The path below the connector that problems of it have.
    pub fn problem_path(&self, direction: Direction) -> String {
        match self.kind {
            Kind::Version if direction == Direction::Inbound => "require.tls".into(),
            _ => self.place(direction).join("."),
        }
    }

    /// Its value in a connector: none if it is absent.
    pub fn get(&self, connector: &Connector, direction: Direction) -> Vec<String> {
        let at = |path: &[&str]| {
            let (first, rest) = path.split_first()?;
            rest.iter()
                .try_fold(connector.get(*first)?, |value, name| value.get(*name))
        };
        let texts = |value: Option<&Value>| match value {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => list
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            Some(Value::Number(number)) => vec![number.to_string()],
            _ => Vec::new(),
        };
        let flag = |is_set: bool| {
            if is_set {
                vec!["yes".into()]
            } else {
                Vec::new()
            }
        };
        match self.kind {
            Kind::Text | Kind::List | Kind::Number => texts(at(&self.place(direction))),
            Kind::Flag => flag(at(self.path) == Some(&Value::Bool(true))),
            Kind::Encryption => flag(at(self.path).is_some_and(|tls| *tls != Value::Bool(false))),
            Kind::Version if direction == Direction::Inbound => {
                texts(at(&["require", "tls", "min-version"]))
            }
            Kind::Version => texts(at(&self.place(direction))),
            Kind::Mode => match (at(&["enabled"]), at(&["mode"])) {
                (Some(Value::Bool(false)), _) => vec!["disabled".into()],
                (_, Some(Value::String(mode))) => vec![mode.clone()],
                _ => vec!["enforce".into()],
            },
            Kind::Route => texts(at(&["route", "smart-hosts"])),
        }
    }

    /// Gives it a value; none takes it away.
    pub fn set(&self, connector: &mut Connector, direction: Direction, values: &[String]) {
        let first = values.first();
        let text = first.map(|text| Value::from(text.as_str()));
        let is_yes = || first.is_some_and(|text| text != "no");
        let place = self.place(direction);
        match self.kind {
            Kind::Text => put(connector, &place, text),
            // What is no number is told of by the evaluator.
            Kind::Number => {
                let number = first
                    .and_then(|text| text.parse::<u64>().ok())
                    .map(Value::from);
                put(connector, &place, number.or(text));
            }
            Kind::List => {
                let list = (!values.is_empty()).then(|| Value::from(values.to_vec()));
                put(connector, &place, list);
            }
            Kind::Flag => put(connector, &place, is_yes().then_some(Value::Bool(true))),
            Kind::Encryption if is_yes() => {
                if self.get(connector, direction).is_empty() {
                    put(connector, &place, Some(Value::Bool(true)));
                }
            }
            Kind::Encryption => put(connector, &place, None),
            Kind::Version if direction == Direction::Inbound => match text {
                Some(text) => {
                    put(connector, &["require", "tls"], None);
                    put(connector, &["require", "tls", "min-version"], Some(text));
                }
                None if connector
                    .get("require")
                    .and_then(|require| require.get("tls"))
                    .is_some_and(Value::is_object) =>
                {
                    put(connector, &["require", "tls"], Some(Value::Bool(true)));
                }
                None => {}
            },
            Kind::Version => put(connector, &place, text),
            Kind::Mode => {
                let mode = first.map_or("enforce", String::as_str);
                put(
                    connector,
                    &["enabled"],
                    (mode == "disabled").then_some(Value::Bool(false)),
                );
                match mode {
                    "enforce" => put(connector, &["mode"], None),
                    // It comes back as what it was.
                    "disabled" => {}
                    other => put(connector, &["mode"], Some(other.into())),
                }
            }
            Kind::Route if values.is_empty() || values == ["mx"] => {
                put(connector, &["route"], None)
            }
            Kind::Route => put(
                connector,
                &["route", "smart-hosts"],
                Some(Value::from(values.to_vec())),
            ),
        }
    }
}

/// Puts a value at a place, or takes what is there away; an object that is empty then goes with it.
fn put(connector: &mut Connector, path: &[&str], value: Option<Value>) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        match value {
            Some(value) => drop(connector.insert((*first).into(), value)),
            None => drop(connector.remove(*first)),
        }
        return;
    }
    let inner = connector
        .entry(*first)
        .or_insert_with(|| Value::Object(Map::new()));
    if !inner.is_object() {
        *inner = Value::Object(Map::new());
    }
    if let Value::Object(inner) = inner {
        put(inner, rest, value);
        if inner.is_empty() {
            connector.remove(*first);
        }
    }
}

/// The fields that are given by options.
#[derive(Clone, Debug, Default)]
pub struct Given(Vec<(&'static str, Vec<String>)>);

impl Given {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a field is given.
    pub fn has(&self, option: &str) -> bool {
        self.0.iter().any(|(given, _)| *given == option)
    }

    /// The direction that the options are of, if they tell; an error if they are of both.
    pub fn direction(&self) -> anyhow::Result<Option<Direction>> {
        let mut known: Option<(&str, Direction)> = None;
        for (option, _) in &self.0 {
            let Some(direction) = field(option).and_then(|field| field.direction) else {
                continue;
            };
            match known {
                Some((other, own)) if own != direction => anyhow::bail!(
                    "--{other} is for {own} connectors, and --{option} for {direction} ones"
                ),
                _ => known = Some((*option, direction)),
            }
        }
        Ok(known.map(|(_, direction)| direction))
    }

    /// Puts them into a connector.
    ///
    /// # Errors
    /// If one is of the other direction.
    pub fn apply(&self, connector: &mut Connector, direction: Direction) -> anyhow::Result<()> {
        for (option, values) in &self.0 {
            let Some(field) = field(option) else {
                continue;
            };
            if !field.is_of(direction) {
                anyhow::bail!("--{option} is not for {direction} connectors");
            }
            field.set(connector, direction, values);
        }
        Ok(())
    }
}

impl clap::Args for Given {
    fn augment_args(command: Command) -> Command {
        FIELDS.iter().fold(command, |command, field| {
            let action = match (field.is_flag(), field.is_list()) {
                (true, _) => ArgAction::Set,
                (_, true) => ArgAction::Append,
                (_, false) => ArgAction::Set,
            };
            let heading = match field.direction {
                None => "Fields of all connectors",
                Some(Direction::Inbound) => "Fields of inbound connectors",
                Some(Direction::Outbound) => "Fields of outbound connectors",
            };
            let help = match field.is_list() {
                true => format!("{}; may be repeated", field.help),
                false => field.help.into(),
            };
            let argument = Arg::new(field.option)
                .long(field.option)
                .action(action)
                .help_heading(heading)
                .help(help);
            command.arg(match field.is_flag() {
                true => argument
                    .value_name("yes|no")
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("yes")
                    .value_parser(["yes", "no"]),
                false => argument.value_name(field.placeholder),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Given::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = FIELDS.iter().filter_map(|field| {
            let values = matches.get_many::<String>(field.option)?;
            // An empty value takes a field away.
            let values = values.filter(|value| !value.is_empty()).cloned();
            Some((field.option, values.collect()))
        });
        Ok(Given(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Given::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The options that make a connector, as a shell reads them.
pub fn options(connector: &Connector, direction: Direction) -> String {
    let mut line = String::new();
    for field in FIELDS.iter().filter(|field| field.is_of(direction)) {
        for value in field.get(connector, direction) {
            match field.is_flag() {
                true => line.push_str(&format!(" --{}", field.option)),
                false => line.push_str(&format!(" --{} {}", field.option, quoted(&value))),
            }
        }
    }
    line
}

/// A word as a shell reads it.
pub fn quoted(word: &str) -> String {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"_./:@%+=,-".contains(&octet);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
