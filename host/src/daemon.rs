//! The life of `portcullis run`: start, reload, stop.

mod fleet;
mod listen;
mod policies;
mod reload;
mod supervisor;
mod upgrade;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use rustix::fs::{Access, access};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Interval, interval_at, timeout};

use self::upgrade::{NO_UPGRADE, Successor};
use crate::admin::Admin;
use crate::config::{self, CertificateFiles, Config, Destination, KnownFiles, TenantError};
use crate::decisions::{self, Recorder};
use crate::egress::credentials::Credentials;
use crate::egress::next_hop::NextHop;
use crate::egress::next_hop::connections::connections;
use crate::egress::next_hops::NextHops;
use crate::egress::partial::Partial;
use crate::egress::partner::LateOutbound;
use crate::egress::partner::dns::{Dns, Questions, stripping};
use crate::egress::path::Egress;
use crate::egress::pool::Pool;
use crate::egress::relay_clients::RelayClients;
use crate::egress::users::Users;
use crate::fleet::{Change, Follower, Own};
use crate::frontend::ask::Asking;
use crate::frontend::expiry::Expiring;
use crate::frontend::known_certificates::KnownCertificates;
use crate::frontend::smtp::guesses::Guesses;
use crate::frontend::smtp::limits::ConnectionLimits;
use crate::frontend::smtp::limits::Room;
use crate::frontend::smtp::listener::Listener;
use crate::frontend::smtp::listener::Server;
use crate::frontend::smtp::listener::Settings;
use crate::observe::metrics::Metrics;
use crate::observe::policies::Observing;
use crate::observe::redact;
use crate::periodic;
use crate::socket::Sockets;
use crate::tls::{
    EXPIRY_WARNING, Pair, ServerTls, TlsError, days_until, ends_of_roots, read_authorities,
};
use crate::trust::{self, DiskLedger, Trusted};
use crate::watch::{Changed, Files, Subject, Watch};
use portcullis::store::{
    LoadResult, Signed, Snapshot, Statements, Store, Tenant, TenantSource, statement_beside,
    tenant_statement_beside,
};
use portcullis::tls::Authorities;
use portcullis::{Compiler, Engine, EngineError, cases_beside};

/// How often certificates are looked at.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// When it is first looked whether there is something to tell.
const FIRST_LOOK: Duration = Duration::from_secs(5 * 60);
/// How long certificates and the configuration may take to be read.
const FILES_PATIENCE: Duration = Duration::from_secs(30);
/// Notifications that are sent at a time; each may wait for a server for minutes.
const MOST_NOTIFICATIONS: usize = 50;
/// How long the next policy of the fleet is waited for before others have their turn.
const FLEET_PATIENCE: Duration = Duration::from_millis(250);
/// How long a next hop that did not answer is left alone.
const HOP_PAUSE: Duration = Duration::from_secs(10);

/// How often a journal is asked for that another process has still: the one that this one follows, as a rule.
const JOURNAL_PAUSE: Duration = Duration::from_secs(1);

/// How long the end of the program waits until the last decisions are kept.
const RECORDER_PATIENCE: Duration = Duration::from_secs(2);

/// What a daemon is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To take mail.
    Run,
    /// To see whether it would: nothing is changed, whoever asks.
    Check,
}

/// How a daemon begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With sockets that it binds, or that a supervisor gives.
    Anew,
    /// With the sockets of the process that runs, if one does.
    Upgrade,
}

/// A daemon that is ready to take mail.
pub struct Daemon {
    config: Config,
    /// Whose signatures policies need; `None` if they need none.
    trust: Option<Trusted>,
    /// What is to be carried out of the fleet's store, and who follows that.
    fleet: Option<mpsc::Receiver<Change>>,
    follower: Option<Follower>,
    awaits_tenants: Arc<AtomicBool>,
    /// What is in the configuration, of which the fleet takes nothing away.
    own: Arc<ArcSwap<Own>>,
    /// The numbers of the fleet's tenants among those of the configuration.
    of_fleet: HashMap<String, usize>,
    /// The tenants.
    sources: Vec<TenantSource>,
    path: Option<PathBuf>,
    server: Arc<Server>,
    listeners: Vec<Arc<Listener>>,
    /// The next hops that tenants have of their own.
    next_hops: Arc<NextHops>,
    outbound: Arc<LateOutbound>,
    watch: Watch,
    /// Requests to read everything again. Before it is listened to, one would end the process.
    hangup: Signal,
    /// Requests to be replaced by the program that is on the disk then.
    upgrade: Signal,
    program: PathBuf,
    /// The API, once it is served.
    admin: Option<Arc<Admin>>,
    /// Told each time policies have been looked at.
    updated: watch::Sender<()>,
    /// What comes of policy files that take long to read, and how many they are.
    late: UnboundedReceiver<LoadResult>,
    missing: usize,
    /// What answers others than senders of mail: numbers, and the API.
    servers: JoinSet<()>,
    /// The front doors, each with its conversations.
    doors: JoinSet<()>,
}

