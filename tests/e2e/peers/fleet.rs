//! A fleet: hosts that follow a real NATS server.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use portcullis_tests::admin::{ADMIN, Api};
use portcullis_tests::fleet::{Fleet, reply, wait_for_reply};
use portcullis_tests::metrics::{self, METRICS};
use portcullis_tests::nats::Nats;
use portcullis_tests::office::{Office, both, rules};
use portcullis_tests::programs::unpacked;
use portcullis_tests::{Config, Listener, TestBed};
use serde_json::{Value, json};

#[test]
fn a_policy_is_in_force_on_all_hosts() {
    let fleet = Fleet::new();
    let hosts = ["h1", "h2", "h3"].map(|name| fleet.host(name));
    fleet.put("contoso", "one.test", &[]);
    let told = fleet.run(&["wait", "contoso", "--hosts", "3"]);
    assert!(
        told.contains("contoso: sequence 1 in force on 3 of 3"),
        "{told}"
    );
    for host in &hosts {
        assert_eq!(reply(host, "one.test", "contoso"), 550);
        assert_eq!(reply(host, "two.test", "contoso"), 250);
        host.wait_for_log("policy loaded tenant=contoso sequence=1 signed_by=\"contoso\"");
    }
    fleet.put("contoso", "two.test", &[]);
    fleet.run(&["wait", "contoso", "--hosts", "3"]);
    for host in &hosts {
        assert_eq!(reply(host, "one.test", "contoso"), 250);
        assert_eq!(reply(host, "two.test", "contoso"), 550);
    }
    let told = fleet.run(&["status"]);
    assert!(told.contains("in force on 3 of 3 hosts"), "{told}");
    // A publisher hears of it before any host has to refuse it.
    let told = fleet.fail(&["put", "contoso.json"]);
    assert!(
        told.contains("sequence 2 is in the store already"),
        "{told}"
    );
    fleet.sign("contoso", &rules("three.test"), &["--sequence", "2"]);
    assert!(fleet.fail(&["put", "contoso.json"]).contains("sequence 2"));
}

#[test]
fn without_the_store_all_goes_on_as_it_was() {
    let mut fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    fleet.put("fabrikam", "one.test", &[]);
    let mut host = fleet.host("h1");
    fleet.run(&["wait", "--hosts", "1"]);
    fleet.nats.kill();
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    // A start without the store, too. What is nobody's may be somebody's.
    host.restart();
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    assert_eq!(reply(&host, "two.test", "fabrikam"), 250);
    assert_eq!(reply(&host, "two.test", "unknown"), 451);
    fleet.nats.resume();
    fleet.run(&["wait", "--hosts", "1"]);
    host.wait_for_log("following the fleet's store");
    wait_for_reply(&host, "two.test", "unknown", 550);
    fleet.put("contoso", "two.test", &[]);
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
}

#[test]
fn absence_is_no_removal() {
    let mut fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    fleet.put("fabrikam", "one.test", &[]);
    let host = fleet.host("h1");
    fleet.run(&["wait", "--hosts", "1"]);
    // Nobody can sign that an entry is deleted.
    let subject = "$KV.portcullis.all.fabrikam";
    fleet.nats.publish(subject, b"");
    host.wait_for_log("it is no entry");
    assert_eq!(reply(&host, "one.test", "fabrikam"), 550);
    // The store loses its disk, and another one stands in its place.
    fleet.nats.lose_disk();
    fleet.nats.resume();
    let init = ["fleet", "init", "--server", &fleet.nats.url()];
    fleet.office.succeed(&init);
    host.wait_for_log("the fleet's store is another one than before");
    host.wait_for_log("2 tenants of this host are not in the store, and stay: contoso, fabrikam");
    for tenant in ["contoso", "fabrikam"] {
        assert_eq!(reply(&host, "one.test", tenant), 550);
    }
    // What is published there is taken, and an old one is not.
    fleet.put("contoso", "two.test", &[]);
    wait_for_reply(&host, "two.test", "contoso", 550);
    let told = fleet.fail(&["status"]);
    assert!(
        told.contains("are not in the store, and stay: fabrikam"),
        "{told}"
    );
    let other = ["--sequence", "1", "--note", "another one"];
    fleet.sign("fabrikam", &rules("one.test"), &other);
    fleet.run(&["put", "fabrikam.json"]);
    fleet.wait_for_exception(&host, "another statement with sequence 1");
    assert_eq!(reply(&host, "one.test", "fabrikam"), 550);
}

