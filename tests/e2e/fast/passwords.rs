//! Passwords that we log in with: nobody reads them, whatever a server says.

use portcullis_tests::pki::Identity;
use portcullis_tests::{
    Action, Behaviour, Client, Config, Listener, MockServer, Pki, Step, TestBed,
};

const PASSWORD: &str = "tr0ub4dor";
/// The same as AUTH PLAIN has it.
const MESSAGE: &str = "AGFwcAB0cjB1YjRkb3I=";
/// What a server says that repeats it.
const REPEATED: [&str; 2] = [
    "550-5.7.1 what do you want with\r\n550 5.7.1 tr0ub4dor here?\r\n",
    "450 4.7.0 cannot parse AGFwcAB0\tcjB1YjRkb3I=\r\n",
];

/// A server that is a next hop, and a smart host of a tenant.
fn bed(identity: &Identity, server: &MockServer) -> TestBed {
    let login = [
        "username = \"app\"".to_owned(),
        "password-file = \"secret\"".to_owned(),
        format!("certificate-fingerprints = [\"{}\"]", identity.sha256()),
    ];
    let address = server.address;
    let next_hop = format!("smtp = \"{address}\", {}", login.join(", "));
    let rules = format!(
        r#"{{"connectors": [{{"name": "all", "direction": "outbound", "to": {{"recipient-domains": ["example.org"]}},
            "route": {{"smart-hosts": ["[127.0.0.1]:{}"]}}, "tls": {{"level": "encrypt"}}}}]}}"#,
        address.port()
    );
    TestBed::start(
        Config::new()
            .listener(Listener::next_hop(&next_hop))
            .listener(Listener::outbound("clients = [\"127.0.0.1\"]"))
            .tenant("contoso.com", &rules)
            .file("secret", PASSWORD)
            .with("[delivery]\nprivate-networks = [\"127.0.0.0/8\"]")
            .with(&format!(
                "[[delivery.smart-host]]\naddress = \"[127.0.0.1]:{}\"\n{}",
                address.port(),
                login.join("\n")
            )),
    )
}

fn obliging(identity: &Identity) -> Behaviour {
    Behaviour {
        offers_login: true,
        ..Behaviour::with(identity)
    }
}

/// What a client is told that sends a message, to the end or as far as it comes.
fn send(client: &mut Client, from: &str, to: &str) -> String {
    client.expect("EHLO client.example", 250);
    client.expect(&format!("MAIL FROM:<{from}>"), 250);
    let reply = client.command(&format!("RCPT TO:<{to}>"));
    if reply.code != 250 {
        return reply.text();
    }
    client.data("Subject: x\r\n\r\nx").text()
}

#[test]
fn a_server_that_repeats_the_password_is_not_quoted() {
    let identity = Pki::new().trusted(&["hub.test"]);
    let steps = [
        Step::Greeting,
        Step::Ehlo,
        Step::StartTls,
        Step::EhloTls,
        Step::Auth,
        Step::Mail,
        Step::Rcpt,
        Step::Data,
        Step::End,
    ];
    for step in steps {
        for text in REPEATED {
            let server = MockServer::start(obliging(&identity));
            let bed = bed(&identity, &server);
            server.hang_up();
            server.behave(obliging(&identity).but(step, Action::Say(text)));
            let mut inbound = Client::greeted(bed.address());
            let mut outbound = bed.client_of(1);
            let told = [
                send(&mut inbound, "a@example.org", "b@contoso.com"),
                send(&mut outbound, "a@contoso.com", "b@example.org"),
            ];
            // Something was said that is not shown, so this is about what the server has said.
            bed.wait_for_log("the text repeats the password");
            for told in told.into_iter().chain(bed.log()) {
                let told: String = told.split_whitespace().collect();
                for secret in [PASSWORD, MESSAGE] {
                    assert!(!told.contains(secret), "{step:?}: {told}");
                }
            }
        }
    }
}

#[test]
fn a_password_that_all_can_read_is_told_of() {
    let server = MockServer::start(Behaviour::default());
    let bed = bed(&Pki::new().trusted(&["hub.test"]), &server);
    let line = bed.wait_for_log("can be read by everybody on this machine");
    assert!(line.contains("secret"), "{line}");
}

/// TLS works with such a server, which wants no mail: there is no reason to send it in plaintext.
#[test]
fn a_server_that_refuses_over_tls_gets_nothing_in_plaintext() {
    let identity = Pki::new().trusted(&["hub.test"]);
    let refusal = Action::Say("550 5.7.1 not from you\r\n");
    let server = MockServer::start(Behaviour::with(&identity).but(Step::EhloTls, refusal));
    let route = format!("[127.0.0.1]:{}", server.address.port());
    let rules = format!(
        r#"{{"connectors": [{{"name": "all", "direction": "outbound", "to": {{"recipient-domains": ["example.org"]}},
            "route": {{"smart-hosts": ["{route}"]}}, "tls": {{"level": "opportunistic"}}}}]}}"#
    );
    let bed = TestBed::start(
        Config::new()
            .listener(Listener::outbound("clients = [\"127.0.0.1\"]"))
            .tenant("contoso.com", &rules)
            .with("[delivery]\nprivate-networks = [\"127.0.0.0/8\"]"),
    );
    let mut client = Client::greeted(bed.address());
    let told = send(&mut client, "a@contoso.com", "b@example.org");
    assert!(told.contains("not from you"), "{told}");
    let commands = server.commands();
    assert!(
        !commands.iter().any(|line| line.contains("MAIL")),
        "{commands:?}"
    );
}