impl Daemon {
    /// Gets everything ready but the sockets. A policy that is not taken does not stop the others: its
    /// tenant's mail is deferred until the file is mended.
    pub async fn new(
        mut config: Config,
        path: Option<PathBuf>,
        compiler: Compiler,
        purpose: Purpose,
    ) -> anyhow::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        let upgrade = signal(SignalKind::user_defined2())?;
        let metrics = Arc::new(metrics(&config));
        let ledger = match purpose {
            Purpose::Run => DiskLedger::open,
            Purpose::Check => DiskLedger::open_to_read,
        };
        let trust = trust::open(&config, None, ledger)?;
        let engine = engine(&config, compiler, purpose, metrics.clone())?;
        let (policies, late) = Store::new(engine);
        let policies = Arc::new(policies);
        redact::tell(&config.log);
        let awaits_tenants = Arc::<AtomicBool>::default();
        let Read {
            mut settings,
            errors,
        } = Read::new(&config, None)?;
        settings.awaits_tenants = awaits_tenants.clone();
        if let Some(error) = errors.into_iter().next() {
            bail!(error);
        }
        let recorder = Arc::new(match purpose {
            Purpose::Run => recorder(&config, &metrics),
            Purpose::Check => Recorder::forgetful(),
        });
        let outbound = LateOutbound::new(
            &config,
            settings.authorities.clone(),
            metrics.clone(),
            recorder.clone(),
        );
        let updated = watch::Sender::new(());
        let (mut fleet, mut follower, mut own, mut sink) = (None, None, Arc::default(), None);
        if let (Some(followed), Some(trusted), Purpose::Run) = (&config.fleet, &trust, purpose) {
            let begun = Follower::begin(
                followed.clone(),
                &config,
                trusted.clone(),
                (policies.clone(), updated.subscribe()),
                awaits_tenants.clone(),
                metrics.fleet(),
            )?;
            config.tenants.extend(begun.tenants);
            sink = begun.sink;
            (fleet, follower) = (Some(begun.changes), Some(begun.follower));
            own = begun.own;
        }
        let next_hops = Arc::new(NextHops::default());
        next_hops.take(&config, &settings.authorities);
        let listeners = listeners(&config, &settings.authorities, &next_hops, &outbound)?;
        let server = Arc::new(Server {
            hostname: config.hostname.as_str().into(),
            asking: Arc::new(Asking {
                policies,
                metrics,
                expiring: Expiring::default(),
                recorder,
                sink,
            }),
            settings: ArcSwap::from_pointee(settings),
            partial: match purpose {
                Purpose::Run => partial(&config),
                Purpose::Check => Partial::forgetful(),
            },
            connections: Arc::new(ConnectionLimits::default()),
            headers: Room::default(),
            notified: listeners
                .iter()
                .find_map(|listener| match &listener.egress {
                    Egress::NextHop { default, .. } => Some(default.clone()),
                    Egress::Partners { .. } => None,
                }),
            next_hops: next_hops.clone(),
            notifications: Arc::new(Semaphore::new(MOST_NOTIFICATIONS)),
            guesses: Guesses::default(),
            verifications: Arc::new(Semaphore::new(verifications())),
            draining: watch::Sender::new(false),
            closed: watch::Sender::new(false),
            is_listening: AtomicBool::new(false),
            stopping: watch::Sender::new(false),
        });
        let mut daemon = Daemon {
            of_fleet: config.numbers_of_fleet(),
            sources: sources(&config, trust.as_ref()),
            trust,
            config,
            path,
            server,
            listeners,
            next_hops,
            outbound: Arc::new(outbound),
            watch: Watch::new().context("files cannot be watched")?,
            hangup,
            upgrade,
            program: upgrade::program(),
            admin: None,
            updated,
            fleet,
            follower,
            awaits_tenants,
            own,
            late,
            missing: 0,
            servers: JoinSet::new(),
            doors: JoinSet::new(),
        };
        daemon.watch().await;
        daemon.update_policies(None).await;
        daemon.tell_of_certificates();
        daemon.tell_of_passwords();
        daemon.warn_of_trusting_next_hops();
        Ok(daemon)
    }

    /// What would keep it from taking mail, as far as can be seen without doing so.
    pub fn obstacles(&self) -> Vec<String> {
        let listeners = self.config.listeners.iter();
        let addresses = listeners.clone().map(|listener| listener.address);
        let metrics = self.config.metrics.iter().map(|metrics| metrics.address);
        let foreign = addresses
            .chain(metrics)
            .filter(|address| UdpSocket::bind((address.ip(), 0)).is_err())
            .map(|address| format!("{address}: this machine has no such address"));
        let maildirs = next_hops_of(&self.config).filter_map(|hop| match hop {
            config::NextHop::Maildir { folder, .. } => Some(folder),
            _ => None,
        });
        let passwords = self.all_next_hops().into_iter();
        let passwords = passwords.filter_map(|hop| hop.password_error());
        let of_smart_hosts = self.config.delivery.smart_hosts.iter();
        let of_smart_hosts = of_smart_hosts.filter_map(|host| {
            let read = Credentials::read(host.login.as_ref()?);
            Some(format!("[[delivery.smart-host]] {}", read.err()?))
        });
        let users = listeners.filter_map(|listener| match &listener.destination {
            Destination::Outbound(outbound) => {
                let read = Users::read(outbound.password_file.as_deref()?);
                read.err().map(|error| error.to_string())
            }
            Destination::NextHop(_) => None,
        });
        foreign
            .chain(maildirs.filter_map(|folder| no_maildir(folder)))
            .chain(passwords.map(|error| error.to_string()))
            .chain(of_smart_hosts)
            .chain(users)
            .collect()
    }

    /// All next hops: those of listeners, and those of tenants.
    fn all_next_hops(&self) -> Vec<Arc<NextHop>> {
        let of_listeners = self.listeners.iter().filter_map(|listener| {
            let Egress::NextHop { default, .. } = &listener.egress else {
                return None;
            };
            Some(default.clone())
        });
        of_listeners.chain(self.next_hops.all()).collect()
    }

    /// The certificates that are in use, each with its file.
    fn pairs(&self) -> Vec<(PathBuf, Pair)> {
        let settings = self.server.settings.load();
        let shown = self.config.delivery.identity.as_ref();
        let outbound = self.outbound.made().map(|outbound| outbound.resources());
        let of_client = outbound.and_then(|resources| {
            Some((shown?.certificate.clone(), resources.identity()?.clone()))
        });
        let of_listeners = settings
            .tls
            .values()
            .flat_map(|tls| tls.pairs().iter().cloned());
        of_listeners.chain(of_client).collect()
    }

    /// Says which certificates are about to be a problem, and shows how long all have.
    fn tell_of_certificates(&self) {
        let pairs = self.pairs();
        let ends = pairs
            .iter()
            .map(|(path, pair)| (path.as_path(), pair.not_after));
        let roots: Vec<_> = ends_of_roots(&self.config.trust).collect();
        let all = ends.chain(roots.iter().copied());
        self.server.asking.metrics.certificates(all);
        for (file, end) in roots {
            let (file, days) = (file.display(), days_until(end));
            if (0..EXPIRY_WARNING).contains(&days) {
                tracing::warn!(%file, days, "the trusted roots expire soon; no certificate of theirs is trusted then");
            }
        }
        for (path, pair) in &pairs {
            for warning in &pair.warnings {
                tracing::warn!("{warning}");
            }
            let days = pair.days_left();
            let file = path.display();
            match days {
                ..0 => {
                    tracing::error!(%file, "the certificate has expired; partners who check it refuse us")
                }
                0..EXPIRY_WARNING => tracing::warn!(%file, days, "the certificate expires soon"),
                _ => {}
            }
        }
        let settings = self.server.settings.load();
        for (number, listener) in self.config.listeners.iter().enumerate() {
            let Some(tls) = settings.tls.get(&number) else {
                continue;
            };
            if !tls.has_name(&self.config.hostname) {
                tracing::warn!(
                    address = %listener.address,
                    hostname = self.config.hostname,
                    "no certificate of this listener is for the hostname"
                );
            }
        }
        for bad in settings.authorities.public().bad_crls() {
            tracing::warn!(file = %bad.path.display(), "revocation list: {}", bad.reason);
        }
    }

    /// Says which passwords are no secrets.
    fn tell_of_passwords(&self) {
        let files: BTreeSet<&Path> = password_files(&self.config).collect();
        for path in files.into_iter().filter(|path| config::is_public(path)) {
            tracing::warn!(
                file = %path.display(),
                "the password can be read by everybody on this machine: chmod 600 the file, or 640 with a group of its own"
            );
        }
    }

    /// A server that sees all mail come from our address may take it for one of its own clients.
    fn warn_of_trusting_next_hops(&self) {
        let mut told = HashSet::new();
        for hop in next_hops_of(&self.config) {
            if let config::NextHop::Smtp {
                server,
                xclient: false,
            } = hop
                && server.proxy_protocol.is_none()
                && server.login.is_none()
                && told.insert(&server.address)
            {
                tracing::warn!(
                    hop = server.address,
                    "this next hop sees all mail come from our address: see to it that it does not trust that (in Postfix: mynetworks), or switch xclient or proxy-protocol on"
                );
            }
        }
    }

    /// Whether each tenant has its policy, once all files have been read.
    pub async fn is_complete(&mut self) -> bool {
        while self.missing > 0 {
            let Some(outcome) = self.late.recv().await else {
                return false;
            };
            self.enter(outcome).await;
        }
        self.server.asking.policies.snapshot().is_complete()
    }

    /// Takes mail until it is told to stop, or another process has taken over. It listens where `sockets` has sockets
    /// already, and binds the others. `ready` is a box, so that all that is begun here is compiled once.
    ///
    /// # Errors
    /// If it cannot listen, or the process that it is to take over from goes on.
    pub async fn run(
        mut self,
        mut sockets: Sockets,
        begin: Begin,
        ready: Box<dyn FnOnce()>,
    ) -> anyhow::Result<()> {
        let mut stop = Stop::new()?;
        tokio::spawn(supervisor::feed_watchdog());
        if begin == Begin::Anew {
            let metrics = self.bind_metrics(&mut sockets).await?;
            self.serve_metrics(metrics);
        }
        let preparing = async {
            self.read_policies().await;
            self.prepare_next_hops().await?;
            match begin {
                Begin::Anew => Ok(None),
                Begin::Upgrade => upgrade::take_over(&self.config, &mut sockets)
                    .await
                    .context(NO_UPGRADE),
            }
        };
        let predecessor = tokio::select! {
            biased;
            _ = stop.asked() => return Ok(()),
            prepared = preparing => prepared?,
        };
        let metrics = match begin {
            Begin::Anew => None,
            Begin::Upgrade => self.bind_metrics(&mut sockets).await?,
        };
        let upgrades = upgrade::listen(&self.config, &mut sockets).await;
        let doors = self.bind(&mut sockets).await?;
        for spot in sockets.close_unused() {
            tracing::warn!(%spot, "a socket that was given to this process is in no use: it is not configured");
        }
        self.serve_all(doors);
        self.serve_metrics(metrics);
        if let Some(predecessor) = predecessor {
            let relieved = tokio::select! {
                biased;
                _ = stop.asked() => None,
                relieved = predecessor.relieve() => Some(relieved),
            };
            match relieved {
                Some(Ok(())) => tracing::info!("the sockets of the old process are taken over"),
                // Mail that was begun here goes its way.
                Some(Err(error)) => {
                    self.end_sessions().await;
                    return Err(error).context(NO_UPGRADE);
                }
                None => {
                    self.end_sessions().await;
                    return Ok(());
                }
            }
        }
        let offering =
            upgrades.map(|it| tokio::spawn(upgrade::offer(it, sockets, stop.replaced())));
        supervisor::ready(&self.status());
        ready();
        if let Some(follower) = self.follower.take() {
            follower.start().context("the fleet has no thread")?;
        }
        tokio::spawn(take_journal(self.server.clone()));
        self.tidy();
        let mut end = self.serve(&mut stop).await;
        if let End::Asked = end {
            end = self.drain(&mut stop).await;
        }
        // Whoever connects now finds the next process, or nobody.
        if let Some(offering) = offering {
            offering.abort();
        }
        match end {
            End::Asked => self.end_sessions().await,
            End::Replaced(successor) => self.leave(successor, stop).await,
        }
        Ok(())
    }

    /// Gets the next hops ready, of which those of tenants concern these only.
    async fn prepare_next_hops(&self) -> anyhow::Result<()> {
        for next_hop in self.next_hops.all() {
            if let Err(error) = begin_with(&next_hop).await {
                tracing::error!(%error, "a tenant's next hop is not ready");
            }
        }
        for listener in &self.listeners {
            if let Egress::NextHop { default, .. } = &listener.egress {
                begin_with(default).await.map_err(anyhow::Error::msg)?;
            }
        }
        Ok(())
    }

    /// What a supervisor shows of this process.
    fn status(&self) -> String {
        let policies = self.server.asking.policies.snapshot();
        let tenants = policies.tenants().chain(policies.before());
        let rejected = tenants.filter(|it| it.rejected.is_some()).count();
        let all = policies.tenants().count();
        match rejected {
            0 => format!("taking mail; tenants: {all}"),
            _ => format!("taking mail; tenants: {all}; new policies rejected: {rejected}"),
        }
    }

    /// Does what comes up, until it is told to stop, or another process has taken over.
    async fn serve(&mut self, stop: &mut Stop) -> End {
        let mut days = interval_at(Instant::now() + DAY, DAY);
        let mut looks = interval_at(
            Instant::now() + FIRST_LOOK.min(self.config.alerts.every),
            self.config.alerts.every,
        );
        let mut validations = self
            .config
            .validation
            .every
            .map(|every| interval_at(Instant::now() + every, every));
        let (mut looking, mut validating) = (Job::default(), Job::default());
        let mut upgrading = Job::default();
        loop {
            let news = tokio::select! {
                end = stop.asked() => return end,
                _ = self.upgrade.recv() => News::Upgrade,
                _ = self.hangup.recv() => News::Changed(Changed::All),
                changed = self.watch.changed() => News::Changed(changed),
                Some(outcome) = self.late.recv() => News::Late(outcome.into()),
                Some(change) = of_fleet(&mut self.fleet) => News::Fleet(change),
                _ = days.tick() => News::Day,
                _ = looks.tick() => News::Look,
                _ = next(&mut validations) => News::Validate,
            };
            let taking = async {
                match news {
                    News::Changed(Changed::All) => {
                        supervisor::reloading();
                        if let Err(error) = self.reload().await {
                            tracing::error!("the settings were not read again: {error:#}");
                        }
                        supervisor::ready(&self.status());
                    }
                    News::Changed(Changed::Policies(numbers)) => {
                        self.reload_policies(&numbers).await;
                    }
                    News::Late(outcome) => self.enter(*outcome).await,
                    News::Fleet(change) => self.take_change(change).await,
                    News::Day => {
                        self.tell_of_certificates();
                        self.tell_of_passwords();
                        self.tidy();
                    }
                    News::Look => {
                        looking.begin(periodic::look(self.config.clone(), self.server.clone()));
                    }
                    News::Validate => {
                        let validate = periodic::validate(self.config.clone(), self.server.clone());
                        validating.begin(validate);
                    }
                    News::Upgrade => upgrading.begin(upgrade::start(self.program.clone())),
                }
            };
            // However long that takes.
            tokio::select! {
                end = stop.asked() => return end,
                () = taking => {}
            }
        }
    }

    /// Removes what is kept of partners and is over.
    fn tidy(&self) {
        if let Some(outbound) = self.outbound.made().cloned() {
            tokio::spawn(async move { outbound.tidy().await });
        }
    }

    /// Watches all files. What has changed is found by looking at them, which comes after this.
    async fn watch(&self) {
        let mut settings: Vec<&Path> = Vec::new();
        for listener in &self.config.listeners {
            settings.extend(
                listener
                    .certificates
                    .iter()
                    .flat_map(CertificateFiles::both),
            );
        }
        settings.extend(self.path.as_deref());
        settings.extend(password_files(&self.config));
        let trust = &self.config.trust;
        settings.extend(trust.files());
        if self.config.dns.servers.is_empty() {
            settings.push(Path::new("/etc/resolv.conf"));
        }
        let known = || {
            let frontends = self.config.frontends.iter();
            frontends.flat_map(|frontend| &frontend.known_certificates)
        };
        settings.extend(known().filter_map(|files| match files {
            KnownFiles::File(path) => Some(path.as_path()),
            KnownFiles::Folder(..) => None,
        }));
        let identity = self.config.delivery.identity.iter();
        settings.extend(identity.flat_map(CertificateFiles::both));
        settings.extend(self.config.dns.trust_anchor.as_deref());
        settings.extend(trust.policy_root.as_deref());
        let settings = settings
            .into_iter()
            .map(|file| (file.to_owned(), Subject::Settings));
        let is_signed = self.trust.is_some();
        let tenants = self.config.askable().enumerate();
        let policies =
            tenants.flat_map(|(number, tenant)| files_of_tenant(number, tenant, is_signed));
        let known_folders = known().filter_map(|files| match files {
            KnownFiles::File(_) => None,
            KnownFiles::Folder(folder, _) => Some(folder),
        });
        let folders = trust.crls.iter().chain(&self.config.tenant_folder);
        let folders = folders.chain(known_folders);
        self.watch
            .set(Files {
                files: settings.chain(policies).collect(),
                folders: folders
                    .map(|folder| (folder.clone(), Subject::Settings))
                    .collect(),
            })
            .await;
    }

    /// Lets balancers see that no more mail is taken here, unless somebody is in a hurry; another process may take over.
    async fn drain(&self, stop: &mut Stop) -> End {
        let timeouts = &self.config.timeouts;
        let delay = timeouts.shutdown_delay.unwrap_or_default();
        supervisor::stopping(delay + timeouts.shutdown);
        self.server.draining.send_replace(true);
        if delay.is_zero() {
            return End::Asked;
        }
        tracing::info!(delay = %humantime::format_duration(delay), "draining");
        tokio::select! {
            end = stop.asked() => end,
            () = tokio::time::sleep(delay) => End::Asked,
        }
    }

    /// Leaves the sockets to another process. Sessions that have begun here go on here, for a while.
    async fn leave(mut self, successor: Successor, mut stop: Stop) {
        self.servers.abort_all();
        self.server.closed.send_replace(true);
        // What comes of the fleet's store is the other one's.
        self.fleet = None;
        let process = successor.process;
        process.iter().for_each(|it| supervisor::replaced_by(*it));
        drop(successor);
        tracing::info!(process, "another process has taken over");
        let patience = self.config.timeouts.shutdown;
        tokio::select! {
            _ = timeout(patience, self.sessions_have_ended()) => {}
            _ = stop.asked() => {}
        }
        self.end_sessions().await;
    }

    /// Waits until there are no more sessions, and no more conversations with mail servers.
    async fn sessions_have_ended(&mut self) {
        self.server.connections.empty().await;
        while self.doors.join_next().await.is_some() {}
    }

    /// Accepts no more connections, and lets sessions end.
    async fn end_sessions(mut self) {
        tracing::info!("stopping");
        // Fails only where nobody listens.
        let _ = self.server.closed.send(true);
        let _ = self.server.stopping.send(true);
        let patience = self.config.timeouts.shutdown;
        if timeout(patience, self.sessions_have_ended()).await.is_err() {
            tracing::warn!("some sessions did not end in time");
        }
        let asking = &self.server.asking;
        let _ = timeout(RECORDER_PATIENCE, asking.recorder.flush()).await;
        if let Some(sink) = &asking.sink {
            let _ = timeout(RECORDER_PATIENCE, sink.flush()).await;
        }
    }
}

