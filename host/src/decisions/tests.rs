//! What is kept, through the recorder and back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis::{Acceptance, Context, Refusal, Verdict};
use prometheus_client::metrics::counter::Counter;
use tempfile::TempDir;

use super::*;

const TENANT: &str = "contoso";

struct Bench {
    folder: TempDir,
    recorder: Recorder,
    lost: Counter,
}

impl Bench {
    fn new(keep: u32, size: u64) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let lost = Counter::default();
        let path = folder.path().join("decisions.sqlite");
        let recorder = Recorder::start(&path, Limits { keep, size }, lost.clone()).unwrap();
        Bench {
            folder,
            recorder,
            lost,
        }
    }

    fn decide(&self, from: &str, verdict: Verdict) {
        self.recorder.decided(&Told {
            tenant: &TENANT.into(),
            policy: None,
            session: "s",
            transaction: "s.1",
            context: &Context::inbound(None, from, "bob@contoso.com"),
            verdict: &verdict,
        });
    }

    async fn read(&self) -> Decisions {
        self.recorder.flush().await;
        Decisions::open(&self.folder.path().join("decisions.sqlite")).unwrap()
    }
}

fn accepted(connectors: &[&str]) -> Verdict {
    Verdict::Accept(Acceptance {
        connectors: connectors.iter().map(|it| (*it).to_owned()).collect(),
        audit: Vec::new(),
    })
}

fn refused(connector: &str) -> Verdict {
    Verdict::Reject(Refusal {
        connector: Some(connector.into()),
        failed: "tls".into(),
        code: 550,
        enhanced: "5.7.1".into(),
        text: String::new(),
        audit: Vec::new(),
    })
}

fn all() -> Filter {
    Filter {
        limit: Some(1000),
        ..Filter::default()
    }
}

#[tokio::test]
async fn decisions_on_the_same_facts_are_one_flow_with_a_count() {
    let bench = Bench::new(1000, 8 << 20);
    for number in 0..10 {
        bench.decide(&format!("a{number}@bank.test"), refused("Bank"));
    }
    bench.decide("a@other.test", accepted(&[]));
    let decisions = bench.read().await;
    let flows = decisions.flows(TENANT, 0, 100).unwrap();
    let mut counts: Vec<u64> = flows.iter().map(|flow| flow.count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 10]);
    let last = decisions.last(TENANT, &all()).unwrap();
    assert_eq!(last.len(), 11);
    // Each has its own sender.
    assert_eq!(last[1].context["mail-from"], "a9@bank.test");
    let now = milliseconds(SystemTime::now());
    let counters = decisions.counters(TENANT, now, 7).unwrap();
    assert_eq!((counters["Bank"].refused, counters.len()), (10, 1));
    assert_eq!(decisions.last("nobody", &all()).unwrap(), []);
}

#[tokio::test]
async fn what_is_too_much_goes_and_what_connectors_did_goes_last() {
    let bench = Bench::new(100, 64 << 20);
    for number in 0..50 {
        bench.decide(&format!("a@p{number}.test"), refused("Bank"));
    }
    for number in 0..2000 {
        bench.decide(&format!("a@x{number}.test"), accepted(&[]));
        if number % 500 == 0 {
            bench.recorder.flush().await;
        }
    }
    let decisions = bench.read().await;
    let flows = decisions.flows(TENANT, 0, 10_000).unwrap();
    assert!(flows.len() <= 100 + 256, "{}", flows.len());
    let of_bank = flows.iter().filter(|flow| flow.verdict.contains("Bank"));
    assert_eq!(of_bank.count(), 50);
    let last = decisions.last(TENANT, &all()).unwrap();
    assert!(last.len() <= 100 + 256, "{}", last.len());
    assert!(decisions.complete_since(TENANT).unwrap() > 0);
    assert_eq!(bench.lost.get(), 0);
}

#[tokio::test]
async fn many_decisions_of_few_flows_are_bounded_too() {
    let bench = Bench::new(100, 64 << 20);
    for number in 0..5000 {
        bench.decide("a@bank.test", refused("Bank"));
        if number % 1000 == 0 {
            bench.recorder.flush().await;
        }
    }
    let decisions = bench.read().await;
    let last = decisions.last(TENANT, &all()).unwrap();
    assert!(last.len() <= 100 + 256, "{}", last.len());
    // Of so many in a second, not all are kept one by one; all are counted.
    assert!(last[0].number >= 100);
    let flows = decisions.flows(TENANT, 0, 100).unwrap();
    assert_eq!(flows.iter().map(|flow| flow.count).sum::<u64>(), 5000);
    let now = milliseconds(SystemTime::now());
    assert_eq!(
        decisions.counters(TENANT, now, 7).unwrap()["Bank"].refused,
        5000
    );
}

#[tokio::test]
async fn a_full_file_loses_its_oldest_part_and_stays_within_its_size() {
    const SIZE: u64 = 1 << 20;
    let bench = Bench::new(1_000_000, SIZE);
    for number in 0..6000 {
        bench.decide(&format!("a@x{number}.test"), accepted(&["Some connector"]));
        if number % 500 == 0 {
            bench.recorder.flush().await;
        }
    }
    let decisions = bench.read().await;
    assert_eq!(bench.lost.get(), 0);
    let last = decisions.last(TENANT, &all()).unwrap();
    assert_eq!(last[0].number, 6000);
    assert_eq!(last[0].context["mail-from"], "a@x5999.test");
    assert!(last.len() > 100, "{}", last.len());
    let file = bench.folder.path().join("decisions.sqlite");
    assert!(std::fs::metadata(file).unwrap().len() <= SIZE + 4096);
}

#[tokio::test]
async fn notices_are_told_once_until_they_no_longer_hold() {
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    let tenant: Arc<str> = TENANT.into();
    let kept = Bench::new(100, 8 << 20);
    for recorder in [&kept.recorder, &Recorder::forgetful()] {
        let untold = async |notices: &[&str]| {
            let notices = notices.iter().map(|it| (*it).to_owned()).collect();
            recorder.untold(&tenant, notices, week).await
        };
        assert_eq!(untold(&["a", "b"]).await, [true, true]);
        // What nobody got is tried again.
        assert_eq!(untold(&["a", "b"]).await, [true, true]);
        recorder.told(&tenant, vec!["a".into()]);
        recorder.flush().await;
        assert_eq!(untold(&["a", "b"]).await, [false, true]);
        // It was mended, and has come back.
        assert_eq!(untold(&["b"]).await, [true]);
        assert_eq!(untold(&["a"]).await, [true]);
    }
}
