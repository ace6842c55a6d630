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

    fn new(folder: TempDir, config: Config, variables: &[(&str, &str)]) -> TestBed {
        config.write_files(folder.path());
        let daemon = Daemon::start_with(folder, &config.to_string(), variables);
        TestBed { daemon, config }
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
