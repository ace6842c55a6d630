//! Policies, certificates and the configuration change while mail flows.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use portcullis_tests::load::Stop;
use portcullis_tests::modules::{Module, Refusal};
use portcullis_tests::{Client, Config, Daemon, Listener, NO_RULES, Pki, TestBed, portcullis, run};
use tempfile::TempDir;

/// The tenant's policy is in this file.
fn config(policy: &str) -> Config {
    Config::new()
        .listener(Listener::maildir())
        .tenant_with("contoso", &["*.contoso.com"], policy)
}

/// A daemon with version A of the rules.
fn start() -> TestBed {
    TestBed::start(config("rules.json").file("rules.json", rules("A")))
}

/// Rules that refuse two recipients in the name of a version.
fn rules(version: &str) -> String {
    let connector = |which: &str| {
        format!(
            r#"{{"name": "{version} {which}", "direction": "inbound",
                "from": {{"recipient-domains": ["{which}.contoso.com"]}}, "require": {{"tls": true}}}}"#
        )
    };
    format!(
        r#"{{"connectors": [{}, {}]}}"#,
        connector("one"),
        connector("two")
    )
}

/// The version that answers for a recipient.
fn version(client: &mut Client, which: &str) -> String {
    let reply = client.expect(&format!("RCPT TO:<x@{which}.contoso.com>"), 550);
    let text = reply.text();
    let connector = text.split('"').nth(1).expect("the connector is named");
    let version = connector
        .strip_suffix(which)
        .expect("the recipient's connector");
    version.trim_end().to_owned()
}

/// The version that a new transaction goes by.
fn version_now(daemon: &Daemon) -> String {
    let mut client = daemon.client();
    client.expect("MAIL FROM:<a@example.org>", 250);
    version(&mut client, "one")
}

fn updates(daemon: &Daemon) -> usize {
    daemon.count_log("policy loaded")
}

/// Does something that brings another policy, and waits until it is in force.
fn swap(daemon: &Daemon, change: impl FnOnce()) {
    let before = updates(daemon);
    change();
    daemon.wait_for_log_times("policy loaded", before + 1);
}

/// Sends transactions until it is told to stop; gives the ids of what was accepted.
fn send_until(daemon: &Daemon, sender: usize, stop: &AtomicBool) -> Vec<String> {
    let mut accepted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut client = daemon.client();
        for _ in 0..5 {
            client.expect("MAIL FROM:<a@example.org>", 250);
            let one = version(&mut client, "one");
            assert!(one == "A" || one == "B", "{one}");
            client.expect("RCPT TO:<x@ok.contoso.com>", 250);
            assert_eq!(
                version(&mut client, "two"),
                one,
                "one transaction, one policy"
            );
            let id = format!("id-{sender}-{}.", accepted.len());
            assert_eq!(client.data(&format!("Subject: {id}\r\n\r\n{id}")).code, 250);
            accepted.push(id);
        }
        client.quit();
    }
    accepted
}

#[test]
fn a_hundred_swaps_under_load_lose_nothing() {
    const SENDERS: usize = 50;
    const SWAPS: usize = 100;
    let daemon = start();
    let stop = AtomicBool::new(false);
    let accepted: Vec<String> = thread::scope(|scope| {
        let (daemon, stop) = (&daemon, &stop);
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| scope.spawn(move || send_until(daemon, sender, stop)))
            .collect();
        {
            let _stop = Stop(stop);
            for number in 1..=SWAPS {
                let next = if number % 2 == 1 { "B" } else { "A" };
                swap(daemon, || {
                    daemon.replace("rules.json", rules(next).as_bytes())
                });
            }
        }
        senders
            .into_iter()
            .flat_map(|sender| sender.join().expect("no session was broken"))
            .collect()
    });
    assert_eq!(updates(&daemon), SWAPS + 1);
    let mut kept: HashMap<String, usize> = HashMap::new();
    for message in daemon.maildir("mail") {
        let id = message
            .trim_end()
            .rsplit('\n')
            .next()
            .expect("a last line")
            .to_owned();
        *kept.entry(id).or_default() += 1;
    }
    assert_eq!(kept.len(), accepted.len());
    assert!(
        accepted.iter().all(|id| kept.get(id) == Some(&1)),
        "each message is kept once"
    );
}

#[test]
fn a_transaction_keeps_the_policy_that_it_began_with() {
    let daemon = start();
    let mut client = daemon.client();
    client.expect("MAIL FROM:<a@example.org>", 250);
    swap(&daemon, || {
        daemon.replace("rules.json", rules("B").as_bytes())
    });
    assert_eq!(version(&mut client, "one"), "A");
    client.expect("RSET", 250);
    client.expect("MAIL FROM:<a@example.org>", 250);
    assert_eq!(version(&mut client, "one"), "B");
}

