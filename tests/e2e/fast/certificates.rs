//! Certificates on both sides: chains as OpenSSL judges them, keys and signatures of every kind, names that are none,
//! revocation lists, and the files of a listener. The peers are `openssl s_client` and `openssl s_server`.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::openssl::{AUTHORITY, Made, OWN, OpensslPartner, Wish, Workshop, s_client};
use portcullis_tests::outbound::{ONCE, Outcome, send};
use portcullis_tests::{Client, Config, Listener, NO_RULES, Pki, TestBed, run, sink};

const PAST: (&str, &str) = ("20200101000000Z", "20210101000000Z");
const NOW: (&str, &str) = ("20200101000000Z", "20480101000000Z");
const FUTURE: (&str, &str) = ("20470101000000Z", "20480101000000Z");

const SETTINGS: &str = "
    [trust]
    roots = \"ca.pem\"
    [delivery]
    state = \"state\"
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
        let daemon = TestBed::start_in(folder, config, &[]);
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
        let mut client = Client::greeted(self.daemon.addresses[1]);
        client.hello(false, None);
        let before = self.partner.taken();
        let outcome = send(&mut client, &format!("bob@{level}.test"));
        let taken = self.partner.taken() - before;
        assert_eq!(taken, usize::from(outcome.is_delivered()), "{outcome:?}");
        outcome
    }

    /// Does something, and waits until it is in force.
    fn change(&self, change: impl FnOnce()) {
        let before = self.daemon.count_log("settings in force");
        change();
        self.daemon
            .wait_for_log_times("settings in force", before + 1);
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

/// What is to come of a chain, in the policy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Trusted,
    /// Trusted for sending servers only.
    OfClients,
    Invalid,
    /// Trusted by OpenSSL, and not by us.
    Stricter,
    Expired,
    NotYetValid,
    UnknownIssuer,
}

use Trust::{Expired, Invalid, NotYetValid, OfClients, Stricter, Trusted, UnknownIssuer};

struct Case {
    what: String,
    trust: Trust,
    own: Made,
    between: Vec<Made>,
}

/// A policy that is issued under, and another one.
const P1: &str = "1.3.6.1.4.1.55555.1";
const P2: &str = "1.3.6.1.4.1.55555.2";

struct Cases<'a> {
    shop: &'a Workshop,
    root: &'a Made,
    cases: Vec<Case>,
}

