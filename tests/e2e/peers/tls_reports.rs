//! Reports of TLS (RFC 8460): tlsrpt-collectd is told what became of handshakes, and tlsrpt-reportd makes reports of it.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use portcullis_tests::metrics::{self, METRICS};
use portcullis_tests::outbound::{SHORT_TIMEOUTS, Setting};
use portcullis_tests::pki::Identity;
use portcullis_tests::tlsrpt::Collector;
use portcullis_tests::{Action, Behaviour, Https, MockServer, NO_RULES, Pki, Step};
use serde_json::{Value, json};

const RULES: &str = r#"{"connectors": [
    {"name": "named", "direction": "outbound", "to": {"recipient-domains": ["named.test"]},
     "tls": {"level": "name", "names": ["mail.bank.test"]}}
]}"#;

/// A domain whose mail exchanger is at 127.0.0.`host`, and which wants reports.
fn records(domain: &str, host: u8) -> String {
    format!(
        "{domain}. MX 10 mx.{domain}.
         mx.{domain}. A 127.0.0.{host}
         _smtp._tls.{domain}. TXT \"v=TLSRPTv1; \" \"rua=mailto:reports@{domain}\"\n"
    )
}

/// The record by which a domain asks for an MTA-STS policy to be fetched.
fn sts_records(domain: &str) -> String {
    format!(
        "_mta-sts.{domain}. TXT \"v=STSv1; id=1;\"
         mta-sts.{domain}. A 127.0.0.1\n"
    )
}

/// With a collector at that socket, and metrics.
fn more(socket: &Path) -> String {
    format!("{SHORT_TIMEOUTS}\n{METRICS}\n[delivery]\ntlsrpt-socket = {socket:?}\n")
}

fn metric(setting: &Setting, outcome: &str) -> u64 {
    let sample = format!("portcullis_tls_reports_total{{outcome={outcome:?}}}");
    metrics::value(&setting.daemon, &sample).unwrap_or_default()
}

/// What the collector has of a domain, each policy once: its number, successes, failures, and the numbers of results.
fn rows_of(rows: &[Value], domain: &str) -> Value {
    let of_domain = rows.iter().filter(|row| row["domain"] == domain);
    let short = of_domain.map(|row| {
        let failures = row["failures"].as_array().expect("a list").iter();
        let codes: Vec<&Value> = failures.map(|failure| &failure["c"]).collect();
        json!([
            row["policy"]["policy-type"],
            row["total"],
            row["failed"],
            codes
        ])
    });
    short.collect()
}

/// Of each policy in a report, its kind, the sessions that succeeded, those that failed, and the results of these.
fn summary(report: &Value) -> Value {
    let policies = report["policies"].as_array().expect("a list").iter();
    let short = policies.map(|policy| {
        let details = policy["failure-details"].as_array().expect("a list").iter();
        let results: Vec<Value> = details
            .map(|detail| json!([detail["result-type"], detail["failed-session-count"]]))
            .collect();
        json!([
            policy["policy"]["policy-type"],
            policy["summary"]["total-successful-session-count"],
            policy["summary"]["total-failure-session-count"],
            results,
        ])
    });
    short.collect()
}

fn start(setting: &Setting, host: u8, identity: Option<&Identity>) -> MockServer {
    let behaviour = identity.map(Behaviour::with).unwrap_or_default();
    MockServer::start_at(setting.address(host), behaviour)
}

/// Its policy names these servers.
fn policy(mode: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("mx: {name}\r\n")).collect();
    format!(
        "version: STSv1\r\nmode: {mode}\r\n{}max_age: 86400\r\n",
        names.concat()
    )
}