#[test]
fn what_is_bad_is_refused_by_name_and_touches_nobody_else() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    fleet.put("fabrikam", "one.test", &[]);
    let host = fleet.host("h1");
    fleet.run(&["wait", "--hosts", "1"]);
    fleet.sign("contoso", &rules("two.test"), &["--sequence", "2"]);
    let good = fleet.entry("contoso");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut entry = good.clone();
        change(&mut entry);
        serde_json::to_vec(&entry).expect("an entry")
    };
    let text = serde_json::to_string(&good).expect("an entry");
    let thousand = vec![json!({"sig": "AAAA"}); 1000];
    let other = fleet.entry("fabrikam");
    let body = |text: &str| Value::from(BASE64_STANDARD.encode(text));
    for (entry, told) in [
        (b"garbage".to_vec(), "it is no entry: expected value"),
        (
            text.as_bytes()[..text.len() / 2].to_vec(),
            "it is no entry: EOF",
        ),
        (
            text.replacen('{', "{\"body\":\"\",", 1).into_bytes(),
            "duplicate field `body`",
        ),
        (
            changed(&|it| it["more"] = Value::from(1)),
            "unknown field `more`",
        ),
        (
            changed(&|it| it["body"] = Value::from(7)),
            "invalid type: integer",
        ),
        (
            changed(&|it| it["body"] = Value::from("!")),
            "the policy in it is not Base64",
        ),
        (
            changed(&|it| it["policy"]["signatures"] = Value::from(thousand.clone())),
            "it has 1000 signatures",
        ),
        (
            changed(&|it| it["policy"]["signatures"][0]["sig"] = Value::from("AAAA")),
            "0 of 1 required signatures",
        ),
        (
            changed(&|it| {
                it["policy"]["payloadType"] =
                    Value::from("application/vnd.portcullis.policy.v2+json")
            }),
            "of a version that this program does not know",
        ),
        (
            changed(&|it| it["policy"]["payload"] = Value::from("bm90aGluZw==")),
            "the payload is no policy statement",
        ),
        (
            changed(&|it| it["policy"] = other["policy"].clone()),
            "it is about tenant \"fabrikam\", not \"contoso\"",
        ),
        (
            changed(&|it| it["tenant"] = other["tenant"].clone()),
            "it is about tenant \"fabrikam\"",
        ),
        (
            changed(&|it| it["body"] = body(&rules("six.test"))),
            "the policy is not the one that was signed",
        ),
        (
            changed(&|it| {
                it.as_object_mut().expect("an entry").remove("body");
            }),
            "cannot be fetched",
        ),
        (vec![b' '; 1 << 20], "it is no entry: EOF"),
    ] {
        fleet.smuggle("all.contoso", &entry);
        fleet.wait_for_exception(&host, told);
        assert_eq!(reply(&host, "one.test", "contoso"), 550, "{told}");
    }
    // Somebody else's keys are nobody's, and its neighbour hears nothing of all that.
    fleet.smuggle("nobody.contoso", b"garbage");
    fleet.smuggle("all.=zz", b"garbage");
    fleet.put("fabrikam", "two.test", &[]);
    fleet.run(&["wait", "fabrikam", "--hosts", "1"]);
    assert_eq!(reply(&host, "two.test", "fabrikam"), 550);
    // Rules that are no rules.
    fleet.sign("contoso", &rules("two.test"), &["--sequence", "3"]);
    let mut statement = fleet.envelope("contoso.dsse.json");
    let payload = statement["payload"].as_str().expect("a payload");
    let payload = BASE64_STANDARD.decode(payload).expect("Base64");
    let mut payload: Value = serde_json::from_slice(&payload).expect("a statement");
    let broken = "{\"connectors\": 7}";
    fleet.office.write("broken.json", broken);
    let digest = portcullis_tests::pki::sha256(broken.as_bytes());
    payload["sha256"] = Value::from(digest);
    payload["size"] = Value::from(broken.len());
    payload["sequence"] = Value::from(5);
    statement["payload"] = Value::from(BASE64_STANDARD.encode(payload.to_string()));
    statement["signatures"] = json!([]);
    fleet
        .office
        .write("broken.dsse.json", statement.to_string());
    fleet
        .office
        .succeed(&["sign", "add", "broken.dsse.json", "--key", "contoso.pem"]);
    let mut entry = fleet.entry("contoso");
    entry["policy"] = fleet.envelope("broken.dsse.json");
    entry["body"] = body(broken);
    fleet.smuggle("all.contoso", entry.to_string().as_bytes());
    host.wait_for_log("new policy rejected; previous version remains active");
    let told = fleet.fail(&["wait", "contoso", "--hosts", "1"]);
    assert!(
        told.contains("h1: contoso sequence 5 is not taken, 1 stays in force"),
        "{told}"
    );
    assert!(told.contains(":1:16: "), "{told}");
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    // It was never accepted, so the next one may have a lower number than it.
    fleet.sign("contoso", &rules("four.test"), &["--sequence", "4"]);
    let entry = fleet.entry("contoso").to_string();
    fleet.smuggle("all.contoso", entry.as_bytes());
    host.wait_for_log("policy loaded tenant=contoso sequence=4");
    assert_eq!(reply(&host, "four.test", "contoso"), 550);
    // An older one that was signed once.
    fleet.sign("contoso", &rules("one.test"), &["--sequence", "3"]);
    let entry = fleet.entry("contoso").to_string();
    fleet.smuggle("all.contoso", entry.as_bytes());
    fleet.wait_for_exception(&host, "its sequence 3 is lower than 4");
    assert_eq!(reply(&host, "four.test", "contoso"), 550);
}

#[test]
fn a_ring_tries_policies_out() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let all = fleet.host("h1");
    let canary = TestBed::start(fleet.config("h2", "ring = \"canary\""));
    fleet.run(&["wait", "contoso", "--hosts", "2"]);
    fleet.put("contoso", "two.test", &["--ring", "canary"]);
    let told = fleet.run(&["wait", "contoso", "--hosts", "2"]);
    assert!(
        told.contains("sequence 1 in force on 1 of 1 (ring all)"),
        "{told}"
    );
    assert!(
        told.contains("sequence 2 in force on 1 of 1 (ring canary)"),
        "{told}"
    );
    assert_eq!(reply(&canary, "two.test", "contoso"), 550);
    assert_eq!(reply(&all, "two.test", "contoso"), 250);
    fleet.run(&["promote", "contoso"]);
    fleet.run(&["wait", "contoso", "--hosts", "2"]);
    assert_eq!(reply(&all, "two.test", "contoso"), 550);
    // Back again, with a new number.
    fleet.run(&["rollback", "contoso", "--to", "1", "--key", "contoso.pem"]);
    let told = fleet.run(&["wait", "contoso", "--hosts", "2"]);
    assert!(
        told.contains("sequence 3 in force on 1 of 1 (ring all)"),
        "{told}"
    );
    for host in [&all, &canary] {
        assert_eq!(reply(host, "one.test", "contoso"), 550);
        assert_eq!(reply(host, "two.test", "contoso"), 250);
    }
    let told = fleet.fail(&["rollback", "contoso", "--to", "9", "--key", "contoso.pem"]);
    assert!(
        told.contains("the store has no sequence 9 of tenant contoso; it has 1, 2, 3"),
        "{told}"
    );
    let told = fleet.fail(&["rollback", "contoso", "--to", "1", "--key", "fabrikam.pem"]);
    assert!(told.contains("0 of 1 required signatures"), "{told}");
}

