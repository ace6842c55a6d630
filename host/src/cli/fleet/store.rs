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
    #[arg(long, value_name = "FILE")]
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
    fn config(&self) -> anyhow::Result<Option<Config>> {
        let config = self.config.as_deref();
        let config = config.map(|path| Config::load_after(path, None));
        Ok(config.transpose()?.map(|(config, _)| config))
    }

    /// The file of the operators' root statements, if anybody has said where it is.
    pub(super) fn root(&self) -> anyhow::Result<Option<PathBuf>> {
        if let Some(root) = &self.root {
            return Ok(Some(root.clone()));
        }
        Ok(self.config()?.and_then(|config| config.trust.policy_root))
    }

    /// The store, and the operators' root statements if anybody has said where they are.
    pub(super) async fn open(&self) -> anyhow::Result<(Nats, Option<Roots>)> {
        let config = self.config()?;
        let of_config = config.as_ref().and_then(|config| config.fleet.clone());
        if let (Some(path), None) = (&self.config, &of_config) {
            bail!("{}: there is no [fleet]", path.display());
        }
        let mut fleet = of_config.unwrap_or_else(|| config::Fleet::at(Vec::new()));
        if !self.servers.is_empty() {
            (fleet.servers, fleet.url) = (self.servers.clone(), None);
        }
        if let Some(url) = &fleet.url {
            bail!(
                "the fleet follows files at {url}, where nothing can be put and nobody says anything: name a server of NATS (--server), or use portcullis fleet export"
            );
        }
        if fleet.servers.is_empty() {
            bail!("say where the store is: --config FILE, or --server URL");
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
        Ok((nats, roots.context(WHOSE)?))
    }
}

/// What is said if nobody knows whose signatures count.
pub(super) const WHOSE: &str = "say whose signatures hosts take: --root FILE, or --config FILE";
