//! One message to many partners, or to many mailboxes: each recipient ends with a result of its own, nobody
//! is lost, and nobody gets it twice. The sending client tries again as the test says.

use std::collections::BTreeMap;

use portcullis_tests::fan_out::{
    LATER, MORE, NEVER, SENDER, copies, lmtp, mailboxes, partner, records, send_what_is_taken,
};
use portcullis_tests::outbound::Setting;
use portcullis_tests::{Action, Behaviour, MockServer, NO_RULES, Pki, Step};

/// What a client is told that sends the same message to all that are left, until none are.
#[test]
fn a_client_is_told_to_come_again_for_the_rest() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[&records(4)], MORE);
    let taking = partner(&setting, 10, Behaviour::default());
    let later = Behaviour::default().but(Step::End, Action::Say(LATER));
    let later = partner(&setting, 11, later);
    let never = Behaviour::default().but(Step::End, Action::Say(NEVER));
    let never = partner(&setting, 12, never);
    let picky = Behaviour::default().tells("<b@", Step::Rcpt, NEVER);
    let picky = partner(&setting, 13, picky);
    let text = "Message-ID: <1@contoso.com>\r\nSubject: x\r\n\r\nto all";
    let mut client = setting.client();
    client.expect(&format!("MAIL FROM:<{SENDER}>"), 250);
    for to in ["a@d0.test", "a@d1.test", "a@d2.test", "a@d3.test"] {
        client.expect(&format!("RCPT TO:<{to}>"), 250);
    }
    client.expect("RCPT TO:<b@d3.test>", 550);
    let reply = client.data(text);
    assert_eq!(reply.code, 451, "{reply:?}");
    let taken = || [&taking, &later, &never, &picky].map(|server| server.taken().len());
    assert_eq!(taken(), [1, 0, 0, 1]);
    // Sent again for all that are left, each gets what its server has said, or says.
    let mut left = vec!["a@d0.test", "a@d1.test", "a@d2.test", "a@d3.test"];
    let mut told = BTreeMap::new();
    for _ in 0..8 {
        let (to, code) = send_what_is_taken(setting.client(), &left, text);
        told.extend(to.iter().map(|to| (*to, code)));
        left.retain(|each| *each == "a@d1.test" || !to.contains(each));
    }
    let all = [
        ("a@d0.test", 250),
        ("a@d1.test", 450),
        ("a@d2.test", 550),
        ("a@d3.test", 250),
    ];
    assert_eq!(told, BTreeMap::from(all));
    assert_eq!(taken(), [1, 0, 0, 1]);
    later.behave(Behaviour::default());
    let (to, code) = send_what_is_taken(setting.client(), &left, text);
    assert_eq!((to, code), (vec!["a@d1.test"], 250));
    assert_eq!(taken(), [1, 1, 0, 1]);
    // Another message is another message.
    let mut client = setting.client();
    client.expect(&format!("MAIL FROM:<{SENDER}>"), 250);
    client.expect("RCPT TO:<a@d0.test>", 250);
    client.expect("RCPT TO:<a@d3.test>", 250);
    assert_eq!(client.data(&text.replace("<1@", "<2@")).code, 250);
    assert_eq!(taken(), [2, 1, 0, 2]);
}

/// Some programs send many messages with one header. What is remembered of one is nothing to another.
#[test]
fn two_messages_with_one_header_are_two() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[&records(2)], MORE);
    let taking = partner(&setting, 10, Behaviour::default());
    let later = Behaviour::default().but(Step::End, Action::Say(LATER));
    let later = partner(&setting, 11, later);
    let to = ["a@d0.test", "a@d1.test"];
    let text = |body: &str| format!("Subject: x\r\n\r\n{body}");
    let mut left = [("one", to.to_vec()), ("two", to.to_vec())];
    let mut send_both = || {
        for (body, left) in &mut left {
            if left.is_empty() {
                continue;
            }
            let (taken, code) = send_what_is_taken(setting.client(), left, &text(body));
            assert!(matches!(code, 250 | 450 | 451), "{body}: {code}");
            left.retain(|to| code != 250 || !taken.contains(to));
        }
        left.iter().all(|(_, left)| left.is_empty())
    };
    for _ in 0..4 {
        assert!(!send_both());
    }
    later.behave(Behaviour::default());
    let rounds = (0..8).take_while(|_| !send_both()).count();
    assert!(rounds < 8, "they are told at last");
    for server in [&taking, &later] {
        for body in ["one", "two"] {
            let taken = server.taken();
            // In the header, the id of a session may contain such a word.
            let copies = taken
                .iter()
                .filter(|it| it.content.trim_end().ends_with(body));
            assert_eq!(copies.count(), 1, "{body}");
        }
    }
}