impl Cases<'_> {
    fn add(&mut self, what: &str, trust: Trust, own: Made, between: &[&Made]) {
        self.cases.push(Case {
            what: what.to_owned(),
            trust,
            own,
            between: between.iter().map(|made| (*made).clone()).collect(),
        });
    }

    /// A certificate below authorities, the one below the root first, with what each of them says.
    fn below(&mut self, what: &str, trust: Trust, authorities: &[&str], own: &str) {
        let mut between = Vec::new();
        for (number, extensions) in authorities.iter().enumerate() {
            let issuer = between.last().unwrap_or(self.root);
            let subject = format!("/C=DE/O=Sub/CN=Sub {number}");
            let next = self.shop.ca(
                &subject,
                &extensions.replace("P1", P1).replace("P2", P2),
                Some(issuer),
            );
            between.push(next);
        }
        let own = own.replace("P1", P1).replace("P2", P2);
        let own = self.shop.own(&own, between.last().unwrap_or(self.root));
        between.reverse();
        let between: Vec<&Made> = between.iter().collect();
        self.add(what, trust, own, &between);
    }

    fn policies(&mut self) {
        let web = "certificatePolicies = critical, 0.4.0.194112.1.4
            1.3.6.1.5.5.7.1.3 = DER:300A3008060604008E460101";
        self.below(
            "the own certificate's policies are critical",
            Trusted,
            &[""],
            "certificatePolicies = critical, P1",
        );
        self.below(
            "the authority's are",
            Trusted,
            &["certificatePolicies = critical, P1"],
            "",
        );
        self.below(
            "both are, with qcStatements as in a QWAC",
            Trusted,
            &["certificatePolicies = critical, 0.4.0.194112.1.4"],
            web,
        );
        self.below(
            "qcStatements are critical",
            Invalid,
            &[""],
            "1.3.6.1.5.5.7.1.3 = critical, DER:300A3008060604008E460101",
        );
        let explicit = "certificatePolicies = critical, P1\npolicyConstraints = critical, requireExplicitPolicy:0";
        self.below(
            "a policy is required, and given",
            Trusted,
            &[explicit],
            "certificatePolicies = P1",
        );
        self.below(
            "a policy is required, and none is given",
            Invalid,
            &[explicit],
            "",
        );
        self.below(
            "a policy is required, and another one given",
            Invalid,
            &[explicit],
            "certificatePolicies = critical, P2",
        );
        self.below(
            "a policy is required, and any given",
            Trusted,
            &[explicit],
            "certificatePolicies = 2.5.29.32.0",
        );
        let loose = "certificatePolicies = P1\npolicyConstraints = requireExplicitPolicy:0";
        self.below("constraints that are not critical", Invalid, &[loose], "");
        let later = "certificatePolicies = critical, P1\npolicyConstraints = critical, requireExplicitPolicy:1";
        self.below(
            "required one below, and given by nobody",
            Invalid,
            &[later, ""],
            "",
        );
        self.below(
            "required one below, and given by all",
            Trusted,
            &[later, "certificatePolicies = P1"],
            "certificatePolicies = P1",
        );
        let far = "certificatePolicies = critical, P1\npolicyConstraints = critical, requireExplicitPolicy:2";
        self.below(
            "required farther below than the chain is long",
            Trusted,
            &[far],
            "",
        );
        let any = "certificatePolicies = 2.5.29.32.0\npolicyConstraints = critical, requireExplicitPolicy:0";
        self.below(
            "any policy of an authority",
            Trusted,
            &[any],
            "certificatePolicies = P1",
        );
        let no_any = &format!("{any}\ninhibitAnyPolicy = critical, 0");
        self.below(
            "any policy is inhibited, and given",
            Invalid,
            &[no_any],
            "certificatePolicies = 2.5.29.32.0",
        );
        self.below(
            "any policy is inhibited, and another one given",
            Trusted,
            &[no_any],
            "certificatePolicies = P1",
        );
        self.below(
            "any policy is inhibited, and none is needed",
            Trusted,
            &["inhibitAnyPolicy = critical, 1"],
            "",
        );
        for critical in ["", "critical, "] {
            let maps = &format!("{explicit}\npolicyMappings = {critical}P1:P2");
            self.below(
                &format!("a mapped policy {critical}"),
                Trusted,
                &[maps],
                "certificatePolicies = P2",
            );
            self.below(
                &format!("a policy that is mapped away {critical}"),
                Invalid,
                &[maps],
                "certificatePolicies = P1",
            );
        }
        let no_maps = "certificatePolicies = critical, P1
            policyConstraints = critical, requireExplicitPolicy:0, inhibitPolicyMapping:0";
        let maps = "certificatePolicies = P1\npolicyMappings = critical, P1:P2";
        self.below(
            "mappings are inhibited",
            Invalid,
            &[no_maps, maps],
            "certificatePolicies = P2",
        );
    }

    fn names(&mut self) {
        let mut constrained = |what: &str, trust, constraints: &str, own: &str| {
            let own = match own {
                "" => String::new(),
                names => format!("subjectAltName = DNS:mail.a.test, {names}"),
            };
            for critical in ["critical, ", ""] {
                let constraints = format!(
                    "nameConstraints = {critical}{constraints}\n[bank]\nC = DE\nO = Bank\n[other]\nC = DE\nO = Other"
                );
                self.below(&format!("{what} {critical}"), trust, &[&constraints], &own);
            }
        };
        constrained("a folder of names", Trusted, "permitted;dirName:bank", "");
        constrained("another folder", Invalid, "permitted;dirName:other", "");
        constrained("a folder is excluded", Invalid, "excluded;dirName:bank", "");
        constrained(
            "another folder is excluded",
            Trusted,
            "excluded;dirName:other",
            "",
        );
        constrained(
            "two kinds",
            Trusted,
            "permitted;dirName:bank, permitted;DNS:a.test",
            "",
        );
        constrained(
            "two kinds, of which one does not fit",
            Invalid,
            "permitted;dirName:bank, permitted;DNS:b.test",
            "",
        );
        constrained("a domain", Trusted, "permitted;DNS:a.test", "");
        constrained("another domain", Invalid, "permitted;DNS:b.test", "");
        constrained("a domain is excluded", Invalid, "excluded;DNS:a.test", "");
        constrained(
            "another domain is excluded",
            Trusted,
            "excluded;DNS:b.test",
            "",
        );
        constrained(
            "a wildcard",
            Trusted,
            "permitted;DNS:a.test",
            "DNS:*.a.test",
        );
        constrained(
            "a wildcard over an excluded name",
            Stricter,
            "excluded;DNS:x.a.test",
            "DNS:*.a.test",
        );
        constrained(
            "an address",
            Trusted,
            "permitted;IP:10.0.0.0/255.0.0.0",
            "IP:10.1.1.1",
        );
        constrained(
            "another address",
            Invalid,
            "permitted;IP:10.0.0.0/255.0.0.0",
            "IP:11.1.1.1",
        );
        constrained(
            "all addresses are excluded",
            Invalid,
            "excluded;IP:0.0.0.0/0.0.0.0",
            "IP:11.1.1.1",
        );
        constrained(
            "all addresses are excluded, and there is none",
            Trusted,
            "excluded;IP:0.0.0.0/0.0.0.0",
            "",
        );
        constrained(
            "a mailbox",
            Trusted,
            "permitted;email:a.test",
            "email:x@a.test",
        );
        constrained(
            "another mailbox",
            Invalid,
            "permitted;email:a.test",
            "email:x@b.test",
        );
        constrained(
            "a mailbox is excluded",
            Invalid,
            "excluded;email:a.test",
            "email:x@a.test",
        );
        constrained(
            "mailboxes, and there is none",
            Trusted,
            "permitted;email:a.test",
            "",
        );
        constrained(
            "a URI",
            Trusted,
            "permitted;URI:.a.test",
            "URI:https://x.a.test/",
        );
        constrained(
            "another URI",
            Invalid,
            "permitted;URI:.a.test",
            "URI:https://x.b.test/",
        );
    }

    fn basics(&mut self) {
        self.below("plain", Trusted, &[""], "");
        self.below("two authorities", Trusted, &["", ""], "");
        self.below("directly below the root", Trusted, &[], "");
        self.below(
            "for clients",
            OfClients,
            &[""],
            "extendedKeyUsage = clientAuth",
        );
        self.below(
            "for mail",
            Invalid,
            &[""],
            "extendedKeyUsage = emailProtection",
        );
        self.below(
            "the authority is for mail",
            Invalid,
            &["extendedKeyUsage = emailProtection"],
            "",
        );
        let short = "basicConstraints = critical, CA:TRUE, pathlen:0";
        self.below("a short path", Trusted, &[short], "");
        self.below("a path that is too long", Invalid, &[short, ""], "");
        self.below(
            "the authority is none",
            Invalid,
            &["basicConstraints = critical, CA:FALSE"],
            "",
        );
        self.below(
            "the authority may not sign",
            Invalid,
            &["keyUsage = critical, digitalSignature"],
            "",
        );
        self.below(
            "an unknown extension",
            Trusted,
            &[""],
            "1.3.6.1.4.1.55555.9 = DER:0500",
        );
        let unknown = "1.3.6.1.4.1.55555.9 = critical, DER:0500";
        self.below("an unknown critical extension", Invalid, &[""], unknown);
        self.below(
            "an unknown critical extension of the authority",
            Invalid,
            &[unknown],
            "",
        );
        let name = "/C=DE/O=Bank/CN=mail.a.test";
        let (shop, root) = (self.shop, self.root);
        let sub = shop.ca("/C=DE/O=Sub/CN=Sub", "", Some(root));
        self.add(
            "the authority is missing",
            UnknownIssuer,
            shop.own("", &sub),
            &[],
        );
        let foreign = shop.ca("/C=DE/O=Foreign/CN=Foreign", "", None);
        self.add(
            "a foreign authority",
            UnknownIssuer,
            shop.own("", &foreign),
            &[],
        );
        self.add(
            "a foreign authority that is shown",
            UnknownIssuer,
            shop.own("", &foreign),
            &[&foreign],
        );
        let namesake = shop.ca("/C=DE/O=Root/CN=Root", "", None);
        self.add(
            "an authority of the root's name",
            UnknownIssuer,
            shop.own("", &namesake),
            &[],
        );
        let alone = shop.make(&Wish::new(name, OWN), None);
        self.add("self-signed", UnknownIssuer, alone, &[]);
        let alone = shop.make(
            &Wish {
                valid: Some(PAST),
                ..Wish::new(name, OWN)
            },
            None,
        );
        self.add("self-signed, and over", UnknownIssuer, alone, &[]);
        let ca = format!("{AUTHORITY}\nsubjectAltName = DNS:mail.a.test");
        self.add(
            "a self-signed authority",
            UnknownIssuer,
            shop.make(&Wish::new(name, &ca), None),
            &[],
        );
        for (what, trust, valid) in [
            ("over", Expired, PAST),
            ("in time", Trusted, NOW),
            ("not begun", NotYetValid, FUTURE),
        ] {
            let own = shop.make(
                &Wish {
                    valid: Some(valid),
                    ..Wish::new(name, OWN)
                },
                Some(&sub),
            );
            self.add(what, trust, own, &[&sub]);
            let wish = Wish {
                valid: Some(valid),
                ..Wish::new("/C=DE/O=Sub/CN=Sub", AUTHORITY)
            };
            let dated = shop.make(&wish, Some(root));
            self.add(
                &format!("the authority is {what}"),
                trust,
                shop.own("", &dated),
                &[&dated],
            );
        }
        let deep = shop.ca("/C=DE/O=Sub/CN=Deep", "", Some(&sub));
        let own = shop.own("", &deep);
        self.add("the wrong order", Trusted, own.clone(), &[&sub, &deep]);
        self.add(
            "more than is needed, the root included",
            Trusted,
            own.clone(),
            &[&foreign, &root.clone(), &deep, &sub],
        );
        self.add("with a gap", UnknownIssuer, own, &[&deep]);
        let over = Wish {
            valid: Some(PAST),
            ..Wish::new("/C=DE/O=Sub/CN=Cross", AUTHORITY)
        };
        let over = shop.make(&over, Some(root));
        // The same authority once more, by a certificate that is not over.
        let key = over.key.to_str().expect("a path");
        let fresh = Wish {
            key,
            ..Wish::new("/C=DE/O=Sub/CN=Cross", AUTHORITY)
        };
        let fresh = shop.make(&fresh, Some(root));
        let own = shop.own("", &over);
        self.add(
            "an authority with two certificates",
            Trusted,
            own.clone(),
            &[&over, &fresh],
        );
        self.add(
            "the same in the other order",
            Trusted,
            own,
            &[&fresh, &over],
        );
    }

    fn keys(&mut self) {
        for (key, trust) in [
            ("rsa:2048", Trusted),
            ("rsa:1024", Invalid),
            ("rsa-pss", Trusted),
            ("ed25519", Trusted),
            ("secp384r1", Trusted),
            ("secp521r1", Trusted),
            ("secp224r1", Trusted),
            ("brainpoolP256r1", Trusted),
        ] {
            let wish = Wish {
                key,
                ..Wish::new("/C=DE/O=Sub/CN=Sub", AUTHORITY)
            };
            let sub = self.shop.make(&wish, Some(self.root));
            self.add(
                &format!("the authority has a key {key}"),
                trust,
                self.shop.own("", &sub),
                &[&sub],
            );
        }
        let sub = self.shop.ca("/C=DE/O=Sub/CN=Sub", "", Some(self.root));
        let name = "/C=DE/O=Bank/CN=mail.a.test";
        let sha1 = Wish {
            options: &["-sha1"],
            ..Wish::new(name, OWN)
        };
        let own = self.shop.make(&sha1, Some(&sub));
        self.add("signed with SHA-1", Invalid, own, &[&sub]);
        let wish = Wish {
            key: "rsa:2048",
            ..Wish::new("/C=DE/O=Sub/CN=Sub", AUTHORITY)
        };
        let sub = self.shop.make(&wish, Some(self.root));
        let pss = [
            "-sigopt",
            "rsa_padding_mode:pss",
            "-sigopt",
            "rsa_pss_saltlen:digest",
        ];
        let pss = Wish {
            options: &pss,
            ..Wish::new(name, OWN)
        };
        let own = self.shop.make(&pss, Some(&sub));
        self.add("signed with RSA-PSS", Trusted, own, &[&sub]);
    }
}

