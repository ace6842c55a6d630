//! A daemon between clients and a next hop, and the faults that may befall them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;

use crate::modules::Module;
use crate::{Action, Behaviour, Client, Config, Listener, MockServer, Pki, Step, TestBed};

const RULES: &str = r#"{"connectors": [{"name": "closed", "direction": "inbound",
    "from": {"recipient-domains": ["closed.dest.test"]}, "require": {"tls": true}}]}"#;

const SETTINGS: &str = "
    [limits]
    sessions-per-address = 40
    [connections]
    messages = 10
    [timeouts]
    command = \"2s\"
    data-block = \"2s\"
    handshake = \"2s\"
    connect = \"500ms\"
    reply = \"500ms\"
    final-reply = \"500ms\"
";

/// Where somebody comes from who is neither a sender nor an attacker.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// The servers, and what goes wrong with them. Mail to `dest.test` goes to the next hop; a policy that does its worst
/// decides over mail to `hostile.test`. Clients come through the PROXY protocol.
pub struct FaultInjector {
    /// The daemon.
    pub bed: TestBed,
    /// The next hop.
    pub hop: MockServer,
    certificate: String,
    /// The daemon's descriptors without a session, with those that it has inherited from whoever runs the tests.
    idle: usize,
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The next hop does this, on each new connection.
    Hop(Step, Action),
    /// The next hop cuts all its connections.
    HangUp,
    /// The daemon is killed as by a power cut, and started again.
    Kill,
    /// The daemon is told to read everything anew.
    Reload,
    /// The rules are changed.
    OtherRules(usize),
    /// The rules are half written.
    HalfRules,
    /// A folder stands where the rules were.
    FolderForRules,
    /// The certificate is half written.
    HalfCertificate,
    /// The hostile tenant brings another module.
    Module(usize),
    /// File descriptors are few: one session has them, or two.
    FewFiles,
}

impl Fault {
    /// How many kinds there are.
    pub const KINDS: usize = 15;

    /// All kinds, over and over; those of the next hop each time at another step.
    pub fn sequence() -> impl Iterator<Item = Fault> {
        let steps = [
            Step::Greeting,
            Step::Ehlo,
            Step::Mail,
            Step::Rcpt,
            Step::Data,
            Step::End,
        ];
        let rounds = steps.into_iter().cycle().enumerate();
        rounds.flat_map(|(round, step)| Fault::round(round, step))
    }

    fn round(number: usize, step: Step) -> [Fault; Fault::KINDS] {
        [
            Fault::Hop(step, Action::Cut),
            Fault::Hop(step, Action::Silence),
            Fault::Hop(step, Action::Say("451 4.3.0 not now\r\n")),
            Fault::Hop(step, Action::Say("550 5.7.1 never\r\n")),
            Fault::Hop(step, Action::Say("what?\r\n")),
            Fault::Hop(Step::End, Action::TakeAndCut),
            Fault::HangUp,
            Fault::Kill,
            Fault::Reload,
            Fault::OtherRules(number),
            Fault::HalfRules,
            Fault::FolderForRules,
            Fault::HalfCertificate,
            Fault::Module(number),
            Fault::FewFiles,
        ]
    }
}

impl FaultInjector {
    /// Starts the servers.
    pub fn new() -> FaultInjector {
        FaultInjector::with(&[])
    }

    /// The same with these variables in the daemon's environment until it is started again.
    pub fn with(variables: &[(&str, &str)]) -> FaultInjector {
        let identity = Pki::new().trusted(&["mx.dest.test"]);
        let hop = MockServer::start(Behaviour::default());
        let config = Config::new()
            .hostname("mx.dest.test")
            .listener(Listener::smtp(hop.address).starttls().proxied())
            .identity("server", &identity)
            .tenant_with("dest", &["dest.test", "*.dest.test"], "rules.json")
            .file("rules.json", RULES)
            .tenant_with("hostile", &["hostile.test"], "hostile.wasm")
            .file("hostile.wasm", hostile(0))
            .with(SETTINGS);
        let bed = TestBed::start_with(config, variables);
        FaultInjector {
            idle: bed.descriptors(),
            bed,
            hop,
            certificate: identity.certificate_pem,
        }
    }

    /// Something goes wrong; `repair` puts it right again.
    pub fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Hop(step, action) => self.hop.behave(Behaviour::default().but(step, action)),
            Fault::HangUp => self.hop.hang_up(),
            Fault::Kill => self.bed.restart(),
            Fault::Reload => self.bed.signal("HUP"),
            Fault::OtherRules(number) => self.write("rules.json", &other_rules(number)),
            Fault::HalfRules => self.write("rules.json", &RULES[..RULES.len() / 2]),
            Fault::FolderForRules => {
                fs::remove_file(self.path("rules.json")).expect("removed");
                fs::create_dir(self.path("rules.json")).expect("a folder");
            }
            Fault::HalfCertificate => self.write("server.pem", &self.certificate[..100]),
            // Number 0 is there from the beginning.
            Fault::Module(number) => self.ask_hostile(number + 1),
            Fault::FewFiles => self.allow_files(self.idle + 4),
        }
    }

    /// The hostile tenant's module is another one, and is asked.
    fn ask_hostile(&self, number: usize) {
        const IN_FORCE: &str = "policy loaded tenant=hostile";
        let before = self.bed.count_log(IN_FORCE);
        self.bed.replace("hostile.wasm", &hostile(number));
        self.bed.wait_for_log_times(IN_FORCE, before + 1);
        let mut client = Client::connect_as(self.bed.address(), OTHER);
        client.expect("EHLO client.example", 250);
        let reply = client.envelope("a@example.org", "b@hostile.test");
        assert_eq!(reply.code, 451, "{reply:?}");
    }

    /// Puts right whatever went wrong.
    pub fn repair(&mut self) {
        self.hop.behave(Behaviour::default());
        // It is one of the two.
        let _ = fs::remove_dir(self.path("rules.json"));
        self.write("rules.json", RULES);
        self.write("server.pem", &self.certificate);
        self.allow_files(1024);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bed.folder().join(name)
    }

    /// Not in one step, unlike those who know better.
    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("a file");
    }

    fn allow_files(&self, count: usize) {
        let limited = Command::new("prlimit")
            .args(["--pid", &self.bed.pid().to_string()])
            .arg(format!("--nofile={count}:"))
            .status();
        assert!(limited.expect("prlimit can be run").success());
    }
}

impl Default for FaultInjector {
    fn default() -> Self {
        FaultInjector::new()
    }
}

/// A document of its own, with up to a thousand connectors.
fn other_rules(number: usize) -> String {
    let count = number * 97 % 1000 + 1;
    let connectors: Vec<String> = (0..count)
        .map(|connector| {
            format!(
                r#"{{"name": "{number}-{connector}", "direction": "inbound", "require": {{"tls": true}},
                    "from": {{"recipient-domains": ["c{connector}.dest.test"]}}}}"#
            )
        })
        .collect();
    format!(r#"{{"connectors": [{}]}}"#, connectors.join(","))
}

/// A module that traps, never ends, recurses, or takes all memory there is.
fn hostile(number: usize) -> Vec<u8> {
    let bodies = [
        "(unreachable)",
        "(loop $l (br $l)) (unreachable)",
        "(call $evaluate (local.get $context))",
        "(loop $l (drop (memory.grow (i32.const 1))) (br $l)) (unreachable)",
    ];
    let module = Module::new(bodies[number % bodies.len()]);
    // No two are the same file, or they would be compiled once.
    module
        .with(&format!("(data (i32.const 4096) \"{number}\")"))
        .component()
}
