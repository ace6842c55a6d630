//! What a decision costs: natively, through the component's boundary, and with a fresh instance.
//!
//! `CONNECTORS=1000,100000 cargo bench -p portcullis` chooses the sizes.

// A benchmark that cannot be set up has nothing to measure.
#![allow(clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portcullis::sandbox::{Builder, Instance, Limits, Sandbox, interface};
use portcullis_evaluator as native;
use tokio::runtime::Runtime;

/// Rules of `connectors` connectors: a third each by sender domain, client range and certificate.
fn rules(connectors: usize) -> String {
    let connector = |number: usize| {
        let selector = match number % 3 {
            0 => format!(r#""sender-domains": ["*.partner{number}.example"]"#),
            1 => format!(
                r#""sender-ips": ["10.{}.{}.0/24"]"#,
                number >> 8 & 255,
                number & 255
            ),
            _ => format!(r#""certificate-names": ["mail{number}.example"]"#),
        };
        format!(
            r#"{{"name": "partner {number}", "direction": "inbound", "from": {{{selector}, "recipient-domains": ["r{}.contoso.com"]}}, "require": {{"tls": true, "source-ips": ["10.0.0.0/8"]}}}}"#,
            number >> 16
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

/// A message that one connector is for, and that satisfies it.
fn native_context() -> native::Context {
    native::Context {
        direction: native::Direction::Inbound,
        client_ip: Some(native::IpAddress::Ipv4(0x0AC0_0001)),
        helo: Some("mail.partner300.example".into()),
        tls: Some(native::Tls {
            version: 0x0304,
            cipher: "TLS13_AES_256_GCM_SHA384".into(),
            certificate: None,
        }),
        mail_from: "alice@mail.partner300.example".into(),
        rcpt_to: "bob@r0.contoso.com".into(),
        header_from: None,
        attributes: Vec::new(),
    }
}

fn context() -> interface::Context {
    let native = native_context();
    interface::Context {
        direction: interface::Direction::Inbound,
        client_ip: Some(interface::IpAddress::Ipv4(0x0AC0_0001)),
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
    }
}

fn evaluate(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let builder = Builder::new(None).expect("a builder");
    let limits = Limits {
        memory: 4 << 30,
        instances: 10,
        ..Limits::default()
    };
    let sandbox = Sandbox::new(limits, None).expect("a sandbox");
    let mut group = criterion.benchmark_group("evaluate");
    for size in sizes() {
        let document = rules(size);
        let (policy, _) = native::Policy::configure(&document).expect("the rules are good");
        let rules = runtime
            .block_on(builder.read(document))
            .expect("the rules are good");
        let component = runtime
            .block_on(builder.component(rules.packed))
            .expect("the rules are good");
        let module = runtime
            .block_on(sandbox.load("bench", component))
            .expect("a policy");
        let (facts, native_facts) = (Arc::new(context()), native_context());
        let expected = policy.evaluate(&native_facts);
        assert!(
            matches!(&expected, native::Verdict::Accept(accepted) if accepted.connectors.len() == 1)
        );

        group.bench_function(BenchmarkId::new("native", size), |bencher| {
            bencher.iter(|| policy.evaluate(black_box(&native_facts)));
        });
        group.bench_function(BenchmarkId::new("warm", size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(async {
                    let mut instance = Instance::new(&sandbox, &module).await.expect("an instance");
                    timed(iterations, async || {
                        instance
                            .evaluate(black_box(&facts))
                            .await
                            .expect("a verdict")
                    })
                    .await
                })
            });
        });
        group.bench_function(BenchmarkId::new("fresh", size), |bencher| {
            bencher.iter_custom(|iterations| {
                runtime.block_on(timed(iterations, async || {
                    let mut instance = Instance::new(&sandbox, &module).await.expect("an instance");
                    instance
                        .evaluate(black_box(&facts))
                        .await
                        .expect("a verdict")
                }))
            });
        });
    }
    group.finish();
}

async fn timed<T>(iterations: u64, mut work: impl AsyncFnMut() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..iterations {
        black_box(work().await);
    }
    start.elapsed()
}

criterion_group!(benches, evaluate);
criterion_main!(benches);