#[test]
fn each_domain_is_told_what_became_of_tls_with_it() {
    let mut collector = Collector::start();
    let pki = Pki::new();
    let dane = Pki::self_signed(&["mx.dane.test"]);
    let both = pki.trusted(&["mx.both.test"]);
    let any = Pki::self_signed(&["any.test"]);
    let other = pki.trusted(&["mx.other.test"]);
    let old_tls = Behaviour {
        old_tls: true,
        ..Behaviour::with(&any)
    };
    let none = Behaviour::default;
    let with = Behaviour::with;
    let successful = |kind| json!([[kind, 1, 0, []]]);
    let failed = |kind, result| json!([[kind, 0, 1, [[result, 1]]]]);
    // A domain, its server, what its sender is told, and what its report says.
    let partners = [
        (
            "opportunistic.test",
            with(&any),
            "250 ",
            successful("no-policy-found"),
        ),
        (
            "plaintext.test",
            none(),
            "250 ",
            failed("no-policy-found", "starttls-not-supported"),
        ),
        // In plaintext, at last.
        (
            "broken.test",
            old_tls,
            "250 ",
            failed("no-policy-found", "validation-failure"),
        ),
        // What our own connector demands is no fault of the partner's.
        (
            "named.test",
            with(&other),
            "451 4.7.",
            successful("no-policy-found"),
        ),
        ("dane.test", with(&dane), "250 ", successful("tlsa")),
        (
            "forged.test",
            with(&any),
            "451 4.7.",
            failed("tlsa", "tlsa-invalid"),
        ),
        (
            "stripped.test",
            none(),
            "451 4.7.",
            failed("tlsa", "starttls-not-supported"),
        ),
        (
            "sts.test",
            with(&pki.trusted(&["mx.sts.test"])),
            "250 ",
            successful("sts"),
        ),
        (
            "mismatch.test",
            with(&other),
            "451 4.7.",
            failed("sts", "certificate-host-mismatch"),
        ),
        (
            "expired.test",
            with(&pki.expired(&["mx.expired.test"])),
            "451 4.7.",
            failed("sts", "certificate-expired"),
        ),
        (
            "untrusted.test",
            with(&Pki::self_signed(&["mx.untrusted.test"])),
            "451 4.7.",
            failed("sts", "certificate-not-trusted"),
        ),
        // Its own policy does not name its server.
        (
            "unnamed.test",
            with(&any),
            "451 4.7.",
            failed("sts", "validation-failure"),
        ),
        (
            "both.test",
            with(&both),
            "250 ",
            json!([["tlsa", 1, 0, []], ["sts", 1, 0, []]]),
        ),
    ];
    let with_policy = ["sts", "mismatch", "expired", "untrusted", "unnamed", "both"];
    let hosts = with_policy.map(|name| format!("mta-sts.{name}.test"));
    let https = Https::start(
        &pki.trusted(&hosts.each_ref().map(String::as_str)),
        &policy(
            "enforce",
            &[
                "*.sts.test",
                "mx.mismatch.test",
                "mx.expired.test",
                "mx.untrusted.test",
                "mx.both.test",
            ],
        ),
    );
    let mut zone = String::from("quiet.test. MX 10 mx.opportunistic.test.\n");
    for ((domain, ..), host) in partners.iter().zip(2..) {
        zone.push_str(&records(domain, host));
    }
    for name in with_policy {
        zone.push_str(&sts_records(&format!("{name}.test")));
    }
    for (name, digest) in [
        ("dane", dane.sha256()),
        ("both", both.sha256()),
        ("forged", "ab".repeat(32)),
        ("stripped", "cd".repeat(32)),
    ] {
        zone.push_str(&format!(
            "_{{port}}._tcp.mx.{name}.test. TLSA 3 0 1 {digest}\n"
        ));
    }
    let more = format!(
        "{}mta-sts-port = {}",
        more(&collector.socket()),
        https.address.port()
    );
    let setting = Setting::start(pki, RULES, &[&zone], &more);
    let mut servers = Vec::new();
    for ((_, behaviour, ..), host) in partners.iter().zip(2..) {
        servers.push(MockServer::start_at(
            setting.address(host),
            behaviour.clone(),
        ));
    }

    // It wants no reports.
    assert!(setting.send("b@quiet.test").is_delivered());
    for (domain, _, expected, _) in &partners {
        let text = setting.send(&format!("b@{domain}")).text();
        assert!(text.starts_with(expected), "{domain}: {text}");
    }
    // The connection is still there: no handshake, no datagram.
    let connections = servers[0].connections();
    assert!(setting.send("c@opportunistic.test").is_delivered());
    assert_eq!(servers[0].connections(), connections);

    let rows = collector.wait_for(partners.len());
    let domains = partners.each_ref().map(|(domain, ..)| *domain);
    for row in &rows {
        let domain = row["domain"].as_str().expect("a domain");
        assert!(domains.contains(&domain), "{row:#}");
        assert_eq!(
            row["record"],
            format!("v=TLSRPTv1; rua=mailto:reports@{domain}")
        );
        assert_eq!(row["total"], 1, "{row:#}");
    }
    assert_eq!(rows_of(&rows, "sts.test"), json!([[2, 1, 0, []]]));
    assert_eq!(rows_of(&rows, "mismatch.test"), json!([[2, 1, 1, [202]]]));
    setting.wait_until(|setting| metric(setting, "told") == partners.len() as u64);
    assert_eq!(metric(&setting, "lost"), 0);

    let reports = collector.reports(&domains);
    for (report, (domain, .., expected)) in reports.iter().zip(&partners) {
        assert_eq!(&summary(report), expected, "{domain}: {report:#}");
        assert_eq!(report["organization-name"], "Contoso");
    }
    let of = |domain: &str| {
        let number = domains.iter().position(|it| *it == domain);
        &reports[number.expect("a domain")]["policies"][0]
    };
    // RFC 8460 section 4.4.
    let policy = &of("dane.test")["policy"];
    assert_eq!(policy["policy-domain"], "mx.dane.test", "{policy}");
    let record = format!("3 0 1 {}", dane.sha256());
    assert_eq!(policy["policy-string"], json!([record]));
    let policy = &of("sts.test")["policy"];
    assert_eq!(policy["policy-domain"], "sts.test", "{policy}");
    assert_eq!(policy["mx-host"][0], "*.sts.test", "{policy}");
    let lines = policy["policy-string"].as_array().expect("a list");
    assert_eq!(
        lines[..3],
        [
            json!("version: STSv1"),
            json!("mode: enforce"),
            json!("mx: *.sts.test")
        ]
    );
    assert_eq!(lines.last(), Some(&json!("max_age: 86400")));
    let number = domains.iter().position(|it| *it == "mismatch.test");
    let host = 2 + number.expect("a domain");
    let detail = &of("mismatch.test")["failure-details"][0];
    assert_eq!(
        detail["receiving-mx-hostname"], "mx.mismatch.test",
        "{detail}"
    );
    assert_eq!(
        detail["receiving-ip"],
        format!("127.0.0.{host}"),
        "{detail}"
    );
    assert_eq!(detail["sending-mta-ip"], "127.0.0.1", "{detail}");
    // Nobody was connected to, but whom it is about is known.
    let detail = &of("unnamed.test")["failure-details"][0];
    assert_eq!(
        detail["receiving-mx-hostname"], "mx.unnamed.test",
        "{detail}"
    );
}

