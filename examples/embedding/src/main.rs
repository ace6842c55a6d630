//! An SMTP responder that asks a policy about each recipient: what embedding takes.
//!
//! `cargo run -- rules.json 127.0.0.1:2525`

use std::time::Duration;

use portcullis::{Context, Engine, Limits, Policy};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The longest command line, in bytes (RFC 5321 section 4.5.3.1.4).
const MAX_LINE: u64 = 512;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rules, address] = &arguments[..] else {
        return Err("give a policy, and an address to listen on".into());
    };
    let mut limits = Limits::default();
    limits.evaluation = Duration::from_secs(10); // a busy machine is no reason to defer here
    let engine = Engine::new(limits)?;
    let policy = engine.load_file(rules).await?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(serve(client, policy.clone()));
    }
}

async fn serve(client: TcpStream, policy: Policy) -> std::io::Result<()> {
    let mut session = policy.session(); // one for each SMTP session
    let mut context = Context::inbound(client.peer_addr()?.ip(), "", "");
    let mut has_sender = false;
    let mut client = BufReader::new(client);
    let mut reply = "220 mail.contoso.com ESMTP".to_owned();
    while !reply.is_empty() {
        client.write_all(format!("{reply}\r\n").as_bytes()).await?;
        let mut line = String::new();
        (&mut client).take(MAX_LINE).read_line(&mut line).await?;
        let (verb, argument) = line
            .trim_end()
            .split_once([' ', ':'])
            .unwrap_or((&line, ""));
        let path = argument.split(['<', '>']).nth(1).unwrap_or_default();
        reply = match verb.trim_end().to_ascii_uppercase().as_str() {
            _ if !line.ends_with('\n') => String::new(), // too long, or the client is gone
            "EHLO" => {
                (has_sender, context) = (false, context.helo(argument));
                "250 mail.contoso.com".into()
            }
            "MAIL" => {
                has_sender = true;
                context.set_mail_from(path);
                "250 2.1.0 ok".into()
            }
            "RCPT" if !has_sender => "503 5.5.1 MAIL first".into(),
            "RCPT" => {
                context.set_rcpt_to(path);
                let decision = session.decide(&context).await; // a failure defers the recipient
                match decision.refusal() {
                    None => "250 2.1.5 ok".into(),
                    Some(it) => format!("{} {} {}", it.code, it.enhanced, it.text),
                }
            }
            "QUIT" => String::new(),
            _ => "502 5.5.1 not implemented".into(),
        };
    }
    client.write_all(b"221 2.0.0 bye\r\n").await
}
