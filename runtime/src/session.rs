//! Evaluations of one SMTP session.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::context::Context;
use crate::decision::Decision;
use crate::failure::{EvaluationError, Failure};
use crate::sandbox::instance::Instance;
use crate::sandbox::loader::Loader;
use crate::sandbox::policy::LoadedPolicy;
use portcullis_types::{Direction, Explanation, Verdict};

/// A session talks to few organizations; of one that talks to more the oldest instance is dropped.
const MAX_INSTANCES: usize = 4;

/// What one session asks. Of each policy that others have written it has an instance of its own, which lives no longer
/// than the session, so nothing can pass from one sender to another. The built-in evaluator keeps nothing of a question;
/// sessions share its instances, unless the engine isolates those too.
pub struct Session {
    loader: Loader,
    retained: Vec<RetainedInstance>,
}

/// What makes a decision of a verdict on mail of a direction, or says why it cannot be carried out.
type Taken = fn(Verdict, Direction) -> Result<Decision, String>;

/// An instance between two evaluations.
struct RetainedInstance {
    /// Whose policy it is.
    tenant: Arc<str>,
    instance: Instance,
    _permit: OwnedSemaphorePermit,
}

impl Session {
    pub(crate) fn new(loader: &Loader) -> Self {
        Session {
            loader: loader.clone(),
            retained: Vec::new(),
        }
    }

    /// Drops the instances of policies that are no longer active.
    pub fn retain_active(&mut self, is_active: impl Fn(&Arc<str>, &Arc<LoadedPolicy>) -> bool) {
        self.retained
            .retain(|retained| is_active(&retained.tenant, retained.instance.policy()));
    }

    /// Decides by a tenant's policy about mail of the same tenant or another. If the policy gives no answer, or one that
    /// cannot be carried out, the decision defers the mail, and the observer hears why.
    pub async fn decide(
        &mut self,
        tenant: &Arc<str>,
        policy: Option<&Arc<LoadedPolicy>>,
        (context, mail_of): (&Context, &Arc<str>),
        taken: Taken,
    ) -> Decision {
        let decided = self
            .try_decide(tenant, policy, (context, mail_of), taken)
            .await;
        let observer = &self.loader.engine.observer;
        match decided {
            Ok(decision) => {
                if policy.is_some_and(|policy| policy.has_answered()) {
                    observer.recovered(tenant);
                }
                decision
            }
            Err(error) => {
                observer.failed(tenant, &error);
                if policy.is_some_and(|policy| policy.has_failed()) {
                    observer.failing(tenant);
                }
                Decision::unavailable(error)
            }
        }
    }

    /// Decides, and says why if the policy gives no answer.
    ///
    /// # Errors
    /// If the policy does not answer, or with what cannot be carried out.
    pub async fn try_decide(
        &mut self,
        tenant: &Arc<str>,
        policy: Option<&Arc<LoadedPolicy>>,
        (context, mail_of): (&Context, &Arc<str>),
        taken: Taken,
    ) -> Result<Decision, EvaluationError> {
        let policy = policy.ok_or_else(no_policy)?;
        // An instance that fails is dropped: the next evaluation gets a fresh one.
        let verdict = match &self.loader.idle {
            Some(idle) if policy.is_built_in => {
                let engine = &self.loader.engine;
                let mut shared = idle.take(engine, mail_of, policy).await?;
                let verdict = shared.instance.evaluate(engine, context).await?;
                idle.put(engine, shared);
                verdict
            }
            _ => Box::pin(self.ask_its_own(tenant, policy, context)).await?,
        };
        taken(verdict, context.direction())
            .map_err(|reason| policy.failed(Failure::Invalid(reason)))
    }

    async fn ask_its_own(
        &mut self,
        tenant: &Arc<str>,
        policy: &Arc<LoadedPolicy>,
        context: &Context,
    ) -> Result<Verdict, EvaluationError> {
        let engine = self.loader.engine.clone();
        let is_its = |retained: &RetainedInstance| Arc::ptr_eq(retained.instance.policy(), policy);
        let retained = self.retained.iter().position(is_its);
        let mut instance = match retained {
            Some(at) => self.retained.swap_remove(at).instance,
            None => Instance::new(&engine, policy).await?,
        };
        let verdict = instance.evaluate(&engine, context).await?;
        self.retain(tenant, instance);
        Ok(verdict)
    }

