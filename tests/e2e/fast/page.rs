//! The page of `[admin]`, in a real browser.

use portcullis_tests::admin::{ADMIN, token};
use portcullis_tests::browser::Window;
use portcullis_tests::{Browser, Client, Config, Listener, TestBed};

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

fn address(bed: &TestBed) -> String {
    let line = bed.wait_for_log("API listening");
    let (_, address) = line.rsplit_once("admin=").expect("an address");
    address.trim().to_owned()
}

/// A browser that has opened the link of a token with these options.
fn opened(bed: &TestBed, options: &[&str]) -> Browser {
    let token = token(bed, options);
    let mut browser = Browser::start();
    browser.open(&format!("{}#token={token}", address(bed)));
    browser
}

fn rcpt(bed: &TestBed, from: &str) -> u16 {
    let mut client = Client::greeted(bed.address());
    client.hello(false, None);
    let code = client.envelope(from, "bob@contoso.com").code;
    client.quit();
    code
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