/// Says what is wrong with the file of a tenant.
pub fn tell_of_tenant(wrong: &TenantError) {
    let error = &wrong.error;
    match wrong.stays {
        true => tracing::error!(%error, "tenant's file rejected; previous version remains active"),
        false => {
            tracing::error!(%error, "tenant's file rejected; mail of domains that are no other tenant's is deferred until it is mended")
        }
    }
}

/// All next hops of a configuration: those of listeners, and those of tenants.
fn next_hops_of(config: &Config) -> impl Iterator<Item = &config::NextHop> {
    let of_listeners = config.listeners.iter().filter_map(|listener| {
        let Destination::NextHop(hop) = &listener.destination else {
            return None;
        };
        Some(hop)
    });
    let of_tenants = config.tenants.iter();
    of_listeners.chain(of_tenants.filter_map(|tenant| tenant.next_hop.as_ref()))
}

/// The files of passwords: of those with which we log in, and of those who log in here.
fn password_files(config: &Config) -> impl Iterator<Item = &Path> {
    let servers = next_hops_of(config).filter_map(|hop| match hop {
        config::NextHop::Smtp { server, .. } | config::NextHop::Lmtp { server } => {
            server.login.as_ref()
        }
        config::NextHop::Maildir { .. } => None,
    });
    let smart_hosts = config.delivery.smart_hosts.iter();
    let logins = servers.chain(smart_hosts.filter_map(|host| host.login.as_ref()));
    let users = config.listeners.iter().filter_map(|listener| {
        let Destination::Outbound(outbound) = &listener.destination else {
            return None;
        };
        outbound.password_file.as_deref()
    });
    logins
        .map(|login| login.password_file.as_path())
        .chain(users)
}

