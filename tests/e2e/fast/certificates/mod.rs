//! Certificates on both sides: chains as OpenSSL judges them, keys and signatures of every kind, names that are none,
//! revocation lists, and the files of a listener. The peers are `openssl s_client` and `openssl s_server`.

mod chains;
mod expiry;
mod extensions;
mod files;
mod handshakes;
mod names;
mod revocation;
mod several;

use std::fs;

use portcullis_tests::openssl::{Made, OpensslPartner, Workshop, s_client};
use portcullis_tests::outbound::{Outcome, send};
use portcullis_tests::{Config, Listener, Pki, TestBed};

const PAST: (&str, &str) = ("20200101000000Z", "20210101000000Z");
const NOW: (&str, &str) = ("20200101000000Z", "20480101000000Z");
const FUTURE: (&str, &str) = ("20470101000000Z", "20480101000000Z");

/// The subjects of a partner and of an authority below the root.
const BANK: &str = "/C=DE/O=Bank/CN=mail.a.test";
const SUB: &str = "/C=DE/O=Sub/CN=Sub";

const SETTINGS: &str = "
    [trust]
    roots = \"ca.pem\"
    [delivery]
    state-directory = \"state\"
    private-networks = [\"127.0.0.0/8\"]
    [dns]
    servers = [\"127.0.0.1:9\"]
    dnssec = false
    timeout = \"1s\"
    [connections]
    messages = 1
";

/// Both directions: mail from `bank.test` needs a trusted certificate for `mail.a.test`, that from `shop.test` only
/// TLS. Mail to `encrypt.test`, `verify.test` and `name.test` goes to the partner at that level.
struct World {
    shop: Workshop,
    root: Made,
    daemon: TestBed,
    partner: OpensslPartner,
}

/// What became of a client.
#[derive(Debug)]
struct Inbound {
    /// The reply to RCPT of mail from the bank.
    bank: String,
    /// The reply to RCPT of mail from the shop.
    shop: String,
}

impl World {
    fn new() -> World {
        World::with_name("mail.a.test", "")
    }

    /// With another name that is asked for, and more settings (TOML tables); `crls` is a folder.
    fn with_name(name: &str, trust: &str) -> World {
        let shop = Workshop::new();
        let root = shop.ca("/C=DE/O=Root/CN=Root", "", None);
        let partner = OpensslPartner::start();
        let config = Config::new()
            .listener(Listener::maildir().starttls())
            .listener(Listener::outbound(
                "clients = [\"127.0.0.1\"], tenant = \"contoso\"",
            ))
            .certificate(&Pki::new())
            .tenant("contoso.com", &rules(name, &partner))
            .with(SETTINGS)
            .file("ca.pem", root.pem())
            .with(trust);
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("crls")).expect("a folder");
        let daemon = TestBed::start_in(folder, config);
        World {
            shop,
            root,
            daemon,
            partner,
        }
    }

    /// A session in which this chain is shown.
    fn inbound(&self, own: &Made, between: &[Made], version: &'static str) -> Inbound {
        self.try_inbound(own, between, version)
            .unwrap_or_else(|text| panic!("the session did not end well: {text}"))
    }

    /// The same; gives what openssl says where there is no session.
    fn try_inbound(
        &self,
        own: &Made,
        between: &[Made],
        version: &'static str,
    ) -> Result<Inbound, String> {
        let shown = self.shop.shown(own, between, version);
        let rcpt = "RCPT TO:<bob@contoso.com>\r\n";
        let input = format!(
            "EHLO client.example\r\nMAIL FROM:<a@bank.test>\r\n{rcpt}RSET\r\nMAIL FROM:<a@shop.test>\r\n{rcpt}QUIT\r\n"
        );
        let text = s_client(self.daemon.addresses[0], Some(&shown), &["-quiet"], &input);
        let is_last = |line: &&str| {
            let code = line.get(..4).unwrap_or_default();
            code.ends_with(' ') && code[..3].bytes().all(|digit| digit.is_ascii_digit())
        };
        let replies: Vec<&str> = text.lines().filter(is_last).collect();
        let end = replies.iter().position(|reply| reply.starts_with("221 "));
        match end {
            Some(end) if end >= 4 => Ok(Inbound {
                bank: replies[end - 4].to_owned(),
                shop: replies[end - 1].to_owned(),
            }),
            _ => Err(text),
        }
    }

    /// Sends a message to the partner, who shows this chain.
    fn outbound(
        &self,
        level: &str,
        own: &Made,
        between: &[Made],
        version: &'static str,
    ) -> Outcome {
        self.partner.show(self.shop.shown(own, between, version));
        let mut client = self.daemon.client_of(1);
        let before = self.partner.taken();
        let outcome = send(&mut client, &format!("bob@{level}.test"));
        let taken = self.partner.taken() - before;
        assert_eq!(taken, usize::from(outcome.is_delivered()), "{outcome:?}");
        outcome
    }

    /// Does something, and waits until it is in force.
    fn change(&self, change: impl FnOnce()) {
        let before = self.daemon.count_log("configuration reloaded");
        change();
        self.daemon
            .wait_for_log_times("configuration reloaded", before + 1);
    }
}

fn rules(name: &str, partner: &OpensslPartner) -> String {
    let host = format!("[127.0.0.1]:{}", partner.address.port());
    format!(
        r#"{{"connectors": [
        {{"name": "Bank", "direction": "inbound", "from": {{"sender-domains": ["bank.test"]}},
          "require": {{"certificate-names": ["{name}"]}}}},
        {{"name": "Shop", "direction": "inbound", "from": {{"sender-domains": ["shop.test"]}},
          "require": {{"tls": true}}}},
        {{"name": "to encrypt", "direction": "outbound", "to": {{"recipient-domains": ["encrypt.test"]}},
          "route": {{"smart-hosts": ["{host}"]}}, "tls": {{"level": "encrypt"}}}},
        {{"name": "to verify", "direction": "outbound", "to": {{"recipient-domains": ["verify.test"]}},
          "route": {{"smart-hosts": ["{host}"]}}, "tls": {{"level": "verify"}}}},
        {{"name": "to name", "direction": "outbound", "to": {{"recipient-domains": ["name.test"]}},
          "route": {{"smart-hosts": ["{host}"]}}, "tls": {{"level": "name", "names": ["{name}"]}}}}]}}"#
    )
}
