//! Which numbers there are: from the beginning, and of which tenants.

use portcullis_tests::{Client, Config, Listener, NO_RULES, TestBed, metrics};

fn start(tenants: &str) -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant_with("contoso", &["contoso.com"], "rules.json")
        .file("rules.json", NO_RULES)
        .with(&format!(
            "[metrics]\naddress = \"127.0.0.1:0\"\ntenants = {tenants:?}"
        ));
    TestBed::start(config)
}

fn decide(bed: &TestBed) {
    let code = Client::recipient(bed.address(), "a@example.org", "bob@contoso.com");
    assert_eq!(code, 250);
}

#[test]
fn what_can_happen_is_there_before_it_does() {
    let bed = start("all");
    for sample in [
        "portcullis_messages_total{outcome=\"deferred\"}",
        "portcullis_recipients_refused_total{reason=\"relay-denied\"}",
        "portcullis_connections_rejected_total{outcome=\"sessions\"}",
        "portcullis_next_hop_connections_total{outcome=\"failed\"}",
        "portcullis_logins_total{outcome=\"refused\"}",
        "portcullis_tenants_stale",
        "portcullis_policy_stale{tenant=\"contoso\"}",
        "portcullis_evaluation_seconds_count",
    ] {
        assert_eq!(metrics::value(&bed, sample), Some(0), "{sample}");
    }
    assert_eq!(metrics::value(&bed, "portcullis_ready"), Some(1));
    assert_eq!(metrics::value(&bed, "portcullis_tenants"), Some(1));
    assert!(metrics::value(&bed, "process_open_fds").is_some_and(|it| it > 5));
    assert!(metrics::value(&bed, "process_resident_memory_bytes").is_some_and(|it| it > 1 << 20));
    let instances = metrics::value(&bed, "portcullis_sandbox_instances_limit");
    assert!(instances.is_some_and(|it| it > 0));
    let text = metrics::read(&bed);
    assert!(text.contains("portcullis_build_info{version=\""), "{text}");
    decide(&bed);
    assert_eq!(
        metrics::value(&bed, "portcullis_evaluation_seconds_count"),
        Some(1)
    );
}

#[test]
fn tenants_have_numbers_of_their_own_as_far_as_that_is_wanted() {
    let of_contoso = "{tenant=\"contoso\"}";
    let decisions = |tenant: &str| {
        format!("portcullis_decisions_total{{tenant={tenant:?},verdict=\"accept\",failed=\"\"}}")
    };
    for (tenants, named, stale_before, stale_while) in [
        ("all", "contoso", Some(0), Some(1)),
        ("failing", "", None, Some(1)),
        ("none", "", None, None),
    ] {
        let bed = start(tenants);
        let stale = || metrics::value(&bed, &format!("portcullis_policy_stale{of_contoso}"));
        let number = || metrics::value(&bed, "portcullis_tenants_stale");
        decide(&bed);
        assert_eq!(
            metrics::value(&bed, &decisions(named)),
            Some(1),
            "{tenants}"
        );
        assert_eq!((stale(), number()), (stale_before, Some(0)), "{tenants}");
        bed.replace("rules.json", b"nothing");
        bed.wait_for_log("new policy rejected");
        assert_eq!((stale(), number()), (stale_while, Some(1)), "{tenants}");
        let loaded = bed.count_log("policy loaded");
        bed.replace(
            "rules.json",
            b"{\"connectors\": [], \"accepted-domains\": [\"contoso.com\"]}",
        );
        bed.wait_for_log_times("policy loaded", loaded + 1);
        assert_eq!((stale(), number()), (stale_before, Some(0)), "{tenants}");
    }
}
