//! Revocation lists.

use std::fs;

use portcullis_tests::openssl::Made;

use super::{NOW, PAST, World};

impl World {
    fn with_crls() -> World {
        World::with_name("mail.a.test", "[trust]\ncrls = \"crls\"")
    }

    /// Puts a revocation list where it is looked for, and waits until it is in force.
    fn put_list(&self, name: &str, content: impl AsRef<[u8]>) {
        self.change(|| self.rename_list(name, content));
    }

    /// In one step, as who fetches lists does it.
    fn rename_list(&self, name: &str, content: impl AsRef<[u8]>) {
        let new = self.shop.write("new", "");
        fs::write(&new, content).expect("a file");
        let place = self.daemon.folder().join("crls").join(name);
        fs::rename(&new, place).expect("the same file system");
    }
}

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
    let world = World::with_crls();
    let World {
        shop, root, daemon, ..
    } = &world;
    let sub = [shop.ca("/C=DE/O=Sub/CN=Sub", "", Some(root))];
    let (one, two) = (shop.own("", &sub[0]), shop.own("", &sub[0]));
    assert_trusted(&world, &one, &sub);
    world.put_list("sub.crl", shop.crl(&sub[0], &[&one], NOW));
    assert_revoked(&world, &one, &sub);
    assert_trusted(&world, &two, &sub);
    daemon.wait_for_log("failed=\"certificate-untrusted\"");
    // A newer list in DER takes its place, and then none is there.
    let list = shop.write("pem", &shop.crl(&sub[0], &[&two], NOW));
    let list = list.to_str().expect("a path");
    world.put_list(
        "sub.crl",
        shop.openssl(&["crl", "-in", list, "-outform", "DER"]),
    );
    assert_revoked(&world, &two, &sub);
    assert_trusted(&world, &one, &sub);
    world.change(|| {
        fs::remove_file(daemon.folder().join("crls/sub.crl")).expect("removed");
    });
    assert_trusted(&world, &two, &sub);
    // The authority itself, whose own lists nobody has.
    world.put_list("root.crl", shop.crl(root, &[&sub[0]], NOW));
    assert_revoked(&world, &one, &sub);
    assert_trusted(&world, &shop.own("", root), &[]);
}

#[test]
fn a_revocation_list_that_is_no_good_is_told_and_makes_nothing_untrusted() {
    let world = World::with_crls();
    let World {
        shop, root, daemon, ..
    } = &world;
    let (good, revoked) = (shop.own("", root), shop.own("", root));
    world.put_list("stale.crl", shop.crl(root, &[&revoked], PAST));
    let line = daemon.wait_for_log("revocation list: it is out of date since");
    assert!(
        line.contains("WARN") && line.contains("stale.crl"),
        "{line}"
    );
    assert_trusted(&world, &good, &[]);
    // What is revoked does not come back.
    assert_revoked(&world, &revoked, &[]);
    world.rename_list("text.crl", "hello");
    let line = daemon.wait_for_log("it is no revocation list");
    assert!(line.contains("WARN") && line.contains("text.crl"), "{line}");
    let namesake = shop.ca("/C=DE/O=Root/CN=Root", "", None);
    world.put_list("namesake.crl", shop.crl(&namesake, &[&good], NOW));
    assert_trusted(&world, &good, &[]);
    assert_revoked(&world, &revoked, &[]);
    world.put_list(
        "foreign.crl",
        shop.crl(&shop.ca("/C=DE/CN=Foreign", "", None), &[], NOW),
    );
    assert_trusted(&world, &shop.own("", root), &[]);
}

#[test]
fn a_forged_revocation_list_counts_for_nothing_and_hides_no_genuine_one() {
    let world = World::with_crls();
    let World {
        shop, root, daemon, ..
    } = &world;
    let (good, revoked) = (shop.own("", root), shop.own("", root));
    // What is newer is looked at first.
    const NEWER: (&str, &str) = ("20220101000000Z", "20480101000000Z");
    let forged = shop.crl(&shop.forger(root), &[&good], NEWER);
    world.put_list("forged.crl", forged);
    assert_trusted(&world, &good, &[]);
    daemon.wait_for_log("a revocation list cannot be used");
    world.put_list("genuine.crl", shop.crl(root, &[&revoked], NOW));
    assert_trusted(&world, &shop.own("", root), &[]);
    assert_revoked(&world, &revoked, &[]);
}
