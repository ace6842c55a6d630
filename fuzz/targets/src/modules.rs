use std::sync::{Arc, LazyLock};
use std::time::Duration;

use portcullis::sandbox::interface::{Context, Direction};
use portcullis::sandbox::{Compiler, Instance, Limits, Sandbox};

/// Small, so that what a module may do is soon done.
static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let limits = Limits {
        memory: 4 << 20,
        evaluation: Duration::from_millis(20),
        instances: 4,
        module: 1 << 20,
        ..Limits::default()
    };
    Sandbox::new(limits, None, Compiler::Here).expect("a sandbox")
});

/// Any module is refused or loaded, and whatever it does then, it answers or fails.
pub fn modules(input: &[u8]) {
    crate::runtime().block_on(async {
        let Ok(module) = SANDBOX.load("fuzzed", input.to_vec()).await else {
            return;
        };
        if let Ok(mut instance) = Instance::new(&SANDBOX, &module).await {
            let context = Arc::new(context());
            // An answer or a failure; the second question meets what the first has left.
            let _ = instance.evaluate(&context).await;
            let _ = instance.explain(&context).await;
            let _ = instance.evaluate(&context).await;
        }
    });
}

fn context() -> Context {
    Context {
        direction: Direction::Inbound,
        client_ip: None,
        helo: Some("client.example".into()),
        tls: None,
        mail_from: "sender@client.example".into(),
        rcpt_to: "recipient@x.test".into(),
        header_from: Some(vec!["sender@client.example".into()]),
        attributes: Vec::new(),
    }
}
