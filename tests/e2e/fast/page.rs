//! The page of `[admin]`, in a real browser.

use portcullis_tests::admin::{ADMIN, token, url};
use portcullis_tests::browser::Window;
use portcullis_tests::outbound::{LEVEL_RECORDS, LEVELS, Setting};
use portcullis_tests::{Behaviour, Browser, Client, Config, Listener, MockServer, Pki, TestBed};
use serde_json::{Value, json};

const RULES: &str = r#"{
  "organization": "Contoso",
  "accepted-domains": ["contoso.com"],
  "connectors": [
    {
      "name": "Contoso Bank",
      "direction": "inbound",
      "from": { "sender-domains": ["*.contosobank.com"] },
      "require": { "tls": true }
    },
    {
      "name": "To Contoso Bank",
      "direction": "outbound",
      "to": { "recipient-domains": ["contosobank.com"] },
      "tls": { "level": "encrypt" }
    }
  ]
}
"#;

/// Served at a port, which a browser can reach.
fn config(rules: &str) -> Config {
    Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", rules)
        .with(&ADMIN.replace("admin.sock", "127.0.0.1:0"))
}

/// A browser that has opened the link of a token with these options.
fn opened(bed: &TestBed, options: &[&str]) -> Browser {
    let token = token(bed, options);
    let mut browser = Browser::start();
    browser.open(&format!("{}#token={token}", url(bed)));
    browser
}

fn rcpt(bed: &TestBed, from: &str) -> u16 {
    Client::recipient(bed.address(), from, "bob@contoso.com")
}

#[test]
fn each_place_is_there_and_accessible_and_breaks_no_policy() {
    let bed = TestBed::start(config(RULES));
    assert_eq!(rcpt(&bed, "a@contosobank.com"), 550);
    assert_eq!(rcpt(&bed, "a@elsewhere.test"), 250);
    let mut browser = opened(&bed, &["--name", "alice"]);
    browser.wait_for_text("To Contoso Bank");
    // The token is nowhere to be seen.
    assert!(
        !browser
            .eval("location.href")
            .as_str()
            .expect("a URL")
            .contains("token")
    );
    let places = [
        (
            "connectors",
            "#/contoso/connectors",
            "from *.contosobank.com",
        ),
        (
            "connector",
            "#/contoso/connector/Contoso%20Bank",
            "refuses mail from *.contosobank.com unless it has: TLS.",
        ),
        (
            "outbound",
            "#/contoso/connector/To%20Contoso%20Bank",
            "delivers mail to contosobank.com",
        ),
        (
            "new",
            "#/contoso/new/inbound",
            "New connector: mail from a partner",
        ),
        (
            "what-if",
            "#/contoso/what-if",
            "What would happen to a message",
        ),
        ("decisions", "#/contoso/decisions", "Contoso Bank (tls)"),
        (
            "history",
            "#/contoso/history",
            "Every version that was saved",
        ),
    ];
    for (name, hash, text) in places {
        browser.eval(&format!("location.hash = {hash:?}"));
        browser.wait_for_text(text);
        for window in [Window::Wide, Window::Phone] {
            browser.resize(window);
            for is_dark in [false, true] {
                browser.prefer_dark(is_dark);
                let found = browser.inaccessible();
                assert!(found.is_empty(), "{name} {window:?} {is_dark}: {found:#?}");
                let width = browser.eval("document.documentElement.scrollWidth - innerWidth");
                assert!(
                    width.as_i64().is_some_and(|it| it <= 0),
                    "{name} {window:?}: {width} too wide"
                );
                let kind = match (window, is_dark) {
                    (Window::Wide, false) => "light",
                    (Window::Wide, true) => "dark",
                    (Window::Phone, false) => "phone",
                    (Window::Phone, true) => "phone-dark",
                };
                browser.picture(&format!("{name}-{kind}"));
            }
        }
        browser.resize(Window::Wide);
    }
    assert_eq!(browser.wrongs(), [""; 0]);
}

/// A rules document without connectors, as one begins.
const EMPTY: &str = "{\n  \"accepted-domains\": [\"contoso.com\"],\n  \"connectors\": []\n}\n";

