//! What authorities say of certificates below them: policies, and constraints of names.

use super::chains::Trust::{self, Invalid, Stricter, Trusted};
use super::chains::{Cases, hold};

impl Cases<'_> {
    fn policies(&mut self) {
        let web = "certificatePolicies = critical, 0.4.0.194112.1.4
            1.3.6.1.5.5.7.1.3 = DER:300A3008060604008E460101";
        let explicit = "certificatePolicies = critical, P1\npolicyConstraints = critical, requireExplicitPolicy:0";
        let loose = "certificatePolicies = P1\npolicyConstraints = requireExplicitPolicy:0";
        let later = "certificatePolicies = critical, P1\npolicyConstraints = critical, requireExplicitPolicy:1";
        let far = "certificatePolicies = critical, P1\npolicyConstraints = critical, requireExplicitPolicy:2";
        let any = "certificatePolicies = 2.5.29.32.0\npolicyConstraints = critical, requireExplicitPolicy:0";
        let no_any = &format!("{any}\ninhibitAnyPolicy = critical, 0");
        let no_maps = "certificatePolicies = critical, P1
            policyConstraints = critical, requireExplicitPolicy:0, inhibitPolicyMapping:0";
        let maps = "certificatePolicies = P1\npolicyMappings = critical, P1:P2";
        let table: &[(&str, Trust, &[&str], &str)] = &[
            (
                "the own certificate's policies are critical",
                Trusted,
                &[""],
                "certificatePolicies = critical, P1",
            ),
            (
                "the authority's are",
                Trusted,
                &["certificatePolicies = critical, P1"],
                "",
            ),
            (
                "both are, with qcStatements as in a QWAC",
                Trusted,
                &["certificatePolicies = critical, 0.4.0.194112.1.4"],
                web,
            ),
            (
                "qcStatements are critical",
                Invalid,
                &[""],
                "1.3.6.1.5.5.7.1.3 = critical, DER:300A3008060604008E460101",
            ),
            (
                "a policy is required, and given",
                Trusted,
                &[explicit],
                "certificatePolicies = P1",
            ),
            (
                "a policy is required, and none is given",
                Invalid,
                &[explicit],
                "",
            ),
            (
                "a policy is required, and another one given",
                Invalid,
                &[explicit],
                "certificatePolicies = critical, P2",
            ),
            (
                "a policy is required, and any given",
                Trusted,
                &[explicit],
                "certificatePolicies = 2.5.29.32.0",
            ),
            ("constraints that are not critical", Invalid, &[loose], ""),
            (
                "required one below, and given by nobody",
                Invalid,
                &[later, ""],
                "",
            ),
            (
                "required one below, and given by all",
                Trusted,
                &[later, "certificatePolicies = P1"],
                "certificatePolicies = P1",
            ),
            (
                "required farther below than the chain is long",
                Trusted,
                &[far],
                "",
            ),
            (
                "any policy of an authority",
                Trusted,
                &[any],
                "certificatePolicies = P1",
            ),
            (
                "any policy is inhibited, and given",
                Invalid,
                &[no_any],
                "certificatePolicies = 2.5.29.32.0",
            ),
            (
                "any policy is inhibited, and another one given",
                Trusted,
                &[no_any],
                "certificatePolicies = P1",
            ),
            (
                "any policy is inhibited, and none is needed",
                Trusted,
                &["inhibitAnyPolicy = critical, 1"],
                "",
            ),
            (
                "mappings are inhibited",
                Invalid,
                &[no_maps, maps],
                "certificatePolicies = P2",
            ),
        ];
        for (what, trust, authorities, own) in table {
            self.below(what, *trust, authorities, own);
        }
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
        for (what, trust, constraints, own) in [
            ("a folder of names", Trusted, "permitted;dirName:bank", ""),
            ("another folder", Invalid, "permitted;dirName:other", ""),
            ("a folder is excluded", Invalid, "excluded;dirName:bank", ""),
            (
                "another folder is excluded",
                Trusted,
                "excluded;dirName:other",
                "",
            ),
            (
                "two kinds",
                Trusted,
                "permitted;dirName:bank, permitted;DNS:a.test",
                "",
            ),
            (
                "two kinds, of which one does not fit",
                Invalid,
                "permitted;dirName:bank, permitted;DNS:b.test",
                "",
            ),
            ("a domain", Trusted, "permitted;DNS:a.test", ""),
            ("another domain", Invalid, "permitted;DNS:b.test", ""),
            ("a domain is excluded", Invalid, "excluded;DNS:a.test", ""),
            (
                "another domain is excluded",
                Trusted,
                "excluded;DNS:b.test",
                "",
            ),
            (
                "a wildcard",
                Trusted,
                "permitted;DNS:a.test",
                "DNS:*.a.test",
            ),
            (
                "a wildcard over an excluded name",
                Stricter,
                "excluded;DNS:x.a.test",
                "DNS:*.a.test",
            ),
            (
                "an address",
                Trusted,
                "permitted;IP:10.0.0.0/255.0.0.0",
                "IP:10.1.1.1",
            ),
            (
                "another address",
                Invalid,
                "permitted;IP:10.0.0.0/255.0.0.0",
                "IP:11.1.1.1",
            ),
            (
                "all addresses are excluded",
                Invalid,
                "excluded;IP:0.0.0.0/0.0.0.0",
                "IP:11.1.1.1",
            ),
            (
                "all addresses are excluded, and there is none",
                Trusted,
                "excluded;IP:0.0.0.0/0.0.0.0",
                "",
            ),
            (
                "a mailbox",
                Trusted,
                "permitted;email:a.test",
                "email:x@a.test",
            ),
            (
                "another mailbox",
                Invalid,
                "permitted;email:a.test",
                "email:x@b.test",
            ),
            (
                "a mailbox is excluded",
                Invalid,
                "excluded;email:a.test",
                "email:x@a.test",
            ),
            (
                "mailboxes, and there is none",
                Trusted,
                "permitted;email:a.test",
                "",
            ),
            (
                "a URI",
                Trusted,
                "permitted;URI:.a.test",
                "URI:https://x.a.test/",
            ),
            (
                "another URI",
                Invalid,
                "permitted;URI:.a.test",
                "URI:https://x.b.test/",
            ),
        ] {
            constrained(what, trust, constraints, own);
        }
    }
}

#[test]
fn certificate_policies_are_processed() {
    hold(|cases| cases.policies());
}

#[test]
fn name_constraints_of_every_kind_hold() {
    hold(|cases| cases.names());
}
