//! Chains, and the keys in them.

use portcullis_tests::openssl::{AUTHORITY, Made, OWN, Wish, Workshop};

use super::{BANK, FUTURE, Inbound, NOW, PAST, SUB, World};

/// What is to come of a chain, in the policy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
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

pub(super) struct Cases<'a> {
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
    pub(super) fn below(&mut self, what: &str, trust: Trust, authorities: &[&str], own: &str) {
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
        let (shop, root) = (self.shop, self.root);
        let sub = shop.ca(SUB, "", Some(root));
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
        let alone = shop.make(&Wish::new(BANK, OWN), None);
        self.add("self-signed", UnknownIssuer, alone, &[]);
        let alone = shop.make(&Wish::new(BANK, OWN).valid(PAST), None);
        self.add("self-signed, and over", UnknownIssuer, alone, &[]);
        let ca = format!("{AUTHORITY}\nsubjectAltName = DNS:mail.a.test");
        self.add(
            "a self-signed authority",
            UnknownIssuer,
            shop.make(&Wish::new(BANK, &ca), None),
            &[],
        );
        for (what, trust, valid) in [
            ("over", Expired, PAST),
            ("in time", Trusted, NOW),
            ("not begun", NotYetValid, FUTURE),
        ] {
            let own = shop.make(&Wish::new(BANK, OWN).valid(valid), Some(&sub));
            self.add(what, trust, own, &[&sub]);
            let wish = Wish::new(SUB, AUTHORITY).valid(valid);
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
        let over = Wish::new("/C=DE/O=Sub/CN=Cross", AUTHORITY).valid(PAST);
        let over = shop.make(&over, Some(root));
        // The same authority once more, by a certificate that is not over.
        let key = over.key.to_str().expect("a path");
        let fresh = Wish::new("/C=DE/O=Sub/CN=Cross", AUTHORITY).key(key);
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
            let wish = Wish::new(SUB, AUTHORITY).key(key);
            let sub = self.shop.make(&wish, Some(self.root));
            self.add(
                &format!("the authority has a key {key}"),
                trust,
                self.shop.own("", &sub),
                &[&sub],
            );
        }
        let sub = self.shop.ca(SUB, "", Some(self.root));
        let sha1 = Wish::new(BANK, OWN).options(&["-sha1"]);
        let own = self.shop.make(&sha1, Some(&sub));
        self.add("signed with SHA-1", Invalid, own, &[&sub]);
        let wish = Wish::new(SUB, AUTHORITY).key("rsa:2048");
        let sub = self.shop.make(&wish, Some(self.root));
        let pss = [
            "-sigopt",
            "rsa_padding_mode:pss",
            "-sigopt",
            "rsa_pss_saltlen:digest",
        ];
        let pss = Wish::new(BANK, OWN).options(&pss);
        let own = self.shop.make(&pss, Some(&sub));
        self.add("signed with RSA-PSS", Trusted, own, &[&sub]);
    }
}

/// Holds all cases against OpenSSL's word, what a client is told, and what is told of a partner.
pub(super) fn hold(fill: impl FnOnce(&mut Cases)) {
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
fn authorities_have_keys_of_every_kind() {
    hold(|cases| cases.keys());
}
