//! What the log tells of people, as it is configured.

use std::net::{IpAddr, Ipv4Addr};

use portcullis_tests::{Action, Behaviour, Client, Daemon, Partner, Step};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

const RULES: &str = r#"{"connectors": [{"name": "closed", "direction": "inbound",
    "from": {"recipient-domains": ["closed.dest.test"]}, "require": {"tls": true}}]}"#;

fn config(hop: &Partner) -> String {
    format!(
        r#"
hostname = "mx.dest.test"
[[listener]]
address = "127.0.0.1:0"
next-hop = {{ smtp = "{}" }}
proxy-protocol = ["127.0.0.1/32"]
[[tenant]]
name = "dest"
domains = ["dest.test", "*.dest.test"]
policy = "rules.json"
[limits]
sessions-per-address = 1
"#,
        hop.address
    )
}

/// Does all that is logged with mailboxes and addresses; gives the log.
fn log_of_everything(daemon: &Daemon, hop: &Partner) -> Vec<String> {
    daemon.take_log();
    let mut client = Client::connect_as(daemon.address(), CLIENT);
    client.expect("EHLO client.example", 250);
    for (step, said, code) in [
        (
            Step::End,
            "550 5.1.1 <bob@dest.test>: no such \"bob\"@dest.test\r\n",
            550,
        ),
        (Step::Data, "421 4.3.2 not for alice@sender.test\r\n", 451),
        (Step::End, "who is bob@dest.test?\r\n", 451),
    ] {
        hop.behave(Behaviour::default().but(step, Action::Say(said)));
        hop.hang_up();
        client.expect("MAIL FROM:<alice@sender.test>", 250);
        client.expect("RCPT TO:<\"bob b\"@closed.dest.test>", 550);
        client.expect("RCPT TO:<bob@dest.test>", 250);
        let reply = client.data("Subject: x\r\n\r\nx");
        assert_eq!(reply.code, code, "{said}: {reply:?}");
    }
    assert!(
        Client::try_connect_as(daemon.address(), CLIENT).is_err(),
        "one session at a time"
    );
    client.quit();
    daemon.wait_for_log("session ends");
    daemon.take_log()
}

#[test]
fn people_are_told_of_as_far_as_is_wanted() {
    let hop = Partner::start(Behaviour::default());
    let discreet = config(&hop) + "[log]\nmailboxes = \"domain\"\nclients = \"network\"\n";
    let daemon = Daemon::start(&discreet, &[("rules.json", RULES)]);
    let told = log_of_everything(&daemon, &hop);
    let is_told = |told: &[String], word| told.iter().any(|line| line.contains(word));
    for word in ["bob", "alice", "203.0.113.7"] {
        assert!(!is_told(&told, word), "{word} is told: {told:#?}");
    }
    for word in [
        r#"from="*@sender.test" to="*@closed.dest.test""#,
        "reply=\"<*@dest.test>: no such *@dest.test",
        "turned away client=203.0.113.0/24",
    ] {
        assert!(is_told(&told, word), "{word} is not told: {told:#?}");
    }
    daemon.replace("portcullis.toml", config(&hop).as_bytes());
    daemon.wait_for_log("settings in force");
    let told = log_of_everything(&daemon, &hop);
    for word in [
        r#"from="alice@sender.test" to="\"bob b\"@closed.dest.test""#,
        "<bob@dest.test>: no such",
        "turned away client=203.0.113.7 ",
    ] {
        assert!(is_told(&told, word), "{word} is not told: {told:#?}");
    }
}