#[test]
fn only_the_operators_take_a_tenant_away() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    fleet.put("fabrikam", "one.test", &[]);
    let mut host = fleet.host("h1");
    fleet.run(&["wait", "--hosts", "1"]);
    fleet.office.succeed(&[
        "sign",
        "retire",
        "contoso",
        "--sequence",
        "2",
        "--key",
        "contoso.pem",
    ]);
    let told = fleet.fail(&["retire", "contoso.retire.dsse.json"]);
    assert!(told.contains("0 of 1 required signatures"), "{told}");
    let entry = json!({"retire": fleet.envelope("contoso.retire.dsse.json")}).to_string();
    fleet.smuggle("all.contoso", entry.as_bytes());
    fleet.wait_for_exception(&host, "retire: 0 of 1 required signatures");
    assert_eq!(reply(&host, "two.test", "contoso"), 250);
    fleet.put("contoso", "one.test", &[]);
    fleet.office.succeed(&[
        "sign",
        "retire",
        "contoso",
        "--sequence",
        "2",
        "--key",
        "ops.pem",
    ]);
    fleet.run(&["retire", "contoso.retire.dsse.json"]);
    host.wait_for_log("tenant removed tenant=\"contoso\"");
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
    assert_eq!(reply(&host, "two.test", "fabrikam"), 250);
    // It stays away after a restart, and an old statement does not bring it back.
    host.restart();
    assert_eq!(reply(&host, "two.test", "fabrikam"), 250);
    fleet.sign("contoso", &rules("one.test"), &[]);
    let entry = fleet.entry("contoso").to_string();
    fleet.smuggle("all.contoso", entry.as_bytes());
    fleet.wait_for_exception(&host, "its sequence 1 is lower than 2");
    fleet.sign_tenant("contoso", &["--sequence", "3"]);
    let entry = fleet.entry("contoso").to_string();
    fleet.smuggle("all.contoso", entry.as_bytes());
    host.wait_for_log("tenant added tenant=\"contoso\"");
    host.wait_for_log("policy loaded tenant=contoso");
    assert_eq!(reply(&host, "two.test", "contoso"), 250);
}

#[test]
fn hosts_that_have_slept_follow_the_roots() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let awake = fleet.host("h1");
    let slept = fleet.host("h2");
    fleet.run(&["wait", "--hosts", "2"]);
    let first = fleet.office.read("root.json");
    let sleeping = fleet.config("h2", "");
    let folder = slept.kill();
    for (next, before) in [("two", "ops"), ("three", "two")] {
        let (next, before) = (format!("{next}.pem"), format!("{before}.pem"));
        fleet.office.succeed(&["key", "new", &next]);
        let public = format!("{next}.pub");
        let rotate = [
            "trust",
            "rotate",
            "root.json",
            "--operator",
            &public,
            "--key",
            &before,
            "--key",
            &next,
        ];
        fleet.office.succeed(&rotate);
        fleet.run(&["put", "root.json"]);
    }
    awake.wait_for_log("the operators have other keys root=3");
    // By the newest operator alone.
    let sign = [
        "sign",
        "tenant",
        "fabrikam",
        "--domain",
        "fabrikam.com",
        "--policy-key",
        "fabrikam.pem.pub",
        "--key",
        "three.pem",
    ];
    fleet.office.succeed(&sign);
    fleet.put("fabrikam", "two.test", &[]);
    awake.wait_for_log("policy loaded tenant=fabrikam");
    assert_eq!(reply(&awake, "two.test", "fabrikam"), 550);
    assert_eq!(reply(&awake, "one.test", "contoso"), 550);
    let mut slept = TestBed::start_in(folder, sleeping);
    slept.wait_for_log("the operators have other keys root=3");
    slept.wait_for_log("policy loaded tenant=fabrikam");
    assert_eq!(
        fs::read(slept.folder().join("root.json")).expect("a file"),
        first
    );
    assert_eq!(reply(&slept, "two.test", "fabrikam"), 550);
    // Also after a further restart, with the root that it was set up with.
    slept.restart();
    assert_eq!(reply(&slept, "two.test", "fabrikam"), 550);
    // Whoever was an operator is none any more.
    fleet.office.write("fabrikam.json", rules("six.test"));
    let old = [
        "sign",
        "tenant",
        "fabrikam",
        "--domain",
        "fabrikam.com",
        "--policy-key",
        "contoso.pem.pub",
        "--key",
        "ops.pem",
    ];
    fleet.office.succeed(&old);
    let entry = fleet.entry("fabrikam").to_string();
    fleet.smuggle("all.fabrikam", entry.as_bytes());
    fleet.wait_for_exception(&awake, "those who may sign: three");
}

#[test]
fn of_two_publishers_one_is_told() {
    let fleet = Fleet::new();
    let host = fleet.host("h1");
    fleet.put("contoso", "one.test", &[]);
    fleet.sign("contoso", &rules("two.test"), &[]);
    let url = fleet.nats.url();
    let put = [
        "fleet",
        "put",
        "contoso.json",
        "--server",
        &url,
        "--root",
        "root.json",
    ];
    let outcomes = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| fleet.office.run(&put)))
            .collect();
        let ended = publishers
            .into_iter()
            .map(|it| it.join().expect("a publisher"));
        ended.collect::<Vec<_>>()
    });
    let good = outcomes.iter().filter(|it| it.status.success()).count();
    assert_eq!(good, 1, "{outcomes:?}");
    for output in outcomes.iter().filter(|it| !it.status.success()) {
        let (_, error) = both(output);
        let is_told = error.contains("changed meanwhile") || error.contains("in the store already");
        assert!(is_told, "{error}");
    }
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
}

