//! The ways to a verdict, for the conformance kit.

mod front_doors;
mod native;
mod smtp;

use std::path::Path;

use portcullis_types::Direction;
use serde_json::{Value, json};

/// A policy to load.
pub struct Loaded<'a> {
    /// The rules.
    pub rules: &'a Value,
    /// The component that is built of them, if there is one.
    pub component: Option<&'a Path>,
    /// The domains of recipients that are asked about.
    pub domains: Vec<&'a str>,
}

/// What comes of a context.
pub enum Answer {
    /// The verdict.
    Verdict(Value),
    /// What the reply to the client says of it.
    Reply(Value),
    /// The fact that this way cannot tell.
    Skip(&'static str),
    /// The context is none.
    Error(String),
}

/// A way to a verdict.
pub trait Way {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Whether it has SMTP sessions only.
    fn is_smtp(&self) -> bool {
        false
    }

    /// Takes a policy; the error says why not.
    fn load(&mut self, policy: &Loaded<'_>) -> Result<(), String>;

    /// Asks about a context.
    fn ask(&mut self, context: &Value) -> Answer;
}

/// The way of that name.
pub fn named(name: &str) -> Option<Box<dyn Way>> {
    Some(match name {
        "native" => Box::<native::Native>::default(),
        "smtp" => Box::new(smtp::Smtp::new()),
        _ => Box::new(front_doors::named(name)?),
    })
}

/// What a reply says: its codes, and whose requirement has failed, in the words of the built-in evaluator.
fn said(code: u16, text: &str) -> Value {
    let (enhanced, text) = text.split_once(' ').unwrap_or((text, ""));
    let mut reply = json!({ "code": code, "enhanced": enhanced });
    let named = text
        .strip_prefix("refused by connector \"")
        .and_then(|rest| rest.split_once("\" ("))
        .and_then(|(connector, rest)| Some((connector, rest.split_once(')')?.0)));
    if let Some((connector, failed)) = named {
        // Replies have no other characters than those of ASCII.
        if !connector.contains('?') {
            reply["connector"] = connector.into();
        }
        reply["failed"] = failed.into();
    }
    reply
}

/// Why there is no session about such a context.
fn no_session(context: &Value) -> Option<&'static str> {
    match portcullis_types::parse_context(&context.to_string()) {
        Err(_) => Some(NO_CONTEXT),
        Ok(context) if context.direction != Direction::Inbound => Some(OUTBOUND),
        Ok(_) => None,
    }
}

/// What is no context has no facts that a session could have.
pub const NO_CONTEXT: &str = "what is no context";
/// Other mail is not decided in a session of its client.
pub const OUTBOUND: &str = "mail that the organization sends";