/// How many passwords are verified at a time: mail needs processors, too.
fn verifications() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).max(1)
}

/// Gets a next hop ready, in the time that it takes.
///
/// # Errors
/// If a Maildir cannot be made.
async fn begin_with(next_hop: &Arc<NextHop>) -> Result<(), String> {
    match next_hop.pool() {
        None => next_hop.prepare().await?,
        Some(pool) => {
            tokio::spawn(learn(next_hop.clone()));
            tokio::spawn(Pool::sweep(Arc::downgrade(pool)));
        }
    }
    Ok(())
}

/// Whose policy goes by a name in the log: a tenant's, or the one that is asked before all.
fn whose<'a>(policies: &'a Snapshot, name: &str) -> Option<&'a Arc<Tenant>> {
    let before = policies.before().filter(|it| *it.name == *name);
    before.or_else(|| policies.named(name))
}

/// Those whose policies are asked, in the order of the configuration.
fn sources(config: &Config, trusted: Option<&Trusted>) -> Vec<TenantSource> {
    let sources = config.askable().map(|tenant| source(tenant, trusted));
    let mut sources: Vec<TenantSource> = sources.collect();
    if let (Some(_), Some(first)) = (&config.before, sources.first_mut()) {
        first.before_all = true;
    }
    sources
}

