//! An observer: what a mail server would log and count.
//!
//! `cargo run --example observer -- rules.json`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::{Context, Engine, EvaluationError, Limits, Observer, Problem, Security};

/// Counts failures, and writes the rest to standard output.
#[derive(Default)]
struct Counting {
    failures: AtomicUsize,
}

impl Observer for Counting {
    fn failed(&self, tenant: &Arc<str>, error: &EvaluationError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        println!("{tenant}: {error}");
    }

    fn warned(&self, policy: &str, warnings: &[Problem]) {
        for warning in warnings {
            println!("{policy}:{}: {}", warning.line, warning.message);
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let policy = std::env::args().nth(1).ok_or("give a policy")?;
    let observer = Arc::new(Counting::default());
    let mut limits = Limits::default();
    limits.evaluation = Duration::from_secs(10); // a busy machine is no reason to defer here
    let engine = Engine::builder()
        .limits(limits)
        .observer(observer.clone())
        .build()?;
    let policy = engine.load_file(policy).await?;

    // This server does not know whether the session is encrypted.
    let client: std::net::IpAddr = [203, 0, 113, 7].into();
    let context = Context::inbound(client, "alice@contosobank.com", "bob@contoso.com")
        .security(Security::Unknown);
    let decision = policy.session().decide(&context).await;
    println!("{}", serde_json::to_string(decision.verdict())?);
    println!("{} failures", observer.failures.load(Ordering::Relaxed));
    Ok(())
}