/// Who has the message is told so, whatever its server says by then.
#[test]
fn what_was_delivered_is_told_though_the_mailbox_is_gone() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[&records(2)], MORE);
    let taking = partner(&setting, 10, Behaviour::default());
    let later = Behaviour::default().but(Step::End, Action::Say(LATER));
    let _later = partner(&setting, 11, later);
    let to = ["a@d0.test", "a@d1.test"];
    let text = "Subject: x\r\n\r\nx";
    assert_eq!(send_what_is_taken(setting.client(), &to, text).1, 451);
    taking.behave(Behaviour::default().but(Step::Rcpt, Action::Say(NEVER)));
    assert_eq!(
        send_what_is_taken(setting.client(), &to, text),
        (vec!["a@d0.test"], 250)
    );
    let mut client = setting.client();
    client.expect(&format!("MAIL FROM:<{SENDER}>"), 250);
    client.expect("RCPT TO:<a@d0.test>", 550);
    assert_eq!(copies(&taking, "a@d0.test"), 1);
}

/// Others do not wait for the five minutes that a server has for its reply.
#[test]
fn who_does_not_let_a_message_begin_holds_the_others_up_for_moments_only() {
    let more = MORE.replace("reply = \"2s\"", "reply = \"5m\"");
    let setting = Setting::start(Pki::new(), NO_RULES, &[&records(2)], &more);
    let taking = partner(&setting, 10, Behaviour::default());
    let silent = Behaviour::default().but(Step::Data, Action::Silence);
    let _silent = partner(&setting, 11, silent);
    let to = ["a@d0.test", "a@d1.test"];
    let mut client = setting.client();
    client.expect(&format!("MAIL FROM:<{SENDER}>"), 250);
    for to in to {
        client.expect(&format!("RCPT TO:<{to}>"), 250);
    }
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 451);
    assert_eq!(copies(&taking, "a@d0.test"), 1);
}

/// Who is named twice gets the message once.
#[test]
fn a_recipient_that_is_named_twice_gets_one_copy() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[&records(1)], MORE);
    let taking = partner(&setting, 10, Behaviour::default());
    let to = ["a@d0.test", "a@d0.test", "b@d0.test"];
    let (taken, code) = send_what_is_taken(setting.client(), &to, "Subject: x\r\n\r\nx");
    assert_eq!((taken.len(), code), (3, 250));
    assert_eq!(copies(&taking, "a@d0.test"), 1);
    assert_eq!(copies(&taking, "b@d0.test"), 1);
}

/// Where LMTP has a reply for each, a client is told when all is well, and comes again otherwise.
#[test]
fn a_client_is_told_of_mailboxes_that_differ() {
    let server = MockServer::start(lmtp().tells("<later", Step::End, LATER));
    let mailboxes = mailboxes(server.address);
    let text = "Message-ID: <1@example.org>\r\nSubject: x\r\n\r\nx";
    let send = |to: &[&str]| {
        let mut client = mailboxes.client();
        client.expect(&format!("MAIL FROM:<{SENDER}>"), 250);
        for to in to {
            client.expect(&format!("RCPT TO:<{to}@dest.test>"), 250);
        }
        client.data(text).code
    };
    assert_eq!(send(&["a", "later", "b"]), 451);
    assert_eq!(server.taken().len(), 1);
    assert_eq!(send(&["a"]), 250);
    assert_eq!(send(&["b"]), 250);
    assert_eq!(send(&["later"]), 450);
    assert_eq!(server.taken().len(), 1);
    server.behave(lmtp());
    assert_eq!(send(&["later"]), 250);
    assert_eq!(server.taken().len(), 2);
}
