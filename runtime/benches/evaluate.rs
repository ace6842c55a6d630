//! What a decision costs: natively, through the component's boundary, and with a fresh instance.
//!
//! `CONNECTORS=1000,100000 cargo bench -p portcullis` chooses the sizes.

// A benchmark that cannot be set up has nothing to measure.
#![allow(clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portcullis::sandbox::{Builder, Cache, Compiler, Instance, Limits, Module, Sandbox, interface};
use portcullis_evaluator as native;
use tokio::runtime::Runtime;

/// Rules of `connectors` connectors for as many kinds of mail: by sender domain, IPv4 range, certificate
/// name, IPv6 range, and by several at once.
fn rules(connectors: usize) -> String {
    let connector = |number: usize| {
        let (high, low) = (number >> 16, number & 0xffff);
        let v4 = format!("{}.{}.{}.0/24", 11 + high, low >> 8, low & 255);
        let (from, require) = match number % 5 {
            0 => (
                format!(r#""sender-domains": ["*.partner{number}.example"]"#),
                String::new(),
            ),
            1 => (format!(r#""sender-ips": ["{v4}"]"#), String::new()),
            2 => (
                format!(r#""certificate-names": ["mail{number}.example"]"#),
                String::new(),
            ),
            3 => (
                format!(r#""sender-ips": ["2001:db8:{high:x}:{low:x}::/64"]"#),
                String::new(),
            ),
            _ => (
                format!(r#""sender-domains": ["bank{number}.example", "*.bank{number}.test"]"#),
                format!(
                    r#", "certificate-names": ["*.bank{number}.example"], "source-ips": ["{v4}", "10.0.0.0/8"]"#
                ),
            ),
        };
        format!(
            r#"{{"name": "partner {number}", "direction": "inbound", "from": {{{from}}}, "require": {{"tls": true{require}}}}}"#
        )
    };
    let connectors: Vec<String> = (0..connectors).map(connector).collect();
    format!(r#"{{"connectors": [{}]}}"#, connectors.join(",\n"))
}

fn sizes() -> Vec<usize> {
    let sizes = std::env::var("CONNECTORS").unwrap_or_else(|_| "1000,100000".into());
    sizes
        .split(',')
        .map(|size| {
            size.trim()
                .parse()
                .expect("CONNECTORS is a list of numbers")
        })
        .collect()
}

/// A message for one connector, which it satisfies: the sender's domain is that of `number`, which is
/// to be a multiple of 5.
fn native_context(number: usize) -> native::Context {
    native::Context {
        direction: native::Direction::Inbound,
        client_ip: Some(native::IpAddress::Ipv4(0x0A00_0001)),
        helo: Some(format!("mail.partner{number}.example")),
        tls: Some(native::Tls {
            version: 0x0304,
            cipher: "TLS13_AES_256_GCM_SHA384".into(),
            certificate: None,
        }),
        mail_from: format!("alice@mail.partner{number}.example"),
        rcpt_to: "bob@contoso.com".into(),
        header_from: None,
        attributes: Vec::new(),
    }
}

fn context(number: usize) -> Arc<interface::Context> {
    let native = native_context(number);
    Arc::new(interface::Context {
        direction: interface::Direction::Inbound,
        client_ip: Some(interface::IpAddress::Ipv4(0x0A00_0001)),
        helo: native.helo,
        tls: native.tls.map(|tls| interface::Tls {
            version: tls.version,
            cipher: tls.cipher,
            certificate: None,
        }),
        mail_from: native.mail_from,
        rcpt_to: native.rcpt_to,
        header_from: None,
        attributes: Vec::new(),
    })
}

fn sandbox(cache: Option<Arc<Cache>>) -> Sandbox {
    let limits = Limits {
        memory: 4 << 30,
        module: 1 << 30,
        instances: 10,
        ..Limits::default()
    };
    Sandbox::new(limits, cache, Compiler::Here).expect("a sandbox")
}

fn evaluate(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let builder = Builder::new(None, Compiler::Here).expect("a builder");
    let sandbox = sandbox(None);
    let mut group = criterion.benchmark_group("evaluate");
    // What crossing the boundary costs by itself: a policy that decides nothing.
    let nothing = portcullis_tests::modules::Module::new("(i32.const 0)").component();
    let nothing = runtime
        .block_on(sandbox.load("nothing", nothing))
        .expect("a policy");
    group.bench_function("boundary", |bencher| {
        bencher.iter_custom(|iterations| {
            runtime.block_on(warm(&sandbox, &nothing, &[context(0)], iterations))
        });
    });
    for size in sizes() {
        let document = rules(size);
        let (policy, _) = native::Policy::configure(&document).expect("the rules are good");
        let rules = runtime
            .block_on(builder.read(document))
            .expect("the rules are good");
        let component = runtime
            .block_on(builder.component(rules.packed.clone()))
            .expect("the rules are good");
        let module = runtime
            .block_on(sandbox.load("bench", component))
            .expect("a policy");
        // One context again and again, and as many as keep the caches busy.
        let spread = |number: usize| number * 7919 % size / 5 * 5;
        let contexts: Vec<_> = (0..1000).map(spread).map(context).collect();
        let native_contexts: Vec<_> = (0..1000).map(spread).map(native_context).collect();
        for facts in &native_contexts {
            let verdict = policy.evaluate(facts);
            assert!(matches!(verdict, native::Verdict::Accept(by) if by.connectors.len() == 1));
        }

        group.bench_function(BenchmarkId::new("native", size), |bencher| {
            bencher.iter(|| policy.evaluate(black_box(&native_contexts[1])));
        });
        let mut next = 0;
        group.bench_function(BenchmarkId::new("native-spread", size), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % native_contexts.len();
                policy.evaluate(black_box(&native_contexts[next]))
            });
        });
        group.bench_function(BenchmarkId::new("warm", size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(warm(&sandbox, &module, &contexts[1..2], iterations))
            });
        });
        group.bench_function(BenchmarkId::new("warm-spread", size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(warm(&sandbox, &module, &contexts, iterations))
            });
        });
        let mut modules = vec![("fresh", module)];
        if let Ok(shared) = runtime.block_on(sandbox.adopt("shared", rules.packed))
            && size <= 1000
        {
            modules.push(("fresh-shared", shared));
        }
        for (name, module) in modules {
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter_custom(|iterations| {
                    runtime.block_on(timed(iterations, async |_| {
                        let mut instance =
                            Instance::new(&sandbox, &module).await.expect("an instance");
                        instance
                            .evaluate(black_box(&contexts[1]))
                            .await
                            .expect("a verdict")
                    }))
                });
            });
        }
    }
    group.finish();
}

