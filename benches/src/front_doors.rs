//! What it costs that Postfix asks Portcullis, beside a milter that does nothing, and a proxy in front of Postfix.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::postfix::Postfix;
use crate::process::{Placement, Process, beside_us, cpu_seconds};
use crate::rows::{Outcome, Row, WARM_UP, row};
use crate::spread::{Spread, in_columns};
use crate::targets::{
    ANY_SESSION, RECIPIENT, await_greeting, check_agreements, configuration, free_address,
    write_shared_files,
};

/// How to measure.
#[derive(Args)]
pub struct FrontDoors {
    /// Rounds; each measures everything once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Time for one way on one row
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rows: plain1, plainN, tls1, c1plain, c1tls
    #[arg(long, value_delimiter = ',', value_parser = row, default_value = "plain1,plainN,tls1")]
    rows: Vec<Row>,
    /// Portcullis [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// What Portcullis logs
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    log_level: String,
}

/// A way to Postfix.
struct Way {
    name: &'static str,
    address: SocketAddr,
    /// Who is beside Postfix.
    beside: Option<u32>,
}

const ALONE: &str = "postfix";
const NOTHING: &str = "c-milter";
const OURS: [&str; 4] = ["policy", "milter", "policy+milter", "proxy"];

/// Everything that runs; it ends with this value.
struct Servers {
    ways: Vec<Way>,
    postfix: Postfix,
    processes: [Process; 2],
    folder: TempDir,
}

impl FrontDoors {
    /// Measures everything and prints the table.
    pub async fn run(self) -> Result<()> {
        let binary = beside_us(self.binary.as_deref())?;
        let placement = Placement::choose()?;
        eprintln!("starting the servers ({})", placement.describe());
        let servers = Servers::start(&binary, &self.log_level, placement).await?;
        let mut results = Results::default();
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            for row in &self.rows {
                results.add(row, self.measure(row, &servers).await?);
            }
        }
        println!("{}; median [min-max] of rounds", placement.describe());
        print!("{}", results.table());
        println!("{}", servers.decisions(self.rounds, self.seconds).await?);
        Ok(())
    }

    /// What each way costs on one row.
    async fn measure(
        &self,
        row: &Row,
        servers: &Servers,
    ) -> Result<BTreeMap<&'static str, Outcome>> {
        let master = servers.postfix.master()?;
        let mut outcomes = BTreeMap::new();
        for way in &servers.ways {
            let pids: Vec<u32> = [master].into_iter().chain(way.beside).collect();
            let outcome = row.run(way.address, &pids, None, self.seconds).await;
            let outcome = outcome.with_context(|| format!("{} on {}", way.name, row.name))?;
            if let Some(error) = &outcome.first_error {
                bail!("{} on {}: {error}", way.name, row.name);
            }
            outcomes.insert(way.name, outcome);
        }
        Ok(outcomes)
    }
}

impl Servers {
    async fn start(binary: &Path, log_level: &str, placement: Placement) -> Result<Servers> {
        let folder = tempfile::tempdir()?;
        let here = folder.path();
        write_shared_files(here)?;
        let ways = [ALONE, NOTHING, "policy", "milter", "policy+milter"];
        let mut addresses = Vec::new();
        let mut services = String::new();
        for way in ways {
            let address = free_address()?;
            services.push_str(&service(way, address, here));
            addresses.push(address);
        }
        let proxy = free_address()?;
        let mut milter = start_milter(here, placement)?;
        let mut portcullis =
            start_portcullis(here, placement, binary, log_level, proxy, addresses[0])?;
        await_file(&here.join("milter"), || milter.check()).await?;
        await_file(&here.join("ask"), || portcullis.check()).await?;
        let postfix = Postfix::start(here, placement, &services)?;
        let mut servers = Servers {
            ways: Vec::new(),
            postfix,
            processes: [milter, portcullis],
            folder,
        };
        let [milter, portcullis] = servers.processes.each_ref().map(Process::id);
        for (name, address) in ways.into_iter().zip(addresses).chain([("proxy", proxy)]) {
            await_greeting(address, || Ok(()))
                .await
                .with_context(|| format!("{name} did not start"))?;
            let beside = match name {
                ALONE => None,
                NOTHING => Some(milter),
                _ => Some(portcullis),
            };
            if OURS.contains(&name) {
                check_agreements(address)
                    .await
                    .with_context(|| format!("{name} does not keep the agreements"))?;
            }
            servers.ways.push(Way {
                name,
                address,
                beside,
            });
        }
        Ok(servers)
    }
}