#[test]
fn a_large_policy_comes_by_its_digest() {
    let fleet = Fleet::new();
    let host = fleet.host("h1");
    let connectors: Vec<Value> = (0..6000)
        .map(|number| {
            let name = format!("partner-number-{number}.test");
            json!({"name": name, "direction": "inbound", "from": {"sender-domains": [name]}, "require": {"tls": true}})
        })
        .collect();
    let document = json!({"connectors": connectors}).to_string();
    assert!(document.len() > 512 << 10);
    fleet.sign("contoso", &document, &[]);
    fleet.run(&["put", "contoso.json"]);
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    assert_eq!(reply(&host, "partner-number-5999.test", "contoso"), 550);
    assert_eq!(reply(&host, "other.test", "contoso"), 250);
}

/// What Portcullis signs, the reference implementation of the TUF project verifies.
#[test]
fn securesystemslib_verifies_envelopes() {
    let office = Office::new();
    office.sign(&rules("one.test"), &[]);
    let python = unpacked("securesystemslib", "nats/bin/python");
    let script = r#"
import json, sys
from cryptography.hazmat.primitives.serialization import load_pem_public_key, Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
folder = sys.argv[1]
envelope = Envelope.from_dict(json.load(open(folder + "/contoso.dsse.json")))
pem = load_pem_public_key(open(folder + "/ops.pem.pub", "rb").read())
public = pem.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
keyid = list(envelope.signatures)[0]
key = SSlibKey(keyid, "ed25519", "ed25519", {"public": public})
assert list(envelope.verify([key], 1)) == [keyid]
envelope.payload += b" "
try:
    envelope.verify([key], 1)
except Exception as error:
    print("refused", type(error).__name__)
"#;
    let output = Command::new(python)
        .arg("-c")
        .arg(script)
        .arg(office.folder() as &Path)
        .output()
        .expect("Python runs");
    let (told, error) = both(&output);
    assert!(
        output.status.success() && told.starts_with("refused"),
        "{told}{error}"
    );
}

/// The commands of docs/fleet.md one after another, with a host that runs by the settings that stand there.
#[test]
fn the_guide_does_what_it_says() {
    const DOCUMENT: &str = include_str!("../../../docs/fleet.md");
    let nats = Nats::start();
    let office = tempfile::tempdir().expect("a folder");
    fs::write(office.path().join("contoso.json"), rules("one.test")).expect("a file");
    let binary = portcullis_tests::portcullis(&[]).get_program().to_owned();
    let run = |command: &str| {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "portcullis() {{ \"$PROGRAM\" \"$@\"; }}; {command}"
            ))
            .env("PROGRAM", &binary)
            .env("NATS", nats.url())
            .current_dir(office.path())
            .output()
            .expect("a shell");
        let (told, error) = both(&output);
        assert!(output.status.success(), "{command}: {told}{error}");
        told
    };
    let mut commands = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with("portcullis "));
    for command in commands.by_ref() {
        run(command);
        if command.contains("fleet init") {
            break;
        }
    }
    let settings = DOCUMENT.split("```toml\n").nth(1).expect("settings");
    let settings = settings.split("```").next().expect("their end");
    let settings = settings.replace("nats://127.0.0.1:4222", &nats.url());
    let config = Config::new()
        .listener(Listener::maildir())
        .file(
            "root.json",
            fs::read(office.path().join("root.json")).expect("a file"),
        )
        .with(&settings);
    let host = TestBed::start(config);
    host.wait_for_log("following the fleet's store");
    let mut count = 0;
    for command in commands {
        let told = run(command);
        count += 1;
        if command.contains("fleet status") {
            assert!(told.contains("sequence 1 in force on 1 of 1"), "{told}");
            assert_eq!(reply(&host, "one.test", "contoso"), 550);
        }
    }
    assert!(count >= 14, "{count}");
    host.wait_for_log("tenant removed tenant=\"contoso\"");
}

/// A host needs no more rights than docs/fleet.md gives it.
#[test]
fn a_host_needs_few_rights() {
    const DOCUMENT: &str = include_str!("../../../docs/fleet.md");
    let rights = DOCUMENT.split("```\nauthorization").nth(1).expect("rights");
    let rights = rights.split("```").next().expect("their end");
    let nats = Nats::with(&format!(
        "authorization{}",
        rights.replace('\u{2026}', "secret")
    ));
    let office = Office::new();
    let url = nats.url();
    for user in ["publisher", "h1"] {
        office.write(user, format!("{user}:secret\n"));
    }
    let publisher = ["--server", &url, "--credentials", "publisher"];
    office.succeed(&[&["fleet", "init"], &publisher[..]].concat());
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
    let config = Config::new()
        .listener(Listener::maildir())
        .file("root.json", office.read("root.json"))
        .file("h1", office.read("h1"))
        .with(&format!(
            "[trust]\npolicies = \"signed\"\npolicy-root = \"root.json\"\n[fleet]\nservers = [{url:?}]\nname = \"h1\"\ncredentials = \"h1\""
        ));
    let host = TestBed::start(config);
    // One that is in the entry, and one that is an object.
    let large: Vec<Value> = (0..6000)
        .map(|number| json!({"name": format!("partner-number-{number}"), "direction": "inbound",
            "from": {"sender-domains": [format!("partner-number-{number}.test")]}, "require": {"tls": true}}))
        .collect();
    for (rules, domain) in [
        (rules("one.test"), "one.test"),
        (
            json!({"connectors": large}).to_string(),
            "partner-number-7.test",
        ),
    ] {
        office.write("contoso.json", rules);
        office.succeed(&[
            "sign",
            "policy",
            "contoso.json",
            "--tenant",
            "contoso",
            "--key",
            "contoso.pem",
        ]);
        let put = ["fleet", "put", "contoso.json", "--root", "root.json"];
        office.succeed(&[&put, &publisher[..]].concat());
        office.succeed(&[&["fleet", "wait", "contoso"], &publisher[..]].concat());
        assert_eq!(reply(&host, domain, "contoso"), 550);
    }
    // It cannot publish.
    office.succeed(&[
        "sign",
        "policy",
        "contoso.json",
        "--tenant",
        "contoso",
        "--key",
        "contoso.pem",
    ]);
    let put = [
        "fleet",
        "put",
        "contoso.json",
        "--root",
        "root.json",
        "--server",
        &url,
        "--credentials",
        "h1",
    ];
    let output = office.run(&put);
    assert!(!output.status.success(), "{output:?}");
}

