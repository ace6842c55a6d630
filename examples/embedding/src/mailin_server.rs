//! An SMTP server made of the library `mailin`, which asks a policy about each recipient.
//!
//! `cargo run -- rules.json 127.0.0.1:2525`

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mailin::response::{INTERNAL_ERROR, OK};
use mailin::{Action, Handler, Response, SessionBuilder};
use portcullis::{Context, Decision, Engine, Limits, Policy};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The longest line of a message, in bytes (RFC 5321 section 4.5.3.1.6).
const MAX_LINE: u64 = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [policy, address] = &arguments[..] else {
        return Err("give a policy, and an address to listen on".into());
    };
    let mut limits = Limits::default();
    limits.evaluation = Duration::from_secs(10); // a busy machine is no reason to defer here
    let engine = Engine::new(limits)?;
    let policy = engine.load_file(policy).await?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(serve(client, policy.clone()));
    }
}

/// A handler of `mailin` cannot wait for the policy. So it leaves a question, and `mailin` processes the command again
/// when there is an answer.
async fn serve(client: TcpStream, policy: Policy) -> std::io::Result<()> {
    let client_ip = client.peer_addr()?.ip();
    let recipients = Recipients::new(client_ip);
    let mut smtp = SessionBuilder::new("mail.contoso.com").build(client_ip, &recipients);
    let mut session = policy.session(); // one for each SMTP session
    let mut client = BufReader::new(client);
    let mut response = smtp.greeting();
    loop {
        client.write_all(&response.buffer()?).await?;
        if response.action == Action::Close {
            return Ok(());
        }
        let mut line = Vec::new();
        let mut limited = (&mut client).take(MAX_LINE);
        limited.read_until(b'\n', &mut line).await?;
        if !line.ends_with(b"\r\n") {
            return Ok(()); // too long, ended by a line feed alone, or the client is gone
        }
        response = smtp.process(&line);
        let question = recipients.lock().question.take();
        if let Some(context) = question {
            let decision = session.decide(&context).await; // a failure defers the recipient
            recipients.lock().answer = Some(reply(&decision));
            response = smtp.process(&line);
        }
    }
}

fn reply(decision: &Decision) -> Response {
    match decision.refusal() {
        None => Response::custom(250, "2.1.5 ok".into()),
        Some(it) => Response::custom(it.code, format!("{} {}", it.enhanced, it.text)),
    }
}

/// What an SMTP session asks the policy, recipient after recipient.
struct Recipients(Mutex<Recipient>);

struct Recipient {
    context: Context,
    question: Option<Context>,
    answer: Option<Response>,
}

impl Recipients {
    fn new(client_ip: IpAddr) -> Self {
        Recipients(Mutex::new(Recipient {
            context: Context::inbound(client_ip, "", ""),
            question: None,
            answer: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Recipient> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for &Recipients {
    fn mail(&mut self, client_ip: IpAddr, helo: &str, from: &str) -> Response {
        self.lock().context = Context::inbound(client_ip, from, "").helo(helo);
        OK
    }

    /// Without an answer the recipient is deferred, and `mailin` stays where it was.
    fn rcpt(&mut self, to: &str) -> Response {
        let mut recipient = self.lock();
        recipient.context.set_rcpt_to(to);
        let answer = recipient.answer.take();
        answer.unwrap_or_else(|| {
            recipient.question = Some(recipient.context.clone());
            INTERNAL_ERROR
        })
    }

    fn data_start(&mut self, _: &str, _: &str, _: bool, _: &[String]) -> Response {
        Response::custom(554, "5.3.2 this server keeps no mail".into())
    }
}
