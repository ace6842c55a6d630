//! The zones, and what is to be found in them.

use portcullis_tests::forwarder::{ODD, odd_cuts};
use portcullis_tests::resolver::{Damage, Ds, Signing, Zone};

use super::{Cases, Way};

/// Zones that are signed: the name, another one that aliases lead to, and how.
const SIGNED: [(&str, &str, Signing); 7] = [
    ("n.test", "n3.test", Signing::Nsec),
    ("n3.test", "n.test", Signing::Nsec3),
    ("n3o.test", "n3.test", Signing::OptOut),
    ("rsa.test", "n.test", Signing::Rsa),
    ("n.tst2", "n3.test", Signing::Nsec),
    ("ed.test", "n.test", Signing::Ed25519),
    ("ed448.test", "n.test", Signing::Ed448),
];

/// Zones whose keys the parent does not know of.
const ISLANDS: [&str; 2] = ["nods.test", "island.u.test"];

/// Zones that no one can trust: the parent knows another key, and the signatures are long over.
const BROKEN: [&str; 2] = ["dsbad.test", "expired.test"];

/// Zones that are not signed.
const UNSIGNED: [&str; 8] = [
    "u.test",
    "u2.test",
    "u.tst2",
    "sub.u.test",
    "deep.sub.u.test",
    "u.n.test",
    "u.n3.test",
    "u.n3o.test",
];

/// The zones with all that some resolvers take for forged. `key` is the digest of the partner's key.
pub fn zones(port: u16, key: &str) -> Vec<Zone> {
    let tlsa = format!("_{port}._tcp");
    let good = format!("TLSA 3 1 1 {key}");
    // More than a datagram takes.
    let many: String = (0..80)
        .map(|number| format!("big MX 20 exchanger-{number}\n"))
        .collect();
    let signed = |name: &str, other: &str, signing: Signing| {
        let body = format!(
            "@ MX 10 mail
             mail A 127.0.0.2
             {tlsa}.mail {good}
             v4 A 127.0.0.2
             bare MX 10 v4
             *.wmx MX 10 mail
             viaw MX 10 x.w
             *.w A 127.0.0.2
             *.w {good}
             exact.w A 127.0.0.2
             *.cw CNAME mail
             viacw MX 10 x.cw
             *.cd CNAME {name}.
             *.cwu CNAME host.u.test.
             viacwu MX 10 x.cwu
             *.t {good}
             tc A 127.0.0.2
             {tlsa}.tc CNAME x.t
             viatc MX 10 tc
             wt A 127.0.0.2
             *._tcp.wt {good}
             viawt MX 10 wt
             target MX 10 mail
             a.target A 127.0.0.2
             a.target MX 10 a.target
             {tlsa}.a.target {good}
             viatarget MX 10 a.target
             *.target2 A 127.0.0.2
             *.target2 {good}
             dn DNAME target
             viadn MX 10 a.dn
             dno DNAME target.{other}.
             viadno MX 10 a.dno
             dnu DNAME u.test.
             viadnu MX 10 host.dnu
             dnw DNAME target2
             viadnw MX 10 x.dnw
             alias CNAME mail
             viaalias MX 10 alias
             alias2 CNAME alias.{other}.
             viaalias2 MX 10 alias2
             tou CNAME host.u.test.
             viatou MX 10 tou
             two CNAME a1.u.test.
             viatwo MX 10 two
             three CNAME two.{other}.
             viathree MX 10 three
             toapex CNAME host.deep.child.apex.test.
             viatoapex MX 10 toapex
             tonosoa CNAME host.deep.child.nosoa.test.
             viatonosoa MX 10 tonosoa
             a.b.ent MX 10 mail
             big MX 10 mail
             {many}
             sts MX 10 v4
             mta-sts.sts CNAME p1.u.test.
             _mta-sts.sts CNAME t1.u.test."
        );
        Zone::new(&format!("{name}."), &body).signed(signing)
    };
    let unsigned = |name: &str| {
        let body = format!(
            "@ MX 10 host
             host A 127.0.0.2
             {tlsa}.host {good}
             viaa1 MX 10 a1
             a1 CNAME a2
             a2 A 127.0.0.2
             *.w MX 10 host
             tosec CNAME mail.n.test.
             viatosec MX 10 tosec
             evil A 127.0.0.3
             p1 CNAME p2
             p2 A 127.0.0.1
             t1 CNAME t2
             t2 TXT \"v=STSv1; id=1;\""
        );
        Zone::new(&format!("{name}."), &body)
    };
    let odd: String = ODD
        .iter()
        .map(|tree| format!("{tree} NS ns.servers.test.\n"))
        .collect();
    let damaged = format!(
        "fine MX 10 ok
         ok A 127.0.0.2
         {tlsa}.ok {good}
         @ MX 10 broken
         broken A 127.0.0.2
         {tlsa}.broken {good}
         unsigned-a MX 10 stripped
         stripped A 127.0.0.2
         broken-mx MX 10 ok
         stripped-mx MX 10 ok
         broken-tlsa MX 10 bt
         bt A 127.0.0.2
         {tlsa}.bt {good}
         stripped-tlsa MX 10 st
         st A 127.0.0.2
         {tlsa}.st {good}
         viabroken MX 10 alias
         alias CNAME ok"
    );
    let broken_tlsa = format!("{tlsa}.bt");
    let stripped_tlsa = format!("{tlsa}.st");
    let damaged = Zone::new("damaged.test.", &damaged)
        .signed(Signing::Nsec)
        .damaged("broken", "A", Damage::Broken)
        .damaged("stripped", "A", Damage::Stripped)
        .damaged("broken-mx", "MX", Damage::Broken)
        .damaged("stripped-mx", "MX", Damage::Stripped)
        .damaged(&broken_tlsa, "TLSA", Damage::Broken)
        .damaged(&stripped_tlsa, "TLSA", Damage::Stripped)
        .damaged("alias", "CNAME", Damage::Broken);
    let mut zones = vec![
        Zone::new(".", "").signed(Signing::Nsec),
        Zone::new("test.", &odd).signed(Signing::OptOut),
        Zone::new("tst2.", "").signed(Signing::Nsec),
        Zone::new("servers.test.", "ns A 127.0.0.1").signed(Signing::Nsec),
        signed("n2.test", "n.test", Signing::Nsec),
        damaged,
    ];
    zones.extend(SIGNED.map(|(name, other, signing)| signed(name, other, signing)));
    zones.extend(ISLANDS.map(|name| signed(name, "n.test", Signing::Nsec).ds(Ds::Missing)));
    let [wrong, expired] = BROKEN;
    zones.push(signed(wrong, "n.test", Signing::Nsec).ds(Ds::Wrong));
    zones.push(signed(expired, "n.test", Signing::Expired));
    zones.extend(UNSIGNED.map(unsigned));
    zones
}

