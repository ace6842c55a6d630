//! How long a fleet takes: from publishing a policy until it is in force on all hosts, for a new host to have all
//! tenants, and what mail notices of a thousand changes. It starts a NATS server (`make setup-tests`) and the daemon.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use portcullis::statement::{
    Envelope, Format, KeySet, NamedKey, Payload, PolicyStatement, Root, SigningKey,
    TenantStatement, Time, digest_of,
};
use portcullis_tests::nats::Nats;
use portcullis_tests::office::rules;
use portcullis_tests::{Client, Config, Listener, TestBed, portcullis};
use serde_json::json;

/// What each domain of the measured tenant is called.
const TENANT: &str = "measured";
/// How often all tenants change at most while it is measured.
const WAVES: u64 = 30;
/// Changes that are published in one go.
const TOGETHER: usize = 10;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// From publishing a policy until it is in force
    Change {
        /// So many hosts
        #[arg(long, value_delimiter = ',', default_value = "10,30,100")]
        hosts: Vec<usize>,
        /// So many changes
        #[arg(long, default_value_t = 50)]
        changes: usize,
        /// So many tenants beside
        #[arg(long, default_value_t = 0)]
        tenants: usize,
    },
    /// Until a new host has all tenants
    Cold {
        /// So many tenants
        #[arg(long, default_value_t = 10_000)]
        tenants: usize,
    },
    /// What mail notices while tenants change
    Load {
        /// So many tenants
        #[arg(long, default_value_t = 1000)]
        tenants: usize,
        /// So many sessions before, and meanwhile
        #[arg(long, default_value_t = 4000)]
        sessions: usize,
        /// Sessions in a second
        #[arg(long, default_value_t = 400)]
        rate: u32,
        /// Changes in a second; 0 for as many as the host takes
        #[arg(long, default_value_t = 100)]
        changes: u32,
    },
}

/// Operators, and their store.
struct Fleet {
    nats: Nats,
    key: SigningKey,
    root: String,
}

impl Fleet {
    fn new() -> Fleet {
        let nats = Nats::start();
        let key = SigningKey::generate().expect("a key");
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        let root = Root {
            version: 1,
            created: Time::now(),
            expires: Time::now().after(year).expect("a time"),
            operators: keys(&key),
        };
        let root = signed(&root, &key).to_json();
        let init = portcullis(&["fleet", "init", "--server", &nats.url()]).output();
        assert!(init.expect("the program runs").status.success());
        Fleet { nats, key, root }
    }

    /// What publishers put for a tenant.
    fn entry(&self, tenant: &str, sequence: u64, policy: &str) -> Vec<u8> {
        let about = TenantStatement {
            tenant: tenant.into(),
            sequence: 1,
            created: Time::parse("2026-01-01T00:00:00Z").expect("a time"),
            expires: None,
            domains: vec![format!("{tenant}.test")],
            policies: keys(&self.key),
            policies_from: None,
        };
        let statement = PolicyStatement {
            tenant: tenant.into(),
            sequence,
            created: Time::now(),
            not_before: None,
            expires: None,
            format: Format::Json,
            sha256: digest_of(policy.as_bytes()),
            size: policy.len() as u64,
            note: None,
        };
        let body = base64(policy.as_bytes());
        let entry = json!({"tenant": signed(&about, &self.key), "policy": signed(&statement, &self.key), "body": body});
        entry.to_string().into_bytes()
    }

    fn put(&self, tenant: &str, sequence: u64, policy: &str) {
        let entry = self.entry(tenant, sequence, policy);
        self.nats.publish(&subject(tenant), &entry);
    }

    /// Policies of many tenants.
    fn entries(&self, tenants: usize, sequence: u64) -> Vec<(String, Vec<u8>)> {
        let entry = |number| {
            let tenant = format!("t{number}");
            let rules = rules(&format!("s{sequence}.partner-{number}.test"));
            (subject(&tenant), self.entry(&tenant, sequence, &rules))
        };
        (0..tenants).map(entry).collect()
    }

    /// Puts policies of many tenants, at once.
    fn put_all(&self, tenants: usize, sequence: u64) {
        self.nats.publish_all(self.entries(tenants, sequence));
    }

    fn host(&self, name: &str) -> TestBed {
        self.host_of(name, &format!("servers = [{:?}]", self.nats.url()))
    }

