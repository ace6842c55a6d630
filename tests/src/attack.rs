//! Clients that mean harm.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};

use crate::Client;
use crate::client::Handshake;

/// How many states [`hold`] knows.
pub const STATES: usize = 7;

/// Comes to one of the states of a session, begins what comes next there, and says no more.
///
/// # Errors
/// If it is not let in, or not served.
pub fn hold(address: SocketAddr, from: IpAddr, state: usize) -> io::Result<Client> {
    let mut client = Client::try_connect_as(address, from)?;
    let state = state % STATES;
    let lines: &[&str] = match state {
        0 => &[],
        1 => &["EHLO a.test"],
        2 => &["EHLO a.test", "STARTTLS"],
        3 => &["EHLO a.test", "MAIL FROM:<a@a.test>"],
        4 => &[
            "EHLO a.test",
            "MAIL FROM:<a@a.test>",
            "RCPT TO:<b@dest.test>",
        ],
        5 => &["EHLO a.test", "STARTTLS"],
        _ => &[
            "EHLO a.test",
            "MAIL FROM:<a@a.test>",
            "RCPT TO:<b@dest.test>",
            "DATA",
        ],
    };
    for line in lines {
        let reply = client.try_command(line)?;
        if reply.code >= 400 {
            return Err(io::Error::other(format!("{line}: {reply:?}")));
        }
    }
    if state == 5 {
        client.handshake(&Handshake::default())?;
    }
    let begin: &[u8] = match state {
        2 => b"\x16\x03\x01",
        4 => b"BDAT 1000\r\nx",
        _ => b"x",
    };
    client.try_send(begin)?;
    Ok(client)
}

/// Talks until it is cut off, and never reads a reply. Gives the octets that were taken from it, or
/// `most` if there was no end.
pub fn never_listen(address: SocketAddr, from: IpAddr, most: usize) -> io::Result<usize> {
    let mut client = Client::try_connect_as(address, from)?;
    let noops = "NOOP\r\n".repeat(10_000);
    let mut sent = 0;
    while sent < most && client.try_send(noops.as_bytes()).is_ok() {
        sent += noops.len();
    }
    Ok(sent)
}

/// Asks for what is refused until it is cut off. Gives the code of the last reply.
pub fn provoke(address: SocketAddr, from: IpAddr) -> io::Result<u16> {
    let mut client = Client::try_connect_as(address, from)?;
    let mut last = client.try_command("EHLO a.test")?.code;
    while last != 421 {
        last = client.try_command("RCPT TO:<nobody@nowhere.test>")?.code;
    }
    Ok(last)
}

/// Connects and goes, again and again.
pub fn knock(address: SocketAddr, times: usize) -> io::Result<()> {
    for _ in 0..times {
        TcpStream::connect(address)?;
    }
    Ok(())
}

/// Names recipients in one transaction without waiting for replies, and then reads the codes of all of
/// these.
pub fn name_recipients(address: SocketAddr, from: IpAddr, count: usize) -> io::Result<Vec<u16>> {
    let mut client = Client::try_connect_as(address, from)?;
    client.try_command("EHLO a.test")?;
    client.try_command("MAIL FROM:<a@a.test>")?;
    let recipients = (0..count).map(|number| format!("RCPT TO:<r{number}@dest.test>\r\n"));
    client.try_send(recipients.collect::<String>().as_bytes())?;
    let mut codes = Vec::new();
    for _ in 0..count {
        codes.push(client.try_reply()?.code);
    }
    Ok(codes)
}

/// Says these octets in pieces of these lengths, and what is left in one; then hangs up when it has been
/// answered.
pub fn say(address: SocketAddr, from: IpAddr, octets: &[u8], pieces: &[u8]) -> io::Result<()> {
    let mut client = Client::try_connect_as(address, from)?;
    let mut rest = octets;
    for length in pieces {
        let (piece, more) = rest.split_at(usize::from(*length).min(rest.len()));
        client.try_send(piece)?;
        rest = more;
    }
    client.try_send(rest)?;
    client.end();
    while client.try_reply().is_ok() {}
    Ok(())
}