#[test]
fn a_bad_change_leaves_the_old_in_force_and_says_why() {
    let daemon = start();
    let failing_test = rules("B").strip_suffix('}').expect("an object").to_owned()
        + r#", "tests": [{"name": "wrong", "context": {"direction": "inbound", "mail-from": "a@x.test",
            "rcpt-to": "x@one.contoso.com"}, "expect": {"verdict": "accept"}}]}"#;
    for (content, reason) in [
        ("{\n  oops\n}", "rules.json:2:3: this is not JSON"),
        ("", "rules.json:1:1: this is not JSON"),
        (
            r#"{"connectors": [], "conectors": []}"#,
            "rules.json:1:20: unknown field \"conectors\"",
        ),
        (
            failing_test.as_str(),
            "the test \"wrong\" fails: verdict is \"reject\", not \"accept\"",
        ),
    ] {
        let before = daemon.count_log("new policy rejected");
        daemon.replace("rules.json", content.as_bytes());
        let line = daemon.wait_for_log_times("new policy rejected", before + 1);
        assert!(line.contains(reason), "{line}");
        assert_eq!(version_now(&daemon), "A");
    }
    let before = daemon.count_log("new policy rejected");
    fs::remove_file(daemon.folder().join("rules.json")).expect("the file is removed");
    let line = daemon.wait_for_log_times("new policy rejected", before + 1);
    assert!(line.contains("cannot read"), "{line}");
    assert_eq!(version_now(&daemon), "A");
    fs::create_dir(daemon.folder().join("rules.json")).expect("a folder");
    daemon.wait_for_log_times("new policy rejected", before + 2);
    assert_eq!(version_now(&daemon), "A");
    fs::remove_dir(daemon.folder().join("rules.json")).expect("the folder is removed");
    swap(&daemon, || {
        daemon.replace("rules.json", rules("B").as_bytes())
    });
    assert_eq!(version_now(&daemon), "B");
}

#[test]
fn changes_are_seen_however_they_come() {
    let folder = tempfile::tempdir().expect("a folder");
    let inside = |name: &str| folder.path().join(name);
    for version in ["A", "B"] {
        fs::create_dir(inside(version)).expect("a folder");
        fs::write(inside(version).join("rules.json"), rules(version)).expect("a file");
    }
    // As Kubernetes mounts a ConfigMap: file -> ..data/file, ..data -> the version's folder.
    symlink("A", inside("..data")).expect("a link");
    symlink("..data/rules.json", inside("rules.json")).expect("a link");
    let daemon = TestBed::start_in(folder, config("rules.json"));
    assert_eq!(version_now(&daemon), "A");
    swap(&daemon, || {
        let next = daemon.folder().join("..next");
        symlink("B", &next).expect("a link");
        fs::rename(&next, daemon.folder().join("..data")).expect("the link is switched");
    });
    assert_eq!(version_now(&daemon), "B");
    swap(&daemon, || {
        fs::write(daemon.folder().join("B/rules.json"), rules("C")).expect("written in place");
    });
    assert_eq!(version_now(&daemon), "C");
    swap(&daemon, || {
        daemon.replace("rules.json", rules("D").as_bytes())
    });
    assert_eq!(version_now(&daemon), "D");
    // Nothing has changed: a hang-up finds that out, and a touched file too.
    let before = updates(&daemon);
    daemon.signal("HUP");
    daemon.replace("rules.json", rules("D").as_bytes());
    swap(&daemon, || {
        daemon.replace("rules.json", rules("E").as_bytes())
    });
    assert_eq!(updates(&daemon), before + 1);
}

#[test]
fn a_link_to_the_folder_of_the_policy_may_be_switched() {
    let folder = tempfile::tempdir().expect("a folder");
    for version in ["A", "B", "C"] {
        let release = folder.path().join(version);
        fs::create_dir(&release).expect("a folder");
        fs::write(release.join("rules.json"), rules(version)).expect("a file");
    }
    symlink("A", folder.path().join("current")).expect("a link");
    let daemon = TestBed::start_in(folder, config("current/rules.json"));
    for version in ["B", "C"] {
        swap(&daemon, || {
            let next = daemon.folder().join("next");
            symlink(version, &next).expect("a link");
            fs::rename(&next, daemon.folder().join("current")).expect("the link is switched");
        });
        assert_eq!(version_now(&daemon), version);
    }
}