/// Fills a form in, and saves it.
fn save(browser: &mut Browser, fields: &[(&str, &str)]) {
    for (field, value) in fields {
        let selector = format!("#field-{field}");
        // Those that are seldom wanted are folded away.
        browser.wait(&format!("document.querySelector('{selector}')"));
        browser.eval(&format!("{{ const folded = document.querySelector('{selector}').closest('details'); if (folded) folded.open = true; }}"));
        let kind = browser.eval(&format!("document.querySelector('{selector}').type"));
        match kind.as_str() {
            Some("select-one") => browser.choose(&selector, value),
            Some("checkbox") => {
                let is_checked =
                    browser.eval(&format!("document.querySelector('{selector}').checked"));
                if is_checked != (*value == "yes") {
                    browser.click(&selector);
                }
            }
            _ => browser.fill(&selector, value),
        }
    }
    browser.wait("!document.querySelector('form button.main').disabled");
    browser.click("form button.main");
    browser.wait("document.querySelector('dialog[open]')");
    browser.eval(
        "{ const why = document.querySelector('#comment'); if (why?.required) { why.focus(); } }",
    );
    browser.fill("#comment", "by the test");
    browser.wait("!document.querySelector('dialog button.main').disabled");
    browser.click("dialog button.main");
    browser.wait("!document.querySelector('dialog[open]')");
}

fn go(browser: &mut Browser, hash: &str) {
    browser.eval(&format!("location.hash = {hash:?}"));
    browser.wait(&format!("location.hash === {hash:?}"));
}

#[test]
fn the_wizard_makes_each_example_and_each_level() {
    let bed = TestBed::start(config(EMPTY));
    let mut browser = opened(&bed, &["--name", "alice"]);
    browser.wait_for_text("There is no connector yet.");
    let inbound: [&[(&str, &str)]; 5] = [
        &[
            ("name", "Encrypted"),
            ("from", "*.contosobank.com"),
            ("mode", "enforce"),
        ],
        &[
            ("name", "Certificate"),
            ("from", "fabrikam.com"),
            ("certificate-name", "mail.fabrikam.com"),
            ("mode", "enforce"),
        ],
        &[
            ("name", "Addresses"),
            ("from", "adatum.com"),
            ("tls", "no"),
            ("source-ip", "203.0.113.0/24\n198.51.100.7"),
            ("mode", "enforce"),
        ],
        &[
            ("name", "Filter"),
            ("from", "*"),
            ("to", "filtered.contoso.com"),
            ("tls", "no"),
            ("source-ip", "192.0.2.0/24"),
            ("mode", "enforce"),
        ],
        &[
            ("name", "Known by address"),
            ("from-ip", "127.0.0.5"),
            ("mode", "enforce"),
        ],
    ];
    for fields in inbound {
        go(&mut browser, "#/contoso/new/inbound");
        browser.wait_for_text("New connector: mail from a partner");
        let fields: Vec<(&str, &str)> = fields.to_vec();
        save(&mut browser, &fields);
        browser.wait_for_text(fields[0].1);
    }
    let outbound: [&[(&str, &str)]; 4] = [
        &[
            ("name", "To opportunistic"),
            ("to", "o.test"),
            ("level", "opportunistic"),
            ("smart-host", "mx.o.test:2525"),
            ("mode", "enforce"),
        ],
        &[
            ("name", "To encrypt"),
            ("to", "e.test"),
            ("level", "encrypt"),
            ("mode", "enforce"),
        ],
        &[
            ("name", "To verify"),
            ("to", "v.test"),
            ("level", "verify"),
            ("min-version", "TLSv1.3"),
            ("mode", "enforce"),
        ],
        &[
            ("name", "To name"),
            ("to", "n.test"),
            ("level", "name"),
            ("server-name", "mx.n.test"),
            ("dane", "none"),
            ("mode", "enforce"),
        ],
    ];
    for fields in outbound {
        go(&mut browser, "#/contoso/new/outbound");
        browser.wait_for_text("New connector: mail to a partner");
        save(&mut browser, fields);
        browser.wait_for_text(fields[0].1);
    }
    let text = std::fs::read_to_string(bed.folder().join("contoso.json")).expect("rules");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let requires = |number: usize| document["connectors"][number]["require"].clone();
    assert_eq!(requires(0), json!({"tls": true}), "{text}");
    assert_eq!(
        requires(1),
        json!({"tls": true, "certificate-names": ["mail.fabrikam.com"]})
    );
    assert_eq!(
        requires(2),
        json!({"source-ips": ["203.0.113.0/24", "198.51.100.7"]})
    );
    assert_eq!(
        document["connectors"][3]["from"],
        json!({"sender-domains": ["*"], "recipient-domains": ["filtered.contoso.com"]})
    );
    assert_eq!(
        document["connectors"][4]["from"],
        json!({"sender-ips": ["127.0.0.5"]})
    );
    assert_eq!(
        document["connectors"][5]["route"],
        json!({"smart-hosts": ["mx.o.test:2525"]})
    );
    assert_eq!(
        document["connectors"][6]["tls"],
        json!({"level": "encrypt"})
    );
    assert_eq!(
        document["connectors"][7]["tls"],
        json!({"level": "verify", "min-version": "TLSv1.3"})
    );
    assert_eq!(
        document["connectors"][8]["tls"],
        json!({"level": "name", "names": ["mx.n.test"]})
    );
    assert_eq!(document["connectors"][8]["dane"], "none");
    // And they hold.
    assert_eq!(
        [
            rcpt(&bed, "a@contosobank.com"),
            rcpt(&bed, "a@elsewhere.test")
        ],
        [550, 250]
    );
    assert_eq!(browser.wrongs(), [""; 0]);
}