/// Somebody's mail does not come under the rules of whoever claims the domain later.
#[test]
fn a_domain_is_one_tenants() {
    let fleet = Fleet::new();
    fleet.put("fabrikam", "one.test", &[]);
    let mut host = fleet.host("h1");
    fleet.run(&["wait", "--hosts", "1"]);
    let claim = [
        "sign",
        "tenant",
        "contoso",
        "--domain",
        "contoso.com",
        "--domain",
        "Fabrikam.COM.",
        "--policy-key",
        "contoso.pem.pub",
        "--key",
        "ops.pem",
    ];
    fleet.office.succeed(&claim);
    fleet.sign("contoso", &rules("two.test"), &[]);
    let told = fleet.fail(&["put", "contoso.json"]);
    assert!(
        told.contains("fabrikam.com is a domain of tenants contoso and fabrikam"),
        "{told}"
    );
    let entry = fleet.entry("contoso").to_string();
    fleet.smuggle("all.contoso", entry.as_bytes());
    fleet.wait_for_exception(&host, "fabrikam.com is a domain of tenant \"fabrikam\"");
    for _ in 0..2 {
        assert_eq!(reply(&host, "one.test", "fabrikam"), 550);
        assert_eq!(reply(&host, "two.test", "fabrikam"), 250);
        // It is a tenant, as the operators say, and what its rules are cannot be told.
        assert_eq!(reply(&host, "one.test", "contoso"), 451);
        host.restart();
        fleet.run(&["wait", "fabrikam", "--hosts", "1"]);
    }
    // Once it is given up, the other one has it.
    fleet.office.succeed(&[
        "sign",
        "retire",
        "fabrikam",
        "--sequence",
        "2",
        "--key",
        "ops.pem",
    ]);
    fleet.run(&["retire", "fabrikam.retire.dsse.json"]);
    host.wait_for_log("policy loaded tenant=contoso");
    assert_eq!(reply(&host, "two.test", "fabrikam"), 550);
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
    assert_eq!(reply(&host, "one.test", "contoso"), 250);
}

/// What an operator has written on the host counts there.
#[test]
fn a_tenant_of_the_configuration_stays() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    fleet.office.write("local.json", rules("local.test"));
    fleet.office.succeed(&[
        "sign",
        "policy",
        "local.json",
        "--tenant",
        "contoso",
        "--key",
        "ops.pem",
    ]);
    let config = fleet
        .config("h1", "")
        .tenant_with("contoso", &["contoso.com"], "local.json")
        .file("local.json", fleet.office.read("local.json"))
        .file("local.dsse.json", fleet.office.read("local.dsse.json"));
    let host = TestBed::start(config);
    fleet.wait_for_exception(
        &host,
        "a tenant of this name is in the configuration of the host",
    );
    assert_eq!(reply(&host, "local.test", "contoso"), 550);
    fleet.office.succeed(&[
        "sign",
        "retire",
        "contoso",
        "--sequence",
        "2",
        "--key",
        "ops.pem",
    ]);
    fleet.run(&["retire", "contoso.retire.dsse.json"]);
    // A change that comes later has been carried out: so has this one.
    fleet.put("fabrikam", "two.test", &[]);
    host.wait_for_log("policy loaded tenant=fabrikam");
    assert_eq!(reply(&host, "local.test", "contoso"), 550);
    assert_eq!(reply(&host, "one.test", "contoso"), 250);
}

/// Who is cut off does not know who the tenants are, whatever else happens meanwhile.
#[test]
fn whoever_is_cut_off_refuses_nobody_for_good() {
    let mut fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let host = fleet.host("h1");
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    wait_for_reply(&host, "one.test", "unknown", 550);
    // Junk that no operator has signed is no tenant.
    fleet.smuggle("all.junk", b"{}");
    fleet.wait_for_exception(&host, "it is no entry");
    wait_for_reply(&host, "one.test", "unknown", 550);
    fleet.nats.kill();
    host.wait_for_log("no connection to the fleet's store");
    assert_eq!(reply(&host, "one.test", "unknown"), 451);
    host.change(|host| host.signal("HUP"));
    assert_eq!(reply(&host, "one.test", "unknown"), 451);
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
}

/// Many that are refused hide none, and a wrong root is replaced.
#[test]
fn nothing_bad_hides_something_worse() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let host = fleet.host("h1");
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    for number in 0..105 {
        fleet.smuggle(&format!("all.a{number}"), b"{}");
    }
    fleet.sign("contoso", &rules("two.test"), &[]);
    let mut entry = fleet.entry("contoso");
    entry["body"] = Value::from("AAAA");
    fleet.smuggle("all.contoso", entry.to_string().as_bytes());
    host.wait_for_log("the policy is not the one that was signed");
    let told = fleet.fail(&["wait", "contoso", "--hosts", "1", "--timeout", "2s"]);
    assert!(told.contains("and 6 further ones"), "{told}");
    // Somebody else's root in the place of the next one.
    let stranger = Office::new();
    stranger.succeed(&["trust", "rotate", "root.json", "--key", "ops.pem"]);
    let both = stranger.read("root.json");
    let second = both.split(|octet| *octet == b'\n').nth(1).expect("a root");
    let root: Value = serde_json::from_slice(second).expect("a root");
    fleet.smuggle("root.2", json!({"root": root}).to_string().as_bytes());
    host.wait_for_log_with(&["root.2", "0 of 1 required signatures"], 1);
    fleet
        .office
        .succeed(&["trust", "rotate", "root.json", "--key", "ops.pem"]);
    fleet.run(&["put", "root.json"]);
    host.wait_for_log("the operators have other keys root=2");
    wait_for_reply(&host, "one.test", "unknown", 550);
}

