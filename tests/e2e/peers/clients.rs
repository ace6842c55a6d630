//! Clients that are not ours: swaks and openssl s_client.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use portcullis_tests::programs::missing;
use portcullis_tests::{Config, Daemon, Listener, Pki, TestBed};

const RULES: &str = r#"{"connectors": [
    {"name": "Bank", "direction": "inbound", "from": {"sender-domains": ["contosobank.com"]},
     "require": {"certificate-names": ["mail.contosobank.com"]}},
    {"name": "Office", "direction": "inbound", "from": {"sender-ips": ["127.0.0.5"]}, "require": {"tls": true}}]}"#;

fn start(pki: &Pki) -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .listener(Listener::maildir().implicit_tls())
        .certificate(pki)
        .identity("bank", &pki.trusted(&["mail.contosobank.com"]))
        .identity("other", &pki.trusted(&["mail.example.net"]))
        .tenant("contoso.com", RULES)
        .trust(pki);
    TestBed::start(config)
}

/// swaks(1) ends with 0, or with 24 if no recipient was accepted.
fn swaks(daemon: &Daemon, options: &[&str]) -> (i32, String) {
    swaks_to(daemon, 0, options)
}

fn swaks_to(daemon: &Daemon, listener: usize, options: &[&str]) -> (i32, String) {
    let output = Command::new("swaks")
        .current_dir(daemon.folder())
        .args([
            "--server",
            &daemon.addresses[listener].to_string(),
            "--to",
            "bob@contoso.com",
        ])
        .args(options)
        .output()
        .unwrap_or_else(missing("swaks"));
    let code = output.status.code().expect("swaks ends");
    (code, String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn swaks_is_refused_and_accepted() {
    let daemon = start(&Pki::new());
    let bank = ["--from", "alice@contosobank.com"];
    let with = |more: &[&str]| swaks(&daemon, &[&bank[..], more].concat());
    for (more, failed) in [
        (&[][..], "(tls)"),
        (&["--tls"], "(certificate-missing)"),
        (
            &["--tls", "--tls-cert", "other.pem", "--tls-key", "other.key"],
            "(certificate-name)",
        ),
    ] {
        let (code, output) = with(more);
        assert_eq!(code, 24, "{output}");
        assert!(
            output.contains(&format!("550 5.7.1 refused by connector \"Bank\" {failed}")),
            "{output}"
        );
    }
    let certificate = ["--tls", "--tls-cert", "bank.pem", "--tls-key", "bank.key"];
    let (code, output) = with(&certificate);
    assert_eq!(code, 0, "{output}");
    let (code, output) = with(
        &[
            &certificate[..],
            &["--pipeline", "--tls-protocol", "tlsv1_2"],
        ]
        .concat(),
    );
    assert_eq!(code, 0, "{output}");
    assert_eq!(daemon.maildir("mail").len(), 2);
}

#[test]
fn swaks_is_known_by_its_address() {
    let daemon = start(&Pki::new());
    let office = [
        "--from",
        "carol@example.org",
        "--local-interface",
        "127.0.0.5",
    ];
    let (code, output) = swaks(&daemon, &office);
    assert_eq!(code, 24, "{output}");
    assert!(
        output.contains("550 5.7.1 refused by connector \"Office\" (tls)"),
        "{output}"
    );
    assert_eq!(swaks(&daemon, &[&office[..], &["--tls"]].concat()).0, 0);
    assert_eq!(swaks(&daemon, &["--from", "carol@example.org"]).0, 0);
}

#[test]
fn swaks_speaks_tls_from_the_first_octet() {
    let daemon = start(&Pki::new());
    let (code, output) = swaks_to(&daemon, 1, &["--from", "carol@example.org", "--tlsc"]);
    assert_eq!(code, 0, "{output}");
    let mail = daemon.maildir("mail");
    assert!(mail[0].contains(" with ESMTPS id "), "{}", mail[0]);
}

fn openssl(daemon: &Daemon, options: &[&str], input: &str) -> Output {
    let mut child = Command::new("openssl")
        .current_dir(daemon.folder())
        .args([
            "s_client",
            "-starttls",
            "smtp",
            "-connect",
            &daemon.address().to_string(),
        ])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(missing("openssl"));
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    stdin.write_all(input.as_bytes()).expect("openssl reads");
    // It goes on until the server closes.
    let output = child.wait_with_output().expect("openssl ends");
    drop(stdin);
    output
}

#[test]
fn openssl_sees_what_it_should_of_the_handshake() {
    let pki = Pki::new();
    let daemon = start(&pki);
    let input = "EHLO client.example\r\nMAIL FROM:<alice@contosobank.com>\r\nRCPT TO:<bob@contoso.com>\r\nQUIT\r\n";
    for (version, shown) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let options = [
            version, "-ign_eof", "-CAfile", "ca.pem", "-cert", "bank.pem", "-key", "bank.key",
        ];
        let output = openssl(&daemon, &options, input);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains(shown) && text.contains("Verify return code: 0 (ok)"),
            "{text}"
        );
        assert!(text.contains("\n250 2.1.5 "), "{text}");
        // No ticket: a resumed session would carry a certificate that was judged in the past.
        assert!(
            !text.contains("TLS session ticket")
                && !text.contains("Post-Handshake New Session Ticket"),
            "{text}"
        );
        // Any certificate is asked for, and none in particular.
        assert!(text.contains("Requested Signature Algorithms"), "{text}");
        assert!(
            !text.contains("Acceptable client certificate CA names\n"),
            "{text}"
        );
    }
    // The server's order decides, not the client's.
    let mut suites = [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ];
    for _ in 0..2 {
        suites.reverse();
        let options = ["-tls1_2", "-ign_eof", "-cipher", &suites.join(":")];
        let output = openssl(&daemon, &options, input);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains("Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"),
            "{text}"
        );
    }
    let output = openssl(&daemon, &["-ign_eof", "-quiet"], input);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("550 5.7.1 refused by connector \"Bank\" (certificate-missing)"),
        "{text}"
    );
    for old in ["-tls1", "-tls1_1"] {
        let output = openssl(
            &daemon,
            &[old, "-cipher", "ALL:@SECLEVEL=0", "-ign_eof"],
            input,
        );
        assert!(!output.status.success());
    }
}
