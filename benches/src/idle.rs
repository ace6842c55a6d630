//! The memory that idle sessions take in a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::process::Memory;
use crate::{client, tls};

/// Sessions that stay idle.
#[derive(Args)]
pub struct Idle {
    /// The server
    #[arg(long)]
    to: SocketAddr,
    /// How many
    #[arg(long)]
    sessions: u32,
    /// Use STARTTLS
    #[arg(long)]
    tls: bool,
    /// The server's processes
    #[arg(long, value_name = "PID,..", value_delimiter = ',', required = true)]
    pids: Vec<u32>,
}

impl Idle {
    /// Opens them and prints what memory they take.
    pub async fn run(self) -> Result<()> {
        allow_files(u64::from(self.sessions))?;
        let tls = self.tls.then(tls::connector).transpose()?;
        let before = Memory::of(&self.pids)?;
        let mut open = Vec::new();
        for number in 0..self.sessions {
            let session = client::open(self.to, self.source(number), tls.as_ref()).await;
            open.push(session.with_context(|| format!("session {number}"))?);
        }
        let after = Memory::of(&self.pids)?;
        for (name, before, after) in [
            ("PSS", before.pss, after.pss),
            ("RSS", before.rss, after.rss),
        ] {
            let each = (after as f64 - before as f64) / f64::from(self.sessions);
            println!("{name}  {before} KiB before, {after} KiB after: {each:.1} KiB a session");
        }
        Ok(())
    }

    /// Of the loopback network few sessions come from one address: servers limit them.
    fn source(&self, number: u32) -> Option<IpAddr> {
        const OF_ONE_ADDRESS: u32 = 50;
        let first = u32::from(Ipv4Addr::LOCALHOST);
        let source = Ipv4Addr::from_bits(first + number / OF_ONE_ADDRESS);
        (self.to.is_ipv4() && self.to.ip().is_loopback()).then_some(source.into())
    }
}

/// Allows this process as many open files, and some more.
fn allow_files(count: u64) -> Result<()> {
    let wanted = count + 100;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum.map(|maximum| maximum.max(wanted)),
        };
        setrlimit(Resource::Nofile, raised)
            .with_context(|| format!("{wanted} open files are not allowed"))?;
    }
    Ok(())
}