/// A policy from before its tenant was taken away needs new signatures.
#[test]
fn nothing_comes_back_with_a_tenant() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let host = fleet.host("h1");
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    let old = fleet.entry("contoso");
    fleet.office.succeed(&[
        "sign",
        "retire",
        "contoso",
        "--sequence",
        "2",
        "--key",
        "ops.pem",
    ]);
    fleet.run(&["retire", "contoso.retire.dsse.json"]);
    host.wait_for_log("tenant removed tenant=\"contoso\"");
    // With another key from now on.
    fleet.office.succeed(&[
        "sign",
        "tenant",
        "contoso",
        "--domain",
        "contoso.com",
        "--policy-key",
        "fabrikam.pem.pub",
        "--sequence",
        "3",
        "--key",
        "ops.pem",
    ]);
    let mut entry = old;
    entry["tenant"] = fleet.envelope("contoso.tenant.dsse.json");
    fleet.smuggle("all.contoso", entry.to_string().as_bytes());
    fleet.wait_for_exception(
        &host,
        "another statement with sequence 1 was accepted before",
    );
    assert_eq!(reply(&host, "one.test", "contoso"), 451);
}

/// Whoever can write to the store gets nothing signed there, and hides nothing.
#[test]
fn whoever_writes_to_the_store_decides_nothing() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let host = fleet.host("h1");
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    // An entry in the history that nobody has signed.
    let good = fleet.entry("contoso").to_string();
    let mut bad = fleet.entry("contoso");
    let evil = "{\"connectors\": []}";
    let payload = bad["policy"]["payload"].as_str().expect("a payload");
    let payload = BASE64_STANDARD.decode(payload).expect("Base64");
    let mut payload: Value = serde_json::from_slice(&payload).expect("a statement");
    payload["sequence"] = Value::from(7);
    payload["size"] = Value::from(evil.len());
    payload["sha256"] = Value::from(portcullis_tests::pki::sha256(evil.as_bytes()));
    bad["policy"]["payload"] = Value::from(BASE64_STANDARD.encode(payload.to_string()));
    bad["body"] = Value::from(BASE64_STANDARD.encode(evil));
    fleet.smuggle("all.contoso", bad.to_string().as_bytes());
    fleet.smuggle("all.contoso", good.as_bytes());
    let told = fleet.fail(&["rollback", "contoso", "--to", "7", "--key", "contoso.pem"]);
    assert!(
        told.contains("sequence 7 in the store cannot be taken back"),
        "{told}"
    );
    assert!(told.contains("0 of 1 required signatures"), "{told}");
    fleet.run(&["rollback", "contoso", "--to", "1", "--key", "contoso.pem"]);
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    // What is no status, or somebody else's, hides no host.
    for (host, status) in [
        ("aaa", "garbage"),
        ("bbb", "{\"host\": \"h1\"}"),
        ("ccc", ""),
    ] {
        fleet.nats.publish(
            &format!("$KV.portcullis-status.host.{host}"),
            status.as_bytes(),
        );
    }
    let told = fleet.run(&["status"]);
    assert!(told.contains("in force on 1 of 1 hosts"), "{told}");
    assert!(
        fleet
            .fail(&["status", "nobody"])
            .contains("there is no policy of tenant nobody")
    );
    assert!(
        fleet
            .fail(&["wait", "nobody"])
            .contains("there is no policy of tenant nobody")
    );
    // Junk in the place of a tenant keeps no retirement away.
    fleet.smuggle("all.contoso", b"junk");
    fleet.office.succeed(&[
        "sign",
        "retire",
        "contoso",
        "--sequence",
        "2",
        "--key",
        "ops.pem",
    ]);
    fleet.run(&["retire", "contoso.retire.dsse.json"]);
    host.wait_for_log("tenant removed tenant=\"contoso\"");
}

/// Names that nobody should have.
#[test]
fn odd_names_are_refused() {
    let fleet = Fleet::new();
    let sign = |tenant: &str| {
        fleet.office.fail(
            &[
                "sign",
                "tenant",
                tenant,
                "--domain",
                "a.test",
                "--policy-key",
                "contoso.pem.pub",
                "--key",
                "ops.pem",
            ],
            2,
        )
    };
    for name in ["a\u{1b}[31mb", &"x".repeat(201), "\u{202e}contoso"] {
        let told = sign(name);
        assert!(
            told.contains("the name of a tenant has at most 200 octets"),
            "{told}"
        );
        assert!(!told.contains('\u{1b}'), "{told}");
    }
    let with_password = format!("nats://u:secret@{}", fleet.nats.address);
    let told = fleet
        .office
        .fail(&["fleet", "status", "--server", &with_password], 2);
    assert!(
        told.contains("a password stands in a file") && !told.contains("secret"),
        "{told}"
    );
}

/// What cannot be kept for a while comes again: a retirement, and the operators' next keys.
#[test]
fn what_cannot_be_kept_comes_again() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let mut host = fleet.host("h1");
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    let state = host.folder().join("state/portcullis");
    let mut files = fs::read_dir(&state).expect("the state").flatten();
    let database = files.find(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("statements-") && name.ends_with(".sqlite")
    });
    // Somebody else has the file.
    let mut holder = Command::new("python3")
        .arg("-c")
        .arg("import sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('BEGIN IMMEDIATE')\nprint('held', flush=True)\nsys.stdin.read()")
        .arg(database.expect("a database").path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut held = String::new();
    let out = holder.stdout.take().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut held).expect("it holds it");
    fleet.office.succeed(&["key", "new", "next.pem"]);
    fleet.office.succeed(&[
        "trust",
        "rotate",
        "root.json",
        "--operator",
        "next.pem.pub",
        "--key",
        "ops.pem",
        "--key",
        "next.pem",
    ]);
    fleet.office.succeed(&[
        "sign",
        "retire",
        "contoso",
        "--sequence",
        "2",
        "--key",
        "next.pem",
    ]);
    fleet.run(&["put", "root.json"]);
    fleet.run(&["retire", "contoso.retire.dsse.json"]);
    host.wait_for_log("what came of the fleet's store is not taken");
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    assert_eq!(reply(&host, "two.test", "contoso"), 250);
    fleet.fail(&["wait", "--hosts", "1", "--timeout", "1s"]);
    drop(holder.stdin.take());
    holder.wait().expect("it ends");
    host.wait_for_log("tenant removed tenant=\"contoso\"");
    fleet.run(&["wait", "--hosts", "1"]);
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
    // Also after a restart, the next keys are those.
    host.restart();
    fleet.office.succeed(&[
        "sign",
        "tenant",
        "fabrikam",
        "--domain",
        "fabrikam.com",
        "--policy-key",
        "fabrikam.pem.pub",
        "--key",
        "next.pem",
    ]);
    fleet.put("fabrikam", "two.test", &[]);
    host.wait_for_log("policy loaded tenant=fabrikam");
}