    /// A host that follows this store.
    fn host_of(&self, name: &str, store: &str) -> TestBed {
        let config = Config::new()
            .listener(Listener::maildir())
            .file("root.json", &self.root)
            .with("[sandbox]\ninstances = 8")
            .with(&format!(
                "[trust]\npolicies = \"signed\"\npolicy-root = \"root.json\"\n[fleet]\n{store}\nname = {name:?}"
            ));
        TestBed::start(config)
    }

    /// The revision that each host has seen, and how many tenants it has.
    fn status(&self) -> HashMap<String, (u64, usize)> {
        let url = self.nats.url();
        let status = ["fleet", "status", "--server", &url, "--format", "json"];
        let output = portcullis(&status).output().expect("the program runs");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let hosts = told["hosts"].as_array().cloned().unwrap_or_default();
        let of = |host: &serde_json::Value| {
            let number = |name: &str| host[name].as_u64().unwrap_or_default();
            let name = host["host"].as_str().unwrap_or_default().to_owned();
            (name, (number("revision"), number("tenants") as usize))
        };
        hosts.iter().map(of).collect()
    }

    fn wait_for_tenants(&self, hosts: usize, tenants: usize) {
        let begun = Instant::now();
        loop {
            let status = self.status();
            let ready = status.values().filter(|(_, has)| *has >= tenants).count();
            if ready >= hosts {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{status:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn subject(tenant: &str) -> String {
    format!("$KV.portcullis.all.{tenant}")
}

fn keys(key: &SigningKey) -> KeySet {
    KeySet {
        keys: vec![NamedKey {
            name: "ops".into(),
            key: key.public(),
        }],
        threshold: 1,
    }
}

fn signed<P: Payload>(statement: &P, key: &SigningKey) -> Envelope {
    let mut envelope = Envelope::of(statement).expect("a statement");
    envelope.sign(key);
    envelope
}

fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let octet = |at: usize| u32::from(group.get(at).copied().unwrap_or_default());
        let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
        (0..4)
            .map(|at| match at <= group.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]),
                false => '=',
            })
            .collect::<String>()
    };
    octets.chunks(3).map(group).collect()
}

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let worst = times.last().copied().unwrap_or_default();
    (
        times.get(times.len() / 2).copied().unwrap_or_default(),
        worst,
    )
}

fn change(hosts: &[usize], changes: usize, tenants: usize) {
    println!("| hosts | until in force on the last: median | worst of {changes} |\n|---|---|---|");
    for &count in hosts {
        let fleet = Fleet::new();
        fleet.put_all(tenants, 1);
        fleet.put(TENANT, 1, &rules("s1.test"));
        let names = (0..count).map(|number| format!("h{number}"));
        let beds: Vec<TestBed> = names.map(|name| fleet.host(&name)).collect();
        let in_force = |sequence: u64| {
            let told = format!("policy loaded tenant={TENANT} sequence={sequence} ");
            for bed in &beds {
                bed.wait_for_log(&told);
            }
        };
        in_force(1);
        fleet.wait_for_tenants(count, tenants + 1);
        let mut times = Vec::new();
        for change in 0..changes as u64 {
            let sequence = change + 2;
            let entry = fleet.entry(TENANT, sequence, &rules(&format!("s{sequence}.test")));
            let begun = Instant::now();
            fleet.nats.publish(&subject(TENANT), &entry);
            in_force(sequence);
            times.push(begun.elapsed());
        }
        let (median, worst) = median(times);
        println!("| {count} | {median:.1?} | {worst:.1?} |");
    }
}

/// The same from files, which are exported first.
fn of_files(fleet: &Fleet, tenants: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().display().to_string();
    let begun = Instant::now();
    let export = ["fleet", "export", &place, "--server", &fleet.nats.url()];
    let output = portcullis(&export).output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    println!("{tenants} tenants exported in {:.1?}", begun.elapsed());
    let begun = Instant::now();
    let bed = fleet.host_of("files", &format!("url = \"file://{place}\""));
    while bed.count_log("policy loaded tenant=") < tenants {
        assert!(begun.elapsed() < Duration::from_secs(300), "not all came");
        thread::sleep(Duration::from_millis(100));
    }
    println!("a new host has them of files after {:.1?}", begun.elapsed());
}

