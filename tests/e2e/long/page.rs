//! The page with very much in it. The figures are printed, and nothing depends on them.

use std::process::Command;

use portcullis_tests::admin::{ADMIN, token, url};
use portcullis_tests::{Browser, Client, Config, Listener, TestBed, programs};
use serde_json::json;

/// A million decisions on 20,000 different facts, written into the file of a server that has ended.
const FILL: &str = r#"
import json, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1])
tenant, = db.execute("SELECT id FROM tenant WHERE name = 'contoso'").fetchone()
now = int(time.time() * 1000)
db.execute("UPDATE tenant SET complete_since = 0")
for n in range(20000):
    context = json.dumps({"direction": "inbound", "client-ip": f"192.0.{n // 250 % 250}.{n % 250}", "mail-from": f"a@p{n % 10000}.test",
                          "rcpt-to": "b@contoso.com", "tls": {"version": "TLSv1.3"}})
    verdict = json.dumps({"verdict": "accept", "connectors": [f"Partner {n % 10000}"], "audit": []})
    then = now - n * 60000
    flow = db.execute("INSERT INTO flow (tenant, day, key, plain, policy, context, verdict, first, last, count) VALUES (?, ?, ?, 0, NULL, ?, ?, ?, ?, 50)",
                      (tenant, then // 86400000, n.to_bytes(16, "big"), context, verdict, then, then)).lastrowid
    db.execute("INSERT INTO decision VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (tenant, 100 + 20000 - n, then, flow, "s", f"t{n}.1", f"a@p{n % 10000}.test", "b@contoso.com", "192.0.2.1"))
    db.execute("INSERT OR REPLACE INTO connector VALUES (?, ?, ?, 100, 0, 0, 0, ?)", (tenant, f"Partner {n % 10000}", then // 86400000, then))
db.commit()
"#;

#[test]
fn a_page_of_ten_thousand_connectors_and_a_million_decisions() {
    let connectors: Vec<_> = (0..10_000)
        .map(|number| {
            json!({"name": format!("Partner {number}"), "direction": "inbound",
                "from": {"sender-domains": [format!("p{number}.test")]}, "require": {"tls": true}})
        })
        .collect();
    let rules = json!({"accepted-domains": ["contoso.com"], "connectors": connectors});
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant(
            "contoso.com",
            &serde_json::to_string_pretty(&rules).expect("JSON"),
        )
        .with(&ADMIN.replace("admin.sock", "127.0.0.1:0"));
    let mut bed = TestBed::start(config);
    bed.wait_for_log("policy loaded");
    let mut client = Client::greeted(bed.address());
    client.hello(false, None);
    assert_eq!(
        client.envelope("a@elsewhere.test", "b@contoso.com").code,
        250
    );
    client.quit();
    let folder = bed.folder().join("state/portcullis");
    let file = || {
        let mut files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        files.find_map(|file| {
            let path = file.path();
            path.extension()
                .is_some_and(|it| it == "sqlite")
                .then_some(path)
        })
    };
    bed.signal("TERM");
    bed.wait();
    let file = file().expect("a file of decisions");
    let filled = Command::new("python3")
        .args(["-c", FILL])
        .arg(&file)
        .status();
    assert!(
        filled
            .unwrap_or_else(programs::missing("python3"))
            .success()
    );
    bed.restart();
    let url = url(&bed);
    bed.wait_for_log("policy loaded");
    let token = token(&bed, &["--name", "alice"]);
    let mut browser = Browser::start();
    browser.open(&format!("{url}#token={token}"));
    browser.wait_for_text("100 of 10000 connectors");
    let opened = |browser: &mut Browser| {
        browser.send("Page.reload", json!({}));
        browser.wait("document.body?.innerText?.includes('of 10000 connectors')");
        browser.eval("performance.now()").as_f64().expect("a time")
    };
    let mut times: Vec<f64> = (0..5).map(|_| opened(&mut browser)).collect();
    times.sort_by(f64::total_cmp);
    eprintln!(
        "the page opens within {:.0} ms (of five, the third)",
        times[2]
    );
    browser.eval("location.hash = '#/contoso/new/inbound'");
    browser.fill("#field-name", "New");
    let slow = "window.keys = []; document.querySelector('#field-from').addEventListener('input', () => { const begun = performance.now(); requestAnimationFrame(() => setTimeout(() => keys.push(performance.now() - begun))); }); true";
    browser.eval(slow);
    browser.eval("window.longest = 0; new PerformanceObserver((list) => { for (const it of list.getEntries()) longest = Math.max(longest, it.duration); }).observe({ entryTypes: ['longtask'] }); document.querySelector('#field-from').focus()");
    for (typed, letter) in "example.test".chars().enumerate() {
        let text = letter.to_string();
        // The key of the period is 190 (UI Events, Optionally Fixed Virtual Key Codes); 46 is Delete.
        let code = match letter {
            '.' => 190,
            letter => u32::from(letter.to_ascii_uppercase()),
        };
        browser.key(&text, code, &text);
        browser.wait(&format!("keys.length > {typed}"));
    }
    let keys = browser.eval("keys.sort((a, b) => a - b)");
    eprintln!(
        "a keystroke is answered within {:.0} ms (the median), at worst {:.0} ms",
        keys[6].as_f64().unwrap_or(0.0),
        keys[11].as_f64().unwrap_or(0.0)
    );
    browser.wait_for_text("decisions since");
    let text = browser.text();
    let effect = text
        .lines()
        .find(|line| line.contains("decisions since"))
        .unwrap_or_default();
    eprintln!("{effect}");
    let longest = browser.eval("longest").as_f64().unwrap_or(0.0);
    eprintln!("the longest task while typing and trying out: {longest:.0} ms (0: none of 50 ms)");
    let size = std::fs::metadata(&file).expect("the file").len();
    eprintln!(
        "the file of 20,000 flows and 20,000 decisions has {} MiB",
        size >> 20
    );
    assert_eq!(browser.wrongs(), [""; 0]);
}