impl Servers {
    /// What a decision costs Portcullis where it has the processor for itself: asked by policy delegation, without Postfix.
    async fn decisions(&self, rounds: u32, seconds: f64) -> Result<String> {
        const CONNECTIONS: usize = 16;
        let socket = self.folder.path().join("ask");
        let portcullis = self.processes[1].id();
        let mut times = Vec::new();
        for _ in 0..rounds {
            questions(&socket, CONNECTIONS, WARM_UP).await?;
            let before = cpu_seconds(portcullis)?;
            let count = questions(&socket, CONNECTIONS, seconds).await?;
            times.push((cpu_seconds(portcullis)? - before) * 1e6 / count as f64);
        }
        let time = Spread::of(times).context("no round")?.show(1);
        Ok(format!(
            "a decision by policy delegation, {CONNECTIONS} connections: {time} µs of Portcullis's CPU"
        ))
    }
}

/// Asks over many connections, each as fast as it is answered; gives the number of answers.
async fn questions(socket: &Path, connections: usize, seconds: f64) -> Result<usize> {
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    let mut askers = JoinSet::new();
    for number in 0..connections {
        askers.spawn(questions_of_one(socket.to_owned(), number, deadline));
    }
    let mut count = 0;
    while let Some(answers) = askers.join_next().await {
        count += answers??;
    }
    Ok(count)
}

async fn questions_of_one(socket: PathBuf, number: usize, deadline: Instant) -> Result<usize> {
    let request = format!("{REQUEST}sender={ANY_SESSION}\nrecipient={RECIPIENT}\ninstance=");
    let mut stream = UnixStream::connect(socket).await?;
    let mut answer = [0; 64];
    let mut count = 0;
    while Instant::now() < deadline {
        // Each is about another message, as most are.
        let request = format!("{request}{count}.{number}\n\n");
        stream.write_all(request.as_bytes()).await?;
        let length = stream.read(&mut answer).await?;
        ensure!(
            &answer[..length] == b"action=DUNNO\n\n",
            "the policy says {:?}",
            String::from_utf8_lossy(&answer[..length])
        );
        count += 1;
    }
    Ok(count)
}

/// What Postfix 3.7 sends for a recipient, without sender and recipient.
const REQUEST: &str = "request=smtpd_access_policy
protocol_state=RCPT
protocol_name=ESMTP
client_address=127.0.0.1
client_name=localhost
client_port=50274
reverse_client_name=localhost
server_address=127.0.0.1
server_port=25
helo_name=client.example
queue_id=
size=0
recipient_count=0
etrn_domain=
stress=
sasl_method=
sasl_username=
sasl_sender=
ccert_subject=
ccert_issuer=
ccert_fingerprint=
ccert_pubkey_fingerprint=
encryption_protocol=
encryption_cipher=
encryption_keysize=0
policy_context=
";

/// A service of master.cf that asks in this way.
fn service(way: &str, address: SocketAddr, folder: &Path) -> String {
    let here = folder.display();
    let policy = format!(
        " -o {{ smtpd_recipient_restrictions = reject_unauth_destination, \
         check_policy_service {{ unix:{here}/ask, timeout=10s }} }}"
    );
    let milter = |socket| format!(" -o smtpd_milters=unix:{here}/{socket}");
    let asks = match way {
        NOTHING => milter("milter"),
        "policy" => policy,
        "milter" => milter("ask"),
        "policy+milter" => policy + &milter("ask"),
        _ => String::new(),
    };
    format!("{address} inet n - n - - smtpd -o smtpd_sender_restrictions={asks}\n")
}

