//! Addresses that a partner's server could read as a route: they are refused before it is asked.

use portcullis_tests::outbound::{SHORT_TIMEOUTS, Setting};
use portcullis_tests::{Behaviour, MockServer, NO_RULES, Pki};

const PRIVATE: &str = "[delivery]\nprivate-networks = [\"127.0.0.0/8\"]\n";

#[test]
fn partners_get_no_routes_either() {
    let records = "bank.test. MX 10 mx.bank.test.\nmx.bank.test. A 127.0.0.2";
    let more = format!("{SHORT_TIMEOUTS}{PRIVATE}");
    let setting = Setting::start(Pki::new(), NO_RULES, &[records], &more);
    let bank = MockServer::start_at(setting.address(2), Behaviour::default());
    for local in [
        "bob%other.test",
        "other.test!bob",
        "\"bob@other.test\"",
        "\"@other.test:bob\"",
        "\"bob%other.test\"",
        "\"bob;x\"",
        "\".bob\"",
        "-fbob",
        "\"${run{/bin/true}}\"",
    ] {
        let mut client = setting.client();
        let reply = client.envelope("alice@contoso.com", &format!("{local}@bank.test"));
        assert!(reply.is_refused_as_a_route(), "{local}: {reply:?}");
    }
    assert!(bank.commands().is_empty(), "{:?}", bank.commands());
    for local in ["first.last+tag=x", "O'Brien", "\"john smith\"", "bob/sales"] {
        let outcome = setting.send(&format!("{local}@bank.test"));
        assert!(outcome.is_delivered(), "{local}: {}", outcome.text());
        let taken = bank.forget();
        assert_eq!(taken[0].recipients, [format!("<{local}@bank.test>")]);
    }
}