#[test]
fn what_is_wrong_is_told_before_it_is_saved() {
    let bed = TestBed::start(config(RULES));
    let mut browser = opened(&bed, &["--name", "alice"]);
    browser.wait_for_text("To Contoso Bank");
    go(&mut browser, "#/contoso/new/inbound");
    browser.fill("#field-name", "Again");
    browser.fill("#field-from", "*.contosobank.com");
    browser.choose("#field-mode", "enforce");
    browser.wait_for_text("Contoso Bank");
    browser.wait("document.querySelector('form button.main').disabled");
    browser.picture("duplicate");
    browser.fill("#field-from", "not a domain");
    browser.wait("document.querySelector('#field-from-problems')");
    assert_eq!(
        browser.eval("document.querySelector('#field-from').getAttribute('aria-invalid')"),
        "true"
    );
    browser.fill("#field-from", "tailspin.com");
    browser.wait("!document.querySelector('form button.main').disabled");
    let text = std::fs::read_to_string(bed.folder().join("contoso.json")).expect("rules");
    assert_eq!(text, RULES, "nothing is saved by typing");
    assert_eq!(browser.wrongs(), [""; 0]);
}

#[test]
fn the_old_rules_hold_until_a_change_is_saved_and_come_back() {
    let bed = TestBed::start(config(RULES));
    let mut browser = opened(&bed, &["--name", "alice"]);
    browser.wait_for_text("To Contoso Bank");
    assert_eq!(rcpt(&bed, "a@tailspin.com"), 250);
    go(&mut browser, "#/contoso/decisions");
    browser.wait_for_text("a@tailspin.com");
    go(&mut browser, "#/contoso/connector/Contoso%20Bank");
    browser.fill("#field-from", "*.contosobank.com\ntailspin.com");
    // What it would have done to the mail that came.
    browser.wait_for_text("would be refused, and were accepted");
    assert_eq!(rcpt(&bed, "a@tailspin.com"), 250);
    browser.wait("!document.querySelector('form button.main').disabled");
    browser.click("form button.main");
    browser.wait("document.querySelector('dialog[open]')");
    browser.picture("save");
    browser.fill("#comment", "agreed by phone");
    browser.wait("!document.querySelector('dialog button.main').disabled");
    browser.click("dialog button.main");
    browser.wait_for_text("Saved as version 2, and in force");
    assert_eq!(rcpt(&bed, "a@tailspin.com"), 550);
    go(&mut browser, "#/contoso/history");
    browser.wait_for_text("agreed by phone");
    browser.click_text("button", "Bring back 1");
    browser.wait_for_text("Saved as version 3, and in force");
    assert_eq!(rcpt(&bed, "a@tailspin.com"), 250);
    let text = std::fs::read_to_string(bed.folder().join("contoso.json")).expect("rules");
    assert_eq!(text, RULES);
    assert_eq!(browser.wrongs(), [""; 0]);
}

