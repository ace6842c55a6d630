//! Tenants whose mail goes elsewhere than the listener says.

use portcullis_tests::{
    Action, Behaviour, Client, Config, Listener, MockServer, NO_RULES, Step, TestBed,
};

struct World {
    /// The next hops: the listener's, and those of two tenants.
    hops: [MockServer; 3],
    bed: TestBed,
}

fn tenant(name: &str, hop: Option<&MockServer>) -> String {
    let hop = hop.map(|hop| format!("next-hop = {{ smtp = \"{}\" }}\n", hop.address));
    let policy = "policy = \"contoso.json\"";
    format!(
        "[[tenant]]\nname = \"{name}\"\ndomains = [\"{name}.test\"]\n{policy}\n{}",
        hop.unwrap_or_default()
    )
}

fn config(hops: &[MockServer; 3]) -> Config {
    Config::new()
        .listener(Listener::smtp(hops[0].address))
        .tenant("contoso.com", NO_RULES)
        .with(&tenant("a", Some(&hops[1])))
        .with(&tenant("b", Some(&hops[2])))
        .with(&tenant("c", Some(&hops[2])))
        .with("[delivery]\nstate-directory = \"state\"\n[dns]\nservers = [\"127.0.0.1:9\"]\ndnssec = false")
}

fn world() -> World {
    let hops = [(); 3].map(|()| MockServer::start(Behaviour::default()));
    let bed = TestBed::start(config(&hops));
    World { hops, bed }
}

fn envelope(client: &mut Client, to: &[&str]) -> Vec<u16> {
    client.expect("MAIL FROM:<a@sender.test>", 250);
    let rcpt = |to: &&str| client.command(&format!("RCPT TO:<{to}>")).code;
    to.iter().map(rcpt).collect()
}

const MESSAGE: &str = "Message-ID: <1@sender.test>\r\nSubject: x\r\n\r\nx";

#[test]
fn one_message_goes_to_the_next_hop_of_each() {
    let World { hops, bed } = world();
    let mut client = bed.client();
    let to = [
        "x@contoso.com",
        "x@a.test",
        "x@b.test",
        "x@c.test",
        "y@a.test",
    ];
    assert_eq!(envelope(&mut client, &to), [250; 5]);
    assert_eq!(client.data(MESSAGE).code, 250);
    let taken = hops
        .each_ref()
        .map(|hop| hop.wait_for(1)[0].recipients.clone());
    assert_eq!(
        taken,
        [
            vec!["<x@contoso.com>"],
            vec!["<x@a.test>", "<y@a.test>"],
            vec!["<x@b.test>", "<x@c.test>"]
        ]
    );
}

#[test]
fn one_that_fails_holds_nobody_else_up_and_nobody_gets_it_twice() {
    let World { hops, bed } = world();
    let refuses = Behaviour::default().but(Step::End, Action::Say("452 4.2.2 full\r\n"));
    hops[1].behave(refuses);
    let mut client = bed.client();
    let to = ["x@contoso.com", "x@a.test", "x@b.test"];
    assert_eq!(envelope(&mut client, &to), [250; 3]);
    let reply = client.data(MESSAGE);
    assert_eq!(reply.code, 451);
    assert!(reply.text().contains("delivered to 2 of 3"), "{reply:?}");
    hops[1].behave(Behaviour::default());
    hops[1].hang_up();
    // The client comes again until all have been told.
    let mut open: Vec<&str> = to.to_vec();
    for _ in 0..to.len() {
        let codes = envelope(&mut client, &open);
        assert!(codes.contains(&250), "{codes:?} for {open:?}");
        assert_eq!(client.data(MESSAGE).code, 250);
        let mut codes = codes.into_iter();
        open.retain(|_| codes.next() != Some(250));
        if open.is_empty() {
            break;
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let taken = hops.each_ref().map(|hop| hop.taken().len());
    assert_eq!(taken, [1, 1, 1]);
}

#[test]
fn what_all_of_them_can_keep_is_announced() {
    let hops = [(); 3].map(|()| MockServer::start(Behaviour::default()));
    let says = Action::Say("250-mx.partner.test\r\n250 SIZE 500\r\n");
    hops[2].behave(Behaviour::default().but(Step::Ehlo, says));
    let bed = TestBed::start(config(&hops));
    let offer = || {
        let mut client = Client::connect(bed.address());
        client.reply();
        client.expect("EHLO client.example", 250).text()
    };
    // Each of them is asked at the start.
    hops.iter().for_each(|hop| hop.wait_for_command("QUIT"));
    let offered = offer();
    assert!(!offered.contains("8BITMIME"), "{offered}");
    assert!(offered.contains("SIZE 1000000"), "{offered}");
    // Which one a message is too large for is told by that one.
    let mut client = bed.client();
    client.expect("MAIL FROM:<a@sender.test> SIZE=600", 250);
    client.expect("RCPT TO:<x@a.test>", 250);
}

#[test]
fn next_hops_come_and_go_with_their_tenants() {
    let World { hops, mut bed } = world();
    let send = |bed: &TestBed, to: &str| {
        let mut client = bed.client();
        assert_eq!(envelope(&mut client, &[to]), [250]);
        assert_eq!(client.data(MESSAGE).code, 250);
    };
    send(&bed, "x@a.test");
    assert_eq!(hops[1].wait_for(1).len(), 1);
    let moved = Config::new()
        .listener(Listener::smtp(hops[0].address))
        .tenant("contoso.com", NO_RULES)
        .with(&tenant("a", Some(&hops[2])))
        .with(&tenant("b", None))
        .with("[delivery]\nstate-directory = \"state\"\n[dns]\nservers = [\"127.0.0.1:9\"]\ndnssec = false");
    bed.reconfigure(moved);
    send(&bed, "x@a.test");
    send(&bed, "x@b.test");
    assert_eq!(hops.each_ref().map(|hop| hop.taken().len()), [1, 1, 1]);
}
