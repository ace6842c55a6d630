//! One check: a policy from a file, and what it decides about one recipient.
//!
//! `cargo run --example check_mail -- rules.json alice@contosobank.com bob@contoso.com 203.0.113.7`

use std::error::Error;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use portcullis::{Context, DocumentError, Engine, Limits, PolicyError, PolicyFileError};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match check().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref::<PolicyFileError>() {
                Some(error) => report(error),
                None => eprintln!("{error}"),
            }
            ExitCode::FAILURE
        }
    }
}

async fn check() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [policy, from, to, client] = &arguments[..] else {
        return Err("give a policy, a sender, a recipient and the client's address".into());
    };
    let mut limits = Limits::default();
    limits.evaluation = Duration::from_secs(10); // a busy machine is no reason to defer here
    let engine = Engine::new(limits)?;
    let policy = engine.load_file(policy).await?;
    let context = Context::inbound(client.parse::<IpAddr>()?, from, to);
    let decision = policy.session().decide(&context).await;
    match decision.refusal() {
        None => println!("250 2.1.5 ok"),
        Some(refusal) => println!("{} {} {}", refusal.code, refusal.enhanced, refusal.text),
    }
    Ok(())
}

/// What is wrong with a file. A rules document has a place for each problem, and often a hint.
fn report(error: &PolicyFileError) {
    let PolicyError::Document(DocumentError::Rejected(problems)) = &error.cause else {
        eprintln!("{error}");
        return;
    };
    for problem in problems {
        let (path, line, column) = (error.path.display(), problem.line, problem.column);
        eprintln!("{path}:{line}:{column}: {}", problem.message);
        if let Some(hint) = &problem.hint {
            eprintln!("  {hint}");
        }
    }
}
