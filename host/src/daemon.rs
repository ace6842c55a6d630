//! The life of `portcullis run`: start, reload, stop.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::{self, Config};
use crate::log::{self, one_line};
use crate::policies::{Outcome, Policies, Update};
use crate::sandbox::{Builder, Cache, Compiler, Sandbox};
use crate::smtp::outbound::{Means, Outbound};
use crate::smtp::{Admission, Doors, Exit, Listener, NextHop, Pool, Server, Settings};
use crate::tls::{Roots, ServerTls, TlsError};
use crate::watch::{Changed, Subject, Watch};

/// How long a next hop that did not answer is left alone.
const HOP_PAUSE: Duration = Duration::from_secs(10);

/// A daemon that is ready to take mail.
pub struct Daemon {
    config: Config,
    path: Option<PathBuf>,
    server: Arc<Server>,
    listeners: Vec<Arc<Listener>>,
    outbound: Option<Arc<Outbound>>,
    watch: Watch,
    /// What comes of policy files that take long to read, and how many they are.
    late: UnboundedReceiver<Outcome>,
    missing: usize,
}

impl Daemon {
    /// Gets everything ready but the sockets. A policy that is not taken does not stop the others: its
    /// tenant's mail is deferred until the file is mended.
    pub async fn new(
        config: Config,
        path: Option<PathBuf>,
        compiler: Compiler,
    ) -> anyhow::Result<Self> {
        let cache = match config.sandbox.cache_folder() {
            None => None,
            Some(folder) => match Cache::open(&folder) {
                Ok(cache) => Some(Arc::new(cache)),
                Err(error) if config.sandbox.cache.is_some() => bail!(error),
                Err(error) => {
                    tracing::warn!(%error, "compiled policies are not kept");
                    None
                }
            },
        };
        let sandbox = Sandbox::new(config.sandbox.limits(), cache.clone(), compiler)?;
        let (policies, late) = Policies::new(sandbox, Builder::new(cache, compiler)?);
        let policies = Arc::new(policies);
        log::tell(&config.log);
        let (settings, tls_errors) = settings(&config, None)?;
        if let Some(error) = tls_errors.into_iter().next() {
            bail!(error);
        }
        let outbound = outbound(&config, &settings)?;
        let listeners = listeners(&config, outbound.as_ref());
        let server = Arc::new(Server {
            hostname: config.hostname.as_str().into(),
            policies,
            metrics: Arc::default(),
            settings: ArcSwap::from_pointee(settings),
            doors: Arc::new(Doors::default()),
            stopping: watch::Sender::new(false),
        });
        let mut daemon = Daemon {
            config,
            path,
            server,
            listeners,
            outbound,
            watch: Watch::new().context("files cannot be watched")?,
            late,
            missing: 0,
        };
        daemon.watch();
        daemon.update_policies(None).await;
        Ok(daemon)
    }

    /// Whether each tenant has its policy, once all files have been read.
    pub async fn is_complete(&mut self) -> bool {
        while self.missing > 0 {
            let Some(outcome) = self.late.recv().await else {
                return false;
            };
            self.enter(outcome).await;
        }
        self.server.policies.snapshot().is_complete()
    }

