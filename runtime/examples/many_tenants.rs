//! Many tenants: each has a file, and a file that changes becomes active while others are asked.
//!
//! `cargo run --example many_tenants -- FOLDER` asks about each domain `NAME` for which there is a `FOLDER/NAME.json`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis::{Context, Engine, Limits, Store, TenantSource};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("give a folder of rules")?;
    let sources = tenants(Path::new(&folder))?;
    let mut limits = Limits::default();
    limits.evaluation = Duration::from_secs(10); // a busy machine is no reason to defer here
    let (store, mut late) = Store::new(Engine::new(limits)?);
    let store = Arc::new(store);
    // A file that takes long to read does not delay the others. It becomes active when it is ready.
    let (entering, configured) = (store.clone(), sources.clone());
    tokio::spawn(async move {
        while let Some(result) = late.recv().await {
            entering.enter(&configured, result).await;
        }
    });

    // A file that is not accepted leaves its tenant with the policy that it had.
    let update = store.update(&sources, None).await;
    for error in &update.errors {
        eprintln!("{error}");
    }
    ask(&store, &sources).await;

    // After something has changed: only what differs is loaded, and all becomes active in one step.
    for line in std::io::stdin().lines() {
        line?;
        let update = store.update(&sources, None).await;
        println!("{} policies have changed", update.changed.len());
        ask(&store, &sources).await;
    }
    Ok(())
}

/// One SMTP session that has a recipient at each tenant.
async fn ask(store: &Arc<Store>, sources: &[TenantSource]) {
    // A transaction keeps the policies that it began with.
    let policies = store.snapshot();
    let mut session = store.session();
    for domain in sources.iter().flat_map(|source| &source.domains) {
        let Some(tenant) = policies.tenant(domain) else {
            continue;
        };
        let client: std::net::IpAddr = [203, 0, 113, 7].into();
        let to = format!("postmaster@{domain}");
        let context = Context::inbound(client, "alice@contosobank.com", to);
        let decision = session.decide(tenant, &context).await;
        println!("{domain}: {}", decision.verdict().name());
    }
}

fn tenants(folder: &Path) -> std::io::Result<Vec<TenantSource>> {
    let mut sources = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let policy = file?.path();
        let name = policy
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned());
        if let (Some("json"), Some(name)) = (policy.extension().and_then(|it| it.to_str()), name) {
            sources.push(TenantSource {
                domains: vec![name.clone()],
                name,
                policy,
                tests: None,
                signed: None,
                before_all: false,
            });
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sources)
}