pub const ODD_RECORDS: &str = "@ MX 10 host
    host A 127.0.0.2
    bare A 127.0.0.2
    alias CNAME host
    viaalias MX 10 alias";

/// The domains, where Unbound's validator judges if `by_unbound`.
pub fn cases(by_unbound: bool) -> Cases {
    use Way::{Either, Forged, Nowhere, Proven, Unproven};
    let mut cases = Cases::new();
    let signed = [
        ("", Proven),
        ("bare.", Unproven),
        ("x.wmx.", Proven),
        ("x.cd.", Proven),
        ("viaw.", Proven),
        ("viacw.", Proven),
        ("viacwu.", Unproven),
        ("viatc.", Proven),
        ("viawt.", Proven),
        ("a.dn.", Proven),
        ("a.dno.", Proven),
        ("host.dnu.", Unproven),
        ("viadn.", Proven),
        ("viadno.", Proven),
        ("viadnu.", Unproven),
        ("viadnw.", Proven),
        ("viaalias.", Proven),
        ("viaalias2.", Proven),
        ("viatou.", Unproven),
        ("viatwo.", Unproven),
        ("two.", Unproven),
        ("viathree.", Unproven),
        ("viatoapex.", Unproven),
        ("viatonosoa.", Unproven),
        ("a.b.ent.", Proven),
        ("big.", Proven),
        ("v4.", Unproven),
        ("nx.", Nowhere),
        ("nx.dn.", Nowhere),
    ];
    for (zone, ..) in SIGNED {
        for (below, way) in signed {
            // A span that opts out never proves that no closer name exists (RFC 5155 section 9.2).
            let by_wildcard = [
                "x.wmx.", "x.cd.", "viaw.", "viacw.", "viatc.", "viawt.", "viadnw.",
            ];
            let way = match (zone, way) {
                ("n3o.test", Proven) if by_wildcard.contains(&below) => Either,
                // Not all that validate know these algorithms.
                ("ed448.test", Proven) => Either,
                ("ed.test", Proven) if !by_unbound => Unproven,
                _ => way,
            };
            cases.push((format!("{below}{zone}"), way));
        }
    }
    for zone in ISLANDS {
        for (below, way) in signed {
            let way = if way == Proven { Unproven } else { way };
            cases.push((format!("{below}{zone}"), way));
        }
    }
    for zone in UNSIGNED {
        for below in ["", "viaa1.", "x.w.", "viatosec.", "a1."] {
            cases.push((format!("{below}{zone}"), Unproven));
        }
        cases.push((format!("nx.{zone}"), Nowhere));
    }
    for zone in ODD.iter().flat_map(|tree| odd_cuts(tree)) {
        let zone = zone.trim_end_matches('.');
        for below in ["", "bare.", "viaalias."] {
            cases.push((format!("{below}{zone}"), Unproven));
        }
        cases.push((format!("nx.{zone}"), Nowhere));
    }
    for zone in BROKEN {
        for below in ["", "viaw.", "viadn.", "nx."] {
            cases.push((format!("{below}{zone}"), Forged));
        }
    }
    cases.push(("fine.damaged.test".to_owned(), Proven));
    for below in [
        "",
        "unsigned-a.",
        "broken-mx.",
        "stripped-mx.",
        "broken-tlsa.",
        "stripped-tlsa.",
        "viabroken.",
    ] {
        cases.push((format!("{below}damaged.test"), Forged));
    }
    cases
}