#[test]
fn decisions_appear_as_they_are_made_and_open_to_their_reasons() {
    let bed = TestBed::start(config(RULES));
    let mut browser = opened(&bed, &["--name", "alice"]);
    browser.wait_for_text("To Contoso Bank");
    go(&mut browser, "#/contoso/decisions");
    bed.wait_for_log("watching decisions");
    let swaks = std::process::Command::new("swaks")
        .args([
            "--server",
            &bed.address().to_string(),
            "--from",
            "alice@contosobank.com",
            "--to",
            "bob@contoso.com",
        ])
        .output()
        .unwrap_or_else(portcullis_tests::programs::missing("swaks"));
    assert!(!swaks.status.success(), "it is refused");
    browser.wait_for_text("alice@contosobank.com");
    browser.wait_for_text("Contoso Bank (tls)");
    browser.click("td.time button");
    browser.wait_for_text("The mail is refused.");
    let text = browser.text();
    assert!(text.contains("Contoso Bank enforced applies"), "{text}");
    browser.picture("decision");
    browser.click_text("button", "Change the facts and ask again");
    browser.choose("#if-tls", "TLSv1.3");
    browser.click("form button.main");
    browser.wait_for_text("The mail is accepted.");
    assert_eq!(browser.wrongs(), [""; 0]);
}

#[test]
fn texts_of_others_stay_texts() {
    let name = "<img src=x onerror=alert(1)> ' \\\" </script>";
    let rules = format!(
        r#"{{"connectors": [{{"name": "{name}", "direction": "inbound", "from": {{"recipient-domains": ["contoso.com"]}},
            "require": {{"certificate-names": ["x.test"]}}, "comment": "<b>bold</b>", "reply": {{"text": "<script>alert(2)</script>"}}}}]}}"#
    );
    let bed = TestBed::start(config(&rules));
    assert_eq!(rcpt(&bed, "\"<svg onload=alert(3)>\"@evil.test"), 550);
    let mut browser = opened(&bed, &["--name", "<u>alice</u>"]);
    browser.wait_for_text("<img src=x onerror=alert(1)>");
    browser.wait_for_text("<u>alice</u>");
    browser.click("td a");
    browser.wait_for_text("refuses mail");
    go(&mut browser, "#/contoso/decisions");
    browser.wait_for_text("<svg onload=alert(3)>");
    browser.click("td.time button");
    browser.wait_for_text("<script>alert(2)</script>");
    assert_eq!(browser.eval("document.querySelectorAll('#app img:not([alt=\"\"]), #app svg, #app script, #app b, #app u').length"), 0);
    assert_eq!(browser.wrongs(), [""; 0]);
}

#[test]
fn administrators_see_their_own_tenant_and_readers_change_nothing() {
    let two = config(RULES).tenant(
        "fabrikam.com",
        &RULES.replace("Contoso Bank", "Fabrikam Bank"),
    );
    let bed = TestBed::start(two);
    let mut browser = opened(
        &bed,
        &["--name", "c", "--scope", "tenant", "--tenant", "contoso"],
    );
    browser.wait_for_text("To Contoso Bank");
    assert!(!browser.text().contains("fabrikam"));
    go(&mut browser, "#/fabrikam/connectors");
    browser.wait_for_text("This token is for no tenant that the server has.");
    let mut browser = opened(
        &bed,
        &["--name", "f", "--scope", "tenant", "--tenant", "fabrikam"],
    );
    browser.wait_for_text("To Fabrikam Bank");
    assert!(!browser.text().contains("Contoso Bank"));
    let mut browser = opened(&bed, &["--name", "r", "--scope", "read"]);
    browser.wait_for_text("This token is for reading only.");
    assert!(!browser.text().contains("Mail from a partner"));
    go(&mut browser, "#/contoso/connector/Contoso%20Bank");
    browser.wait("document.querySelector('#field-name')");
    browser.wait("document.querySelector('form button.main').disabled");
    assert_eq!(
        browser.eval("document.querySelector('#field-name').matches(':disabled')"),
        true
    );
    // A token that is over shows nothing.
    let mut browser = opened(&bed, &["--name", "old", "--expires", "1ms"]);
    browser.wait_for_text("the token has expired");
    assert!(!browser.text().contains("Contoso"));
}