#[test]
fn components_and_documents_replace_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for version in ["A", "B"] {
        fs::write(path("rules.json"), rules(version)).expect("a file");
        let output = path(&format!("{version}.wasm"));
        assert!(
            run(&["build", &path("rules.json"), "-o", &output], b"")
                .status
                .success()
        );
    }
    fs::copy(path("A.wasm"), path("policy.wasm")).expect("a copy");
    let daemon = TestBed::start_in(folder, config("policy.wasm"));
    assert_eq!(version_now(&daemon), "A");
    let good = fs::read(daemon.folder().join("B.wasm")).expect("a component");
    for bad in [&good[..good.len() / 2], b"garbage", b""] {
        let before = daemon.count_log("new policy rejected");
        daemon.replace("policy.wasm", bad);
        daemon.wait_for_log_times("new policy rejected", before + 1);
        assert_eq!(version_now(&daemon), "A");
    }
    swap(&daemon, || daemon.replace("policy.wasm", &good));
    assert_eq!(version_now(&daemon), "B");
    daemon.replace("rules.json", rules("C").as_bytes());
    swap(&daemon, || {
        let documents = config("rules.json").to_string();
        daemon.replace("portcullis.toml", documents.as_bytes())
    });
    assert_eq!(version_now(&daemon), "C");
}

/// A folder with the components of two versions of the rules, the first of which is the policy.
fn components() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for version in ["A", "B"] {
        fs::write(path("rules.json"), rules(version)).expect("a file");
        let output = path(&format!("{version}.wasm"));
        let built = run(&["build", &path("rules.json"), "-o", &output], b"");
        assert!(built.status.success());
    }
    fs::copy(path("A.wasm"), path("policy.wasm")).expect("a copy");
    folder
}

#[test]
fn a_policy_that_does_not_do_what_it_must_is_not_taken() {
    let folder = components();
    let case = |connector: &str| {
        format!(
            r#"[{{"name": "who comes from nowhere",
                "context": {{"direction": "inbound", "mail-from": "a@example.org", "rcpt-to": "x@one.contoso.com"}},
                "expect": {{"verdict": "reject", "connector": "{connector} one"}}}}]"#
        )
    };
    fs::write(folder.path().join("cases.json"), case("A")).expect("a file");
    let config = Config::new().listener(Listener::maildir()).with(
        "[[tenant]]
        name = \"contoso\"
        domains = [\"*.contoso.com\"]
        policy = \"policy.wasm\"
        tests = \"cases.json\"",
    );
    let daemon = TestBed::start_in(folder, config);
    assert_eq!(version_now(&daemon), "A");
    let read = |name: &str| fs::read(daemon.folder().join(name)).expect("a component");
    let refused = |name: &str, content: &[u8], reason: &str| {
        let before = daemon.count_log("new policy rejected");
        daemon.replace(name, content);
        let line = daemon.wait_for_log_times("new policy rejected", before + 1);
        assert!(line.contains(reason), "{line}");
        assert_eq!(version_now(&daemon), "A");
    };
    refused(
        "policy.wasm",
        &read("B.wasm"),
        "the test \"who comes from nowhere\" fails: connector is \"B one\", not \"A one\"",
    );
    refused(
        "policy.wasm",
        &Module::new("unreachable").component(),
        "it answers no question",
    );
    daemon.replace("policy.wasm", &read("A.wasm"));
    refused("cases.json", b"[{}]", "these are no tests: missing field");
    // A change of either file is a new attempt.
    daemon.replace("policy.wasm", &read("B.wasm"));
    swap(&daemon, || {
        daemon.replace("cases.json", case("B").as_bytes())
    });
    assert_eq!(version_now(&daemon), "B");
}

/// Nobody has to name the cases that stand beside a component.
#[test]
fn a_component_has_to_pass_the_cases_beside_it() {
    let folder = components();
    let daemon = TestBed::start_in(folder, config("policy.wasm"));
    assert_eq!(version_now(&daemon), "A");
    let case = r#"[{"name": "from nowhere",
        "context": {"direction": "inbound", "mail-from": "a@example.org", "rcpt-to": "x@one.contoso.com"},
        "expect": {"verdict": "reject", "connector": "B one"}}]"#;
    // The one in force does not pass what is new.
    daemon.replace("policy.tests.json", case.as_bytes());
    let line = daemon.wait_for_log("new policy rejected");
    let told = "policy.tests.json:2: the test \"from nowhere\" fails: connector is \"A one\"";
    assert!(line.contains(told), "{line}");
    assert_eq!(version_now(&daemon), "A");
    let read = |name: &str| fs::read(daemon.folder().join(name)).expect("a component");
    swap(&daemon, || daemon.replace("policy.wasm", &read("B.wasm")));
    assert_eq!(version_now(&daemon), "B");
    // Without cases any policy is taken.
    fs::remove_file(daemon.folder().join("policy.tests.json")).expect("removed");
    swap(&daemon, || daemon.replace("policy.wasm", &read("A.wasm")));
    assert_eq!(version_now(&daemon), "A");
}

