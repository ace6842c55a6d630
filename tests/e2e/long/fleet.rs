//! A fleet while its store and its hosts are killed: no host goes back, and each has what was confirmed in the end.
//! `PORTCULLIS_FAULTS` says how many faults there are.

use std::time::{Duration, Instant};

use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::nats::{Cluster, Nats};
use portcullis_tests::office::Office;
use portcullis_tests::{Client, Config, Listener, TestBed, machine};
use serde_json::json;

/// Whoever publishes for Contoso.
struct Publisher {
    office: Office,
    urls: Vec<String>,
    sequence: usize,
    confirmed: usize,
}

impl Publisher {
    fn new(urls: Vec<String>, replicas: &str) -> Publisher {
        let office = Office::new();
        office.succeed(&["key", "new", "contoso.pem"]);
        office.succeed(&[
            "sign",
            "tenant",
            "contoso",
            "--domain",
            "contoso.com",
            "--policy-key",
            "contoso.pem.pub",
            "--key",
            "ops.pem",
        ]);
        let publisher = Publisher {
            office,
            urls,
            sequence: 0,
            confirmed: 0,
        };
        let init = ["fleet", "init", "--replicas", replicas];
        publisher
            .office
            .succeed(&[&init[..], &publisher.store()].concat());
        publisher
    }

    fn store(&self) -> Vec<&str> {
        self.urls.iter().flat_map(|url| ["--server", url]).collect()
    }

    /// Publishes the next policy, which refuses domains that have its number and those before. Whether the store has
    /// confirmed it.
    fn put(&mut self) -> bool {
        self.sequence += 1;
        let sequence = self.sequence.to_string();
        let domains: Vec<String> = (1..=self.sequence)
            .map(|it| format!("n{it}.test"))
            .collect();
        let rules = json!({"connectors": [{"name": "all", "direction": "inbound",
            "from": {"sender-domains": domains}, "require": {"tls": true}}]});
        self.office.write("contoso.json", rules.to_string());
        self.office.succeed(&[
            "sign",
            "policy",
            "contoso.json",
            "--tenant",
            "contoso",
            "--key",
            "contoso.pem",
            "--sequence",
            &sequence,
        ]);
        let put = ["fleet", "put", "contoso.json", "--root", "root.json"];
        let output = self.office.run(&[&put[..], &self.store()].concat());
        if output.status.success() {
            self.confirmed = self.sequence;
        }
        output.status.success()
    }

    /// The same until it is confirmed.
    fn put_surely(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        while !self.put() {
            assert!(Instant::now() < deadline, "nothing is confirmed any more");
        }
    }

    fn host(&self, name: &str) -> Config {
        let urls = &self.urls;
        Config::new()
            .listener(Listener::maildir())
            .file("root.json", self.office.read("root.json"))
            .with(&format!(
                "[trust]\npolicies = \"signed\"\npolicy-root = \"root.json\"\n[fleet]\nservers = {urls:?}\nname = {name:?}"
            ))
    }
}

/// A host, and the highest policy that was in force there.
struct Host {
    bed: TestBed,
    highest: usize,
}

impl Host {
    /// Whether the policy with this number, or a later one, is in force.
    fn refuses(&self, sequence: usize) -> bool {
        let from = format!("a@n{sequence}.test");
        let code = Client::recipient(self.bed.address(), &from, "b@contoso.com");
        assert!([250, 550].contains(&code), "{code}");
        code == 550
    }

    /// Which policy is in force: never an older one than before.
    fn look(&mut self, publisher: &Publisher) -> usize {
        assert!(
            self.refuses(self.highest),
            "{} is not in force any more",
            self.highest
        );
        while self.highest < publisher.sequence && self.refuses(self.highest + 1) {
            self.highest += 1;
        }
        self.highest
    }

    fn wait_for(&mut self, publisher: &Publisher) {
        let deadline = Instant::now() + TIMEOUT;
        while self.look(publisher) < publisher.confirmed {
            assert!(Instant::now() < deadline, "{} stays", self.highest);
        }
    }
}

fn faults() -> usize {
    let faults = std::env::var("PORTCULLIS_FAULTS");
    faults.map_or(12, |count| count.parse().expect("a number"))
}

#[test]
fn nobody_goes_back_while_all_are_killed() {
    let _shared = machine::shared();
    let mut nats = Nats::start();
    let mut publisher = Publisher::new(vec![nats.url()], "1");
    publisher.put_surely();
    let mut hosts = ["h1", "h2"].map(|name| Host {
        bed: TestBed::start(publisher.host(name)),
        highest: 1,
    });
    for host in &mut hosts {
        host.bed.wait_for_log("policy loaded tenant=contoso");
        host.look(&publisher);
    }
    for number in 0..faults() {
        // At each moment of a change: while it is put, and while it is taken.
        std::thread::scope(|scope| {
            let putting = scope.spawn(|| publisher.put());
            std::thread::sleep(Duration::from_millis(7 * number as u64 % 60));
            match number % 3 {
                0 => nats.kill(),
                1 => hosts[0].bed.restart(),
                _ => {
                    hosts[1].bed.restart();
                    nats.kill();
                }
            }
            let _ = putting.join().expect("a publisher");
        });
        // Without the store, mail flows as before.
        for host in &mut hosts {
            host.look(&publisher);
        }
        if number % 3 != 1 {
            nats.resume();
        }
        publisher.put_surely();
        for host in &mut hosts {
            host.wait_for(&publisher);
        }
    }
    eprintln!(
        "{} faults, {} policies, of which {} were put last",
        faults(),
        publisher.sequence,
        publisher.confirmed
    );
}

/// What a cluster has confirmed is there though it loses its leader.
#[test]
fn a_cluster_that_loses_its_leader_loses_nothing_that_it_has_confirmed() {
    let _shared = machine::shared();
    let mut cluster = Cluster::start();
    let mut publisher = Publisher::new(cluster.urls(), "3");
    publisher.put_surely();
    let mut host = Host {
        bed: TestBed::start(publisher.host("h1")),
        highest: 1,
    };
    host.bed.wait_for_log("policy loaded tenant=contoso");
    for victim in 0..3 {
        publisher.put_surely();
        std::thread::scope(|scope| {
            let putting = scope.spawn(|| (0..3).map(|_| publisher.put()).filter(|it| *it).count());
            cluster.kill(victim);
            eprintln!("{} of 3 confirmed", putting.join().expect("a publisher"));
        });
        publisher.put_surely();
        host.wait_for(&publisher);
        cluster.resume(victim);
    }
}