/// A policy in testing mode holds no mail up, and its domain is told what would have.
#[test]
fn a_policy_in_testing_mode_is_reported_and_not_enforced() {
    let mut collector = Collector::start();
    let pki = Pki::new();
    let https = Https::start(
        &pki.trusted(&[
            "mta-sts.right.test",
            "mta-sts.wrong.test",
            "mta-sts.elsewhere.test",
        ]),
        &policy("testing", &["mx.right.test", "mx.wrong.test"]),
    );
    let zone: String = [("right.test", 2), ("wrong.test", 3), ("elsewhere.test", 4)]
        .map(|(domain, host)| records(domain, host) + &sts_records(domain))
        .concat();
    let more = format!(
        "{}mta-sts-port = {}",
        more(&collector.socket()),
        https.address.port()
    );
    let setting = Setting::start(pki, NO_RULES, &[&zone], &more);
    let right = setting.pki.trusted(&["mx.right.test"]);
    let elsewhere = setting.pki.trusted(&["mx.elsewhere.test"]);
    let _right = start(&setting, 2, Some(&right));
    let _wrong = start(&setting, 3, Some(&right));
    // Its certificate is right, but the policy does not name it.
    let _elsewhere = start(&setting, 4, Some(&elsewhere));
    for domain in ["right.test", "wrong.test", "elsewhere.test"] {
        let outcome = setting.send(&format!("b@{domain}"));
        assert!(outcome.is_delivered(), "{domain}: {}", outcome.text());
    }
    let rows = collector.wait_for(3);
    assert_eq!(
        rows_of(&rows, "right.test"),
        json!([[2, 1, 0, []]]),
        "{rows:#?}"
    );
    assert_eq!(
        rows_of(&rows, "wrong.test"),
        json!([[2, 1, 1, [202]]]),
        "{rows:#?}"
    );
    assert_eq!(
        rows_of(&rows, "elsewhere.test"),
        json!([[2, 1, 1, [205]]]),
        "{rows:#?}"
    );
}

