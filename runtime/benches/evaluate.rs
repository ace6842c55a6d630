//! What a decision costs: natively, through the component's boundary, and with a fresh instance.
//!
//! `CONNECTORS=1000,100000 cargo bench -p portcullis` chooses the sizes.

// A benchmark that cannot be set up has nothing to measure.
#![allow(clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portcullis::{Compiler, Context, Engine, Limits, PeerCertificate, Policy, Tls};
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
fn context(number: usize) -> Context {
    let client_ip: std::net::IpAddr = [10, 0, 0, 1].into();
    let from = format!("alice@mail.partner{number}.example");
    Context::inbound(client_ip, from, "bob@contoso.com")
        .helo(format!("mail.partner{number}.example"))
        .tls(Tls {
            version: Some(0x0304),
            cipher: "TLS13_AES_256_GCM_SHA384".into(),
            certificate: PeerCertificate::None,
        })
}

fn native_context(number: usize) -> native::Context {
    let json = context(number).to_json();
    portcullis_types::parse_context(&json)
        .expect("our own JSON")
        .into()
}

fn engine(cache: Option<&std::path::Path>) -> Engine {
    let mut limits = Limits::default();
    limits.memory = 4 << 30;
    limits.policy_size = 1 << 30;
    limits.instances = 10;
    let builder = Engine::builder()
        .limits(limits)
        .compiler(Compiler::InProcess);
    let builder = match cache {
        Some(folder) => builder.cache_directory(folder),
        None => builder,
    };
    builder.build().expect("an engine")
}

fn evaluate(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let engine = engine(None);
    let mut group = criterion.benchmark_group("evaluate");
    // What crossing the boundary costs by itself: a policy that decides nothing.
    let nothing = portcullis_tests::modules::Module::new("(i32.const 0)").component();
    let nothing = runtime
        .block_on(engine.load_component("nothing", nothing))
        .expect("a policy");
    group.bench_function("boundary", |bencher| {
        bencher
            .iter_custom(|iterations| runtime.block_on(warm(&nothing, &[context(0)], iterations)));
    });
    for size in sizes() {
        let document = rules(size);
        let (policy, _) = native::Policy::configure(&document).expect("the rules are good");
        let rules = runtime
            .block_on(engine.read(document))
            .expect("the rules are good");
        let component = engine.build("bench", &rules).expect("a component");
        let policy_of_file = runtime
            .block_on(engine.load_component("bench", component))
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
                runtime.block_on(warm(&policy_of_file, &contexts[1..2], iterations))
            });
        });
        group.bench_function(BenchmarkId::new("warm-spread", size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(warm(&policy_of_file, &contexts, iterations))
            });
        });
        group.bench_function(BenchmarkId::new("fresh", size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(timed(iterations, async |_| {
                    let mut session = policy_of_file.session();
                    let answer = session.try_decide(black_box(&contexts[1]));
                    answer.await.expect("a verdict")
                }))
            });
        });
    }
    group.finish();
}

/// Evaluations by one instance, of these contexts in turn.
async fn warm(policy: &Policy, contexts: &[Context], iterations: u64) -> Duration {
    let mut session = policy.session();
    timed(iterations, async |number| {
        let facts = &contexts[number as usize % contexts.len()];
        session
            .try_decide(black_box(facts))
            .await
            .expect("a verdict")
    })
    .await
}

/// What is done once: a document made into a policy, and a compiled policy loaded.
fn load(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let engine = engine(Some(&folder.path().join("cache")));
    let mut group = criterion.benchmark_group("load");
    group.sample_size(10);
    for size in sizes() {
        let document = rules(size);
        let build = async || {
            let rules = engine.read(document.clone());
            let rules = rules.await.expect("the rules are good");
            engine.build("bench", &rules).expect("a component")
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
            let loaded = engine.load_component("bench", component);
            loaded.await.expect("a policy")
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