fn cold(tenants: usize) {
    let fleet = Fleet::new();
    let begun = Instant::now();
    fleet.put_all(tenants, 1);
    println!("{tenants} tenants put in {:.1?}", begun.elapsed());
    let begun = Instant::now();
    let mut bed = fleet.host("new");
    fleet.wait_for_tenants(1, tenants);
    println!("a new host has them after {:.1?}", begun.elapsed());
    let last = format!("b@t{}.test", tenants - 1);
    let from = format!("a@s1.partner-{}.test", tenants - 1);
    assert_eq!(Client::recipient(bed.address(), &from, &last), 550);
    let begun = Instant::now();
    bed.restart();
    assert_eq!(Client::recipient(bed.address(), &from, &last), 550);
    println!(
        "and answers {:.1?} after a restart, from its disk",
        begun.elapsed()
    );
    let mut times = Vec::new();
    for sequence in 2..22 {
        let begun = Instant::now();
        fleet.put("t0", sequence, &rules("s2.test"));
        bed.wait_for_log(&format!("policy loaded tenant=t0 sequence={sequence} "));
        times.push(begun.elapsed());
    }
    let first = times.remove(0);
    let (median, worst) = median(times);
    println!(
        "one change among {tenants} tenants: {first:.1?} right after that, then {median:.1?} (worst {worst:.1?})"
    );
    of_files(&fleet, tenants);
}

/// Sessions of four clients, so many in a second; gives the 99th percentile, and how many failed.
fn sessions(bed: &TestBed, count: usize, rate: u32) -> (Duration, usize) {
    let one = || {
        let mut times = Vec::new();
        let mut failed = 0;
        let first = Instant::now();
        for number in 0..count / 4 {
            let due = first + Duration::from_secs(4) / rate * number as u32;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let begun = Instant::now();
            let to = format!("b@t{}.test", number % 100);
            let reply = Client::recipient(bed.address(), "a@nobody.test", &to);
            failed += usize::from(reply != 250);
            times.push(begun.elapsed());
        }
        (times, failed)
    };
    let all: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        let ended = clients.into_iter().map(|it| it.join().expect("a client"));
        ended.collect()
    });
    let failed = all.iter().map(|(_, failed)| failed).sum();
    let mut times: Vec<Duration> = all.into_iter().flat_map(|(times, _)| times).collect();
    times.sort();
    (times[times.len() * 99 / 100], failed)
}

/// Publishes entries, so many in a second; 0 for all at once.
fn publish(nats: &Nats, entries: Vec<(String, Vec<u8>)>, rate: u32) {
    if rate == 0 {
        return nats.publish_all(entries);
    }
    let first = Instant::now();
    for (number, entries) in entries.chunks(TOGETHER).enumerate() {
        let due = first + Duration::from_secs(1) / rate * (number * TOGETHER) as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        nats.publish_all(entries.to_vec());
    }
}

fn load(tenants: usize, (count, rate): (usize, u32), changes: u32) {
    let fleet = Fleet::new();
    fleet.put_all(tenants, 1);
    let bed = fleet.host("loaded");
    fleet.wait_for_tenants(1, tenants);
    sessions(&bed, count / 4, rate);
    let mut sequence = 2;
    for _ in 0..3 {
        let (quiet, failed) = sessions(&bed, count, rate);
        assert_eq!(failed, 0, "without changes");
        // Signed before, so that only what hosts do is measured.
        let mut waves: Vec<_> = (0..WAVES)
            .map(|wave| fleet.entries(tenants, sequence + wave))
            .collect();
        waves.reverse();
        let done = AtomicBool::new(false);
        let (changing, failed, changed) = thread::scope(|scope| {
            let changing = scope.spawn(|| {
                let mut changed = 0;
                while let (false, Some(wave)) = (done.load(Ordering::Relaxed), waves.pop()) {
                    publish(&fleet.nats, wave, changes);
                    // One wave after another: each is a change of all.
                    let last = tenants - 1;
                    let now = sequence + changed;
                    bed.wait_for_log(&format!("policy loaded tenant=t{last} sequence={now} "));
                    changed += 1;
                }
                changed
            });
            let (measured, failed) = sessions(&bed, count, rate);
            done.store(true, Ordering::Relaxed);
            (measured, failed, changing.join().expect("a publisher"))
        });
        sequence += WAVES;
        println!(
            "p99 of a session: {quiet:.2?} quiet, {changing:.2?} while {tenants} tenants change {changed} times ({:.2}); {failed} failed",
            changing.as_secs_f64() / quiet.as_secs_f64()
        );
    }
}

fn main() {
    match Arguments::parse().what {
        What::Change {
            hosts,
            changes,
            tenants,
        } => change(&hosts, changes, tenants),
        What::Cold { tenants } => cold(tenants),
        What::Load {
            tenants,
            sessions,
            rate,
            changes,
        } => load(tenants, (sessions, rate), changes),
    }
}
