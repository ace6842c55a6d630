//! The kinds of load, and what a server does under one.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::client::{self, Latency, Plan};
use crate::numbers;
use crate::process::cpu_seconds;
use crate::targets::{ANY_SESSION, ENCRYPTED, RECIPIENT};

/// A kind of load.
#[derive(Clone, Copy)]
pub struct Row {
    /// What it is called in results.
    pub name: &'static str,
    connections: usize,
    messages: usize,
    tls: bool,
    /// The sender is to be refused.
    pub reject: bool,
}

/// What came of a load.
pub struct Outcome {
    /// Messages, or refused sessions.
    pub per_second: f64,
    /// CPU time for each of them, by process.
    pub cpu_ms: Vec<f64>,
    /// The time in which a policy was asked, for each of them, if the server tells.
    pub policy_ms: Option<f64>,
    /// Of a session; with more messages in it, of a message.
    pub latency: Latency,
    /// Sessions that went wrong.
    pub errors: usize,
    /// What went wrong first.
    pub first_error: Option<String>,
}

const ROWS: [&str; 6] = ["plain1", "plainN", "tls1", "reject", "c1plain", "c1tls"];

/// The row of this name.
pub fn row(name: &str) -> Result<Row, String> {
    let known = ROWS.into_iter().find(|row| *row == name);
    let name = known.ok_or_else(|| format!("the rows are {}", ROWS.join(", ")))?;
    Ok(Row {
        name,
        connections: if name.starts_with("c1") { 1 } else { 50 },
        messages: if name == "plainN" { 100 } else { 1 },
        tls: name.contains("tls"),
        reject: name == "reject",
    })
}

/// Time of a load before what is measured, in seconds.
pub const WARM_UP: f64 = 0.3;

impl Row {
    fn plan(&self, to: SocketAddr, seconds: f64) -> Plan {
        let strict = self.tls || self.reject;
        let from = if strict { ENCRYPTED } else { ANY_SESSION };
        Plan {
            connections: self.connections,
            seconds,
            messages: self.messages,
            tls: self.tls,
            reject: self.reject,
            ..Plan::one(to, from, RECIPIENT)
        }
    }

    /// Puts this load on the server at an address. The time of these processes, with that of all below them, is measured.
    /// A Portcullis tells at `metrics` what it does.
    pub async fn run(
        &self,
        to: SocketAddr,
        pids: &[u32],
        metrics: Option<SocketAddr>,
        seconds: f64,
    ) -> Result<Outcome> {
        client::run(&self.plan(to, WARM_UP)).await?;
        let asked_before = evaluation_seconds(metrics).await?;
        let before = settled_cpu_seconds(pids).await?;
        let report = client::run(&self.plan(to, seconds)).await?;
        let after = settled_cpu_seconds(pids).await?;
        let asked = evaluation_seconds(metrics).await?;
        let (count, latency) = match (self.reject, self.messages) {
            (true, _) => (report.sessions, report.session_ms),
            (false, 1) => (report.messages, report.session_ms),
            (false, _) => (report.messages, report.message_ms),
        };
        let Some(latency) = latency else {
            let error = report.first_error.as_deref();
            bail!("nothing came of it: {}", error.unwrap_or("no time"));
        };
        let times = before.iter().zip(&after);
        Ok(Outcome {
            per_second: count as f64 / report.seconds,
            cpu_ms: times
                .map(|(from, to)| (to - from) * 1e3 / count as f64)
                .collect(),
            policy_ms: { asked.zip(asked_before) }
                .map(|(after, before)| (after - before) * 1e3 / count as f64),
            latency,
            errors: report.errors,
            first_error: report.first_error,
        })
    }
}

async fn evaluation_seconds(metrics: Option<SocketAddr>) -> Result<Option<f64>> {
    match metrics {
        Some(metrics) => numbers::evaluation_seconds(metrics).await,
        None => Ok(None),
    }
}

/// CPU time of processes once they are at rest: a mail server with a queue works on after its replies.
async fn settled_cpu_seconds(pids: &[u32]) -> Result<Vec<f64>> {
    let all = || -> Result<Vec<f64>> { pids.iter().map(|pid| cpu_seconds(*pid)).collect() };
    let mut last = all()?;
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = all()?;
        // Children that end take away what their parents have not counted yet.
        if now.iter().zip(&last).all(|(now, last)| now <= last) {
            return Ok(now);
        }
        last = now;
    }
    bail!("the servers do not come to rest")
}
