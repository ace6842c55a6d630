//! What the embedder hears of.

use std::path::Path;
use std::sync::Arc;

use portcullis_types::Problem;

use crate::failure::EvaluationError;

/// What happens to policies, for the embedder to log and to count. All methods do nothing unless they are implemented.
///
/// They are called from the tasks and threads that do the work, and must not block.
#[allow(unused_variables)]
pub trait Observer: Send + Sync + 'static {
    /// A policy gave no answer, and the mail is deferred. `tenant` is the name of the session's policy or tenant.
    fn failed(&self, tenant: &Arc<str>, error: &EvaluationError) {}

    /// A policy has failed many times in a row.
    fn failing(&self, tenant: &Arc<str>) {}

    /// A policy that was failing answers again.
    fn recovered(&self, tenant: &Arc<str>) {}

    /// A rules document has warnings; its rules are in force all the same.
    fn warned(&self, policy: &str, warnings: &[Problem]) {}

    /// A policy that answers nothing has become active, because there was none before.
    fn mute(&self, policy: &str, error: &str) {}

    /// A policy wrote to its standard output or error.
    fn printed(&self, policy: &str, text: &str) {}

    /// There are not enough addresses for as many instances as were asked for.
    fn fewer_instances(&self, wanted: u32, instances: u32) {}

    /// The disk cache works less well than it could: what it could not do with which file or folder.
    fn cache_failed(&self, path: &Path, what: &str) {}
}

/// Observes nothing.
pub(crate) struct Nobody;

impl Observer for Nobody {}