    /// Takes mail until it is told to stop.
    pub async fn run(mut self, ready: impl FnOnce()) -> anyhow::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut stop = Stop::new()?;
        let mut addresses = Vec::new();
        for listener in &self.listeners {
            let socket = listener.bind()?;
            addresses.push(socket.local_addr()?);
            if let Exit::NextHop(next_hop) = &listener.exit {
                match next_hop.pool() {
                    None => next_hop.prepare().await.map_err(anyhow::Error::msg)?,
                    Some(pool) => {
                        tokio::spawn(learn(next_hop.clone()));
                        tokio::spawn(Pool::sweep(Arc::downgrade(pool)));
                    }
                }
            }
            tracing::info!(address = %socket.local_addr()?, "listening");
            tokio::spawn(listener.clone().serve(self.server.clone(), socket));
        }
        if let Some(outbound) = &self.outbound {
            outbound.listens_on(addresses);
            tokio::spawn(Pool::sweep(Arc::downgrade(outbound.pool())));
        }
        if let Some(metrics) = &self.config.metrics {
            let address = metrics.address;
            let serving = self.server.metrics.clone().serve(address).await;
            serving.with_context(|| format!("cannot listen on {address}"))?;
        }
        ready();
        loop {
            let news = tokio::select! {
                _ = stop.asked() => break,
                _ = hangup.recv() => News::Changed(Changed::All),
                changed = self.watch.changed() => News::Changed(changed),
                Some(outcome) = self.late.recv() => News::Late(outcome),
            };
            let taking = async {
                match news {
                    News::Changed(Changed::All) => self.reload().await,
                    News::Changed(Changed::Policies(numbers)) => {
                        self.reload_policies(&numbers).await;
                    }
                    News::Late(outcome) => self.enter(outcome).await,
                }
            };
            // However long that takes.
            tokio::select! {
                _ = stop.asked() => break,
                () = taking => {}
            }
        }
        self.stop().await;
        Ok(())
    }

    /// Takes over what has changed in the configuration and in the files that it names.
    async fn reload(&mut self) {
        if let Some(path) = &self.path {
            match Config::load(path) {
                Ok(config) => {
                    if config.listeners != self.config.listeners
                        || config.hostname != self.config.hostname
                    {
                        tracing::warn!(
                            "listeners, next hops and the hostname change with a restart only"
                        );
                    }
                    log::tell(&config.log);
                    self.config = Config {
                        listeners: self.config.listeners.clone(),
                        ..config
                    };
                }
                Err(error) => {
                    tracing::error!(%error, "the configuration was not taken; the old one stays in force")
                }
            }
        }
        self.watch();
        match settings(&self.config, Some(&self.server.settings.load())) {
            Ok((settings, errors)) => {
                for error in errors {
                    tracing::error!(%error, "a certificate was not taken; the old one stays in force");
                }
                if let Some(outbound) = &self.outbound {
                    match Means::new(&self.config, settings.roots.clone()) {
                        Ok(means) => outbound.exchange(means),
                        Err(error) => {
                            tracing::error!(%error, "the way out was not changed")
                        }
                    }
                }
                self.server.settings.store(Arc::new(settings));
                tracing::info!("settings in force");
            }
            Err(error) => {
                tracing::error!(%error, "the trusted roots were not taken; the old ones stay in force")
            }
        }
        self.update_policies(None).await;
    }

    async fn reload_policies(&mut self, numbers: &BTreeSet<usize>) {
        for number in numbers {
            if let Some(tenant) = self.config.tenants.get(*number) {
                self.watch.add(&tenant.policy, Subject::Policy(*number));
            }
        }
        self.update_policies(Some(numbers)).await;
    }

    /// Looks at the policies of these tenants, or of all.
    async fn update_policies(&mut self, only: Option<&BTreeSet<usize>>) {
        let policies = self.server.policies.clone();
        let update = policies.update(&self.config.tenants, only).await;
        self.missing += update.late;
        if update.late > 0 {
            tracing::warn!(
                files = update.late,
                "policies are still being read; meanwhile those in force stay"
            );
        }
        self.note(update);
    }

    /// Takes what came of a file that took long to read.
    async fn enter(&mut self, outcome: Outcome) {
        self.missing = self.missing.saturating_sub(1);
        let policies = self.server.policies.clone();
        let update = policies.enter(&self.config.tenants, outcome).await;
        self.note(update);
    }

    fn note(&self, update: Update) {
        for tenant in &update.changed {
            self.server.metrics.policy_updated(tenant, true);
            self.server.metrics.policy_failing(tenant, false);
            tracing::info!(%tenant, "policy in force");
        }
        for error in &update.errors {
            self.server.metrics.policy_updated(&error.tenant, false);
            tracing::error!(
                tenant = error.tenant,
                "policy not taken, what was in force stays: {}",
                one_line(&error.cause.to_string())
            );
        }
    }

    /// Watches all files. What has changed is found by looking at them, which comes after this.
    fn watch(&mut self) {
        let mut settings: Vec<&Path> = Vec::new();
        for listener in &self.config.listeners {
            settings.extend(listener.certificate.as_deref());
            settings.extend(listener.key.as_deref());
        }
        settings.extend(self.path.as_deref());
        settings.extend(self.config.trust.roots.as_deref());
        settings.extend(self.config.delivery.certificate.as_deref());
        settings.extend(self.config.delivery.key.as_deref());
        settings.extend(self.config.dns.trust_anchor.as_deref());
        let settings = settings.into_iter().map(|file| (file, Subject::Settings));
        let tenants = self.config.tenants.iter().enumerate();
        let policies = tenants.map(|(number, tenant)| (&*tenant.policy, Subject::Policy(number)));
        self.watch.set(settings.chain(policies));
    }

    /// Lets sessions end.
    async fn stop(self) {
        tracing::info!("stopping");
        // Fails only where nobody listens.
        let _ = self.server.stopping.send(true);
        let patience = self.config.timeouts.shutdown;
        if timeout(patience, self.server.doors.empty()).await.is_err() {
            tracing::warn!("some sessions did not end in time");
        }
    }
}