fn start_milter(folder: &Path, placement: Placement) -> Result<Process> {
    const SOURCE: &str = include_str!("milter.c");
    fs::write(folder.join("milter.c"), SOURCE)?;
    let built = Command::new("cc")
        .args(["-O2", "-o", "c-milter", "milter.c", "-lmilter", "-lpthread"])
        .current_dir(folder)
        .status();
    ensure!(
        built.is_ok_and(|status| status.success()),
        "a C compiler and libmilter are needed (Debian packages gcc and libmilter-dev)"
    );
    let mut command = placement.server(folder.join("c-milter"));
    command.arg("unix:milter").current_dir(folder);
    Process::start(&mut command, folder.join("milter.log"))
}

/// Portcullis as a front door, and as a proxy before Postfix.
fn start_portcullis(
    folder: &Path,
    placement: Placement,
    binary: &Path,
    log_level: &str,
    proxy: SocketAddr,
    postfix: SocketAddr,
) -> Result<Process> {
    let front_door = format!(
        "[[frontend]]\naddress = '{}/ask'\nmode = \"0666\"\n",
        folder.display()
    );
    fs::write(
        folder.join("portcullis.toml"),
        configuration(proxy, postfix, &front_door),
    )?;
    let mut command = placement.server(binary);
    command
        .args([
            "run",
            "--log-level",
            log_level,
            "--config",
            "portcullis.toml",
        ])
        .current_dir(folder);
    Process::start(&mut command, folder.join("portcullis.log"))
}

/// Waits until a server has made its socket.
async fn await_file(path: &Path, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    // Long enough for a policy to be compiled on a busy machine.
    for _ in 0..6000 {
        if path.exists() {
            return Ok(());
        }
        check()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("{} was not made", path.display())
}

/// What was measured, by row and way, a value for each round.
#[derive(Default)]
struct Results {
    cells: Vec<Cell>,
}

#[derive(Default)]
struct Cell {
    row: &'static str,
    way: &'static str,
    total: Vec<f64>,
    beside: Vec<f64>,
    added: Vec<f64>,
    to_nothing: Vec<f64>,
    p50: Vec<f64>,
}

impl Results {
    /// The outcomes of one round on one row.
    fn add(&mut self, row: &Row, outcomes: BTreeMap<&'static str, Outcome>) {
        let total = |way: &str| outcomes.get(way).map(|it| it.cpu_ms.iter().sum::<f64>());
        let (Some(alone), Some(nothing)) = (total(ALONE), total(NOTHING)) else {
            return;
        };
        for way in [ALONE, NOTHING].into_iter().chain(OURS) {
            let Some(outcome) = outcomes.get(way) else {
                continue;
            };
            let cell = self.cell(row.name, way);
            let sum: f64 = outcome.cpu_ms.iter().sum();
            cell.total.push(sum);
            cell.beside.extend(outcome.cpu_ms.get(1));
            if way != ALONE {
                cell.added.push(sum - alone);
                cell.to_nothing.push((sum - alone) / (nothing - alone));
            }
            cell.p50.push(outcome.latency.p50);
        }
    }

    fn cell(&mut self, row: &'static str, way: &'static str) -> &mut Cell {
        let known = self
            .cells
            .iter()
            .position(|it| it.row == row && it.way == way);
        let at = known.unwrap_or_else(|| {
            self.cells.push(Cell {
                row,
                way,
                ..Cell::default()
            });
            self.cells.len() - 1
        });
        &mut self.cells[at]
    }

    fn table(&self) -> String {
        const HEAD: [&str; 7] = [
            "row",
            "way",
            "cpu_ms",
            "beside_ms",
            "added_ms",
            "added/c-milter",
            "p50_ms",
        ];
        let mut lines = vec![HEAD.map(str::to_owned).to_vec()];
        lines.extend(self.cells.iter().map(Cell::show));
        in_columns(&lines)
    }
}

impl Cell {
    fn show(&self) -> Vec<String> {
        let show = |values: &[f64], digits| {
            let spread = Spread::of(values.to_vec());
            spread.map_or_else(|| "-".to_owned(), |it| it.show(digits))
        };
        vec![
            self.row.to_owned(),
            self.way.to_owned(),
            show(&self.total, 3),
            show(&self.beside, 3),
            show(&self.added, 3),
            show(&self.to_nothing, 2),
            show(&self.p50, 1),
        ]
    }
}