/// A tenant, and by whom its policy must be signed.
fn source(tenant: &config::Tenant, trusted: Option<&Trusted>) -> TenantSource {
    let statements = match tenant.given.clone() {
        None => Statements::Beside,
        Some(config::Given { about, policy }) => Statements::Given { about, policy },
    };
    TenantSource {
        signed: trusted.map(|trusted| Signed {
            trust: trusted.trust.clone(),
            statements,
        }),
        ..TenantSource::from(tenant)
    }
}

/// What policies run on. A cache that nobody has asked for is not worth failing for.
fn engine(
    config: &Config,
    compiler: Compiler,
    purpose: Purpose,
    metrics: Arc<Metrics>,
) -> anyhow::Result<Engine> {
    let sandbox = &config.sandbox;
    let observer = Arc::new(Observing(metrics));
    let builder = || {
        Engine::builder()
            .limits(sandbox.limits())
            .isolation(sandbox.isolation.into())
            .compiler(compiler.clone())
            .observer(observer.clone())
    };
    // A cache that is made for somebody else is of no use to the one who will run.
    let is_usable = |folder: &PathBuf| purpose == Purpose::Run || is_ours(folder);
    let Some(folder) = sandbox.cache_folder().filter(is_usable) else {
        return Ok(builder().build()?);
    };
    match builder().cache_directory(folder).build() {
        Err(EngineError::Cache(error)) if sandbox.cache_directory.is_none() => {
            tracing::warn!(%error, "compiled policies are not kept");
            Ok(builder().build()?)
        }
        built => Ok(built?),
    }
}