/// Decisions of all hosts come together, as lines by which they can be asked again.
#[test]
fn decisions_are_published() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let mut decisions = fleet.nats.subscribe("portcullis.decisions");
    let config = fleet
        .config("h1", "decisions = \"portcullis.decisions\"")
        .with("[log]\ncontexts = true");
    let mut host = TestBed::start(config);
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    assert_eq!(reply(&host, "two.test", "contoso"), 250);
    let lines = [decisions.receive(), decisions.receive()];
    let read = |line: &Vec<u8>| -> Value { serde_json::from_slice(line).expect("JSON") };
    let first = read(&lines[0]);
    let digest = portcullis_tests::pki::sha256(&fleet.office.read("contoso.json"));
    for (name, value) in [
        ("message", json!("decision")),
        ("host", json!("h1")),
        ("tenant", json!("contoso")),
        ("verdict", json!("reject")),
        ("connector", json!("one.test")),
        ("failed", json!("tls")),
        ("from", json!("a@one.test")),
        ("policy", json!(digest)),
        ("sequence", json!(1)),
    ] {
        assert_eq!(first[name], value, "{first}");
    }
    assert_eq!(read(&lines[1])["verdict"], "accept");

    // Asked again: the same by the same policy, and another one by another.
    fleet.office.write("decisions.log", lines.join(&b'\n'));
    let again = [
        "evaluate",
        "contoso.json",
        "--log",
        "decisions.log",
        "--diff",
    ];
    let told = fleet.office.succeed(&again);
    assert!(
        told.contains("2 decisions") && !told.contains("one.test"),
        "{told}"
    );
    fleet.office.write("contoso.json", rules("two.test"));
    let told = fleet.office.fail(&again, 1);
    assert!(told.contains("a@two.test"), "{told}");

    // What was decided last is sent before the program ends.
    assert_eq!(reply(&host, "three.test", "contoso"), 250);
    host.signal("TERM");
    assert_eq!(host.wait(), Some(0));
    assert_eq!(read(&decisions.receive())["from"], "a@three.test");
}

/// The API of a host that has a tenant's key changes that tenant on all hosts, and no other.
#[test]
fn the_api_publishes() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    fleet.put("fabrikam", "one.test", &[]);
    fleet.office.succeed(&["key", "new", "other.pem"]);
    let admin = |name: &str, keys: &str| {
        let config = fleet
            .config(name, "")
            .file("contoso.pem", fleet.office.read("contoso.pem"))
            .file("other.pem", fleet.office.read("other.pem"))
            .with(ADMIN)
            .with(&format!("[admin]\n{keys}"));
        TestBed::start(config)
    };
    let office = admin("office", "signing-keys = [\"other.pem\", \"contoso.pem\"]");
    let other = admin("other", "");
    fleet.run(&["wait", "--hosts", "2"]);
    let api = Api::operator(&office);
    let rules_of = |tenant: &str| format!("/api/tenants/{tenant}/policy");
    let put = |tenant: &str, base: &str, rules: &str| {
        let tag = format!("If-Match: {base}");
        let head = [
            "--header",
            &*tag,
            "--header",
            "Content-Type: application/json",
        ];
        api.ask(
            "PUT",
            &format!("{}?comment=why", rules_of(tenant)),
            &head,
            Some(rules.as_bytes()),
        )
    };
    let first = api.get(&rules_of("contoso"));
    let base = first.header("etag").expect("a tag").to_owned();
    let answer = put("contoso", &base, &rules("two.test"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    assert_eq!(told["version"]["version"], 2, "{told}");
    assert_eq!(reply(&office, "two.test", "contoso"), 550);
    fleet.run(&["wait", "contoso", "--hosts", "2"]);
    assert_eq!(reply(&other, "two.test", "contoso"), 550);
    // Whoever changes what was there before is told.
    let answer = put("contoso", &base, &rules("three.test"));
    assert_eq!(answer.status, 412, "{answer:?}");
    // Somebody publishes by a command, which the host has not taken yet: the store decides.
    let base = api
        .get(&rules_of("contoso"))
        .header("etag")
        .expect("a tag")
        .to_owned();
    fleet.sign("contoso", &rules("four.test"), &["--sequence", "9"]);
    fleet.run(&["put", "contoso.json"]);
    let answer = put("contoso", &base, &rules("five.test"));
    assert_eq!(answer.status, 412, "{answer:?}");
    fleet.run(&["wait", "contoso", "--hosts", "2"]);

    // The versions are those of the store, and one can go back.
    let versions = api.get("/api/tenants/contoso/versions").json();
    let versions = versions["versions"].as_array().expect("versions").clone();
    let numbers: Vec<&Value> = versions.iter().map(|it| &it["version"]).collect();
    assert_eq!(numbers, [1, 2, 9], "{versions:?}");
    assert_eq!(versions[1]["action"], "alice: put rules (why)");
    assert_eq!(versions[1]["author"], "contoso");
    let content = api.get("/api/tenants/contoso/versions/1");
    assert_eq!(content.body, rules("one.test").as_bytes());
    assert_eq!(api.get("/api/tenants/contoso/versions/7").status, 404);
    let base = api
        .get(&rules_of("contoso"))
        .header("etag")
        .expect("a tag")
        .to_owned();
    let tag = format!("If-Match: {base}");
    let restore = "/api/tenants/contoso/versions/1/restore";
    let answer = api.ask("POST", restore, &["--header", &tag], None);
    assert_eq!(answer.json()["version"]["version"], 10, "{answer:?}");
    assert_eq!(reply(&office, "one.test", "contoso"), 550);
    assert_eq!(reply(&office, "four.test", "contoso"), 250);

    // What this host has no key for stays as it is.
    let of_fabrikam = api.get(&rules_of("fabrikam"));
    let base = of_fabrikam.header("etag").expect("a tag").to_owned();
    let answer = put("fabrikam", &base, &rules("two.test"));
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(
        answer.error().contains("0 of 1 required signatures"),
        "{answer:?}"
    );
    // And rules that are wrong are not published.
    let base = api
        .get(&rules_of("contoso"))
        .header("etag")
        .expect("a tag")
        .to_owned();
    let answer = put("contoso", &base, "{\"connectors\": 1}");
    assert_eq!(answer.status, 422, "{answer:?}");

    // A host without keys says why it changes nothing, and how it is.
    let api = Api::operator(&other);
    let state = api.get("/api/state").json();
    let of = |state: &Value, name: &str| {
        let tenants = state["tenants"].as_array().expect("tenants").clone();
        tenants
            .into_iter()
            .find(|it| it["name"] == name)
            .expect("it")
    };
    let why = of(&state, "contoso")["read-only"].to_string();
    assert!(
        why.contains("portcullis fleet put") && why.contains("signing-keys"),
        "{why}"
    );
    assert_eq!(
        (&state["fleet"]["host"], &state["fleet"]["tenants"]),
        (&json!("other"), &json!(2))
    );
    assert_eq!(state["fleet"]["exceptions"], json!([]), "{state}");
    // Without the store it cannot be changed, and all goes on.
    let api = Api::operator(&office);
    let state = api.get("/api/state").json();
    assert_eq!(of(&state, "contoso")["read-only"], Value::Null);
    drop(fleet.nats);
    let tag = format!("If-Match: {base}");
    let head = [
        "--header",
        &*tag,
        "--header",
        "Content-Type: application/json",
    ];
    let answer = api.ask(
        "PUT",
        &rules_of("contoso"),
        &head,
        Some(rules("six.test").as_bytes()),
    );
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        answer.error().contains("the fleet's store does not answer"),
        "{answer:?}"
    );
    assert_eq!(reply(&office, "one.test", "contoso"), 550);
}

