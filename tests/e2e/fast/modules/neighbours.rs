//! Sessions and tenants beside others.

use std::time::Instant;

use portcullis_tests::modules::{DATA, Module, Refusal};
use portcullis_tests::{Client, TestBed};

use super::{assert_good_is_served, assert_unavailable, config, start};

#[test]
fn a_neighbour_is_served_while_many_sessions_loop() {
    const SESSIONS: usize = 40;
    const QUESTIONS: usize = 4;
    let module = Module::new("(loop $for-ever (br $for-ever)) unreachable");
    let daemon = start(&module.component());
    let mut looping: Vec<Client> = (0..SESSIONS).map(|_| daemon.client()).collect();
    for client in &mut looping {
        let questions = "RCPT TO:<bob@bad.test>\r\n".repeat(QUESTIONS);
        client.send(format!("MAIL FROM:<alice@example.org>\r\n{questions}").as_bytes());
    }
    daemon.wait_for_log_times("policy failed", SESSIONS);
    let begun = Instant::now();
    let mut neighbour = daemon.client();
    for _ in 0..3 {
        neighbour.expect("MAIL FROM:<carol@example.org>", 250);
        assert_good_is_served(&mut neighbour);
        assert_eq!(neighbour.data("Subject: hello\r\n\r\nHello.").code, 250);
    }
    neighbour.quit();
    eprintln!(
        "beside {SESSIONS} loops, three messages took {:?}",
        begun.elapsed()
    );
    let failed = daemon.count_log("policy failed");
    assert!(
        failed < SESSIONS * QUESTIONS,
        "the loops were not under way any more"
    );
    assert_eq!(daemon.maildir("mail").len(), 3);
    for client in &mut looping {
        assert_eq!(client.reply().code, 250);
        assert_unavailable(&client.reply());
    }
}

#[test]
fn neighbours_are_served_beside_several_that_loop() {
    const SESSIONS: usize = 8;
    let module = Module::new("(loop $for-ever (br $for-ever)) unreachable");
    let mut config = config(&module.component());
    for name in ["one", "two", "three"] {
        config = config.tenant_with(name, &[&format!("{name}.test")], "bad.wasm");
    }
    let daemon = TestBed::start(config);
    let mut looping: Vec<Client> = Vec::new();
    for tenant in ["bad", "one", "two", "three"] {
        for _ in 0..SESSIONS {
            let mut client = daemon.client();
            let questions = format!("RCPT TO:<bob@{tenant}.test>\r\n").repeat(4);
            client.send(format!("MAIL FROM:<alice@example.org>\r\n{questions}").as_bytes());
            looping.push(client);
        }
    }
    for tenant in ["bad", "one", "two", "three"] {
        daemon.wait_for_log(&format!("policy failed tenant={tenant}"));
    }
    let begun = Instant::now();
    let mut neighbour = daemon.client();
    neighbour.expect("MAIL FROM:<carol@example.org>", 250);
    assert_good_is_served(&mut neighbour);
    assert_eq!(neighbour.data("Subject: hello\r\n\r\nHello.").code, 250);
    eprintln!(
        "beside four policies that loop a message took {:?}",
        begun.elapsed()
    );
    let failed = daemon.count_log("policy failed");
    assert!(
        failed < 4 * SESSIONS * 4,
        "the loops were not under way any more"
    );
}

#[test]
fn nothing_passes_from_one_session_to_the_next() {
    // It accepts the first question that it is asked, and refuses from the second on.
    let module = Module {
        evaluate: format!(
            "(if (result i32) (i32.load (i32.const 200000))
                (then (i32.const {DATA}))
                (else (i32.store (i32.const 200000) (i32.const 1)) (i32.const 0)))"
        ),
        ..Refusal::default().module()
    };
    let daemon = start(&module.component());
    for _ in 0..5 {
        let mut client = daemon.client();
        client.expect("MAIL FROM:<alice@example.org>", 250);
        client.expect("RCPT TO:<bob@bad.test>", 250);
        client.expect("RCPT TO:<bob@bad.test>", 550);
    }
}