/// Evaluations by one instance, of these contexts in turn.
async fn warm(
    sandbox: &Sandbox,
    module: &Arc<Module>,
    contexts: &[Arc<interface::Context>],
    iterations: u64,
) -> Duration {
    let mut instance = Instance::new(sandbox, module).await.expect("an instance");
    timed(iterations, async |number| {
        let facts = &contexts[number as usize % contexts.len()];
        instance
            .evaluate(black_box(facts))
            .await
            .expect("a verdict")
    })
    .await
}

/// What is done once: a document made into a policy, and a compiled policy loaded.
fn load(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Arc::new(Cache::open(&folder.path().join("cache")).expect("a cache"));
    let builder = Builder::new(Some(cache.clone()), Compiler::Here).expect("a builder");
    let sandbox = sandbox(Some(cache));
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for size in sizes() {
        let document = rules(size);
        let build = async || {
            let rules = builder
                .read(document.clone())
                .await
                .expect("the rules are good");
            builder
                .component(rules.packed)
                .await
                .expect("the rules are good")
        };
        let component = runtime.block_on(build());
        println!(
            "{size} connectors: {} bytes, {} each",
            component.len(),
            component.len() / size
        );
        group.bench_function(BenchmarkId::new("build", size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(timed(iterations, async |_| build().await))
            });
        });
        let path = folder.path().join("policy.wasm");
        std::fs::write(&path, component).expect("a file");
        let load = async || {
            let component = std::fs::read(&path).expect("a file");
            sandbox.load("bench", component).await.expect("a policy")
        };
        runtime.block_on(load());
        group.bench_function(BenchmarkId::new("load", size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(timed(iterations, async |_| load().await))
            });
        });
    }
    group.finish();
}

async fn timed<T>(iterations: u64, mut work: impl AsyncFnMut(u64) -> T) -> Duration {
    let start = Instant::now();
    for number in 0..iterations {
        black_box(work(number).await);
    }
    start.elapsed()
}

criterion_group!(benches, evaluate, load);
criterion_main!(benches);
