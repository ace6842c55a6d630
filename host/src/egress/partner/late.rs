//! The way out, made ready when it is first needed: a daemon that only answers other servers may never need it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;

use super::outbound::Outbound;
use super::resources::{OutboundResources, ResourcesError};
use crate::config::Config;
use crate::decisions::Recorder;
use crate::observe::metrics::Metrics;
use portcullis::tls::Authorities;

/// The way out, which all share.
pub struct LateOutbound {
    made: OnceLock<Arc<Outbound>>,
    /// Held while it is made.
    making: Mutex<()>,
    /// What it is made by, without tenants.
    by: ArcSwap<(Config, Authorities)>,
    metrics: Arc<Metrics>,
    recorder: Arc<Recorder>,
}

impl LateOutbound {
    /// A way out that is not there yet.
    pub fn new(
        config: &Config,
        authorities: Authorities,
        metrics: Arc<Metrics>,
        recorder: Arc<Recorder>,
    ) -> Self {
        LateOutbound {
            made: OnceLock::new(),
            making: Mutex::new(()),
            by: ArcSwap::from_pointee((without_tenants(config), authorities)),
            metrics,
            recorder,
        }
    }

    /// The way out, if it is there.
    pub fn made(&self) -> Option<&Arc<Outbound>> {
        self.made.get()
    }

    /// The way out, on the runtime that this is called on.
    ///
    /// # Errors
    /// If it cannot be made ready.
    pub fn ready(&self) -> Result<Arc<Outbound>, ResourcesError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = self.made() {
            return Ok(made.clone());
        }
        let by = self.by.load();
        let (config, authorities) = &**by;
        let (resources, _) = OutboundResources::new(config, authorities.clone(), None)?;
        let (metrics, recorder) = (self.metrics.clone(), self.recorder.clone());
        let outbound = Arc::new(Outbound::new(config, resources, metrics, recorder));
        Ok(self.made.get_or_init(|| outbound).clone())
    }

    /// Replaces what it is made by, if it is not there yet.
    pub fn exchange(&self, config: &Config, authorities: Authorities) {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if self.made().is_none() {
            self.by
                .store(Arc::new((without_tenants(config), authorities)));
        }
    }
}

fn without_tenants(config: &Config) -> Config {
    Config {
        tenants: Vec::new(),
        ..config.clone()
    }
}