/// What answers nothing is no better than what replaces it, even if its file could not be read meanwhile.
#[test]
fn a_policy_that_answers_nothing_is_replaced_by_any_other() {
    let mute = |number: u8| {
        let data = format!("(data (i32.const 4096) \"{number}\")");
        Module::new("unreachable").with(&data).component()
    };
    let config = config("policy.wasm").file("policy.wasm", mute(0));
    let daemon = TestBed::start(config);
    let path = daemon.folder().join("policy.wasm");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("a folder");
    daemon.wait_for_log("new policy rejected");
    fs::remove_dir(&path).expect("removed");
    let before = daemon.count_log("policy loaded");
    daemon.replace("policy.wasm", &mute(1));
    daemon.wait_for_log_times("policy loaded", before + 1);
}

/// systemd may ask for a reload as soon as the process is there.
#[test]
fn a_reload_that_is_asked_for_while_it_starts_ends_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config("rules.json").file("rules.json", rules("A"));
    config.write(folder.path());
    let path = folder.path().join("portcullis.toml");
    let mut child = portcullis(&["run", "--config", &path.to_string_lossy()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let stderr = child.stderr.take().expect("its log");
    let mut lines = BufReader::new(stderr)
        .lines()
        .map(|line| line.expect("UTF-8"));
    let first = lines.next().expect("a line");
    assert!(!first.contains("listening"), "{first}");
    let pid = child.id().to_string();
    let asked = std::process::Command::new("kill")
        .args(["-HUP", &pid])
        .status();
    assert!(asked.expect("kill can be run").success());
    assert!(lines.any(|line| line.contains("listening")), "it has ended");
    assert!(
        lines.any(|line| line.contains("configuration reloaded")),
        "it has ended"
    );
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}

#[test]
fn code_that_was_let_go_is_mapped_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let config = config("A.wasm")
        .tenant_with("other", &["one.contoso.com"], "B.wasm")
        .with("[sandbox]\ncache-directory = \"cache\"\ncode = \"1KiB\"");
    // Modules of others: all policies that are built from rules share one code.
    for (version, text) in [("A", "\"A two\""), ("B", "\"B one\"")] {
        let refusal = Refusal {
            text: text.as_bytes(),
            ..Refusal::default()
        };
        let component = refusal.module().component();
        fs::write(path(&format!("{version}.wasm")), component).expect("a file");
    }
    let daemon = TestBed::start_in(folder, config);
    let answers = || {
        let mut client = daemon.client();
        client.expect("MAIL FROM:<a@example.org>", 250);
        [version(&mut client, "one"), version(&mut client, "two")]
    };
    assert_eq!([answers(), answers()], [["B", "A"], ["B", "A"]]);

    let code = daemon.folder().join("cache");
    for file in fs::read_dir(&code).expect("the compiled modules") {
        fs::remove_file(file.expect("a file").path()).expect("removed");
    }
    let mut client = daemon.client();
    client.expect("MAIL FROM:<a@example.org>", 250);
    client.expect("RCPT TO:<x@one.contoso.com>", 451);
    daemon.wait_for_log("reload the policies to compile it again");
    let before = updates(&daemon);
    daemon.signal("HUP");
    daemon.wait_for_log_times("policy loaded", before + 2);
    assert_eq!(answers(), ["B", "A"]);
}

