//! TLS that ends at a balancer before us, of which the PROXY protocol tells.

use portcullis_tests::{Client, Config, Listener, TestBed};

const RULES: &str = r#"{"connectors": [
    {"name": "Encrypted", "direction": "inbound", "from": {"sender-domains": ["bank.test"]},
     "require": {"tls": {"min-version": "TLSv1.3"}}},
    {"name": "Named", "direction": "inbound", "from": {"sender-domains": ["named.test"]},
     "require": {"certificate-names": ["*.named.test"]}},
    {"name": "Pinned", "direction": "inbound", "from": {"sender-domains": ["pinned.test"]},
     "require": {"certificate-fingerprints": ["abababababababababababababababababababababababababababababababab"]}}
]}"#;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a short value");
    [&[kind][..], &length.to_be_bytes(), value].concat()
}

/// A header of version 2 from 203.0.113.7, with what it tells of TLS (HAProxy's description of the protocol, section
/// 2.2.5): flags, whether the certificate is verified (0), version and CN.
fn header(tls: Option<(u8, u32, &str, Option<&str>)>) -> Vec<u8> {
    let mut body = vec![203, 0, 113, 7, 192, 0, 2, 1, 0x9c, 0x40, 0, 25];
    if let Some((flags, verify, version, name)) = tls {
        let mut value = [
            &[flags][..],
            &verify.to_be_bytes(),
            &tlv(0x21, version.as_bytes()),
        ]
        .concat();
        if let Some(name) = name {
            value.extend(tlv(0x22, name.as_bytes()));
        }
        value.extend(tlv(0x23, b"TLS_AES_256_GCM_SHA384"));
        body.extend(tlv(0x20, &value));
    }
    let length = u16::try_from(body.len()).expect("a short header");
    [SIGNATURE, &length.to_be_bytes(), &body].concat()
}

fn start() -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir().proxied())
        .tenant("contoso.com", RULES);
    TestBed::start(config)
}

#[test]
fn what_a_balancer_tells_of_tls_is_decided_by() {
    let daemon = start();
    let reply = |tls, from: &str| {
        let mut client = Client::connect(daemon.address());
        client.send(&header(tls));
        assert_eq!(client.reply().code, 220);
        let offer = client.expect("EHLO client.example", 250);
        assert!(
            !offer.lines.iter().any(|line| line.contains("STARTTLS")),
            "{offer:?}"
        );
        let reply = client.envelope(from, "b@contoso.com");
        format!("{} {}", reply.code, reply.text())
    };
    const CONNECTED: u8 = 1;
    const SHOWN: u8 = 1 | 2 | 4;
    let new = Some((CONNECTED, 1, "TLSv1.3", None));
    let old = Some((CONNECTED, 1, "TLSv1.2", None));
    assert!(reply(new, "a@bank.test").starts_with("250 "));
    assert!(reply(old, "a@bank.test").contains("(tls-version)"));
    assert!(reply(None, "a@bank.test").contains("(tls)"));
    assert!(reply(Some((0, 1, "TLSv1.3", None)), "a@bank.test").contains("(tls)"));
    let shown = |verify, name| Some((SHOWN, verify, "TLSv1.3", name));
    assert!(reply(shown(0, Some("mx.named.test")), "a@named.test").starts_with("250 "));
    // One name is told, and others may be there: nobody is refused for good.
    for tls in [
        shown(0, Some("mx.other.test")),
        shown(0, None),
        shown(18, Some("mx.named.test")),
        new,
    ] {
        let reply = reply(tls, "a@named.test");
        assert!(reply.starts_with("451 4.7.0 "), "{tls:?}: {reply}");
    }
    assert!(reply(shown(0, Some("mx.named.test")), "a@pinned.test").starts_with("451 4.7.0 "));
    let line = daemon.wait_for_log("from=\"a@bank.test\"");
    assert!(
        line.contains("tls=\"TLSv1.3\"") && line.contains("client=203.0.113.7"),
        "{line}"
    );
}

#[test]
fn nobody_else_is_believed() {
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", RULES);
    let daemon = TestBed::start(config);
    let mut client = Client::connect(daemon.address());
    client.send(&header(Some((1, 0, "TLSv1.3", None))));
    client.send(b"EHLO client.example\r\n");
    assert_eq!(client.reply().code, 220);
    // It is no command.
    assert_eq!(client.reply().code / 100, 5);
}
