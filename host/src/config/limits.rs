//! What sessions, clients and policies may use, and how long to wait.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::folders::default_cache_folder;
use super::problem::Key::Name;
use super::problem::{Outcome, wrong};
use super::values;
use portcullis::CompileLimits;

/// What one session, one client and all may use.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Octets of a message.
    #[serde(with = "values::size")]
    #[cfg_attr(test, schemars(with = "super::schema::Size"))]
    pub message_size: ByteSize,
    /// Octets of a line of a message, its end included.
    pub text_line: usize,
    /// Recipients of a transaction.
    pub recipients: usize,
    /// Refused commands of a session.
    pub errors: u32,
    /// Commands of a session from one message to the next.
    pub commands: u32,
    /// Sessions at a time.
    pub sessions: usize,
    /// Sessions at a time from one IPv4 address or IPv6 /64.
    pub sessions_per_address: usize,
    /// Received fields of a message; more are a loop (RFC 5321 §6.3).
    pub hops: usize,
    /// Wrong passwords of one address, or for one name, in a quarter of an hour.
    pub login_failures: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_size: ByteSize::mib(50),
            text_line: 8192,
            recipients: 100,
            errors: 20,
            commands: 2000,
            sessions: 2000,
            sessions_per_address: 100,
            hops: 50,
            login_failures: 10,
        }
    }
}

/// How long to wait. The defaults are those of RFC 5321 §4.5.3.2.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a client's next command, whole.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub command: Duration,
    /// For the next part of a message.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub data_block: Duration,
    /// For a whole message.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub message: Duration,
    /// For a TLS handshake, or a PROXY header.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub handshake: Duration,
    /// For a connection to the next hop.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub connect: Duration,
    /// For the next hop's reply to a command.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub reply: Duration,
    /// For the next hop's reply to the end of a message.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub final_reply: Duration,
    /// For finding a partner's server and getting it ready, all attempts together. RFC 5321 §4.5.3.2.3
    /// lets a client wait five minutes for the reply to RCPT, which tells the outcome.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub route: Duration,
    /// For sessions to end when the daemon is told to.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub shutdown: Duration,
    /// How long clients are still let in after SIGTERM, while `/ready` tells balancers to send no more.
    #[serde(
        with = "values::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Time>"))]
    pub shutdown_delay: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Timeouts {
            command: minutes(5),
            data_block: minutes(3),
            message: minutes(60),
            handshake: minutes(1),
            connect: Duration::from_secs(30),
            reply: minutes(5),
            final_reply: minutes(10),
            route: minutes(4),
            shutdown: Duration::from_secs(30),
            shutdown_delay: None,
        }
    }
}

/// Who shares an instance of the built-in evaluator. Each session has its own of components of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// The sessions of one tenant, one after the other.
    #[default]
    Tenant,
    /// Nobody: each session has its own.
    Session,
}

impl From<Isolation> for portcullis::Isolation {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::Tenant => portcullis::Isolation::Tenant,
            Isolation::Session => portcullis::Isolation::Session,
        }
    }
}

/// What a policy may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Sandbox {
    /// Memory of an instance.
    #[serde(with = "values::optional_size")]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Size>"))]
    pub memory: Option<ByteSize>,
    /// Wall time of an evaluation.
    #[serde(with = "values::optional_duration")]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Time>"))]
    pub evaluation: Option<Duration>,
    /// Stack of an instance.
    #[serde(with = "values::optional_size")]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Size>"))]
    pub stack: Option<ByteSize>,
    /// Elements of all tables of an instance.
    pub table_elements: Option<usize>,
    /// Instances at a time.
    pub instances: Option<u32>,
    /// Memory of all instances that sessions keep between two questions.
    #[serde(with = "values::optional_size")]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Size>"))]
    pub retained_memory: Option<ByteSize>,
    /// Size of a component or rules document.
    #[serde(with = "values::optional_size")]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Size>"))]
    pub policy_size: Option<ByteSize>,
    /// Compiled code of policies that is in memory at a time.
    #[serde(with = "values::optional_size")]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Size>"))]
    pub code: Option<ByteSize>,
    /// Processor time that it may take to compile a component, in whole seconds.
    #[serde(with = "values::optional_duration")]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Time>"))]
    pub compile_time: Option<Duration>,
    /// Memory that it may take to compile a component.
    #[serde(with = "values::optional_size")]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Size>"))]
    pub compile_memory: Option<ByteSize>,
    /// Who shares an instance of the built-in evaluator.
    pub isolation: Isolation,
    /// Folder of compiled policies; owned by this user, mode 0700.
    pub cache_directory: Option<PathBuf>,
}

impl Sandbox {
    /// With the defaults filled in.
    pub fn limits(&self) -> portcullis::Limits {
        let mut limits = portcullis::Limits::default();
        let bytes = |size: ByteSize| size.as_u64() as usize;
        limits.memory = self.memory.map_or(limits.memory, bytes);
        limits.evaluation = self.evaluation.unwrap_or(limits.evaluation);
        limits.stack = self.stack.map_or(limits.stack, bytes);
        limits.table_elements = self.table_elements.unwrap_or(limits.table_elements);
        limits.instances = self.instances.unwrap_or(limits.instances);
        limits.retained_memory = self.retained_memory.map_or(limits.retained_memory, bytes);
        limits.policy_size = self.policy_size.map_or(limits.policy_size, bytes);
        limits.code = self.code.map_or(limits.code, |size| size.as_u64());
        limits
    }

    /// What it may take to compile a component.
    pub fn compile_limits(&self) -> CompileLimits {
        let defaults = CompileLimits::default();
        CompileLimits {
            time: self.compile_time.unwrap_or(defaults.time),
            memory: self
                .compile_memory
                .map_or(defaults.memory, |size| size.as_u64()),
        }
    }

    /// The folder of compiled policies.
    pub fn cache_folder(&self) -> Option<PathBuf> {
        self.cache_directory.clone().or_else(default_cache_folder)
    }
}

impl Limits {
    pub(super) fn validate(&self) -> Outcome {
        if self.text_line < 1000 {
            return wrong(
                [Name("limits"), Name("text-line")],
                "a line may have 1000 octets at least (RFC 5321 section 4.5.3.1.6)",
            );
        }
        let least = [
            ("recipients", self.recipients == 0),
            ("sessions", self.sessions == 0),
            ("sessions-per-address", self.sessions_per_address == 0),
            ("message-size", self.message_size.as_u64() == 0),
            ("errors", self.errors == 0),
            ("commands", self.commands == 0),
            ("hops", self.hops == 0),
        ];
        match least.iter().find(|(_, is_zero)| *is_zero) {
            Some((key, _)) => wrong([Name("limits"), Name(key)], "it must be at least 1"),
            None => Ok(()),
        }
    }
}

impl Sandbox {
    pub(super) fn validate(&self) -> Outcome {
        let outside = |error: portcullis::LimitError| {
            wrong([Name("sandbox"), Name(error.name)], error.reason)
        };
        self.limits().check().or_else(outside)
    }
}
