//! What an exchange of a large policy does to the mail that flows meanwhile.

use std::fs;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::client::{self, Plan, Report};
use crate::daemon::Daemon;
use crate::process::beside_us;
use crate::rules;
use crate::spread::Spread;

/// How to exchange policies.
#[derive(Args)]
pub struct Swap {
    /// Connectors of the policy
    #[arg(long, default_value_t = 100_000)]
    connectors: u32,
    /// Exchanges, each with a policy that was never seen before
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    swaps: u32,
    /// Time of load before each of them, and between looks at it
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections at a time
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Exchange components that were built beforehand, not rules documents
    #[arg(long)]
    wasm: bool,
    /// Portcullis [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Whose mail tells the versions apart.
const PROBE: &str = "user@probe.dest.example";

/// One exchange.
#[derive(Serialize)]
struct Exchange {
    /// Latency of a session before it, in ms.
    before_p50: f64,
    before_p99: f64,
    /// The same while it went on: the worst of the windows.
    during_p50: f64,
    during_p99: f64,
    /// From the change of the file until the new policy answered.
    in_force_ms: f64,
    /// Sessions, and those that failed.
    sessions: usize,
    failed: usize,
    first_error: Option<String>,
}

#[derive(Serialize)]
struct Results {
    /// Memory before the first exchange, at its highest, and at rest after the last one, in KiB.
    rss_before: u64,
    rss_highest: u64,
    rss_after: u64,
    exchanges: Vec<Exchange>,
}

impl Swap {
    /// Exchanges policies and prints what it did.
    pub async fn run(self) -> Result<()> {
        let file = if self.wasm {
            "policy.wasm"
        } else {
            "policy.json"
        };
        let tenants = format!(
            "[[tenant]]\nname = \"dest\"\ndomains = [\"dest.example\", \"*.dest.example\"]\npolicy = \"{file}\"\n"
        );
        let mut daemon = Daemon::prepare(beside_us(self.binary.as_deref())?, &tenants).await?;
        self.write_version(&daemon, 0)?;
        daemon.replace("next", file)?;
        daemon.start().await?;
        let plan = self.plan(&daemon);
        client::run(&plan).await?;
        let rss_before = daemon.memory()?.rss;
        let mut exchanges = Vec::new();
        for number in 1..=self.swaps {
            eprintln!("exchange {number} of {}", self.swaps);
            self.write_version(&daemon, number)?;
            exchanges.push(exchange(&mut daemon, &plan, file, number).await?);
        }
        // What is let go is let go when the last session that used it has ended.
        client::run(&plan).await?;
        let results = Results {
            rss_before,
            rss_highest: daemon.highest_rss()?,
            rss_after: daemon.memory()?.rss,
            exchanges,
        };
        self.show(&results)?;
        let failed: usize = results.exchanges.iter().map(|it| it.failed).sum();
        ensure!(failed == 0, "{failed} sessions failed");
        Ok(())
    }

    fn plan(&self, daemon: &Daemon) -> Plan {
        Plan {
            connections: self.connections,
            seconds: self.seconds,
            ..Plan::one(daemon.address, "user@iponly.example", "user@dest.example")
        }
    }

    fn write_version(&self, daemon: &Daemon, number: u32) -> Result<()> {
        let probe = rules::version(&version(number), "probe.dest.example");
        let document = rules::document(&(probe + &rules::mixed(self.connectors)));
        if !self.wasm {
            return Ok(fs::write(daemon.path("next"), document)?);
        }
        let json = daemon.path("next.json");
        fs::write(&json, document)?;
        daemon.build(&json, &daemon.path("next"))
    }

    fn show(&self, results: &Results) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(results)?);
            return Ok(());
        }
        let all = &results.exchanges;
        let spread = |value: fn(&Exchange) -> f64| Spread::of(all.iter().map(value).collect());
        println!(
            "{} exchanges of {} connectors; median [min-max]",
            self.swaps, self.connectors
        );
        for (what, digits, spread) in [
            ("in force after, ms", 0, spread(|it| it.in_force_ms)),
            ("p50 before, ms", 1, spread(|it| it.before_p50)),
            ("p50 during, ms", 1, spread(|it| it.during_p50)),
            ("p99 before, ms", 1, spread(|it| it.before_p99)),
            ("p99 during, ms", 1, spread(|it| it.during_p99)),
            (
                "p99 during/before",
                2,
                spread(|it| it.during_p99 / it.before_p99),
            ),
        ] {
            let spread = spread.map(|spread| spread.show(digits));
            println!("{what:20} {}", spread.unwrap_or_default());
        }
        let sum = |value: fn(&Exchange) -> usize| all.iter().map(value).sum::<usize>();
        println!("{:20} {}", "sessions", sum(|it| it.sessions));
        println!("{:20} {}", "failed sessions", sum(|it| it.failed));
        if let Some(error) = all.iter().find_map(|it| it.first_error.as_deref()) {
            println!("the first error: {error}");
        }
        println!(
            "{:20} {} before, {} at most, {} after",
            "RSS, MiB",
            results.rss_before >> 10,
            results.rss_highest >> 10,
            results.rss_after >> 10
        );
        Ok(())
    }
}

fn version(number: u32) -> String {
    format!("version {number}")
}

/// One exchange under load, which goes on in windows until the new policy is in force.
async fn exchange(daemon: &mut Daemon, plan: &Plan, file: &str, number: u32) -> Result<Exchange> {
    let before = client::run(plan).await?;
    let latency = before.session_ms.context("no session succeeded")?;
    let mut result = Exchange {
        before_p50: latency.p50,
        before_p99: latency.p99,
        during_p50: 0.0,
        during_p99: 0.0,
        in_force_ms: 0.0,
        sessions: before.sessions,
        failed: before.errors,
        first_error: before.first_error,
    };
    daemon.replace("next", file)?;
    let begun = Instant::now();
    let version = version(number);
    let mut in_force = pin!(daemon.await_version(&version, PROBE));
    while result.in_force_ms == 0.0 {
        let mut load = pin!(client::run(plan));
        let window = loop {
            tokio::select! {
                window = &mut load => break window?,
                answer = &mut in_force, if result.in_force_ms == 0.0 => {
                    answer?;
                    result.in_force_ms = begun.elapsed().as_secs_f64() * 1e3;
                }
            }
        };
        result.add(window);
    }
    Ok(result)
}

impl Exchange {
    fn add(&mut self, window: Report) {
        self.sessions += window.sessions;
        self.failed += window.errors;
        self.first_error = self.first_error.take().or(window.first_error);
        if let Some(latency) = window.session_ms {
            self.during_p50 = self.during_p50.max(latency.p50);
            self.during_p99 = self.during_p99.max(latency.p99);
        }
    }
}
