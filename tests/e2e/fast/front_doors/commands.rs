//! `check --for`: what a way of asking cannot tell, beforehand and at load.

use std::fs;

use portcullis_tests::daemon::portcullis;
use portcullis_tests::{Config, Pki, front_door, run};
use serde_json::Value;

use super::{HEADER_RULES, RULES, daemon};

fn check(rules: &str, options: &[&str]) -> (String, bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.json");
    fs::write(&path, rules).expect("a file");
    let path = path.to_string_lossy().into_owned();
    let output = run(&[&["check", &path][..], options].concat(), b"");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    (text, output.status.success())
}

#[test]
fn connectors_that_read_what_is_not_told_are_named() {
    let (text, is_fine) = check(RULES, &["--for", "postfix"]);
    assert!(is_fine);
    assert!(
        text.contains("connector \"Named\" reads the names of the certificate, of which postfix tells only the CN"),
        "{text}"
    );
    assert!(text.contains("known-certificates"), "{text}");
    assert!(!text.contains("\"Encrypted\""), "{text}");
    let (text, _) = check(HEADER_RULES, &["--for", "milter"]);
    assert!(
        !text.contains("the From header") && text.contains("check_policy_service"),
        "{text}"
    );
    let (text, _) = check(HEADER_RULES, &["--for", "exim", "--format", "json"]);
    let found: Value = serde_json::from_str(&text).expect("JSON");
    let facts: Vec<&str> = found["lacking"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|lack| lack["fact"].as_str())
        .collect();
    assert!(facts.contains(&"header-from"), "{found}");
    let plain = RULES.replace(
        "\"certificate-names\": [\"mx.named.test\"]",
        "\"tls\": true",
    );
    let (text, _) = check(&plain, &["--for", "postfix"]);
    assert!(
        text.contains("postfix tells all facts that the rules read"),
        "{text}"
    );
}

#[test]
fn the_server_says_so_when_rules_are_loaded() {
    let daemon = daemon(&Pki::new(), "protocols = [\"policy\"]");
    let line = daemon.wait_for_log("tenant=header way=postfix");
    assert!(
        line.contains("header-from") && line.contains("check --for"),
        "{line}"
    );
}

const OUTBOUND: &str = r#"{"connectors": [
    {"name": "Any name", "direction": "outbound", "to": {"recipient-domains": ["a.test"]}, "tls": {"level": "verify"}},
    {"name": "Named", "direction": "outbound", "to": {"recipient-domains": ["b.test"]},
     "tls": {"level": "name", "names": ["mx.b.test"]}},
    {"name": "Plain", "direction": "outbound", "to": {"recipient-domains": ["*.c.test", "bänk.test"]},
     "except": {"recipient-domains": ["x.c.test"]}, "dane": "none", "mta-sts": "none"}
]}"#;

#[test]
fn what_postfix_cannot_carry_out_is_named() {
    let (text, is_fine) = check(OUTBOUND, &["--for", "postfix"]);
    assert!(is_fine);
    for line in [
        "connector \"Any name\": Postfix has no level for a trusted certificate with any name: such mail goes by the relay, or is deferred",
        "connector \"Named\" where the partner has TLSA records: ",
        "connector \"Named\" where the partner has an MTA-STS policy: ",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains("\"Plain\""), "{text}");
    let (text, _) = check(OUTBOUND, &["--for", "postfix", "--format", "json"]);
    let found: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        found["outbound"].as_array().map(Vec::len),
        Some(3),
        "{found}"
    );
    assert_eq!(found["outbound"][0]["connector"], "Any name");
}

#[test]
fn tables_for_postfix_are_written_and_say_what_they_cannot_express() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.json");
    fs::write(&rules, OUTBOUND).expect("a file");
    let rules = rules.to_str().expect("UTF-8");
    let export = |options: &[&str]| {
        let output = run(&[&["export", "postfix", rules][..], options].concat(), b"");
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, tables, notes) = export(&[]);
    assert_eq!(code, Some(1), "{notes}");
    for line in [
        "#   transport_maps = texthash:/etc/postfix/portcullis/transport",
        "a.test retry:4.7.5 connector \"Any name\": Postfix has no level",
        "b.test retry:4.7.5 connector \"Named\": it depends on TLSA records",
        ".c.test smtp:",
        "c.test may",
        ".c.test may",
        "xn--bnk-qla.test may",
        "bänk.test may",
    ] {
        assert!(
            tables.lines().any(|it| it.starts_with(line)),
            "{line}: {tables}"
        );
    }
    // What is excepted goes as usual.
    assert!(tables.lines().any(|it| it == "x.c.test :"), "{tables}");
    let built = folder.path().join("policy.wasm");
    let built = built.to_str().expect("UTF-8");
    assert!(run(&["build", rules, "-o", built], b"").status.success());
    let output = run(&["export", "postfix", built], b"");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("it does not say which: export the rules document"),
        "{told}"
    );
    let plain = OUTBOUND.replace("\"except\": {\"recipient-domains\": [\"x.c.test\"]}, ", "");
    fs::write(rules, plain).expect("a file");
    assert!(run(&["build", rules, "-o", built], b"").status.success());
    let there = folder.path().join("new/tables");
    let there = there.to_str().expect("UTF-8");
    let output = run(
        &[
            "export",
            "postfix",
            built,
            "--assume-nothing-published",
            "-o",
            there,
        ],
        b"",
    );
    assert_eq!(output.status.code(), Some(1));
    let table = |name: &str| fs::read_to_string(format!("{there}/{name}")).expect("a table");
    assert!(
        table("tls_policy").contains("\nb.test secure match=mx.b.test\n"),
        "{}",
        table("tls_policy")
    );
    assert!(table("transport").contains("\nb.test smtp:\n"));
}

