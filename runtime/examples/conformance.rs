//! The library behind the protocol of the conformance kit:
//! `conformance/run.py -- cargo run --release --example conformance`

use std::io::stdin;
use std::time::Duration;

use portcullis::{Compiler, Context, Engine, Limits, Policy, PolicySession};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut limits = Limits::default();
    limits.evaluation = Duration::from_secs(10); // a busy machine is no reason to defer here
    let builder = Engine::builder().limits(limits);
    let engine = builder.compiler(Compiler::InProcess).build()?;
    let mut session = None;
    for line in stdin().lines() {
        let question: Value = serde_json::from_str(&line?)?;
        let said = if question["conformance"].is_string() {
            json!({ "name": "library for Rust", "version": env!("CARGO_PKG_VERSION") })
        } else if question["load"].is_string() {
            session = Some(load(&engine, &question).await?.session());
            json!({ "loaded": true })
        } else {
            let session = session.as_mut().ok_or("a policy is loaded first")?;
            answer(session, &question["context"]).await
        };
        println!("{said}");
    }
    Ok(())
}

async fn load(engine: &Engine, question: &Value) -> Result<Policy, Box<dyn std::error::Error>> {
    if let Some(component) = question["component"].as_str() {
        return Ok(engine.load_file(component).await?);
    }
    let rules = engine.read(question["rules"].to_string()).await?;
    Ok(engine.load_rules("rules", &rules).await?)
}

async fn answer(session: &mut PolicySession, context: &Value) -> Value {
    let context = match Context::from_json(&context.to_string()) {
        Ok(context) => context,
        Err(error) => return json!({ "error": error }),
    };
    let decision = session.decide(&context).await;
    match decision.error() {
        Some(error) => json!({ "error": error.to_string() }),
        None => json!({ "verdict": decision.verdict() }),
    }
}
