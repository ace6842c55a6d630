//! The client: sessions over many connections, each as fast as the server answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::wire::Wire;
use crate::{process, tls};

/// A load, and how to show what came of it.
#[derive(Args)]
pub struct Load {
    #[command(flatten)]
    plan: Plan,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// What is sent, over how many connections and for how long.
#[derive(Args, Clone)]
pub struct Plan {
    /// The server
    #[arg(long)]
    pub to: SocketAddr,
    /// Connections at a time
    #[arg(long, default_value_t = 50)]
    pub connections: usize,
    /// Time after which nothing more is begun
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Messages of a session
    #[arg(long, default_value_t = 1)]
    pub messages: usize,
    /// Octets of a message
    #[arg(long, default_value_t = 4096)]
    pub size: usize,
    /// Use STARTTLS
    #[arg(long)]
    pub tls: bool,
    /// Expect the sender or the recipient to be refused
    #[arg(long)]
    pub reject: bool,
    /// Sender
    #[arg(long)]
    pub from: String,
    /// Recipient
    #[arg(long)]
    pub rcpt: String,
}

/// What came of a load.
#[derive(Serialize)]
pub struct Report {
    /// From the first connection to the last reply.
    pub seconds: f64,
    /// Whole sessions, refused ones if refusals were expected.
    pub sessions: usize,
    /// Messages that were taken.
    pub messages: usize,
    /// Sessions that went wrong.
    pub errors: usize,
    /// What went wrong first.
    pub first_error: Option<String>,
    /// From connecting to the last reply.
    pub session_ms: Option<Latency>,
    /// From MAIL to the reply to the message.
    pub message_ms: Option<Latency>,
    /// CPU time of the client itself.
    pub cpu_seconds: f64,
}

/// Times, in milliseconds.
#[derive(Clone, Copy, Serialize)]
pub struct Latency {
    /// Half took no longer.
    pub p50: f64,
    /// 90 % took no longer.
    pub p90: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Plan {
    /// One session with one message.
    pub fn one(to: SocketAddr, from: &str, rcpt: &str) -> Plan {
        Plan {
            to,
            connections: 1,
            seconds: 0.0,
            messages: 1,
            size: 4096,
            tls: false,
            reject: false,
            from: from.to_owned(),
            rcpt: rcpt.to_owned(),
        }
    }
}

impl Latency {
    /// Of at least one time.
    pub fn of(mut times: Vec<Duration>) -> Option<Latency> {
        times.sort_unstable();
        let rank = |share: f64| {
            let index = (share * times.len() as f64).ceil() as usize;
            let time = times.get(index.max(1) - 1)?;
            Some(time.as_secs_f64() * 1e3)
        };
        Some(Latency {
            p50: rank(0.50)?,
            p90: rank(0.90)?,
            p99: rank(0.99)?,
            max: rank(1.0)?,
        })
    }
}

impl Load {
    /// Runs it and prints the report.
    pub async fn run(self) -> Result<()> {
        let report = run(&self.plan).await?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print!("{report}");
        }
        Ok(())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.seconds;
        for (what, count, latency) in [
            ("sessions", self.sessions, self.session_ms),
            ("messages", self.messages, self.message_ms),
        ] {
            let rate = count as f64 / seconds;
            write!(f, "{what}  {count} in {seconds:.2} s, {rate:.0}/s")?;
            if let Some(Latency { p50, p90, p99, max }) = latency {
                write!(
                    f,
                    "; ms: p50 {p50:.2} p90 {p90:.2} p99 {p99:.2} max {max:.2}"
                )?;
            }
            writeln!(f)?;
        }
        let first = self.first_error.as_deref().unwrap_or("-");
        writeln!(f, "errors    {}; the first: {first}", self.errors)?;
        writeln!(f, "own CPU   {:.2} s", self.cpu_seconds)
    }
}

/// Puts this load on the server.
pub async fn run(plan: &Plan) -> Result<Report> {
    let client = Arc::new(Client::new(plan)?);
    let own = std::process::id();
    let cpu = process::cpu_seconds(own)?;
    let start = Instant::now();
    let deadline = start + Duration::try_from_secs_f64(plan.seconds)?;
    let mut workers = JoinSet::new();
    for _ in 0..plan.connections {
        workers.spawn(client.clone().work(deadline));
    }
    let mut total = Tally::default();
    while let Some(tally) = workers.join_next().await {
        total.add(tally?);
    }
    Ok(Report {
        seconds: start.elapsed().as_secs_f64(),
        sessions: total.sessions.len(),
        messages: total.messages.len(),
        errors: total.errors,
        first_error: total.first_error,
        session_ms: Latency::of(total.sessions),
        message_ms: Latency::of(total.messages),
        cpu_seconds: process::cpu_seconds(own)? - cpu,
    })
}

/// Asks about one recipient in a session of its own; gives the time of its RCPT, and the reply.
pub async fn ask(to: SocketAddr, from: &str, rcpt: &str) -> Result<(Duration, String)> {
    let mut server = open(to, None, None).await?;
    let mail = format!("MAIL FROM:<{from}>\r\n");
    expect(&mut server, mail.as_bytes(), b'2').await?;
    let begun = Instant::now();
    server.put(format!("RCPT TO:<{rcpt}>\r\n").as_bytes());
    let reply = String::from_utf8_lossy(server.reply().await?).into_owned();
    let time = begun.elapsed();
    server.send(b"QUIT\r\n").await?;
    Ok((time, reply))
}

/// Makes one session, all of it.
pub async fn run_once(plan: &Plan) -> Result<()> {
    Client::new(plan)?
        .session(None, &mut Tally::default())
        .await
}

#[derive(Default)]
struct Tally {
    sessions: Vec<Duration>,
    messages: Vec<Duration>,
    errors: usize,
    first_error: Option<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.sessions.extend(other.sessions);
        self.messages.extend(other.messages);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

struct Client {
    to: SocketAddr,
    tls: Option<TlsConnector>,
    messages: usize,
    reject: bool,
    mail: String,
    rcpt: String,
    text: Vec<u8>,
}

impl Client {
    fn new(plan: &Plan) -> Result<Client> {
        Ok(Client {
            to: plan.to,
            tls: plan.tls.then(tls::connector).transpose()?,
            messages: plan.messages,
            reject: plan.reject,
            mail: format!("MAIL FROM:<{}>\r\n", plan.from),
            rcpt: format!("RCPT TO:<{}>\r\n", plan.rcpt),
            text: message(plan),
        })
    }