/// The numbers that are shown.
fn metrics(config: &Config) -> Metrics {
    let series = config.metrics.as_ref().map(|it| it.tenants);
    let mut metrics = Metrics::new(series.unwrap_or_default());
    let help = "Name servers in use that withhold DNSSEC signatures";
    metrics.register_number("dns_servers_stripping", help, stripping());
    let help = "Connections to next hops";
    metrics.register_number("next_hop_connections", help, connections().clone());
    metrics.conversations_limit(config.frontends.iter().map(|it| it.connections).sum());
    if config.fleet.is_some() {
        metrics.register_fleet();
    }
    metrics
}

/// What the daemon has to do.
enum News {
    Changed(Changed),
    Late(Box<LoadResult>),
    /// Something has come of the fleet's store.
    Fleet(Change),
    /// A day is over.
    Day,
    /// It is time to look whether there is something to tell.
    Look,
    /// It is time to try connectors out.
    Validate,
    /// The program is to be replaced by what is on the disk.
    Upgrade,
}

/// Something that is done beside, and not twice at a time.
#[derive(Default)]
struct Job(Option<JoinHandle<()>>);

impl Job {
    fn begin(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        if self.0.as_ref().is_none_or(JoinHandle::is_finished) {
            self.0 = Some(tokio::spawn(work));
        }
    }
}

