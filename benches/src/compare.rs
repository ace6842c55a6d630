//! The whole measurement: every target on every row, in interleaved rounds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::process::{Placement, beside_us};
use crate::rows::{Row, row};
use crate::spread::{Spread, in_columns};
use crate::targets::{FLOOR, REFUSE, Servers, Target};

/// How to measure.
#[derive(Args)]
pub struct Compare {
    /// Rounds; each measures everything once, in another order: a machine is quicker at one time than at another
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Time for one target on one row
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
    /// Rows: plain1, plainN, tls1, reject, c1plain, c1tls
    #[arg(long, value_delimiter = ',', value_parser = row, default_value = "plain1,plainN,tls1,reject")]
    rows: Vec<Row>,
    /// Portcullis [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Another Portcullis, as it was before a change, to be measured in the same rounds
    #[arg(long, value_name = "PATH")]
    before: Option<PathBuf>,
    /// What Portcullis logs
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    log_level: String,
    /// Measure Postfix too; needs root
    #[arg(long)]
    peers: bool,
    /// How to write the results
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

/// What one target did on one row in one round.
#[derive(Clone, Serialize)]
struct Measurement {
    round: u32,
    row: &'static str,
    target: &'static str,
    /// Messages, or refused sessions.
    per_second: f64,
    /// CPU time of the server for each of them.
    cpu_ms: f64,
    /// Latency of a session; with more messages in it, of a message.
    p50_ms: f64,
    p99_ms: f64,
    /// The part of the CPU time in which a policy was asked, in per cent.
    policy: Option<f64>,
    errors: usize,
    first_error: Option<String>,
}

type Value = fn(&Measurement) -> Option<f64>;

/// What the results show: name, digits, value, and whether it is the ratio to the floor's value.
const COLUMNS: [(&str, usize, Value, bool); 8] = [
    ("per_second", 0, |it| Some(it.per_second), false),
    ("rate/floor", 2, |it| Some(it.per_second), true),
    ("cpu_ms", 3, |it| Some(it.cpu_ms), false),
    ("cpu/floor", 2, |it| Some(it.cpu_ms), true),
    ("policy %", 1, |it| it.policy, false),
    ("p50_ms", 1, |it| Some(it.p50_ms), false),
    ("p99_ms", 1, |it| Some(it.p99_ms), false),
    ("p99/floor", 2, |it| Some(it.p99_ms), true),
];

/// One target on one row, over all rounds.
#[derive(Serialize)]
struct Summary {
    row: &'static str,
    target: &'static str,
    #[serde(flatten)]
    values: BTreeMap<&'static str, Option<Spread>>,
    errors: usize,
}

#[derive(Serialize)]
struct Results {
    placement: &'static str,
    summary: Vec<Summary>,
    measurements: Vec<Measurement>,
}

impl Compare {
    /// Measures everything and prints the results.
    pub async fn run(self) -> Result<()> {
        let binary = beside_us(self.binary.as_deref())?;
        let placement = Placement::choose()?;
        eprintln!("starting the servers ({})", placement.describe());
        let before = self.before.as_deref().map(|path| beside_us(Some(path)));
        let before = before.transpose()?;
        let before = before.as_deref();
        let servers =
            Servers::start(&binary, before, &self.log_level, self.peers, placement).await?;
        let measurements = self.measure(&servers.targets).await?;
        let results = Results {
            placement: placement.describe(),
            summary: self.summarize(&servers.targets, &measurements),
            measurements,
        };
        match self.format {
            Format::Json => println!("{}", serde_json::to_string_pretty(&results)?),
            Format::Table => print!("{}", table(&results)),
        }
        Ok(())
    }

    async fn measure(&self, targets: &[Target]) -> Result<Vec<Measurement>> {
        let mut measurements = Vec::new();
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            let mut cells: Vec<_> = self.cells(targets).collect();
            fastrand::shuffle(&mut cells);
            for (row, target) in cells {
                let measurement = measure(round, row, target, self.seconds).await;
                measurements
                    .push(measurement.with_context(|| format!("{} on {}", target.name, row.name))?);
            }
        }
        Ok(measurements)
    }

    fn cells<'a>(&'a self, targets: &'a [Target]) -> impl Iterator<Item = (&'a Row, &'a Target)> {
        let all = self
            .rows
            .iter()
            .flat_map(move |row| targets.iter().map(move |target| (row, target)));
        // The floor refuses nothing, and its counterpart takes nothing.
        all.filter(|(row, target)| target.name != if row.reject { FLOOR } else { REFUSE })
    }

    fn summarize(&self, targets: &[Target], all: &[Measurement]) -> Vec<Summary> {
        self.cells(targets)
            .map(|(row, target)| summarize(row.name, target.name, all))
            .collect()
    }
}

async fn measure(round: u32, row: &Row, target: &Target, seconds: f64) -> Result<Measurement> {
    let outcome = row
        .run(target.address, &[target.pid], target.metrics, seconds)
        .await?;
    let cpu_ms: f64 = outcome.cpu_ms.iter().sum();
    Ok(Measurement {
        round,
        row: row.name,
        target: target.name,
        per_second: outcome.per_second,
        cpu_ms,
        policy: outcome.policy_ms.map(|policy| 100.0 * policy / cpu_ms),
        p50_ms: outcome.latency.p50,
        p99_ms: outcome.latency.p99,
        errors: outcome.errors,
        first_error: outcome.first_error,
    })
}

fn summarize(row: &'static str, target: &'static str, all: &[Measurement]) -> Summary {
    let on_row = || all.iter().filter(|it| it.row == row);
    let of_target = || on_row().filter(|it| it.target == target);
    let spread = |value: Value| Spread::of(of_target().filter_map(value).collect());
    let ratio = |value: Value| {
        let ratios = of_target().filter_map(|it| {
            let is_floor = |other: &&Measurement| [FLOOR, REFUSE].contains(&other.target);
            let mut of_round = on_row().filter(|other| other.round == it.round);
            Some(value(it)? / value(of_round.find(is_floor)?)?)
        });
        Spread::of(ratios.collect())
    };
    let values = COLUMNS.map(|(name, _, value, to_floor)| {
        (
            name,
            if to_floor {
                ratio(value)
            } else {
                spread(value)
            },
        )
    });
    Summary {
        row,
        target,
        values: BTreeMap::from(values),
        errors: of_target().map(|it| it.errors).sum(),
    }
}

impl Summary {
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.row.to_owned(), self.target.to_owned()];
        cells.extend(COLUMNS.map(|(name, digits, ..)| {
            let spread = self.values.get(name).copied().flatten();
            spread.map_or_else(|| "-".to_owned(), |spread| spread.show(digits))
        }));
        cells.push(self.errors.to_string());
        cells
    }
}

fn table(results: &Results) -> String {
    let head = ["row", "target"]
        .into_iter()
        .chain(COLUMNS.map(|(name, ..)| name));
    let head = head.chain(["errors"]).map(str::to_owned).collect();
    let mut lines: Vec<Vec<String>> = vec![head];
    lines.extend(results.summary.iter().map(Summary::cells));
    let mut text = format!("{}; median [min-max] of rounds\n", results.placement);
    text.push_str(&in_columns(&lines));
    let mut errors = results
        .measurements
        .iter()
        .filter_map(|it| it.first_error.as_deref());
    if let Some(error) = errors.next() {
        text.push_str(&format!("the first error: {error}\n"));
    }
    text
}