#[test]
fn a_partner_is_tried_out_live() {
    let pki = Pki::new();
    let more = ADMIN.replace("admin.sock", "127.0.0.1:0");
    let setting = Setting::start(pki, LEVELS, &[LEVEL_RECORDS], &more);
    let identity = setting.pki.trusted(&["mx.partner.test"]);
    let server = MockServer::start_at(setting.address(2), Behaviour::with(&identity));
    let mut browser = opened(&setting.daemon, &["--name", "alice"]);
    browser.wait_for_text("to name");
    for (is_healthy, text) in [
        (true, "Mail would be delivered."),
        (false, "Mail would not be delivered."),
    ] {
        if !is_healthy {
            server.behave(Behaviour::default());
        }
        go(&mut browser, "#/contoso/connector/to%20name");
        // What comes late moves the button, under the mouse as well.
        for late in [
            "No problems.",
            "Nothing is remembered yet to try it on.",
            "Nothing.",
        ] {
            browser.wait_for_text(late);
        }
        browser.click_text("button", "Try it out");
        browser.wait_for_text(text);
        browser.picture(if is_healthy {
            "validation"
        } else {
            "validation-failed"
        });
        let found = browser.inaccessible();
        assert!(found.is_empty(), "{found:#?}");
        go(&mut browser, "#/contoso/connectors");
        browser.wait_for_text(if is_healthy {
            "works"
        } else {
            "would not work"
        });
    }
    assert_eq!(browser.wrongs(), [""; 0]);
}

#[test]
fn an_export_is_looked_at_and_taken_over() {
    let bed = TestBed::start(config(EMPTY));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("exchange.json");
    let export = json!({"InboundConnector": [{"Name": "Bank", "Enabled": true, "ConnectorType": "Partner", "SenderDomains": ["smtp:bank.test;1"], "RequireTls": true}], "OutboundConnector": []});
    std::fs::write(&file, export.to_string()).expect("a file");
    let mut browser = opened(&bed, &["--name", "alice"]);
    browser.wait_for_text("There is no connector yet.");
    browser.click_text("button", "Import");
    browser.wait("document.querySelector('dialog[open] input[type=file]')");
    browser.choose_file("dialog input[type=file]", &file);
    browser.wait_for_text("inbound \"Bank\"");
    browser.picture("import");
    browser.click_text("dialog button", "Add 1 connectors");
    browser.wait_for_text("from bank.test");
    assert_eq!(rcpt(&bed, "a@bank.test"), 550);
    assert_eq!(browser.wrongs(), [""; 0]);
}

#[test]
fn keys_lead_to_each_place() {
    let bed = TestBed::start(config(RULES));
    let mut browser = opened(&bed, &["--name", "alice"]);
    browser.wait_for_text("To Contoso Bank");
    for (key, text) in [
        ("2", "What would happen to a message"),
        ("3", "Live"),
        ("4", "Every version"),
        ("1", "2 connectors"),
    ] {
        browser.key(key, u32::from(key.as_bytes()[0]), key);
        browser.wait_for_text(text);
    }
    browser.key("/", 191, "/");
    browser.wait("document.activeElement.matches('[data-search]')");
    browser.eval("document.activeElement.value = ''");
    browser.fill("[data-search]", "to contoso");
    browser.wait_for_text("1 connectors");
}

#[test]
fn the_demo_needs_no_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page");
    let output = portcullis_tests::run(&["demo", &page.to_string_lossy()], b"");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut server = std::process::Command::new("python3")
        .args([
            "-u",
            "-m",
            "http.server",
            "--bind",
            "127.0.0.1",
            "0",
            "--directory",
        ])
        .arg(&page)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap_or_else(portcullis_tests::programs::missing("python3"));
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
        server.stdout.take().expect("a pipe"),
    ));
    let line = lines.next().expect("a line").expect("text");
    let url = line
        .split(['(', ')'])
        .nth(1)
        .expect("an address")
        .to_owned();
    let mut browser = Browser::start();
    browser.open(&url);
    browser.wait_for_text("6 connectors");
    browser.picture("demo");
    go(&mut browser, "#/contoso/decisions");
    browser.wait_for_text("alice@contosobank.com");
    go(&mut browser, "#/contoso/new/inbound");
    save(
        &mut browser,
        &[("name", "Northwind"), ("from", "northwind.example")],
    );
    browser.wait_for_text("Northwind");
    assert_eq!(browser.wrongs(), [""; 0]);
    server.kill().expect("the server ends");
    server.wait().expect("the server ends");
}
