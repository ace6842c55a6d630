//! One check: a policy from a file, and what it decides about one recipient.
//!
//! `cargo run --example check_mail -- rules.json alice@contosobank.com bob@contoso.com 203.0.113.7`

use std::net::IpAddr;

use portcullis::{Context, Engine, Limits};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [policy, from, to, client] = &arguments[..] else {
        return Err("give a policy, a sender, a recipient and the client's address".into());
    };
    let engine = Engine::new(Limits::default())?;
    let policy = engine.load_file(policy).await?;
    let context = Context::inbound(client.parse::<IpAddr>()?, from, to);
    let decision = policy.session().decide(&context).await;
    match decision.refusal() {
        None => println!("250 2.1.5 ok"),
        Some(refusal) => println!("{} {} {}", refusal.code, refusal.enhanced, refusal.text),
    }
    Ok(())
}