/// Whoever writes to the store does not choose what is signed next.
#[test]
fn unsigned_sequences_count_for_nothing() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    fleet.put("contoso", "two.test", &[]);
    let host = fleet.host("h1");
    fleet.run(&["wait", "--hosts", "1"]);
    // The statement of sequence 2, changed to the highest that there is.
    let mut entry = fleet.entry("contoso");
    let payload = entry["policy"]["payload"].as_str().expect("a payload");
    let payload = BASE64_STANDARD.decode(payload).expect("Base64");
    let payload = String::from_utf8(payload).expect("JSON");
    let high = payload.replace("\"sequence\":2", "\"sequence\":9007199254740990");
    assert_ne!(high, payload);
    entry["policy"]["payload"] = json!(BASE64_STANDARD.encode(high));
    fleet.smuggle("all.contoso", entry.to_string().as_bytes());
    let told = fleet.run(&["rollback", "contoso", "--to", "1", "--key", "contoso.pem"]);
    assert!(told.contains("sequence 3, revision"), "{told}");
    fleet.sign("contoso", &rules("three.test"), &["--sequence", "4"]);
    fleet.run(&["put", "contoso.json"]);
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    assert_eq!(reply(&host, "three.test", "contoso"), 550);
}

/// Metrics tell whether the store is there, and whether all is as it should be.
#[test]
fn metrics_tell_of_the_fleet() {
    let mut fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let host = TestBed::start(fleet.config("h1", "").with(METRICS));
    fleet.run(&["wait", "--hosts", "1"]);
    let value = |name: &str| metrics::value(&host, &format!("portcullis_fleet_{name} "));
    let now = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("a time").as_secs()
    };
    assert_eq!(
        (value("connected"), value("revision"), value("exceptions")),
        (Some(1), Some(1), Some(0))
    );
    let contact = value("last_contact_timestamp_seconds").expect("a time");
    assert!(now() - contact < 60, "{contact}");
    assert_eq!(
        metrics::value(&host, "portcullis_decisions_unsent_total "),
        Some(0)
    );
    fleet.smuggle("all.fabrikam", b"nothing");
    fleet.wait_for_exception(&host, "it is no entry");
    assert_eq!((value("revision"), value("exceptions")), (Some(2), Some(1)));
    fleet.nats.kill();
    host.wait_for_log("no connection to the fleet's store");
    assert_eq!(value("connected"), Some(0));
}

/// Where more is refused than a host remembers, some of it may be tenants: their mail waits.
#[test]
fn more_junk_than_is_remembered_refuses_nobody_for_good() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let host = fleet.host("h1");
    fleet.run(&["wait", "--hosts", "1"]);
    wait_for_reply(&host, "one.test", "unknown", 550);
    let junk = |count: usize| {
        let subject = |number| format!("$KV.portcullis.all.junk{number}");
        (0..count).map(move |number| (subject(number), b"junk".to_vec()))
    };
    fleet.nats.publish_all(junk(900));
    host.wait_for_log_with(
        &["an entry of the fleet's store is not taken", "all.junk899"],
        1,
    );
    assert_eq!(reply(&host, "one.test", "unknown"), 550);
    fleet.nats.publish_all(junk(1200));
    wait_for_reply(&host, "one.test", "unknown", 451);
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
}
