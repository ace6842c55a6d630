//! Very many tenants, each with a policy of its own.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::client::{self, Latency};
use crate::daemon::Daemon;
use crate::process::beside_us;
use crate::rules;

/// How many tenants, with what.
#[derive(Args)]
pub struct Tenants {
    /// Tenants [default: 10000, of components 300]
    #[arg(long)]
    tenants: Option<u32>,
    /// Connectors of each
    #[arg(long, default_value_t = 20)]
    connectors: u32,
    /// Give them components that were built beforehand, not rules documents
    #[arg(long)]
    wasm: bool,
    /// Portcullis [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Results {
    tenants: u32,
    /// Until it answers: at the first start, which fills the compile cache, and at the second.
    first_start_seconds: f64,
    start_seconds: f64,
    /// Memory after the second start, in KiB: in all, and what a tenant adds to what one alone takes.
    rss: u64,
    rss_each: f64,
    /// Time of the first RCPT of tenants that were never asked for.
    first_rcpt_ms: Option<Latency>,
    /// Memory after these, and when they have been idle for a minute.
    rss_used: u64,
    rss_idle: u64,
    /// From the change of one tenant's file until it was in force, and the server's CPU time for it.
    change_ms: f64,
    change_cpu_ms: f64,
}

impl Tenants {
    /// Runs them and prints what they take.
    pub async fn run(self) -> Result<()> {
        let count = self.tenants.unwrap_or(if self.wasm { 300 } else { 10_000 });
        ensure!(count > 1, "there must be two tenants at least");
        let alone = self.memory_of_one().await?;
        let mut daemon = self.prepare(count).await?;
        eprintln!("first start, which compiles what is to be compiled");
        let first_start = daemon.start().await?;
        eprintln!("second start");
        let start = daemon.start().await?;
        let rss = daemon.memory()?.rss;
        let first_rcpt_ms = first_mail(&daemon, count).await?;
        let rss_used = daemon.memory()?.rss;
        eprintln!("a minute of rest");
        tokio::time::sleep(Duration::from_secs(61)).await;
        // What is idle is let go when something happens.
        first_mail(&daemon, 1).await?;
        let rss_idle = daemon.memory()?.rss;
        let (change, cpu) = self.change(&mut daemon).await?;
        let results = Results {
            tenants: count,
            first_start_seconds: first_start.as_secs_f64(),
            start_seconds: start.as_secs_f64(),
            rss,
            rss_each: rss.saturating_sub(alone) as f64 / f64::from(count - 1),
            first_rcpt_ms,
            rss_used,
            rss_idle,
            change_ms: change.as_secs_f64() * 1e3,
            change_cpu_ms: cpu * 1e3,
        };
        if self.json {
            println!("{}", serde_json::to_string_pretty(&results)?);
        } else {
            results.show();
        }
        Ok(())
    }

    async fn memory_of_one(&self) -> Result<u64> {
        let mut daemon = self.prepare(1).await?;
        daemon.start().await?;
        daemon.start().await?;
        Ok(daemon.memory()?.rss)
    }

    async fn prepare(&self, count: u32) -> Result<Daemon> {
        let kind = if self.wasm { "wasm" } else { "json" };
        let mut tenants = String::new();
        for tenant in 0..count {
            tenants.push_str(&format!(
                "[[tenant]]\nname = \"t{tenant}\"\ndomains = [\"t{tenant}.example\"]\npolicy = \"tenants/{tenant}.{kind}\"\n"
            ));
        }
        let daemon = Daemon::prepare(beside_us(self.binary.as_deref())?, &tenants).await?;
        fs::create_dir(daemon.path("tenants"))?;
        for tenant in 0..count {
            let connectors = rules::of_tenant(tenant, self.connectors);
            self.write(&daemon, &connectors, &format!("tenants/{tenant}.{kind}"))?;
        }
        Ok(daemon)
    }

    fn write(&self, daemon: &Daemon, connectors: &str, name: &str) -> Result<()> {
        let document = rules::document(connectors);
        if !self.wasm {
            return Ok(fs::write(daemon.path(name), document)?);
        }
        let json = daemon.path("rules.json");
        fs::write(&json, document)?;
        daemon.build(&json, &daemon.path(name))
    }

    /// Changes one tenant's file.
    async fn change(&self, daemon: &mut Daemon) -> Result<(Duration, f64)> {
        let kind = if self.wasm { "wasm" } else { "json" };
        let connectors =
            rules::version("changed", "t1.example") + &rules::of_tenant(1, self.connectors);
        self.write(daemon, &connectors, "next")?;
        let cpu = daemon.cpu_seconds()?;
        let begun = Instant::now();
        daemon.replace("next", &format!("tenants/1.{kind}"))?;
        daemon.await_version("changed", "user@t1.example").await?;
        Ok((begun.elapsed(), daemon.cpu_seconds()? - cpu))
    }
}

/// Mail to tenants that had none before.
async fn first_mail(daemon: &Daemon, count: u32) -> Result<Option<Latency>> {
    const MOST: u32 = 1000;
    let mut times = Vec::new();
    for tenant in 0..count.min(MOST) {
        let rcpt = format!("user@t{tenant}.example");
        let (time, reply) = client::ask(daemon.address, "user@iponly.example", &rcpt).await?;
        ensure!(reply.starts_with('2'), "{rcpt}: {reply}");
        times.push(time);
    }
    Ok(Latency::of(times))
}

impl Results {
    fn show(&self) {
        println!("{} tenants", self.tenants);
        println!("first start, s        {:.2}", self.first_start_seconds);
        println!("start, s              {:.2}", self.start_seconds);
        println!(
            "RSS, MiB              {} ({:.1} KiB a tenant)",
            self.rss >> 10,
            self.rss_each
        );
        if let Some(Latency { p50, p90, p99, max }) = self.first_rcpt_ms {
            println!("first RCPT, ms        p50 {p50:.2} p90 {p90:.2} p99 {p99:.2} max {max:.2}");
        }
        println!("RSS then, MiB         {}", self.rss_used >> 10);
        println!("RSS idle, MiB         {}", self.rss_idle >> 10);
        println!(
            "a change, ms          {:.0} (CPU {:.0})",
            self.change_ms, self.change_cpu_ms
        );
    }
}