/// RFC 8460 section 4.3.2.2: a policy that is published and cannot be had binds nobody, and its domain is told.
#[test]
fn a_policy_that_cannot_be_had_is_reported() {
    let mut collector = Collector::start();
    let pki = Pki::new();
    let https = Https::start(
        &pki.trusted(&["mta-sts.absent.test", "mta-sts.garbled.test"]),
        "version: STSv1\r\n",
    );
    let zone: String = [
        ("garbled.test", 2),
        ("stranger.test", 3),
        ("absent.test", 4),
    ]
    .map(|(domain, host)| records(domain, host) + &sts_records(domain))
    .concat();
    let more = format!(
        "{}mta-sts-port = {}",
        more(&collector.socket()),
        https.address.port()
    );
    let setting = Setting::start(pki, NO_RULES, &[&zone], &more);
    let any = Pki::self_signed(&["any.test"]);
    let _servers = [2, 3, 4].map(|host| start(&setting, host, Some(&any)));
    for domain in ["garbled.test", "stranger.test", "absent.test"] {
        if domain == "absent.test" {
            https.respond("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
        let outcome = setting.send(&format!("b@{domain}"));
        assert!(outcome.is_delivered(), "{domain}: {}", outcome.text());
    }
    let rows = collector.wait_for(3);
    for (domain, code) in [
        ("absent.test", 301),
        ("garbled.test", 302),
        // The certificate of its policy's server is for other names.
        ("stranger.test", 303),
    ] {
        let told = rows.iter().any(|row| {
            row["domain"] == domain
                && row["policy"]["policy-type"] == 2
                && row["failures"][0]["c"] == code
        });
        assert!(told, "{domain}: {rows:#?}");
    }
}

/// A collector that is not there, or does not read, costs no mail.
#[test]
fn a_collector_that_takes_nothing_costs_no_mail() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let zone = records("bank.test", 2) + &records("shop.test", 3);
    let setting = Setting::start(Pki::new(), NO_RULES, &[&zone], &more(&socket));
    let any = Pki::self_signed(&["any.test"]);
    let _bank = start(&setting, 2, Some(&any));
    let _shop = start(&setting, 3, Some(&any));
    assert!(setting.send("b@bank.test").is_delivered());
    setting.wait_until(|setting| metric(setting, "lost") == 1);
    setting
        .daemon
        .wait_for_log("the collector of TLS reports does not take one");

    let reader = UnixDatagram::bind(&socket).expect("a socket");
    // One sender may have fewer datagrams under way than there is room for.
    let senders: Vec<UnixDatagram> = std::iter::from_fn(|| {
        let sender = UnixDatagram::unbound().expect("a socket");
        sender
            .set_nonblocking(true)
            .expect("a socket that does not wait");
        let mut sent = 0;
        while sender.send_to(b"{}", &socket).is_ok() {
            sent += 1;
        }
        (sent > 0).then_some(sender)
    })
    .collect();
    assert!(setting.send("b@shop.test").is_delivered());
    setting.wait_until(|setting| metric(setting, "lost") == 2);
    assert_eq!(metric(&setting, "told"), 0);
    drop((senders, reader));
}

/// A server that says no to STARTTLS, or whose DANE records are forged, has failed as one without it has.
#[test]
fn what_keeps_from_a_server_is_reported_as_well() {
    let mut collector = Collector::start();
    let zone = records("declines.test", 2) + &records("bogus.test", 3);
    let record = "_{port}._tcp.mx.bogus.test. TLSA 3 0 1 ".to_owned() + &"ab".repeat(32);
    let setting = Setting::start(
        Pki::new(),
        NO_RULES,
        &[&zone, &record],
        &more(&collector.socket()),
    );
    let name = format!("_{}._tcp.mx.bogus.test.", setting.port);
    setting.dns.break_signatures(&name);
    let any = Pki::self_signed(&["any.test"]);
    let behaviour = Behaviour::with(&any).but(Step::StartTls, Action::Say("454 4.7.0 not now\r\n"));
    let _declines = MockServer::start_at(setting.address(2), behaviour);
    let bogus = start(&setting, 3, Some(&any));
    let text = setting.send("b@declines.test").text();
    assert!(text.starts_with("250 "), "{text}");
    let text = setting.send("b@bogus.test").text();
    assert!(text.starts_with("451 4.7."), "{text}");
    assert!(bogus.commands().is_empty());
    let rows = collector.wait_for(2);
    assert_eq!(
        rows_of(&rows, "declines.test"),
        json!([[9, 1, 1, [201]]]),
        "{rows:#?}"
    );
    assert_eq!(
        rows_of(&rows, "bogus.test"),
        json!([[1, 1, 1, [305]]]),
        "{rows:#?}"
    );
}