/// Waits for what comes of the fleet's store, if it is followed.
async fn of_fleet(changes: &mut Option<mpsc::Receiver<Change>>) -> Option<Change> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

/// Waits for the next time, if there is one.
async fn next(times: &mut Option<Interval>) {
    match times {
        Some(times) => drop(times.tick().await),
        None => std::future::pending().await,
    }
}

/// Settings as they were read, and what was not taken.
struct Read {
    settings: Settings,
    errors: Vec<TlsError>,
}

impl Read {
    /// Reads certificates and roots. What cannot be read is taken from `before`, and told.
    fn new(config: &Config, before: Option<&Settings>) -> Result<Self, TlsError> {
        let known = before.map(|before| &before.authorities);
        let (authorities, mut errors) = read_authorities(&config.trust, known)?;
        let mut tls = HashMap::new();
        for (number, listener) in config.listeners.iter().enumerate() {
            if listener.certificates.is_empty() || listener.tls == config::TlsMode::None {
                continue;
            }
            let files = &listener.certificates;
            let known = before.and_then(|before| before.tls.get(&number));
            let found = match ServerTls::from_files(files, authorities.clone(), known) {
                Ok((found, more)) => {
                    errors.extend(more);
                    Some(found)
                }
                Err(error) => {
                    errors.push(error);
                    known.map(|known| known.with_authorities(authorities.clone()))
                }
            };
            let found = match found {
                Some(found) if !listener.legacy_ciphers.is_empty() => match found.with_legacy() {
                    Ok(found) => Some(found),
                    Err(error) => {
                        errors.push(error);
                        known.cloned()
                    }
                },
                found => found,
            };
            if let Some(found) = found {
                tls.insert(number, found);
            }
        }
        let mut known = HashMap::new();
        for (number, frontend) in config.frontends.iter().enumerate() {
            let files = &frontend.known_certificates;
            let (certificates, wrong) = KnownCertificates::read(files, &authorities);
            if !files.is_empty() {
                tracing::info!(
                    certificates = certificates.count(),
                    "certificates of partners are known"
                );
            }
            // One that is wrong is as if it were not there, and keeps no other out.
            for error in wrong {
                tracing::error!(%error, "a known certificate is not taken");
            }
            known.insert(number, certificates);
        }
        let wanted = config
            .listeners
            .iter()
            .any(config::Listener::wants_client_names);
        let names = wanted.then(|| names(config, before)).flatten();
        let settings = Settings {
            authorities,
            limits: config.limits.clone(),
            timeouts: config.timeouts.clone(),
            tls,
            known,
            names,
            lacks_tenants: config.lacks_tenants,
            awaits_tenants: Arc::default(),
        };
        Ok(Read { settings, errors })
    }
}

/// Whom to ask what clients are called. Without, they have no names.
fn names(config: &Config, before: Option<&Settings>) -> Option<Arc<Dns>> {
    let known = before.and_then(|before| before.names.clone());
    let made = Questions::of(&config.dns).and_then(|questions| match known {
        Some(known) if known.asks(&questions) => Ok(known),
        _ => Dns::new(questions).map(Arc::new),
    });
    made.inspect_err(|error| tracing::error!(%error, "names of clients are not looked up"))
        .ok()
}

/// Does something with files on a thread that may wait for them.
///
/// # Errors
/// If the file system does not answer.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    let done = timeout(FILES_PATIENCE, tokio::task::spawn_blocking(work)).await;
    Ok(done.context("a file system does not answer")??)
}

/// The files that a tenant's policy is taken from.
fn files_of_tenant(
    number: usize,
    tenant: &config::Tenant,
    is_signed: bool,
) -> impl Iterator<Item = (PathBuf, Subject)> + use<> {
    let tests = tenant.tests.clone();
    let tests = tests.or_else(|| cases_beside(&tenant.policy));
    let statements = [statement_beside, tenant_statement_beside];
    let statements = statements.map(|beside| is_signed.then(|| beside(&tenant.policy)));
    let files = [Some(tenant.policy.clone()), tests].into_iter();
    // Those of the fleet never change.
    let is_watched = tenant.given.is_none();
    let files = files
        .chain(statements)
        .flatten()
        .filter(move |_| is_watched);
    files.map(move |file| (file, Subject::Policy(number)))
}

/// Whether a folder is there, and belongs to our user.
fn is_ours(folder: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::metadata(folder).is_ok_and(|metadata| metadata.uid() == own)
}

