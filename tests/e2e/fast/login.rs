//! Clients that log in (RFC 4954) at a listener for mail to partners.

use portcullis_tests::daemon::run;
use portcullis_tests::{Client, Config, Listener, NO_RULES, Pki, Reply, TestBed, metrics};

/// A line of the file of passwords.
fn line(name: &str, password: &str) -> String {
    let output = run(&["admin", "password", name], password.as_bytes());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn config(more: &str) -> Config {
    config_of(
        Listener::outbound("password-file = \"users\"").starttls(),
        more,
    )
}

fn config_of(listener: Listener, more: &str) -> Config {
    Config::new()
        .listener(listener)
        .certificate(&Pki::new())
        .tenant("contoso.com", NO_RULES)
        .file("users", line("bob", "p\u{e4}ss word"))
        .with("[metrics]\naddress = \"127.0.0.1:0\"")
        .with(more)
}

fn bed() -> TestBed {
    TestBed::start(config(""))
}

fn over_tls(bed: &TestBed) -> Client {
    let mut client = Client::greeted(bed.address());
    client.starttls(None);
    client.expect("EHLO client.example", 250);
    client
}

fn plain(name: &str, password: &str) -> String {
    let message = format!("\0{name}\0{password}");
    format!("AUTH PLAIN {}", base64(&message))
}

fn base64(text: &str) -> String {
    use std::fmt::Write;
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| {
            bits << 8 | usize::from(three.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            let digit = DIGITS[bits >> (18 - 6 * at) & 63] as char;
            let shown = if at <= three.len() { digit } else { '=' };
            write!(encoded, "{shown}").expect("a string");
        }
    }
    encoded
}

#[track_caller]
fn is(reply: &Reply, expected: &str) {
    let found = format!("{} {}", reply.code, reply.lines.join(" "));
    assert!(found.starts_with(expected), "{found}, not {expected}");
}

#[test]
fn it_is_offered_over_tls_only() {
    let bed = bed();
    let mut client = Client::greeted(bed.address());
    let reply = client.expect("EHLO client.example", 250);
    assert!(!reply.text().contains("AUTH"), "{reply:?}");
    for line in [
        &plain("bob", "p\u{e4}ss word"),
        "AUTH LOGIN",
        "AUTH SCRAM-SHA-256",
    ] {
        is(&client.command(line), "538 5.7.11");
    }
    is(&client.command("MAIL FROM:<a@contoso.com>"), "530 5.7.0");
    is(
        &client.command("MAIL FROM:<a@contoso.com> AUTH=<>"),
        "530 5.7.0",
    );
    client.starttls(None);
    is(&client.command("AUTH PLAIN"), "503 5.5.1");
    let reply = client.expect("EHLO client.example", 250);
    assert!(
        reply.lines.contains(&"AUTH PLAIN LOGIN".to_owned()),
        "{reply:?}"
    );
    is(
        &client.command(&plain("bob", "p\u{e4}ss word")),
        "235 2.7.0",
    );
    is(
        &client.command("MAIL FROM:<a@contoso.com> AUTH=<>"),
        "250 2.1.0",
    );
    bed.wait_for_log("login outcome=\"accepted\" user=\"bob\"");
}

#[test]
fn exchanges_that_go_wrong_get_their_replies() {
    let bed = bed();
    let mut client = over_tls(&bed);
    let long = "A".repeat(20_000);
    for (line, answers, expected) in [
        ("AUTH", &[][..], "501 5.5.4"),
        ("AUTH X.Y", &[], "501 5.5.4"),
        ("AUTH CRAM-MD5", &[], "504 5.5.4"),
        ("AUTH SCRAM-SHA-256 biws", &[], "504 5.5.4"),
        ("AUTH PLAIN =", &[], "501 5.5.2"),
        ("AUTH PLAIN *", &[], "501 5.7.0"),
        ("AUTH PLAIN YWI", &[], "501 5.5.2"),
        ("AUTH PLAIN", &["*"], "501 5.7.0"),
        ("AUTH PLAIN", &["!!!!"], "501 5.5.2"),
        ("AUTH PLAIN", &[&long], "500 5.5.6"),
        ("AUTH LOGIN", &["Ym9i", "*"], "501 5.7.0"),
        ("AUTH LOGIN", &["Ym9i", ""], "501 5.5.2"),
    ] {
        // A session with too many mistakes is closed.
        let mut client = over_tls(&bed);
        let mut reply = client.command(line);
        for answer in answers {
            assert_eq!(reply.code, 334, "{line}: {reply:?}");
            reply = client.command(answer);
        }
        is(&reply, expected);
        // Nothing of it holds.
        is(&client.command("MAIL FROM:<a@contoso.com>"), "530 5.7.0");
    }
    is(&client.command("AUTH LOGIN"), "334 VXNlcm5hbWU6");
    is(&client.command("Ym9i"), "334 UGFzc3dvcmQ6");
    is(&client.command(&base64("p\u{e4}ss word")), "235 2.7.0");
    is(&client.command("AUTH LOGIN"), "503 5.5.1");
    client.expect("RSET", 250);
    is(&client.command("MAIL FROM:<a@contoso.com>"), "250 2.1.0");
    is(&client.command("AUTH LOGIN"), "503 5.5.1");
}

#[test]
fn whoever_guesses_waits_and_is_limited() {
    let listener = Listener::outbound("password-file = \"users\"").starttls();
    let limits = "[limits]\nlogin-failures = 2";
    let bed = TestBed::start(config_of(listener.proxied(), limits));
    let log_in = |name: &str, password: &str, from: &str| {
        let mut client = bed.client_from(from);
        client.starttls(None);
        client.expect("EHLO client.example", 250);
        client.command(&plain(name, password))
    };
    let right = "p\u{e4}ss word";
    is(&log_in("bob", right, "192.0.2.1"), "235 2.7.0");
    is(&log_in("bob", "guessed", "192.0.2.5"), "535 5.7.8");
    is(&log_in("bob", "guessed", "192.0.2.6"), "535 5.7.8");
    // By the name, but not where he has logged in before.
    is(&log_in("bob", right, "192.0.2.7"), "454 4.7.0");
    is(&log_in("bob", right, "192.0.2.1"), "235 2.7.0");
    // By the address, whatever the names are.
    is(&log_in("alice", "guessed", "192.0.2.6"), "535 5.7.8");
    is(&log_in("carol", "guessed", "192.0.2.6"), "454 4.7.0");
    let refused = "portcullis_logins_total{outcome=\"refused\"}";
    assert_eq!(metrics::value(&bed, refused), Some(3));
    let log = bed.log().join("\n");
    assert!(
        !log.contains("guessed") && !log.contains("p\u{e4}ss"),
        "{log}"
    );
}

#[test]
fn the_file_is_read_again_when_it_changes() {
    let bed = bed();
    let try_both = || {
        [("bob", "p\u{e4}ss word"), ("carol", "new")]
            .map(|(name, password)| over_tls(&bed).command(&plain(name, password)).code)
    };
    assert_eq!(try_both(), [235, 535]);
    bed.change(|daemon| daemon.replace("users", line("carol", "new").as_bytes()));
    assert_eq!(try_both(), [535, 235]);
    // What cannot be read stays what it was.
    bed.replace("users", b"carol:new\n");
    let log = bed.wait_for_log("not reloaded; previous version remains active");
    assert!(
        log.contains("users:1: the password is no hash of Argon2"),
        "{log}"
    );
    assert!(!log.contains("carol:new"), "{log}");
    assert_eq!(over_tls(&bed).command(&plain("carol", "new")).code, 235);
}

#[test]
fn nobody_logs_in_while_the_file_cannot_be_read() {
    let bed = TestBed::start(config("").file("users", "bob:secret\n"));
    bed.wait_for_log("nobody can log in until it is mended");
    let mut client = over_tls(&bed);
    is(&client.command(&plain("bob", "secret")), "454 4.7.0");
    is(&client.command("MAIL FROM:<a@contoso.com>"), "530 5.7.0");
    let path = bed.folder().join("portcullis.toml");
    let path = path.to_string_lossy();
    let output = run(&["run", "--check-config", "--config", &path], b"");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("users:1: the password is no hash"), "{said}");
}