#[test]
fn a_file_that_has_no_end_stops_nothing() {
    let mut daemon = start();
    let path = daemon.folder().join("rules.json");
    for target in ["/dev/zero", "fifo"] {
        let fifo = daemon.folder().join("fifo");
        if target == "fifo" {
            let made = std::process::Command::new("mkfifo").arg(&fifo).status();
            assert!(made.expect("mkfifo can be run").success());
        }
        let link = daemon.folder().join("link");
        std::os::unix::fs::symlink(target, &link).expect("a link");
        let before = daemon.count_log("it is not a regular file");
        fs::rename(&link, &path).expect("renamed");
        daemon.wait_for_log_times("it is not a regular file", before + 1);
        assert_eq!(version_now(&daemon), "A");
    }
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn what_a_document_says_cannot_forge_log_lines() {
    let daemon = start();
    daemon.replace(
        "rules.json",
        br#"{"connectors": [], "x\n2026-01-01T00:00:00Z  INFO forged": 1}"#,
    );
    let line = daemon.wait_for_log("new policy rejected");
    assert!(line.contains("forged"), "{line}");
}

#[test]
fn rules_that_take_long_to_read_hold_nobody_up() {
    // Each of very many tests is held against very many connectors.
    let connectors: Vec<String> = (0..20_000)
        .map(|number| {
            format!(
                r#"{{"name": "c{number}", "direction": "inbound", "from": {{"sender-domains": ["*"],
                    "recipient-domains": ["r{number}.test"]}}, "require": {{"tls": true}}}}"#
            )
        })
        .collect();
    let test = r#"{"name": "t", "context": {"direction": "inbound", "mail-from": "a@b.test", "rcpt-to": "b@c.test"},
        "expect": {"verdict": "reject"}}"#;
    let slow = format!(
        r#"{{"connectors": [{}], "tests": [{}]}}"#,
        connectors.join(","),
        [test; 4000].join(",")
    );
    let config = config("rules.json")
        .file("rules.json", rules("A"))
        .tenant("slow.test", &slow)
        .with("[sandbox]\ncompile-time = \"8s\"");
    let mut daemon = TestBed::start(config);
    swap(&daemon, || {
        daemon.replace("rules.json", rules("B").as_bytes())
    });
    assert_eq!(version_now(&daemon), "B");
    daemon.wait_for_log("tenant=\"slow\"");
    daemon.signal("TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn the_configuration_brings_tenants_and_limits() {
    let daemon = start();
    let recipient = |to: &str| {
        let mut client = daemon.client();
        client.envelope("a@example.org", to)
    };
    let denied = recipient("x@fabrikam.com");
    assert_eq!(denied.code, 550);
    assert!(
        denied.text().starts_with("5.7.1 relay access denied"),
        "{denied:?}"
    );
    daemon.replace("portcullis.toml", b"hostname = [");
    daemon.wait_for_log("new configuration rejected");
    assert_eq!(version_now(&daemon), "A");
    let more = config("rules.json").tenant("fabrikam.com", NO_RULES);
    more.write_files(daemon.folder());
    swap(&daemon, || {
        daemon.replace("portcullis.toml", more.to_string().as_bytes())
    });
    assert_eq!(recipient("x@fabrikam.com").code, 250);
}

/// What takes effect with a restart only is told, or its author believes that it has.
#[test]
fn what_needs_a_restart_is_told() {
    let daemon = start();
    let path = daemon.folder().join("portcullis.toml");
    let text = std::fs::read_to_string(&path).expect("the configuration");
    let text = text + "\n[sandbox]\nmemory = \"32MiB\"\n[connections]\nmessages = 7\n";
    daemon.replace("portcullis.toml", text.as_bytes());
    daemon.signal("HUP");
    daemon.wait_for_log("configuration reloaded");
    let log = daemon.log().join("\n");
    for (section, is_told) in [("sandbox", true), ("connections", true), ("metrics", false)] {
        let told = format!("[{section}] changes with a restart only");
        assert_eq!(log.contains(&told), is_told, "{log}");
    }
}

#[test]
fn certificates_are_read_again_when_they_change() {
    let pki = Pki::new();
    let old = pki.trusted(&["old.contoso.com"]);
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .identity("server", &old)
        .tenant_with("contoso", &["*.contoso.com"], "rules.json")
        .file("rules.json", rules("A"))
        .trust(&pki);
    let daemon = TestBed::start(config);
    let shown = || {
        let mut client = daemon.client();
        client.starttls(None);
        client.server_certificate()
    };
    assert_eq!(shown(), old.chain[0]);
    // Half of a file is no certificate.
    daemon.replace("server.pem", &old.certificate_pem.as_bytes()[..200]);
    daemon.wait_for_log("not reloaded; previous version remains active");
    assert_eq!(shown(), old.chain[0]);
    let new = pki.trusted(&["new.contoso.com"]);
    daemon.replace("server.key", new.key_pem.as_bytes());
    daemon.change(|daemon| daemon.replace("server.pem", new.certificate_pem.as_bytes()));
    let before = updates(&daemon);
    swap(&daemon, || {
        daemon.replace("rules.json", rules("B").as_bytes())
    });
    assert_eq!(updates(&daemon), before + 1);
    assert_eq!(shown(), new.chain[0]);
}