    async fn work(self: Arc<Self>, deadline: Instant) -> Tally {
        let mut tally = Tally::default();
        while Instant::now() < deadline {
            if let Err(error) = self.session(Some(deadline), &mut tally).await {
                tally.errors += 1;
                tally.first_error.get_or_insert(format!("{error:#}"));
            }
        }
        tally
    }

    /// One session; past the deadline it ends after a message, and does not count as a session.
    async fn session(&self, deadline: Option<Instant>, tally: &mut Tally) -> Result<()> {
        let start = Instant::now();
        let mut server = open(self.to, None, self.tls.as_ref()).await?;
        let mut sent = 0;
        if self.reject {
            self.be_refused(&mut server).await?;
        } else {
            while sent < self.messages {
                let begun = Instant::now();
                self.send(&mut server).await?;
                tally.messages.push(begun.elapsed());
                sent += 1;
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    break;
                }
            }
        }
        if self.reject || sent == self.messages {
            tally.sessions.push(start.elapsed());
        }
        // The server may close first, having said all that counts.
        let _ = server.send(b"QUIT\r\n").await;
        Ok(())
    }

    async fn send(&self, server: &mut Wire) -> Result<()> {
        expect(server, self.mail.as_bytes(), b'2').await?;
        expect(server, self.rcpt.as_bytes(), b'2').await?;
        expect(server, b"DATA\r\n", b'3').await?;
        server.send(&self.text).await?;
        expect(server, b"", b'2').await.context("the message")
    }

    async fn be_refused(&self, server: &mut Wire) -> Result<()> {
        server.put(self.mail.as_bytes());
        if server.reply().await?.starts_with(b"5") {
            return Ok(());
        }
        expect(server, self.rcpt.as_bytes(), b'5').await
    }
}

/// The text of a message, with the dot that ends it.
fn message(plan: &Plan) -> Vec<u8> {
    const LINE: usize = 72;
    let mut text = format!(
        "From: <{}>\r\nTo: <{}>\r\nSubject: benchmark\r\n\r\n",
        plan.from, plan.rcpt
    );
    while text.len() < plan.size {
        let filling = (plan.size - text.len()).saturating_sub(2).min(LINE - 2);
        text.extend(std::iter::repeat_n('x', filling));
        text.push_str("\r\n");
    }
    text.push_str(".\r\n");
    text.into_bytes()
}

/// Opens a session, up to the reply to the (last) EHLO.
pub async fn open(
    to: SocketAddr,
    source: Option<IpAddr>,
    tls: Option<&TlsConnector>,
) -> Result<Wire> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(to).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let mut server = Wire::new(stream);
    expect(&mut server, b"", b'2').await.context("greeting")?;
    expect(&mut server, EHLO, b'2').await?;
    if let Some(tls) = tls {
        expect(&mut server, b"STARTTLS\r\n", b'2').await?;
        let stream = tls.connect(to.ip().into(), server.into_stream()).await;
        server = Wire::new(stream.context("TLS")?);
        expect(&mut server, EHLO, b'2').await?;
    }
    Ok(server)
}

const EHLO: &[u8] = b"EHLO client.example\r\n";

/// Sends a command whose reply is to be of this kind.
async fn expect(server: &mut Wire, command: &[u8], kind: u8) -> Result<()> {
    server.put(command);
    let reply = server.reply().await?;
    if reply.first() == Some(&kind) {
        return Ok(());
    }
    let [command, reply] = [command, reply].map(String::from_utf8_lossy);
    bail!("{} -> {}", command.trim_end(), reply.trim_end())
}
