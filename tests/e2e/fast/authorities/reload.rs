//! Authorities come, change and go while mail flows.

use std::fs;

use portcullis_tests::outbound::{SHORT_TIMEOUTS, send};
use portcullis_tests::pki::Identity;
use portcullis_tests::{
    Behaviour, Config, Dns, Listener, MockServer, Pki, Reply, TestBed, machine,
};

use super::{INBOUND, NAME, assert_refused, inbound};

/// The file with the partner's roots.
const ROOTS: &str = "partner-roots.pem";

/// The rules of both directions.
fn rules() -> String {
    let inbound = INBOUND.strip_suffix("]}").expect("a list of connectors");
    let outbound = r#"{"name": "To partner", "direction": "outbound", "to": {"recipient-domains": ["partner.test"]},
        "tls": {"level": "verify", "certificate-authorities": ["partner"]}}"#;
    format!("{inbound}, {outbound}]}}")
}

struct World {
    public: Pki,
    /// The configuration, without an authority.
    config: Config,
    bed: TestBed,
    /// What the partner shows, as a client and as a server.
    shown: Identity,
    server: MockServer,
    _dns: Dns,
}

/// A daemon that knows no authority by name yet, and a partner with a certificate.
fn world(partner: &Pki) -> World {
    let public = Pki::new();
    let port = machine::free_address().port();
    let dns = Dns::start(&["partner.test. MX 10 mx.partner.test.\nmx.partner.test. A 127.0.0.2"]);
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .listener(Listener::outbound(
            "clients = [\"127.0.0.1\"], tenant = \"contoso\"",
        ))
        .certificate(&public)
        .tenant("contoso.com", &rules())
        .trust(&public)
        .dns(&dns)
        .partners_here(port)
        .with(SHORT_TIMEOUTS);
    let shown = partner.trusted(&[NAME]);
    World {
        public,
        bed: TestBed::start(config.clone()),
        config,
        server: MockServer::start_at(([127, 0, 0, 2], port).into(), Behaviour::with(&shown)),
        shown,
        _dns: dns,
    }
}

impl World {
    /// The partner shows a certificate of these roots from now on, and has closed what was open.
    fn show(&mut self, pki: &Pki) {
        self.shown = pki.trusted(&[NAME]);
        self.server.behave(Behaviour::with(&self.shown));
        self.server.hang_up();
    }

    /// Holds that the partner's certificate is, or is not, what is asked for, inbound and outbound.
    fn assert_trusted(&self, is_trusted: bool) {
        let reply = self.reply("a@partner.test", &self.shown);
        let outcome = send(&mut self.bed.client_of(1), "b@partner.test");
        if is_trusted {
            assert_eq!(reply.code, 250, "{reply:?}");
            assert!(outcome.is_delivered(), "{}", outcome.text());
            return;
        }
        assert_refused(&reply, "Partner", "certificate-untrusted");
        assert_eq!(outcome.last().code, 451);
        let told = outcome.text();
        assert!(told.contains("certificate-not-trusted"), "{told}");
    }

    fn reply(&self, from: &str, shown: &Identity) -> Reply {
        inbound(&self.bed, Some(shown), from, "b@contoso.com")
    }

    fn replace_roots(&self, roots: &str) {
        self.bed
            .change(|daemon| daemon.replace(ROOTS, roots.as_bytes()));
    }
}

#[test]
fn an_authority_comes_and_goes_with_the_configuration() {
    let partner = Pki::named("Partner Root");
    let mut world = world(&partner);
    world.assert_trusted(false);
    let with = world.config.clone().authority("partner", &partner, &[]);
    world.bed.reconfigure(with.clone());
    world.assert_trusted(true);
    // The connection that was good a moment ago is open still.
    world.bed.reconfigure(world.config.clone());
    world.assert_trusted(false);
    world.bed.reconfigure(with);
    world.assert_trusted(true);
    let elsewhere = world.config.clone().tenant("fabrikam.com", INBOUND);
    let elsewhere = elsewhere.authority("partner", &partner, &["fabrikam"]);
    world.bed.reconfigure(elsewhere);
    world.assert_trusted(false);
    // Nothing of it was ever one of the ordinary roots.
    let reply = world.reply("a@ordinary.test", &world.shown);
    assert_refused(&reply, "Ordinary", "certificate-untrusted");
    let reply = world.reply("a@ordinary.test", &world.public.trusted(&[NAME]));
    assert_eq!(reply.code, 250, "{reply:?}");
}

#[test]
fn the_roots_of_an_authority_may_be_replaced() {
    let (old, new) = (Pki::named("Old Root"), Pki::named("New Root"));
    let mut world = world(&old);
    let with = world.config.clone().authority("partner", &old, &[]);
    world.bed.reconfigure(with);
    world.assert_trusted(true);
    world.show(&new);
    world.assert_trusted(false);
    // While the partner changes from one to the other, both count.
    world.replace_roots(&format!("{}{}", old.root_pem, new.root_pem));
    world.assert_trusted(true);
    world.show(&old);
    world.assert_trusted(true);
    world.replace_roots(&new.root_pem);
    world.assert_trusted(false);
    world.show(&new);
    world.assert_trusted(true);
    world.replace_roots(&old.root_pem);
    world.assert_trusted(false);
}

#[test]
fn roots_that_cannot_be_read_change_nothing() {
    let partner = Pki::named("Partner Root");
    let mut world = world(&partner);
    let with = world.config.clone().authority("partner", &partner, &[]);
    world.bed.reconfigure(with);
    world.assert_trusted(true);
    let path = world.bed.folder().join(ROOTS);
    fs::remove_file(&path).expect("the file is removed");
    let kept = "not reloaded; previous version remains active";
    let line = world.bed.wait_for_log(kept);
    assert!(line.contains(ROOTS), "{line}");
    world.bed.wait_for_log("configuration reloaded in part");
    world.assert_trusted(true);
    fs::write(&path, "no certificate").expect("a file is written");
    world.bed.signal("HUP");
    world.bed.wait_for_log_times(kept, 2);
    world.assert_trusted(true);
    world.replace_roots(&Pki::named("Other Root").root_pem);
    world.assert_trusted(false);
}