    /// Decides, and gives the reasons.
    ///
    /// # Errors
    /// If the policy does not answer.
    pub async fn explain(
        &mut self,
        policy: Option<&Arc<LoadedPolicy>>,
        context: &Context,
    ) -> Result<Explanation, EvaluationError> {
        let policy = policy.ok_or_else(no_policy)?;
        let engine = &self.loader.engine;
        let mut instance = Instance::new(engine, policy).await?;
        instance.explain(engine, context).await
    }

    fn retain(&mut self, tenant: &Arc<str>, instance: Instance) {
        if self.retained.len() >= MAX_INSTANCES {
            self.retained.remove(0);
        }
        if let Some(permit) = instance.try_retain(&self.loader.engine) {
            self.retained.push(RetainedInstance {
                tenant: tenant.clone(),
                instance,
                _permit: permit,
            });
        }
    }
}

fn no_policy() -> EvaluationError {
    EvaluationError {
        policy: "none".into(),
        failure: Failure::NoPolicy,
        wrote: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{Engine, Isolation, Policy};

    const RULES: &str = r#"{"connectors": [
        {"name": "a", "direction": "inbound", "from": {"sender-domains": ["a.test"]}, "require": {"tls": true}}]}"#;

    async fn engine_and_policy(isolation: Isolation) -> (Engine, Policy) {
        let engine = Engine::builder().isolation(isolation).build().unwrap();
        let policy = engine.load_document("rules", RULES.into()).await.unwrap();
        (engine, policy)
    }

    fn mail() -> Context {
        Context::inbound(
            std::net::IpAddr::from([192, 0, 2, 1]),
            "x@a.test",
            "b@b.test",
        )
    }

    async fn ask(policy: &Policy) {
        let decision = policy.session().decide(&mail()).await;
        assert!(matches!(decision.verdict(), Verdict::Reject(_)));
    }

    /// Waits until there are no more instances than that.
    async fn until_there_are(engine: &Engine, instances: usize) {
        let begun = Instant::now();
        while engine.instances() > instances {
            assert!(begun.elapsed().as_secs() < 60, "{}", engine.instances());
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn sessions_share_an_instance_for_a_while() {
        let (engine, policy) = engine_and_policy(Isolation::Tenant).await;
        let other = engine.load_document("other", RULES.into()).await.unwrap();
        until_there_are(&engine, 0).await;
        for _ in 0..3 {
            ask(&policy).await;
            ask(&other).await;
            // One of each.
            assert!(engine.instances() <= 2);
        }
        until_there_are(&engine, 0).await;
    }

    #[tokio::test]
    async fn an_instance_ends_with_its_session_where_that_is_wanted() {
        let (engine, policy) = engine_and_policy(Isolation::Session).await;
        ask(&policy).await;
        assert_eq!(engine.instances(), 0);
    }

    #[tokio::test]
    async fn an_instance_makes_way_after_many_questions() {
        let (engine, policy) = engine_and_policy(Isolation::Tenant).await;
        let idle = policy.idle().expect("instances are shared");
        let (engine, loaded, name) = (&engine.loader.engine, &policy.loaded, "a".into());
        let mut made = 0;
        for _ in 0..2500 {
            let mut borrowed = idle.take(engine, &name, loaded).await.unwrap();
            made += u32::from(borrowed.instance.questions() == 0);
            borrowed.instance.evaluate(engine, &mail()).await.unwrap();
            idle.put(engine, borrowed);
        }
        assert!((3..100).contains(&made), "{made}");
        // Mail of others has its own.
        let other = idle.take(engine, &"b".into(), loaded).await.unwrap();
        assert_eq!(other.instance.questions(), 0);
    }
}
