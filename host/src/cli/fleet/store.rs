//! Which store a command is about.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::config::{self, Config};
use crate::fleet::{Nats, Patience};
use crate::trust::read_roots;
use portcullis::statement::Roots;

/// Which store, and whose signatures are taken there.
#[derive(Args)]
pub(super) struct StoreArgs {
    /// The configuration of a host of the fleet: its [fleet], and its [trust] policy-root
    #[arg(long, value_name = "FILE", required_unless_present = "servers")]
    config: Option<PathBuf>,
    /// A server, such as nats://nats1.example:4222; may be given several times
    #[arg(long = "server", value_name = "URL")]
    servers: Vec<String>,
    /// A file of what lets us in: NATS credentials, the seed of an nkey, or user:password [default: that of the configuration]
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// Root certificates of the servers beside the system's
    #[arg(long, value_name = "FILE")]
    tls_roots: Option<PathBuf>,
    /// The bucket of policies
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// The operators' root statements [default: those of the configuration]
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

impl StoreArgs {
    /// The store, and the operators' root statements if anybody has said where they are.
    pub(super) async fn open(&self) -> anyhow::Result<(Nats, Option<Roots>)> {
        let config = self.config.as_deref();
        let config = config.map(|path| Config::load_after(path, None));
        let config = config.transpose()?.map(|(config, _)| config);
        let of_config = config.as_ref().and_then(|config| config.fleet.clone());
        if let (Some(path), None) = (&self.config, &of_config) {
            bail!("{}: there is no [fleet]", path.display());
        }
        let mut fleet = of_config.unwrap_or_else(|| config::Fleet::at(Vec::new()));
        if !self.servers.is_empty() {
            fleet.servers = self.servers.clone();
        }
        fleet.credentials = self.credentials.clone().or(fleet.credentials);
        fleet.roots = self.tls_roots.clone().or(fleet.roots);
        fleet.bucket = self.bucket.clone().unwrap_or(fleet.bucket);
        let of_config = config.and_then(|config| config.trust.policy_root);
        let root = self.root.clone().or(of_config);
        let roots = root.map(|path| read_roots(&path)).transpose()?;
        let nats = Nats::connect(&fleet, Patience::None, "publisher", |_| {}).await?;
        Ok((nats, roots))
    }

    /// The store, and the operators' root statements, without which nothing can be published.
    pub(super) async fn open_to_publish(&self) -> anyhow::Result<(Nats, Roots)> {
        let (nats, roots) = self.open().await?;
        let roots =
            roots.context("say whose signatures hosts take: --root FILE, or --config FILE")?;
        Ok((nats, roots))
    }
}
