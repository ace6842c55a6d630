//! `portcullis filter`: a filter that another server starts.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::output;
use crate::opensmtpd::{Asked, Question, REGISTRATION, Sessions};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions that are asked at a time; the others wait.
const MOST_QUESTIONS: usize = 64;
/// Octets of an answer.
const MAX_ANSWER: u64 = 4096;
/// Octets of a line: smtpd's own lines are shorter.
const MAX_LINE: u64 = 64 << 10;

/// Ask a running Portcullis, as a filter of another mail server
///
/// The server starts this, and speaks with it by standard input and output. Mail is deferred where Portcullis does not
/// answer.
#[derive(Args)]
#[command(
    after_help = "Example, in smtpd.conf of OpenSMTPD:\n  filter portcullis proc-exec \"portcullis filter opensmtpd --frontend /run/portcullis/ask\"\n  listen on eth0 tls pki mail filter portcullis"
)]
pub struct FilterCommand {
    /// The server
    #[arg(value_enum)]
    server: Server,
    /// The [[frontend]] that is asked: the path of its socket, or its address and port
    #[arg(long, value_name = "SOCKET", default_value = "/run/portcullis/ask")]
    frontend: String,
}

/// A server that has filters.
#[derive(Clone, Copy, ValueEnum)]
enum Server {
    /// OpenSMTPD
    Opensmtpd,
}

impl FilterCommand {
    /// Runs the command until the server closes its end.
    ///
    /// # Errors
    /// If the server cannot be read from or written to, or does not speak the protocol.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Server::Opensmtpd = self.server;
        let frontend: Arc<str> = self.frontend.into();
        let (answers, mut answered) = mpsc::channel::<String>(MOST_QUESTIONS);
        let writing = async {
            let mut stdout = tokio::io::stdout();
            while let Some(answer) = answered.recv().await {
                stdout.write_all(answer.as_bytes()).await?;
                stdout.flush().await?;
            }
            anyhow::Ok(())
        };
        let reading = read(frontend, answers);
        let ((), ()) = tokio::try_join!(reading, writing)?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn read(frontend: Arc<str>, answers: mpsc::Sender<String>) -> anyhow::Result<()> {
    let permits = Arc::new(Semaphore::new(MOST_QUESTIONS));
    let mut sessions = Sessions::default();
    let mut input = BufReader::new(tokio::io::stdin());
    loop {
        let mut line = Vec::new();
        (&mut input)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await?;
        let Some(line) = line.strip_suffix(b"\n") else {
            anyhow::ensure!(line.is_empty(), "smtpd has sent a line without an end");
            return Ok(());
        };
        let line = String::from_utf8_lossy(line);
        match sessions.read(&line).map_err(anyhow::Error::msg)? {
            Asked::Nothing => {}
            Asked::Registration => answers.send(REGISTRATION.into()).await?,
            Asked::Recipient(question) => {
                let permit = permits.clone().acquire_owned().await?;
                let (frontend, answers) = (frontend.clone(), answers.clone());
                tokio::spawn(async move {
                    let answer = answer(&frontend, &question).await;
                    // Nobody hears it only where all ends.
                    let _ = answers.send(answer).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn answer(frontend: &str, question: &Question) -> String {
    let Some(request) = &question.request else {
        return question.answer(Some("DUNNO"));
    };
    let action = match timeout(PATIENCE, ask(frontend, request)).await {
        Ok(Ok(action)) => Some(action),
        Ok(Err(error)) => {
            output::tell(&format!("portcullis: {frontend}: {error:#}\n"));
            None
        }
        Err(_) => {
            output::tell(&format!(
                "portcullis: {frontend}: no answer in {} s\n",
                PATIENCE.as_secs()
            ));
            None
        }
    };
    question.answer(action.as_deref())
}

async fn ask(frontend: &str, request: &str) -> anyhow::Result<String> {
    match frontend.contains('/') {
        true => ask_on(UnixStream::connect(frontend).await?, request).await,
        false => ask_on(TcpStream::connect(frontend).await?, request).await,
    }
}

async fn ask_on(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> anyhow::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let mut reader = BufReader::new(stream.take(MAX_ANSWER));
    reader.read_line(&mut answer).await?;
    let action = answer
        .strip_suffix('\n')
        .and_then(|line| line.strip_prefix("action="));
    action.map(str::to_owned).context("there was no answer")
}