/// Holds all cases against OpenSSL's word, what a client is told, and what is told of a partner.
fn hold(fill: impl FnOnce(&mut Cases)) {
    let world = World::new();
    let mut cases = Cases {
        shop: &world.shop,
        root: &world.root,
        cases: Vec::new(),
    };
    fill(&mut cases);
    let wrong: Vec<String> = cases
        .cases
        .iter()
        .flat_map(|case| faults(&world, case))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What is not as it should be.
fn faults(world: &World, case: &Case) -> Vec<String> {
    let Case {
        what,
        trust,
        own,
        between,
    } = case;
    let mut faults = Vec::new();
    let mut expect = |is_so: bool, of: &str, said: String| {
        if !is_so {
            faults.push(format!("{what}, {of}, {trust:?}: {said}"));
        }
    };
    let roots = world.daemon.folder().join("ca.pem");
    let verified = |purpose| world.shop.verify(&roots, own, between, purpose);
    let (server, client) = (verified("sslserver"), verified("sslclient"));
    let good = matches!(trust, Trusted | Stricter);
    expect(server == good, "openssl verify, server", server.to_string());
    let good = good || *trust == OfClients;
    expect(
        (server || client) == good,
        "openssl verify, client",
        client.to_string(),
    );

    let inbound = world.try_inbound(own, between, "");
    let refused = |why: &str| {
        format!(
            "550 5.7.1 refused by connector \"Bank\" (certificate-untrusted): the client certificate is not trusted: {why}"
        )
    };
    let (told, result) = match trust {
        Trusted => ("250 ".to_owned(), ""),
        OfClients => ("250 ".to_owned(), "validation-failure"),
        Invalid | Stricter => (refused("invalid"), "validation-failure"),
        Expired => (refused("expired"), "certificate-expired"),
        NotYetValid => (refused("not-yet-valid"), "validation-failure"),
        UnknownIssuer => (refused("unknown-issuer"), "certificate-not-trusted"),
    };
    match inbound {
        Err(said) => expect(false, "inbound", said),
        Ok(Inbound { bank, shop }) => {
            expect(bank.starts_with(&told), "inbound", bank);
            expect(shop.starts_with("250 "), "inbound with TLS only", shop);
        }
    }
    for level in ["verify", "name"] {
        let outcome = world.outbound(level, own, between, "");
        let as_expected = match result {
            "" => outcome.is_delivered(),
            result => outcome.last().code == 451 && outcome.text().contains(result),
        };
        expect(
            as_expected,
            level,
            format!("{} {}", outcome.text(), world.partner.said()),
        );
    }
    faults
}

#[test]
fn chains_are_judged_as_openssl_judges_them() {
    hold(|cases| cases.basics());
}

#[test]
fn certificate_policies_are_processed() {
    hold(|cases| cases.policies());
}

#[test]
fn name_constraints_of_every_kind_hold() {
    hold(|cases| cases.names());
}

#[test]
fn authorities_have_keys_of_every_kind() {
    hold(|cases| cases.keys());
}

/// A key, and with which versions of TLS it is used. In TLS 1.3 a curve is part of the signature scheme, and some have
/// none.
const KEYS: [(&str, &[&str]); 11] = [
    ("P-256", &["", "-tls1_2", "-tls1_3"]),
    ("secp384r1", &["", "-tls1_2", "-tls1_3"]),
    ("secp521r1", &["", "-tls1_2", "-tls1_3"]),
    ("secp224r1", &["-tls1_2"]),
    ("secp256k1", &["-tls1_2"]),
    ("brainpoolP256r1", &["-tls1_2"]),
    ("rsa:1024", &["", "-tls1_2", "-tls1_3"]),
    ("rsa:2048", &["", "-tls1_2", "-tls1_3"]),
    ("ed25519", &["", "-tls1_2", "-tls1_3"]),
    ("ed448", &["", "-tls1_2", "-tls1_3"]),
    ("rsa-pss", &["", "-tls1_3"]),
];

#[test]
fn any_certificate_completes_the_handshake() {
    let world = World::new();
    let mut wrong = Vec::new();
    for (key, versions) in KEYS {
        for sha1 in [false, true] {
            let digest: &[&str] = match (sha1, key) {
                (false, _) => &[],
                // These have a digest of their own.
                (true, "ed25519" | "ed448") => continue,
                (true, _) => &["-sha1"],
            };
            let wish = Wish {
                key,
                options: digest,
                ..Wish::new("/C=DE/O=Bank/CN=mail.a.test", OWN)
            };
            let own = world.shop.make(&wish, None);
            for version in versions {
                let case = format!("{key} {digest:?} {version}");
                wrong.extend(handshake_faults(&world, &own, version, &case));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What is not as it should be with a certificate that nobody vouches for.
fn handshake_faults(world: &World, own: &Made, version: &'static str, case: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |is_so: bool, of: &str, said: String| {
        if !is_so {
            faults.push(format!("{case}, {of}: {said}"));
        }
    };
    match world.try_inbound(own, &[], version) {
        Err(said) => expect(false, "inbound", said),
        Ok(Inbound { bank, shop }) => {
            expect(bank.contains("(certificate-untrusted)"), "inbound", bank);
            expect(shop.starts_with("250 "), "inbound with TLS only", shop);
        }
    }
    let said = |outcome: &Outcome| format!("{} {}", outcome.text(), world.partner.said());
    let outcome = world.outbound("encrypt", own, &[], version);
    expect(outcome.is_delivered(), "encrypt", said(&outcome));
    let outcome = world.outbound("verify", own, &[], version);
    let is_so = outcome.last().code == 451 && outcome.text().contains("certificate-not-trusted");
    expect(is_so, "verify", said(&outcome));
    faults
}

#[test]
fn a_next_hop_may_show_any_certificate() {
    let partner = OpensslPartner::start();
    let config = Config::new()
        .listener(Listener::smtp(partner.address))
        .tenant("contoso.com", NO_RULES)
        .with(ONCE);
    let shop = Workshop::new();
    let show = |key, version| {
        let wish = Wish {
            key,
            ..Wish::new("/CN=hop", OWN)
        };
        partner.show(shop.shown(&shop.make(&wish, None), &[], version));
    };
    show("P-256", "");
    let daemon = TestBed::start(config);
    for (number, (key, versions)) in KEYS.iter().enumerate() {
        // It takes nothing in plaintext.
        show(key, versions[0]);
        let mut client = daemon.client();
        let rcpt = client.envelope("a@example.org", "bob@contoso.com");
        assert_eq!(rcpt.code, 250, "{key}: {rcpt:?} {}", partner.said());
        let end = client.data("Subject: x\r\n\r\nx");
        assert_eq!(end.code, 250, "{key}: {end:?}");
        assert_eq!(partner.taken(), number + 1, "{key}");
    }
}

#[test]
fn a_client_that_cannot_use_its_certificate_is_one_without() {
    let world = World::new();
    for key in ["secp224r1", "secp256k1", "brainpoolP256r1"] {
        let wish = Wish {
            key,
            ..Wish::new("/C=DE/O=Bank/CN=mail.a.test", OWN)
        };
        let own = world.shop.make(&wish, Some(&world.root));
        // It has no signature for TLS 1.3, where openssl then shows none.
        let inbound = world.inbound(&own, &[], "-tls1_3");
        assert!(
            inbound.bank.contains("(certificate-missing)"),
            "{key}: {inbound:?}"
        );
        assert!(inbound.shop.starts_with("250 "), "{key}: {inbound:?}");
        // A server goes back to TLS 1.2 for it.
        let outcome = world.outbound("name", &own, &[], "");
        assert!(
            outcome.is_delivered(),
            "{key}: {outcome:?} {}",
            world.partner.said()
        );
    }
}

#[test]
#[ignore = "rustls knows RSA-PSS keys in TLS 1.3 only (SignatureScheme::algorithm)"]
fn a_server_with_an_rsa_pss_key_and_tls_1_2_completes_the_handshake() {
    let world = World::new();
    let wish = Wish {
        key: "rsa-pss",
        ..Wish::new("/C=DE/O=Bank/CN=mail.a.test", OWN)
    };
    let own = world.shop.make(&wish, Some(&world.root));
    let outcome = world.outbound("encrypt", &own, &[], "-tls1_2");
    assert!(outcome.is_delivered(), "{}", outcome.text());
}

#[test]
#[ignore = "rustls takes handshake messages of 64 KiB at most"]
fn a_certificate_of_a_hundred_thousand_octets_completes_the_handshake() {
    let world = World::new();
    let names: Vec<String> = (0..2700)
        .map(|number| format!("DNS.{number} = h{number:06}.very-long-host-name.a.test"))
        .collect();
    let names = format!(
        "subjectAltName = @names\n[names]\nDNS.x = mail.a.test\n{}",
        names.join("\n")
    );
    let own = world.shop.own(&names, &world.root);
    assert!(world.inbound(&own, &[], "").bank.starts_with("250 "));
    assert!(world.outbound("name", &own, &[], "").is_delivered());
}

#[test]
fn what_is_no_name_never_matches() {
    let world = World::with_name("bücher.test", "");
    let label = "xn--bcher-kva.test";
    let none = "certificate-name";
    let mismatch = "certificate-host-mismatch";
    let san = |names: &str| format!("subjectAltName = ASN1:SEQUENCE:names\n[names]\n{names}");
    let ia5 = format!("good = IMPLICIT:2,IA5:{label}");
    let utf8 = "bad = IMPLICIT:2,FORMAT:UTF8,UTF8:bücher.test";
    let latin1 = "bad = IMPLICIT:2,FORMAT:HEX,OCT:62FC636865722E74657374";
    let both = format!("{utf8}\n{ia5}");
    // The common name, what else the certificate says, and what fails inbound and outbound.
    for (what, common_name, extension, inbound, outbound) in [
        ("a name", "x", san(&ia5), "", ""),
        ("a name in UTF-8", "x", san(utf8), none, mismatch),
        ("a name in Latin-1", "x", san(latin1), none, mismatch),
        (
            "a name in UTF-8 beside one that is good",
            "x",
            san(&both),
            "",
            "",
        ),
        (
            "a common name beside another name",
            label,
            "subjectAltName = DNS:other.test".into(),
            none,
            mismatch,
        ),
        (
            "a common name beside a name in UTF-8",
            label,
            san(utf8),
            none,
            mismatch,
        ),
        (
            "a common name beside a name in Latin-1",
            label,
            san(latin1),
            none,
            mismatch,
        ),
        (
            "a common name beside a mailbox",
            label,
            "subjectAltName = email:a@b.test".into(),
            none,
            mismatch,
        ),
        (
            "a common name beside an address",
            label,
            "subjectAltName = IP:127.0.0.1".into(),
            none,
            mismatch,
        ),
        // Of clients it is taken where nothing else is there; of servers never (RFC 9525).
        ("a common name alone", label, String::new(), "", mismatch),
    ] {
        let subject = format!("/C=DE/CN={common_name}");
        let extensions = format!("basicConstraints = critical, CA:FALSE\n{extension}");
        let own = world
            .shop
            .make(&Wish::new(&subject, &extensions), Some(&world.root));
        let told = world.inbound(&own, &[], "").bank;
        let expected = match inbound {
            "" => "250 ".to_owned(),
            failed => format!("550 5.7.1 refused by connector \"Bank\" ({failed})"),
        };
        assert!(told.starts_with(&expected), "{what}: {told}");
        let outcome = world.outbound("name", &own, &[], "");
        let as_expected = match outbound {
            "" => outcome.is_delivered(),
            result => outcome.text().contains(result),
        };
        assert!(as_expected, "{what}: {}", outcome.text());
        assert!(
            world.outbound("verify", &own, &[], "").is_delivered(),
            "{what}"
        );
    }
}

const CRLS: &str = "[trust]\ncrls = \"crls\"";

/// Revoked on either side, and told so.
fn assert_revoked(world: &World, own: &Made, between: &[Made]) {
    let told = world.inbound(own, between, "").bank;
    let refused = "550 5.7.1 refused by connector \"Bank\" (certificate-untrusted): the client certificate is not trusted: revoked";
    assert!(told.starts_with(refused), "{told}");
    let outcome = world.outbound("verify", own, between, "");
    assert_eq!(outcome.last().code, 451, "{}", outcome.text());
    assert!(
        outcome.text().contains("certificate was revoked"),
        "{}",
        outcome.text()
    );
    // Who does not ask does not mind.
    assert!(world.outbound("encrypt", own, between, "").is_delivered());
}

fn assert_trusted(world: &World, own: &Made, between: &[Made]) {
    let told = world.inbound(own, between, "").bank;
    assert!(told.starts_with("250 "), "{told}");
    let outcome = world.outbound("name", own, between, "");
    assert!(outcome.is_delivered(), "{}", outcome.text());
}

#[test]
fn revocation_lists_take_effect_while_it_runs() {
    let world = World::with_name("mail.a.test", CRLS);
    let World {
        shop, root, daemon, ..
    } = &world;
    let sub = [shop.ca("/C=DE/O=Sub/CN=Sub", "", Some(root))];
    let (one, two) = (shop.own("", &sub[0]), shop.own("", &sub[0]));
    let folder = daemon.folder().join("crls");
    // In one step, as who fetches lists does it.
    let put = |name: &str, content: &[u8]| {
        let new = shop.write("new", "");
        fs::write(&new, content).expect("a file");
        world.change(|| fs::rename(&new, folder.join(name)).expect("the same file system"));
    };
    assert_trusted(&world, &one, &sub);
    put("sub.crl", shop.crl(&sub[0], &[&one], NOW).as_bytes());
    assert_revoked(&world, &one, &sub);
    assert_trusted(&world, &two, &sub);
    daemon.wait_for_log("failed=\"certificate-untrusted\"");
    // A newer list in DER takes its place, and then none is there.
    let list = shop.write("pem", &shop.crl(&sub[0], &[&two], NOW));
    let list = list.to_str().expect("a path");
    put(
        "sub.crl",
        &shop.openssl(&["crl", "-in", list, "-outform", "DER"]),
    );
    assert_revoked(&world, &two, &sub);
    assert_trusted(&world, &one, &sub);
    world.change(|| fs::remove_file(folder.join("sub.crl")).expect("removed"));
    assert_trusted(&world, &two, &sub);
    // The authority itself, whose own lists nobody has.
    put("root.crl", shop.crl(root, &[&sub[0]], NOW).as_bytes());
    assert_revoked(&world, &one, &sub);
    assert_trusted(&world, &shop.own("", root), &[]);
}

#[test]
fn a_revocation_list_that_is_no_good_is_told_and_makes_nothing_untrusted() {
    let world = World::with_name("mail.a.test", CRLS);
    let World {
        shop, root, daemon, ..
    } = &world;
    let (good, revoked) = (shop.own("", root), shop.own("", root));
    let folder = daemon.folder().join("crls");
    let rename = |name: &str, content: &str| {
        let new = shop.write("new", content);
        fs::rename(&new, folder.join(name)).expect("the same file system");
    };
    let put = |name: &str, content: &str| world.change(|| rename(name, content));
    put("stale.crl", &shop.crl(root, &[&revoked], PAST));
    let line = daemon.wait_for_log("revocation list: it is out of date since");
    assert!(
        line.contains("WARN") && line.contains("stale.crl"),
        "{line}"
    );
    assert_trusted(&world, &good, &[]);
    // What is revoked does not come back.
    assert_revoked(&world, &revoked, &[]);
    rename("text.crl", "hello");
    let line = daemon.wait_for_log("it is no revocation list");
    assert!(line.contains("WARN") && line.contains("text.crl"), "{line}");
    let namesake = shop.ca("/C=DE/O=Root/CN=Root", "", None);
    put("namesake.crl", &shop.crl(&namesake, &[&good], NOW));
    assert_trusted(&world, &good, &[]);
    assert_revoked(&world, &revoked, &[]);
    put(
        "foreign.crl",
        &shop.crl(&shop.ca("/C=DE/CN=Foreign", "", None), &[], NOW),
    );
    assert_trusted(&world, &shop.own("", root), &[]);
}

#[test]
fn a_forged_revocation_list_counts_for_nothing_and_hides_no_genuine_one() {
    let world = World::with_name("mail.a.test", CRLS);
    let World {
        shop, root, daemon, ..
    } = &world;
    let (good, revoked) = (shop.own("", root), shop.own("", root));
    let folder = daemon.folder().join("crls");
    let put = |name: &str, content: &str| {
        let new = shop.write("new", content);
        world.change(|| fs::rename(&new, folder.join(name)).expect("the same file system"));
    };
    // What is newer is looked at first.
    const NEWER: (&str, &str) = ("20220101000000Z", "20480101000000Z");
    let forged = shop.crl(&shop.forger(root), &[&good], NEWER);
    put("forged.crl", &forged);
    assert_trusted(&world, &good, &[]);
    daemon.wait_for_log("a revocation list cannot be used");
    put("genuine.crl", &shop.crl(root, &[&revoked], NOW));
    assert_trusted(&world, &shop.own("", root), &[]);
    assert_revoked(&world, &revoked, &[]);
}

/// What `run --check-config` says of a certificate and a key.
fn check(folder: &Path, certificate: &str, key: &str) -> (Option<i32>, String) {
    let listener = Listener::maildir()
        .with(&format!("certificate = {certificate:?}"))
        .with(&format!("key = {key:?}"));
    let config = Config::new()
        .listener(listener)
        .tenant("contoso.com", NO_RULES)
        .with("[trust]\nroots = \"ca.pem\"");
    config.write(folder);
    let path = folder.join("portcullis.toml");
    let path = path.to_str().expect("a path");
    let output = run(&["run", "--check-config", "--config", path], b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

/// A file that only its owner reads.
fn private(path: &Path, content: impl AsRef<[u8]>) {
    with_mode(path, content, 0o600);
}

fn with_mode(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
    fs::write(path, content).expect("a file");
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("the mode is set");
}

/// A folder with a certificate and a key for the listener in every form that turns up.
fn every_form() -> tempfile::TempDir {
    let shop = Workshop::new();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let root = shop.ca("/CN=Root", "", None);
    fs::write(at("ca.pem"), root.pem()).expect("a file");
    let names = format!("{OWN}\nsubjectAltName = DNS:mx.contoso.com");
    for (name, key, valid) in [
        ("mx", "P-256", Some(NOW)),
        ("other", "P-256", Some(NOW)),
        ("over", "P-256", Some(PAST)),
        ("early", "P-256", Some(FUTURE)),
        ("small", "rsa:1024", None),
        ("brainpool", "brainpoolP256r1", None),
    ] {
        let wish = Wish {
            key,
            valid,
            ..Wish::new("/CN=mx.contoso.com", &names)
        };
        let made = shop.make(&wish, Some(&root));
        private(&at(&format!("{name}.pem")), made.pem());
        private(&at(&format!("{name}.key")), made.key_pem());
    }
    let read = |name: &str| fs::read_to_string(at(name)).expect("a file");
    let (pem, key) = (read("mx.pem"), read("mx.key"));
    let path = |name: &str| at(name).to_str().expect("a path").to_owned();
    let (pem_path, key_path) = (path("mx.pem"), path("mx.key"));
    let convert = |name: &str, options: &[&str]| private(&at(name), shop.openssl(options));
    private(&at("bom.pem"), format!("\u{feff}{pem}"));
    private(&at("bom.key"), format!("\u{feff}{key}"));
    private(&at("dos.pem"), pem.replace('\n', "\r\n"));
    private(&at("dos.key"), key.replace('\n', "\r\n"));
    private(&at("chain.pem"), format!("{pem}{}", root.pem()));
    private(&at("reversed.pem"), format!("{}{pem}", root.pem()));
    private(&at("both.pem"), format!("{key}{pem}"));
    private(&at("cut.pem"), &pem[..pem.len() / 2]);
    private(&at("cut.key"), &key[..key.len() / 2]);
    private(&at("empty.pem"), "");
    private(&at("text.pem"), "hello");
    with_mode(&at("open.key"), &key, 0o644);
    with_mode(&at("group.key"), &key, 0o640);
    fs::create_dir(at("folder.pem")).expect("a folder");
    convert("der.pem", &["x509", "-in", &pem_path, "-outform", "DER"]);
    convert("der.key", &["pkey", "-in", &key_path, "-outform", "DER"]);
    convert("sec1.key", &["ec", "-in", &key_path]);
    convert(
        "encrypted.key",
        &[
            "pkey",
            "-in",
            &key_path,
            "-aes256",
            "-passout",
            "pass:secret",
        ],
    );
    convert(
        "old.key",
        &["ec", "-in", &key_path, "-aes256", "-passout", "pass:secret"],
    );
    convert("public.pem", &["pkey", "-in", &key_path, "-pubout"]);
    convert(
        "request.pem",
        &[
            "req",
            "-new",
            "-subj",
            "/CN=mx.contoso.com",
            "-key",
            &key_path,
        ],
    );
    convert(
        "archive.pem",
        &[
            "pkcs12", "-export", "-passout", "pass:", "-in", &pem_path, "-inkey", &key_path,
        ],
    );
    folder
}

#[test]
fn files_of_a_listener_that_work_are_taken_and_warned_of() {
    let folder = every_form();
    for (certificate, key, warning) in [
        ("mx.pem", "mx.key", ""),
        ("bom.pem", "bom.key", ""),
        ("dos.pem", "dos.key", ""),
        ("chain.pem", "sec1.key", ""),
        ("both.pem", "both.pem", ""),
        ("mx.pem", "group.key", ""),
        (
            "mx.pem",
            "open.key",
            "open.key: the key can be read by everybody on this machine",
        ),
        (
            "over.pem",
            "over.key",
            "the certificate has expired; partners who check it refuse us",
        ),
        (
            "early.pem",
            "early.key",
            "early.pem: the certificate is not valid yet",
        ),
    ] {
        let (code, said) = check(folder.path(), certificate, key);
        assert_eq!(code, Some(0), "{certificate} {key}: {said}");
        let bad = |line: &&str| line.contains("WARN") || line.contains("ERROR");
        let warnings: Vec<&str> = said.lines().filter(bad).collect();
        let as_expected = match warning {
            "" => warnings.is_empty(),
            text => warnings.len() == 1 && warnings[0].contains(text),
        };
        assert!(as_expected, "{certificate} {key}: {said}");
    }
}

#[test]
fn files_of_a_listener_that_do_not_work_are_named_in_one_sentence() {
    let folder = every_form();
    let mut wrong = Vec::new();
    let (directory, cut) = ("cannot be read: Is a directory", "cut off or broken");
    let (kind, der) = (
        "the key is of a kind that is not supported",
        "PEM is wanted: openssl",
    );
    for (certificate, key, blamed, told) in [
        ("der.pem", "mx.key", "der.pem", der),
        ("mx.pem", "der.key", "der.key", der),
        (
            "archive.pem",
            "mx.key",
            "archive.pem",
            "it is DER (or PKCS #12)",
        ),
        (
            "mx.pem",
            "encrypted.key",
            "encrypted.key",
            "the key is encrypted",
        ),
        ("mx.pem", "old.key", "old.key", "the key is encrypted"),
        (
            "reversed.pem",
            "mx.key",
            "reversed.pem",
            "the chain is in the wrong order",
        ),
        (
            "mx.pem",
            "other.key",
            "mx.pem",
            "does not belong to the certificate",
        ),
        (
            "request.pem",
            "mx.key",
            "request.pem",
            "there is a certificate request in it, and no certificate",
        ),
        (
            "public.pem",
            "mx.key",
            "public.pem",
            "there is a public key in it, and no certificate",
        ),
        (
            "mx.pem",
            "public.pem",
            "public.pem",
            "there is a public key in it, and no private key",
        ),
        (
            "mx.key",
            "mx.pem",
            "mx.key",
            "there is a private key in it, and no certificate",
        ),
        (
            "mx.pem",
            "mx.pem",
            "mx.pem",
            "there is a certificate in it, and no private key",
        ),
        ("folder.pem", "mx.key", "folder.pem", directory),
        ("mx.pem", "folder.pem", "folder.pem", directory),
        (
            "empty.pem",
            "mx.key",
            "empty.pem",
            "the file is empty; a certificate is wanted",
        ),
        (
            "mx.pem",
            "empty.pem",
            "empty.pem",
            "the file is empty; a private key is wanted",
        ),
        (
            "text.pem",
            "mx.key",
            "text.pem",
            "there is no certificate in it",
        ),
        (
            "mx.pem",
            "text.pem",
            "text.pem",
            "there is no private key in it",
        ),
        (
            "missing.pem",
            "mx.key",
            "missing.pem",
            "cannot be read: No such file",
        ),
        ("mx.pem", "cut.key", "cut.key", cut),
        ("cut.pem", "mx.key", "cut.pem", cut),
        ("small.pem", "small.key", "small.key", kind),
        ("brainpool.pem", "brainpool.key", "brainpool.key", kind),
    ] {
        let (code, said) = check(folder.path(), certificate, key);
        let begin = format!("portcullis: {}: ", folder.path().join(blamed).display());
        let is_one = said.starts_with(&begin) && said.lines().count() == 1;
        if code != Some(2) || !is_one || !said.contains(told) {
            wrong.push(format!(
                "{certificate} {key}: {code:?} {said:?} and not {told:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A listener with several certificates, and metrics.
struct Several {
    shop: Workshop,
    root: Made,
    daemon: TestBed,
    metrics: SocketAddr,
}

impl Several {
    fn new() -> Several {
        let shop = Workshop::new();
        let root = shop.ca("/CN=Root", "", None);
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = sink::free_address();
        for (name, key, host) in [
            ("rsa", "rsa:2048", "mx.contoso.com"),
            ("ecdsa", "P-256", "mx.contoso.com"),
            ("other", "P-256", "*.other.test"),
        ] {
            let made = dated(&shop, &root, (name, key, host), NOW);
            private(&folder.path().join(format!("{name}.pem")), made.pem());
            private(&folder.path().join(format!("{name}.key")), made.key_pem());
        }
        let listener = Listener::maildir()
            .with(r#"certificate = ["rsa.pem", "ecdsa.pem", "other.pem"]"#)
            .with(r#"key = ["rsa.key", "ecdsa.key", "other.key"]"#);
        let config = Config::new()
            .listener(listener)
            .with("[trust]\nroots = \"ca.pem\"")
            .file("ca.pem", root.pem())
            .with(&format!("[metrics]\naddress = \"{metrics}\""));
        let daemon = TestBed::start_in(folder, config, &[]);
        Several {
            shop,
            root,
            daemon,
            metrics,
        }
    }

    /// The common name of the certificate that a client is shown.
    fn shown(&self, options: &str) -> String {
        let list: Vec<&str> = options.split_whitespace().collect();
        let text = s_client(self.daemon.address(), None, &list, "QUIT\r\n");
        let subject = text.lines().find_map(|line| line.strip_prefix("subject="));
        let subject = subject.unwrap_or_else(|| panic!("{options}: {text}"));
        // Versions differ in the blanks around the sign.
        let subject = subject.replace(' ', "");
        subject.trim_start_matches("CN=").to_owned()
    }

    /// The value for a file at the metrics address.
    fn expires(&self, file: &str) -> Option<i64> {
        let deadline = Instant::now() + TIMEOUT;
        // It comes after the listeners.
        let mut stream = loop {
            match TcpStream::connect(self.metrics) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "no metrics: {error}"),
            }
            std::thread::yield_now();
        };
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let file = self.daemon.folder().join(file);
        let name = "portcullis_certificate_expires_timestamp_seconds";
        let begin = format!("{name}{{file=\"{}\"}} ", file.display());
        let value = text.lines().find_map(|line| line.strip_prefix(&begin))?;
        Some(value.trim().parse().expect("a number"))
    }
}

/// A certificate with this common name, key and name.
fn dated(
    shop: &Workshop,
    root: &Made,
    (common_name, key, host): (&str, &str, &str),
    valid: (&str, &str),
) -> Made {
    let names = format!("{OWN}\nsubjectAltName = DNS:{host}");
    let subject = format!("/CN={common_name}");
    let wish = Wish {
        key,
        valid: Some(valid),
        ..Wish::new(&subject, &names)
    };
    shop.make(&wish, Some(root))
}

#[test]
fn a_certificate_is_chosen_by_name_and_by_key() {
    let several = Several::new();
    for (options, expected) in [
        ("-servername mx.contoso.com", "rsa"),
        ("-servername MX.Contoso.com", "rsa"),
        ("-servername mx.contoso.com -sigalgs ECDSA+SHA256", "ecdsa"),
        (
            "-servername mx.contoso.com -tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384",
            "ecdsa",
        ),
        (
            "-servername mx.contoso.com -tls1_2 -cipher ECDHE-RSA-AES256-GCM-SHA384",
            "rsa",
        ),
        (
            "-servername mx.contoso.com -sigalgs RSA-PSS+SHA256:ECDSA+SHA256",
            "rsa",
        ),
        ("-servername mx.other.test", "other"),
        ("-servername mx.other.test -tls1_2", "other"),
        // What it cannot check is of no use to it, whatever the name.
        ("-servername mx.other.test -sigalgs RSA-PSS+SHA256", "rsa"),
        ("-servername a.mx.other.test", "rsa"),
        ("-servername other.test", "rsa"),
        ("-servername unknown.test", "rsa"),
        ("-noservername", "rsa"),
        ("-noservername -sigalgs ECDSA+SHA256", "ecdsa"),
    ] {
        assert_eq!(several.shown(options), expected, "{options}");
    }
}

#[test]
fn the_end_of_each_certificate_is_a_metric() {
    let several = Several::new();
    for file in ["rsa.pem", "ecdsa.pem", "other.pem"] {
        // 2048-01-01.
        assert_eq!(several.expires(file), Some(2_461_449_600), "{file}");
    }
    assert_eq!(several.expires("ca.pem"), None);
    let Several {
        shop, root, daemon, ..
    } = &several;
    let made = dated(shop, root, ("ecdsa", "P-256", "mx.contoso.com"), PAST);
    // Both are taken once they belong together again.
    daemon.replace("ecdsa.key", made.key_pem().as_bytes());
    daemon.replace("ecdsa.pem", made.pem().as_bytes());
    daemon.wait_for_log("the certificate has expired");
    daemon.wait_for_log("settings in force");
    // 2021-01-01.
    assert_eq!(several.expires("ecdsa.pem"), Some(1_609_459_200));
    assert_eq!(several.expires("rsa.pem"), Some(2_461_449_600));
}

#[test]
fn a_list_of_certificates_needs_as_many_keys() {
    let several = Several::new();
    let path = several.daemon.folder().join("portcullis.toml");
    let text = fs::read_to_string(&path).expect("a configuration");
    let path = path.with_file_name("other.toml");
    for (from, to, told) in [
        (
            r#", "other.key"]"#,
            "]",
            "certificate and key belong together",
        ),
        (
            r#""ecdsa.key", "other.key""#,
            r#""other.key", "ecdsa.key""#,
            "ecdsa.pem: the key ",
        ),
    ] {
        fs::write(&path, text.replace(from, to)).expect("a file");
        let path = path.to_str().expect("a path");
        let output = run(&["run", "--check-config", "--config", path], b"");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
}

/// Whoever agreed with the partner hears in time that its mail is about to be refused, and once a day is enough.
#[test]
fn a_partners_certificate_that_runs_out_is_told_of_once() {
    let pki = Pki::new();
    let rules = r#"{"connectors": [{"name": "Bank", "direction": "inbound",
        "from": {"sender-domains": ["bank.test"]},
        "require": {"certificate-names": ["mail.bank.test"]}}]}"#;
    let config = Config::new()
        .hostname("mx.dest.test")
        .listener(Listener::maildir().starttls())
        .certificate(&pki)
        .tenant("dest.test", rules)
        .trust(&pki);
    let daemon = TestBed::start(config);
    for days in [40, 5, 5] {
        let identity = pki.with_days(&["mail.bank.test"], days);
        for _ in 0..2 {
            let mut client = Client::greeted(daemon.address());
            client.hello(true, Some(&identity));
            assert_eq!(client.envelope("a@bank.test", "b@dest.test").code, 250);
            client.quit();
        }
    }
    daemon.wait_for_log_times("session ends", 6);
    let told = "a partner's certificate expires soon";
    let line = daemon.wait_for_log(told);
    assert!(
        line.contains("mail.bank.test") && line.contains("days=5") && line.contains("Bank"),
        "{line}"
    );
    assert_eq!(
        daemon.count_log(told),
        2,
        "two certificates have few days left"
    );
}