#[test]
fn a_request_of_postfix_is_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.json");
    fs::write(&rules, RULES).expect("a file");
    let rules = rules.to_str().expect("UTF-8");
    let explain = |attributes: &str, input: &str| {
        let arguments = ["explain", rules, "--as", "postfix", attributes];
        let output = run(&arguments, input.as_bytes());
        let text = [&output.stdout[..], &output.stderr].concat();
        String::from_utf8(text).expect("UTF-8")
    };
    let sent = "request=smtpd_access_policy\nsender=a@bank.test\nrecipient=b@contoso.com\nclient_address=192.0.2.1\nencryption_protocol=\n";
    let text = explain(sent, "");
    assert!(
        text.contains("refused by connector \"Encrypted\" (tls)"),
        "{text}"
    );
    // As the log of `smtpd -v` has it.
    let logged = "Nov 27 03:00:00 mx postfix/smtpd[1]: send attr sender = a@named.test
        Nov 27 03:00:00 mx postfix/smtpd[1]: send attr recipient = b@contoso.com
        Nov 27 03:00:00 mx postfix/smtpd[1]: send attr encryption_protocol = TLSv1.3
        Nov 27 03:00:00 mx postfix/smtpd[1]: send attr ccert_subject = mx.named.test
        Nov 27 03:00:00 mx postfix/smtpd[1]: send attr ccert_issuer = Some+20CA
        Nov 27 03:00:00 mx postfix/smtpd[1]: send attr ccert_fingerprint = AB:CD";
    let text = explain("-", logged);
    assert!(text.to_lowercase().contains("accepted"), "{text}");
    for (attributes, why) in [
        ("nonsense", "is not like \"sender=alice@contosobank.com\""),
        ("sender=a@b.test", "there is no recipient"),
        ("sender=a\nsender=b", "stands there twice"),
    ] {
        let text = explain(attributes, "");
        assert!(text.contains(why), "{text}");
    }
}

#[test]
fn setup_tells_what_haraka_lacks() {
    let folder = tempfile::tempdir().expect("a folder");
    Config::new()
        .tenant("contoso.com", RULES)
        .with(&front_door::table(""))
        .write(folder.path());
    let config = folder.path().join("portcullis.toml").display().to_string();
    let haraka = folder.path().join("haraka");
    let directory = haraka.display().to_string();
    let setup = || {
        let arguments = [
            "setup",
            "haraka",
            "--config",
            &config,
            "--directory",
            &directory,
        ];
        let output = run(&arguments, b"");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let text = setup();
    assert!(text.contains("There is no Haraka in"), "{text}");
    let write = |name: &str, text: &str| {
        let path = haraka.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    write(
        "node_modules/Haraka/package.json",
        r#"{"version": "3.3.4"}"#,
    );
    write("config/plugins", "# tls\nspf\n");
    let text = setup();
    for line in [
        "Haraka 3.3.4 in ",
        "\nnpm install haraka-plugin-portcullis",
        "contoso.json config/portcullis.json\n",
        "\necho tls >> config/plugins",
        "\necho portcullis >> config/plugins",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    write(
        "node_modules/haraka-plugin-portcullis/package.json",
        r#"{"version": "0.1.0"}"#,
    );
    write("config/portcullis.json", RULES);
    write("config/plugins", "tls\nportcullis ; asks\n");
    assert!(setup().contains("All is as it should be."));
    write(
        "node_modules/Haraka/package.json",
        r#"{"version": "2.8.1"}"#,
    );
    assert!(setup().contains("the plugin is for 3.3 and later"));
}

/// What Debian's Exim says of itself, as far as it is read.
const EXIM: &str = "#!/bin/sh
case \"$*\" in
-bV) echo 'Exim version 4.96 #2 built 27-Mar-2025 12:13:38'; echo 'Library version: GnuTLS: Compile: 3.7.9' ;;
'-bP acl_smtp_rcpt') echo 'acl_smtp_rcpt = acl_check_rcpt' ;;
*) exit 1 ;;
esac
";

#[test]
fn setup_tells_of_the_exim_that_is_installed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    // The server asks at the second one.
    Config::new()
        .tenant("contoso.com", RULES)
        .with(&front_door::table(""))
        .with("[[frontend]]\naddress = \"127.0.0.1:8460\"")
        .write(folder.path());
    let setup = |path: &str| {
        let config = file("portcullis.toml");
        let mut command = portcullis(&["setup", "exim", "--config", &config]);
        let output = command.env("PATH", path).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let text = setup(&file("."));
    assert!(text.starts_with("Exim does not tell its version"), "{text}");
    assert!(text.contains("with the address 127.0.0.1:8460"), "{text}");
    fs::write(file("exim4"), EXIM).expect("a program");
    let runs = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(file("exim4"), runs).expect("it is made one");
    let text = setup(&format!("{}:/bin:/usr/bin", file(".")));
    assert!(text.starts_with("Exim version 4.96 #2"), "{text}");
    assert!(
        text.contains("# now: acl_smtp_rcpt = acl_check_rcpt\n"),
        "{text}"
    );
    assert!(!text.contains("OpenSSL"), "{text}");
}