/// What keeps decisions. Without it mail flows all the same.
fn recorder(config: &Config, metrics: &Metrics) -> Recorder {
    let config::Decisions { keep, size } = config.decisions;
    let Some(folder) = config.delivery.state_folder().filter(|_| keep > 0) else {
        return Recorder::forgetful();
    };
    let limits = decisions::Limits {
        keep,
        size: size.as_u64(),
    };
    let place = decisions::place(&folder, &config.path);
    let started = std::fs::create_dir_all(&folder)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            let lost = metrics.lost_decisions();
            Recorder::start(&place, limits, lost).map_err(|error| error.to_string())
        });
    started.unwrap_or_else(|error| {
        tracing::warn!(
            folder = %folder.display(),
            error,
            "decisions are not remembered ([delivery] state-directory)"
        );
        Recorder::forgetful()
    })
}

/// What became of messages whose recipients ended differently, where they can.
fn partial(config: &Config) -> Partial {
    let can_differ = |listener: &config::Listener| {
        matches!(
            &listener.destination,
            Destination::NextHop(config::NextHop::Lmtp { .. }) | Destination::Outbound(_)
        )
    };
    // Tenants that come with files may have next hops of their own.
    let has_own_hops =
        config.tenant_folder.is_some() || config.tenants.iter().any(|it| it.next_hop.is_some());
    if !has_own_hops && !config.listeners.iter().any(can_differ) {
        return Partial::forgetful();
    }
    let partial = Partial::of(config.delivery.state_folder().as_deref(), &config.path);
    if let Err(error) = partial.open() {
        tell_of_journal(&partial, &error);
    }
    partial
}

fn tell_of_journal(partial: &Partial, error: &std::io::Error) {
    tracing::error!(
        journal = %partial.place().unwrap_or(Path::new("")).display(),
        %error,
        "what is delivered cannot be remembered ([delivery] state-directory); each message goes one way only"
    );
}

/// Takes the journal over once another process lets go of it.
async fn take_journal(server: Arc<Server>) {
    while server.partial.is_waiting() {
        tokio::time::sleep(JOURNAL_PAUSE).await;
        match server.partial.open() {
            Ok(()) => tracing::info!("what is delivered is remembered from now on"),
            Err(error) if !server.partial.is_waiting() => tell_of_journal(&server.partial, &error),
            Err(_) => {}
        }
    }
}

/// Why there can be no Maildir.
fn no_maildir(folder: &Path) -> Option<String> {
    let is_there = |path: &&Path| path.exists();
    let nearest = folder.ancestors().find(is_there).unwrap_or(Path::new("/"));
    let reason = match (nearest.is_dir(), access(nearest, Access::WRITE_OK)) {
        (false, _) => format!("{} is no folder", nearest.display()),
        (true, Err(error)) => format!("{}: {}", nearest.display(), std::io::Error::from(error)),
        (true, Ok(())) => return None,
    };
    Some(format!("maildir {}: {reason}", folder.display()))
}

/// The listeners. Those for outbound mail share one way out.
fn listeners(
    config: &Config,
    authorities: &Authorities,
    next_hops: &Arc<NextHops>,
    outbound: &LateOutbound,
) -> anyhow::Result<Vec<Arc<Listener>>> {
    let mut listeners = Vec::new();
    for (number, listener) in config.listeners.iter().enumerate() {
        let egress = match &listener.destination {
            Destination::NextHop(hop) => Egress::NextHop {
                // Of a listener there is one.
                default: Arc::new(NextHop::new(hop, "", config, authorities)),
                of_tenants: next_hops.clone(),
            },
            Destination::Outbound(admitted) => {
                let (clients, error) = RelayClients::new(admitted, None);
                if let Some(error) = error {
                    tracing::error!(%error, "nobody can log in until it is mended");
                }
                Egress::Partners {
                    relay_clients: ArcSwap::from_pointee(clients),
                    outbound: outbound.ready()?,
                }
            }
        };
        listeners.push(Arc::new(Listener {
            number,
            config: listener.clone(),
            egress,
        }));
    }
    Ok(listeners)
}

/// Asks a next hop what it can keep, until it answers, or has answered a session.
async fn learn(next_hop: Arc<NextHop>) {
    // As long as somebody uses it.
    while !next_hop.is_known() && Arc::strong_count(&next_hop) > 1 {
        if let Err(error) = next_hop.prepare().await {
            tracing::warn!("next hop {error}; less is announced to clients until it answers");
            tokio::time::sleep(HOP_PAUSE).await;
        }
    }
}

/// What ends the work of this process.
enum End {
    /// A person, or a supervisor.
    Asked,
    /// A process that has taken over.
    Replaced(Successor),
}

struct Stop {
    terminate: Signal,
    interrupt: Signal,
    replacing: mpsc::Sender<Successor>,
    replaced: mpsc::Receiver<Successor>,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        let (replacing, replaced) = mpsc::channel(1);
        Ok(Stop {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            replacing,
            replaced,
        })
    }

    /// Where it is told that another process has taken over.
    fn replaced(&self) -> mpsc::Sender<Successor> {
        self.replacing.clone()
    }

    async fn asked(&mut self) -> End {
        tokio::select! {
            _ = self.terminate.recv() => End::Asked,
            _ = self.interrupt.recv() => End::Asked,
            Some(successor) = self.replaced.recv() => End::Replaced(successor),
        }
    }
}