/// What the daemon has to do.
enum News {
    Changed(Changed),
    Late(Outcome),
}

/// Reads certificates and roots. What cannot be read is taken from `old`, and told.
fn settings(
    config: &Config,
    old: Option<&Settings>,
) -> Result<(Settings, Vec<TlsError>), TlsError> {
    let roots = match &config.trust.roots {
        Some(path) => Roots::from_file(path)?,
        None => Roots::of_system(),
    };
    let mut errors = Vec::new();
    let mut tls = HashMap::new();
    for (number, listener) in config.listeners.iter().enumerate() {
        let (Some(certificate), Some(key)) = (&listener.certificate, &listener.key) else {
            continue;
        };
        if listener.tls == crate::config::TlsMode::None {
            continue;
        }
        let found = ServerTls::from_files(certificate, key, roots.clone());
        let kept = found.map_err(|error| errors.push(error)).ok();
        let kept = kept.or_else(|| old.and_then(|old| old.tls.get(&number).cloned()));
        if let Some(kept) = kept {
            tls.insert(number, kept);
        }
    }
    let settings = Settings {
        roots,
        limits: config.limits.clone(),
        timeouts: config.timeouts.clone(),
        tls,
    };
    Ok((settings, errors))
}

/// The way out, if a listener needs one.
fn outbound(config: &Config, settings: &Settings) -> anyhow::Result<Option<Arc<Outbound>>> {
    if config.listeners.iter().all(|own| own.outbound.is_none()) {
        return Ok(None);
    }
    let means = Means::new(config, settings.roots.clone())?;
    Ok(Some(Arc::new(Outbound::new(config, means))))
}

fn listeners(config: &Config, outbound: Option<&Arc<Outbound>>) -> Vec<Arc<Listener>> {
    let exit = |listener: &config::Listener| match (&listener.next_hop, &listener.outbound) {
        (Some(hop), _) => Some(Exit::NextHop(Arc::new(NextHop::new(hop, config)))),
        (None, Some(admitted)) => Some(Exit::Partners {
            admission: Admission::new(admitted),
            outbound: outbound?.clone(),
        }),
        // Reading the configuration has seen to it that there is one of them.
        (None, None) => None,
    };
    let listeners = config.listeners.iter().enumerate();
    listeners
        .filter_map(|(number, listener)| {
            Some(Arc::new(Listener {
                number,
                config: listener.clone(),
                exit: exit(listener)?,
            }))
        })
        .collect()
}

/// Asks a next hop what it can keep, until it answers. From then on its sessions tell.
async fn learn(next_hop: Arc<NextHop>) {
    while let Err(error) = next_hop.prepare().await {
        tracing::warn!("next hop {error}; less is announced to clients until it answers");
        tokio::time::sleep(HOP_PAUSE).await;
    }
}

struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Stop {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
