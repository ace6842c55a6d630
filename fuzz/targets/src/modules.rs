use std::sync::LazyLock;
use std::time::Duration;

use portcullis::{Compiler, Context, Engine, HeaderFrom, Limits};

/// Small, so that what a component may do is soon done.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut limits = Limits::default();
    limits.memory = 4 << 20;
    limits.evaluation = Duration::from_millis(20);
    limits.instances = 4;
    limits.policy_size = 1 << 20;
    let builder = Engine::builder().limits(limits);
    builder
        .compiler(Compiler::InProcess)
        .build()
        .expect("an engine")
});

/// Any component is refused or loaded, and whatever it does then, it answers or fails.
pub fn modules(input: &[u8]) {
    crate::runtime().block_on(async {
        let Ok(policy) = ENGINE.load_component("fuzzed", input.to_vec()).await else {
            return;
        };
        let mut session = policy.session();
        let context = context();
        // An answer or a failure; the second evaluation meets what the first has left.
        session.decide(&context).await;
        let _ = session.explain(&context).await;
        session.decide(&context).await;
    });
}

fn context() -> Context {
    let sender = "sender@client.example";
    Context::inbound(None, sender, "recipient@x.test")
        .helo("client.example")
        .header_from(HeaderFrom::Addresses(vec![sender.into()]))
}
