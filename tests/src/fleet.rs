//! A fleet: hosts that follow a real NATS server.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::nats::Nats;
use crate::office::{Office, both, rules};
use crate::{Client, Config, Listener, TestBed};

/// Operators who publish to a store, and a tenant with a key of its own.
pub struct Fleet {
    /// Where policies are signed.
    pub office: Office,
    /// The store.
    pub nats: Nats,
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet::new()
    }
}

impl Fleet {
    /// A store of its own.
    pub fn new() -> Fleet {
        Fleet::with(Office::new(), Nats::start())
    }

    /// With this office, and this store.
    pub fn with(office: Office, nats: Nats) -> Fleet {
        let fleet = Fleet { office, nats };
        fleet
            .office
            .succeed(&["fleet", "init", "--server", &fleet.nats.url()]);
        fleet.office.add_tenants();
        fleet
    }

    /// Signs what the operators say about a tenant.
    pub fn sign_tenant(&self, tenant: &str, more: &[&str]) {
        self.office.sign_tenant(tenant, more);
    }

    /// Signs rules of a tenant.
    pub fn sign(&self, tenant: &str, rules: &str, more: &[&str]) {
        self.office.sign_policy(tenant, rules, more);
    }

    /// Runs a command of the fleet to its end.
    pub fn run(&self, arguments: &[&str]) -> String {
        let url = self.nats.url();
        let store = ["--server", &url, "--root", "root.json"];
        self.office
            .succeed(&[&["fleet"], arguments, &store].concat())
    }

    /// What a command of the fleet says that does not succeed.
    pub fn fail(&self, arguments: &[&str]) -> String {
        let url = self.nats.url();
        let store = ["--server", &url, "--root", "root.json"];
        let output = self.office.run(&[&["fleet"], arguments, &store].concat());
        let (told, error) = both(&output);
        assert!(!output.status.success(), "{arguments:?}: {told}{error}");
        told + &error
    }

    /// Publishes rules of a tenant about a domain.
    pub fn put(&self, tenant: &str, domain: &str, more: &[&str]) {
        self.sign(tenant, &rules(domain), &[]);
        self.run(&[&["put", &format!("{tenant}.json")], more].concat());
    }

    /// The configuration of a host.
    pub fn config(&self, name: &str, more: &str) -> Config {
        Config::new()
            .listener(Listener::maildir())
            .file("root.json", self.office.read("root.json"))
            .with(&format!(
                "[trust]\npolicies = \"signed\"\npolicy-root = \"root.json\"\n[fleet]\nservers = [{:?}]\nname = {name:?}\n{more}",
                self.nats.url()
            ))
    }

    /// A host that follows the store.
    pub fn host(&self, name: &str) -> TestBed {
        TestBed::start(self.config(name, ""))
    }

    /// Puts an entry that no publisher would.
    pub fn smuggle(&self, key: &str, entry: &[u8]) {
        self.nats.publish(&format!("$KV.portcullis.{key}"), entry);
    }

    /// An envelope in a file.
    pub fn envelope(&self, name: &str) -> Value {
        serde_json::from_slice(&self.office.read(name)).expect("an envelope")
    }

    /// An entry as publishers make them.
    pub fn entry(&self, tenant: &str) -> Value {
        json!({
            "tenant": self.envelope(&format!("{tenant}.tenant.dsse.json")),
            "policy": self.envelope(&format!("{tenant}.dsse.json")),
            "body": BASE64_STANDARD.encode(self.office.read(&format!("{tenant}.json"))),
        })
    }

    /// Waits until a host tells of a tenant that it has not what it should.
    pub fn wait_for_exception(&self, host: &TestBed, told: &str) {
        host.wait_for_log_with(&["an entry of the fleet's store is not taken", told], 1);
        let deadline = std::time::Instant::now() + crate::daemon::TIMEOUT;
        loop {
            let output = self
                .office
                .run(&["fleet", "status", "--server", &self.nats.url()]);
            let (text, _) = both(&output);
            if text.contains(told) {
                assert!(!output.status.success());
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{told}: {text}");
        }
    }
}

/// The reply to a recipient of a tenant.
pub fn reply(host: &TestBed, from: &str, tenant: &str) -> u16 {
    Client::recipient(
        host.address(),
        &format!("a@{from}"),
        &format!("b@{tenant}.com"),
    )
}

/// Waits until that is the reply.
pub fn wait_for_reply(host: &TestBed, from: &str, tenant: &str, code: u16) {
    let deadline = std::time::Instant::now() + crate::daemon::TIMEOUT;
    while reply(host, from, tenant) != code {
        assert!(std::time::Instant::now() < deadline, "{code}");
    }
}
