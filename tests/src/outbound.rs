//! A daemon that sends mail to partners on loopback, with a DNS of its own.

use std::net::SocketAddr;
use std::sync::Mutex;

use crate::{Client, Config, Dns, Listener, Pki, Reply, TestBed, machine};

/// What a test of outbound mail stands on.
pub struct Setting {
    /// The authority that is trusted.
    pub pki: Pki,
    /// The name server.
    pub dns: Dns,
    /// The port of all mail exchangers.
    pub port: u16,
    /// The daemon.
    pub daemon: TestBed,
}

/// What became of a message.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The reply to RCPT.
    pub rcpt: Reply,
    /// The reply to the end of the message, if it came to that.
    pub end: Option<Reply>,
}

impl Outcome {
    /// The reply that decided.
    pub fn last(&self) -> &Reply {
        self.end.as_ref().unwrap_or(&self.rcpt)
    }

    /// Whether the client was told that the partner has the message.
    pub fn is_delivered(&self) -> bool {
        self.end.as_ref().is_some_and(|reply| reply.code == 250)
    }

    /// The reply that decided, on one line.
    pub fn text(&self) -> String {
        format!("{} {}", self.last().code, self.last().lines.join(" "))
    }
}

/// Short times, so that partners who say nothing do not hold a test up.
pub const SHORT_TIMEOUTS: &str = "
    [timeouts]
    connect = \"2s\"
    reply = \"2s\"
    handshake = \"2s\"
    final-reply = \"2s\"
    data-block = \"2s\"
    route = \"20s\"
";

/// Connections that carry one message.
pub const ONCE: &str = "
    [connections]
    messages = 1
";

impl Setting {
    /// Starts a daemon with these rules (JSON) for the tenant contoso.com, these records in the DNS, and
    /// this behind the configuration (TOML tables). In the records `{port}` is the exchangers' port.
    pub fn start(pki: Pki, rules: &str, records: &[&str], more: &str) -> Setting {
        Setting::start_with(pki, rules, records, more, &[])
    }

    /// The same with files beside the configuration.
    pub fn start_with(
        pki: Pki,
        rules: &str,
        records: &[&str],
        more: &str,
        files: &[(&str, &str)],
    ) -> Setting {
        let port = machine::free_address().port();
        let records: Vec<String> = records
            .iter()
            .map(|text| text.replace("{port}", &port.to_string()))
            .collect();
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        let dns = Dns::start(&records);
        let mut config = Config::new()
            .hostname("relay.contoso.com")
            .listener(
                Listener::outbound("clients = [\"127.0.0.1\"], tenant = \"contoso\"").starttls(),
            )
            .certificate(&pki)
            .tenant_with("contoso", &["contoso.com"], "rules.json")
            .file("rules.json", rules)
            .trust(&pki)
            .dns(&dns)
            .with("[dns]\ntimeout = \"1s\"")
            .partners_here(port)
            .with(more);
        for (name, content) in files {
            config = config.file(name, content);
        }
        Setting {
            pki,
            dns,
            port,
            daemon: TestBed::start(config),
        }
    }

    /// The address of a partner: 127.0.0.`host` at the exchangers' port.
    pub fn address(&self, host: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, host], self.port))
    }

    /// A client that has said EHLO.
    pub fn client(&self) -> Client {
        self.daemon.client()
    }

    /// Sends a message of its own session to a recipient.
    pub fn send(&self, to: &str) -> Outcome {
        send(&mut self.client(), to)
    }
}

/// Sends a message to a recipient.
pub fn send(client: &mut Client, to: &str) -> Outcome {
    send_from(client, "alice@contoso.com", to)
}

/// Sends a message from a sender to a recipient.
pub fn send_from(client: &mut Client, from: &str, to: &str) -> Outcome {
    static NUMBER: Mutex<u32> = Mutex::new(0);
    let number = {
        let mut number = NUMBER.lock().unwrap();
        *number += 1;
        *number
    };
    let rcpt = client.envelope(from, to);
    let end = (rcpt.code == 250).then(|| {
        client.data(&format!(
            "Subject: test {number}\r\n\r\nid-{number}.\r\n.dot"
        ))
    });
    if end.is_none() {
        client.expect("RSET", 250);
    }
    Outcome { rcpt, end }
}

/// Rules with an outbound connector for each level: to `opportunistic.test`, `encrypt.test`,
/// `verify.test` and `name.test`, which asks for `mx.partner.test`.
pub const LEVELS: &str = r#"{"connectors": [
    {"name": "to encrypt", "direction": "outbound", "to": {"recipient-domains": ["encrypt.test"]},
     "tls": {"level": "encrypt"}},
    {"name": "to verify", "direction": "outbound", "to": {"recipient-domains": ["verify.test"]},
     "tls": {"level": "verify"}},
    {"name": "to name", "direction": "outbound", "to": {"recipient-domains": ["name.test"]},
     "tls": {"level": "name", "names": ["mx.partner.test"]}}
]}"#;

/// The exchangers of [`LEVELS`]: all at 127.0.0.2.
pub const LEVEL_RECORDS: &str = "
    opportunistic.test. MX 10 mx.partner.test.
    encrypt.test. MX 10 mx.partner.test.
    verify.test. MX 10 mx.partner.test.
    name.test. MX 10 mx.partner.test.
    mx.partner.test. A 127.0.0.2
";

impl Setting {
    /// Tries until it is so; what is asked must become so by itself.
    pub fn wait_until(&self, is_so: impl Fn(&Setting) -> bool) {
        let deadline = std::time::Instant::now() + crate::daemon::TIMEOUT;
        while !is_so(self) {
            assert!(std::time::Instant::now() < deadline, "it never came");
        }
    }
}
