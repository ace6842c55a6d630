//! What nearly every test begins with: a daemon that runs by a configuration.

use std::ops::{Deref, DerefMut};

use tempfile::TempDir;

use crate::{Config, Daemon};

/// A running daemon, and the configuration that it was started with.
pub struct TestBed {
    daemon: Daemon,
    config: Config,
}

impl TestBed {
    /// Starts a daemon in a folder of its own, which has the files of the configuration.
    pub fn start(config: Config) -> TestBed {
        TestBed::start_with(config, &[])
    }

    /// The same with these variables in the daemon's environment until it is started again.
    pub fn start_with(config: Config, variables: &[(&str, &str)]) -> TestBed {
        let folder = tempfile::tempdir().expect("a temporary folder");
        TestBed::new(folder, config, variables)
    }

    /// The same in a folder that has further files already.
    pub fn start_in(folder: TempDir, config: Config) -> TestBed {
        TestBed::new(folder, config, &[])
    }

    /// Both.
    pub fn start_in_with(folder: TempDir, config: Config, variables: &[(&str, &str)]) -> TestBed {
        TestBed::new(folder, config, variables)
    }

    fn new(folder: TempDir, config: Config, variables: &[(&str, &str)]) -> TestBed {
        config.write_files(folder.path());
        let daemon = Daemon::start_with(folder, &config.to_string(), variables);
        TestBed { daemon, config }
    }

    /// Does something to the daemon's files, and waits until it has reloaded.
    pub fn change(&self, change: impl FnOnce(&Daemon)) {
        let reloaded = "INFO configuration reloaded";
        let before = self.daemon.count_log(reloaded);
        change(&self.daemon);
        self.daemon.wait_for_log_times(reloaded, before + 1);
    }

    /// Gives the daemon another configuration, and waits until it has reloaded.
    pub fn reconfigure(&mut self, config: Config) {
        // Those that are there are watched: to write them would be another reason to reload.
        config.write_missing_files(self.daemon.folder());
        self.change(|daemon| daemon.replace("portcullis.toml", config.to_string().as_bytes()));
        self.config = config;
    }

    /// The daemon is killed as by a power cut, and started again at the same addresses.
    pub fn restart(&mut self) {
        let config = self.config.clone().at(&self.daemon.addresses);
        self.daemon.restart(&config.to_string());
    }

    /// Ends the daemon as a power cut would, and gives its folder.
    pub fn kill(self) -> TempDir {
        self.daemon.kill()
    }
}

impl Deref for TestBed {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for TestBed {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}
