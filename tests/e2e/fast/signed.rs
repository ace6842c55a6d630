//! Policies that must be signed: keys, statements, and what a server takes.

use std::fs;
use std::path::Path;
use std::process::Command;

use portcullis_tests::admin::{ADMIN, Api};
use portcullis_tests::office::{Office, both, rules};
use portcullis_tests::programs::{faketime, missing};
use portcullis_tests::{Client, Config, Listener, TestBed, portcullis};
use serde_json::{Value, json};

/// A server that takes what an office signs.
fn server(office: &Office) -> Config {
    Config::new()
        .listener(Listener::maildir())
        .tenant_with("contoso", &["contoso.com"], "contoso.json")
        .file("contoso.json", office.read("contoso.json"))
        .file("contoso.dsse.json", office.read("contoso.dsse.json"))
        .file("root.json", office.read("root.json"))
        .with("[trust]\npolicies = \"signed\"\npolicy-root = \"root.json\"")
}

/// Puts the newest in place: the statement first.
fn deploy(office: &Office, bed: &TestBed) {
    bed.replace("contoso.dsse.json", &office.read("contoso.dsse.json"));
    bed.replace("contoso.json", &office.read("contoso.json"));
}

fn refuses(bed: &TestBed, domain: &str) -> bool {
    match Client::recipient(bed.address(), &format!("a@{domain}"), "bob@contoso.com") {
        550 => true,
        250 => false,
        other => panic!("{other}"),
    }
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap_or_else(missing("openssl"));
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[test]
fn only_what_is_signed_is_taken() {
    let office = Office::new();
    office.sign(&rules("one.test"), &[]);
    let bed = TestBed::start(server(&office));
    bed.wait_for_log("policy loaded tenant=contoso sequence=1 signed_by=\"ops\"");
    assert!(refuses(&bed, "one.test"));
    // Nobody has signed this.
    bed.replace("contoso.json", rules("two.test").as_bytes());
    bed.wait_for_log("the policy is not the one that was signed");
    assert!(refuses(&bed, "one.test") && !refuses(&bed, "two.test"));
    office.sign(&rules("two.test"), &[]);
    deploy(&office, &bed);
    bed.wait_for_log("sequence=2");
    assert!(refuses(&bed, "two.test") && !refuses(&bed, "one.test"));
    // An older one comes back, also after a restart.
    office.sign(&rules("one.test"), &["--sequence", "1"]);
    deploy(&office, &bed);
    bed.wait_for_log("its sequence 1 is lower than 2");
    assert!(refuses(&bed, "two.test"));
}

#[test]
fn what_was_accepted_is_known_after_a_restart() {
    let office = Office::new();
    office.sign(&rules("one.test"), &["--sequence", "7", "--expires", "1h"]);
    let bed = TestBed::start(server(&office));
    bed.wait_for_log("sequence=7");
    // It has expired when it is read again, and stays.
    let later = [
        ("LD_PRELOAD", faketime()),
        ("FAKETIME", "+2h".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    let later = later
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let bed = TestBed::start_in_with(bed.kill(), server(&office), &later);
    bed.wait_for_log("sequence=7");
    assert!(refuses(&bed, "one.test"));
    office.sign(&rules("two.test"), &["--sequence", "6"]);
    deploy(&office, &bed);
    bed.wait_for_log("its sequence 6 is lower than 7");
    assert!(refuses(&bed, "one.test"));
}

#[test]
fn without_a_statement_mail_is_deferred() {
    let office = Office::new();
    office.sign(&rules("one.test"), &[]);
    let mut config = server(&office);
    config = config.tenant_with("fabrikam", &["fabrikam.com"], "fabrikam.json");
    let bed = TestBed::start(config.file("fabrikam.json", rules("one.test")));
    let line = bed.wait_for_log("there is no previous version");
    assert!(line.contains("policies are signed here") && line.contains("fabrikam.dsse.json"));
    let code = Client::recipient(bed.address(), "a@one.test", "bob@fabrikam.com");
    assert_eq!(code, 451);
    assert!(refuses(&bed, "one.test"), "its neighbour has its own");
}

#[test]
fn a_tenants_key_signs_its_own_policies_and_no_others() {
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
    office.write("contoso.json", rules("one.test"));
    let sign = |tenant: &str, key: &str, sequence: &str| {
        office.succeed(&[
            "sign",
            "policy",
            "contoso.json",
            "--tenant",
            tenant,
            "--key",
            key,
            "--sequence",
            sequence,
        ]);
    };
    sign("contoso", "contoso.pem", "1");
    let told = office.succeed(&["verify", "contoso.json", "--root", "root.json"]);
    assert!(
        told.contains("tenant contoso, signed by contoso, sequence 1"),
        "{told}"
    );
    let told = office.succeed(&["verify", "contoso.tenant.dsse.json", "--root", "root.json"]);
    assert!(told.contains("with contoso.com, signed by ops"), "{told}");
    let config = server(&office);
    let about = office.read("contoso.tenant.dsse.json");
    let bed = TestBed::start(config.file("contoso.tenant.dsse.json", about));
    bed.wait_for_log("sequence=1 signed_by=\"contoso\"");
    assert!(refuses(&bed, "one.test"));
    // The operators have given the right to sign away; another tenant's statement is no use.
    sign("contoso", "ops.pem", "2");
    deploy(&office, &bed);
    bed.wait_for_log("0 of 1 required signatures are good; those who may sign: contoso (ed25519:");
    sign("fabrikam", "contoso.pem", "2");
    deploy(&office, &bed);
    bed.wait_for_log("it is about tenant \"fabrikam\", not \"contoso\"");
    assert!(refuses(&bed, "one.test"));
}

#[test]
fn operators_follow_each_other_while_mail_flows() {
    let office = Office::new();
    office.sign(&rules("one.test"), &[]);
    let bed = TestBed::start(server(&office));
    bed.wait_for_log("sequence=1");
    office.succeed(&["key", "new", "next.pem"]);
    // Those before must sign as well.
    let rotate = [
        "trust",
        "rotate",
        "root.json",
        "--operator",
        "next.pem.pub",
        "--key",
        "next.pem",
    ];
    let told = office.fail(&rotate, 2);
    assert!(
        told.contains("0 of 1") && told.contains("root.next.json"),
        "{told}"
    );
    office.succeed(&["sign", "add", "root.next.json", "--key", "ops.pem"]);
    let told = office.succeed(&["trust", "append", "root.json", "root.next.json"]);
    assert!(told.contains("root 2") && told.contains("next"), "{told}");
    bed.change(|bed| bed.replace("root.json", &office.read("root.json")));
    // What is in force stays, and whoever is no operator any more signs nothing new.
    assert!(refuses(&bed, "one.test"));
    office.sign(&rules("two.test"), &[]);
    deploy(&office, &bed);
    bed.wait_for_log("those who may sign: next (ed25519:");
    assert!(refuses(&bed, "one.test"));
    office.succeed(&[
        "sign",
        "policy",
        "contoso.json",
        "--tenant",
        "contoso",
        "--key",
        "next.pem",
        "--sequence",
        "2",
    ]);
    deploy(&office, &bed);
    bed.wait_for_log("sequence=2 signed_by=\"next\"");
    assert!(refuses(&bed, "two.test"));
    // A root that nobody has signed is not taken.
    bed.replace("root.json", b"{}");
    bed.wait_for_log("new configuration rejected");
    assert!(refuses(&bed, "two.test"));
}

#[test]
fn openssl_signs_as_well() {
    let office = Office::new();
    let folder = office.folder();
    openssl(
        folder,
        &["genpkey", "-algorithm", "ed25519", "-out", "token.pem"],
    );
    openssl(
        folder,
        &["pkey", "-in", "token.pem", "-pubout", "-out", "token.pub"],
    );
    // Only the public half is known here, as with a token.
    office.succeed(&[
        "trust",
        "rotate",
        "root.json",
        "--operator",
        "token.pub",
        "--key",
        "ops.pem",
        "--key",
        "token.pem",
    ]);
    office.write("contoso.json", rules("one.test"));
    office.succeed(&["sign", "policy", "contoso.json", "--tenant", "contoso"]);
    let told = office.fail(&["verify", "contoso.json", "--root", "root.json"], 1);
    assert!(told.contains("0 of 1"), "{told}");
    let bytes = office.run(&["sign", "bytes", "contoso.dsse.json"]).stdout;
    assert!(bytes.starts_with(b"DSSEv1 41 application/vnd.portcullis.policy.v1+json "));
    office.write("bytes", &bytes);
    openssl(
        folder,
        &[
            "pkeyutl",
            "-sign",
            "-rawin",
            "-inkey",
            "token.pem",
            "-in",
            "bytes",
            "-out",
            "signature",
        ],
    );
    let add = [
        "sign",
        "add",
        "contoso.dsse.json",
        "--public",
        "token.pub",
        "--signature",
        "signature",
    ];
    office.succeed(&add);
    let told = office.succeed(&["verify", "contoso.json", "--root", "root.json"]);
    assert!(told.contains("signed by token"), "{told}");
    let bed = TestBed::start(server(&office));
    bed.wait_for_log("signed_by=\"token\"");
    // And OpenSSL verifies what Portcullis signs.
    office.sign(&rules("two.test"), &[]);
    let envelope: Value =
        serde_json::from_slice(&office.read("contoso.dsse.json")).expect("an envelope");
    let sig = envelope["signatures"][0]["sig"]
        .as_str()
        .expect("a signature");
    office.write("sig.b64", sig);
    openssl(
        folder,
        &["base64", "-d", "-A", "-in", "sig.b64", "-out", "sig"],
    );
    office.write(
        "bytes",
        office.run(&["sign", "bytes", "contoso.dsse.json"]).stdout,
    );
    openssl(
        folder,
        &[
            "pkeyutl",
            "-verify",
            "-rawin",
            "-pubin",
            "-inkey",
            "ops.pem.pub",
            "-in",
            "bytes",
            "-sigfile",
            "sig",
        ],
    );
    // A signature of something else is none.
    office.write("bytes", "something else");
    openssl(
        folder,
        &[
            "pkeyutl",
            "-sign",
            "-rawin",
            "-inkey",
            "token.pem",
            "-in",
            "bytes",
            "-out",
            "signature",
        ],
    );
    let told = office.fail(&add, 2);
    assert!(
        told.contains("is no signature of contoso.dsse.json"),
        "{told}"
    );
}

#[test]
fn commands_say_who_has_signed() {
    let office = Office::new();
    office.sign(&rules("one.test"), &["--note", "as agreed"]);
    let signed = "contoso.json: tenant contoso, signed by ops, sequence 1 (as agreed)";
    for command in [&["check"][..], &["list"]] {
        let told = office.succeed(&[command, &["contoso.json", "--root", "root.json"]].concat());
        assert!(told.contains(signed), "{command:?}: {told}");
    }
    office.write("contoso.json", rules("two.test"));
    for command in ["check", "list", "evaluate"] {
        let told = office.fail(&[command, "contoso.json", "--root", "root.json"], 2);
        assert!(
            told.contains("the policy is not the one that was signed"),
            "{told}"
        );
    }
    let told = office.fail(&["verify", "contoso.json", "--root", "root.json"], 1);
    assert!(told.contains("SHA-256"), "{told}");
}

#[test]
fn nothing_bad_is_signed_and_no_key_is_lost() {
    let office = Office::new();
    let told = office.fail(&["key", "new", "ops.pem"], 2);
    assert!(told.contains("ops.pem"), "{told}");
    let told = office.fail(&["trust", "new", "root.json", "--key", "ops.pem"], 2);
    assert!(told.contains("root.json"), "{told}");
    office.write("contoso.json", "{\"connectors\": 7}");
    let sign = [
        "sign",
        "policy",
        "contoso.json",
        "--tenant",
        "contoso",
        "--key",
        "ops.pem",
    ];
    let told = office.fail(&sign, 2);
    assert!(told.contains("contoso.json:1:16"), "{told}");
    assert!(!office.path("contoso.dsse.json").exists());
    office.write(
        "rsa.pem",
        "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
    );
    office.write("contoso.json", rules("one.test"));
    let told = office.fail(&[&sign[..5], &["--key", "rsa.pem"]].concat(), 2);
    assert!(
        told.contains("rsa.pem: it is not an Ed25519 private key"),
        "{told}"
    );
}

#[test]
fn the_configuration_says_what_is_missing() {
    let office = Office::new();
    office.sign(&rules("one.test"), &[]);
    let bed = TestBed::start(server(&office));
    let config = bed.folder().join("portcullis.toml");
    let text = fs::read_to_string(&config).expect("the configuration");
    let check = |text: &str| {
        office.write(
            "portcullis.toml",
            text.replace(
                "policy-root = \"root.json\"",
                &format!("policy-root = {:?}", office.path("root.json")),
            ),
        );
        office.run(&["run", "--check-config", "--config", "portcullis.toml"])
    };
    // It changes nothing of what was accepted.
    let (told, error) = both(&check(&text));
    assert!(told.contains("ok"), "{told}{error}");
    let without = text.replace("policy-root = \"root.json\"", "");
    office.write("without.toml", without);
    let told = office.fail(&["run", "--check-config", "--config", "without.toml"], 2);
    assert!(told.contains("need policy-root"), "{told}");
    office.write("root.json", "{\"payloadType\": 7}");
    let (_, error) = both(&check(&text));
    assert!(
        error.contains("root.json: it is no DSSE envelope"),
        "{error}"
    );
}

#[test]
fn the_page_changes_nothing_that_must_be_signed() {
    let office = Office::new();
    office.sign(&rules("one.test"), &[]);
    let bed = TestBed::start(server(&office).with(ADMIN));
    let state = Api::operator(&bed).get("/api/state").json();
    let tenant = &state["tenants"][0];
    assert_eq!(tenant["in-force"]["sequence"], 1, "{state}");
    assert_eq!(tenant["in-force"]["signed-by"], json!(["ops"]));
    let why = tenant["read-only"].as_str().expect("a reason");
    assert!(why.contains("portcullis sign policy"), "{why}");
}

/// Each line is a command, and each does what it should.
#[test]
fn the_commands_of_the_guide_do_what_it_says() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("contoso.json"), rules("one.test")).expect("a file");
    let binary = portcullis(&[]).get_program().to_owned();
    let commands = include_str!("../../../docs/signing.md")
        .lines()
        .filter_map(|line| line.strip_prefix("    "));
    let mut count = 0;
    for command in commands {
        let output = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "portcullis() {{ \"$PROGRAM\" \"$@\"; }}; {command}"
            ))
            .env("PROGRAM", &binary)
            .current_dir(folder.path())
            .output()
            .expect("a shell");
        assert!(output.status.success(), "{command}: {output:?}");
        count += 1;
    }
    assert!(count >= 20, "{count}");
}
