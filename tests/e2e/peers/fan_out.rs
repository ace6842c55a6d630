//! One message to many partners, or to many mailboxes: each recipient ends with a result of its own, nobody
//! is lost, and nobody gets it twice. The sending server is a Postfix or an Exim.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portcullis_tests::fan_out::{LATER, MORE, NEVER, copies, lmtp, mailboxes, partner, records};
use portcullis_tests::mta::{Mta, State};
use portcullis_tests::outbound::Setting;
use portcullis_tests::{Action, Behaviour, MockServer, NO_RULES, Pki, Step};

/// The host of the sender's own mailbox.
const HOME: u8 = 99;

/// What becomes of a recipient at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    Returned,
    /// Neither, as long as its server is as it is.
    Waits,
}

/// A recipient, the server that answers for it, and what becomes of it.
struct Case {
    recipient: String,
    server: MockServer,
    before: Fate,
    after: Fate,
}

type Start = fn(SocketAddr, SocketAddr) -> Mta;

/// How many bounces name a recipient.
fn bounces(home: &MockServer, recipient: &str) -> usize {
    let taken = home.taken();
    let naming = taken.iter().filter(|bounce| {
        bounce
            .content
            .contains(&format!("Final-Recipient: rfc822;{recipient}"))
            || bounce
                .content
                .contains(&format!("Final-Recipient: rfc822; {recipient}"))
    });
    naming.count()
}

/// Waits until those who failed are in a bounce.
fn wait_for_bounces(mta: &Mta, recipients: &[&str], home: &MockServer) {
    let attempts = mta.attempts(recipients);
    let failed = attempts
        .iter()
        .filter(|(_, states)| states.last() == Some(&State::Failed));
    for (recipient, _) in failed {
        while bounces(home, recipient) == 0 {
            home.wait_for(home.taken().len() + 1);
        }
    }
}

/// Where every recipient is by now, against where it should be.
fn judge(cases: &[Case], home: &MockServer, fate: impl Fn(&Case) -> Fate, log: &str) {
    let mut wrong = Vec::new();
    for case in cases {
        let copies = copies(&case.server, &case.recipient);
        let bounces = bounces(home, &case.recipient);
        let expected = match fate(case) {
            Fate::Delivered => (1, 0),
            Fate::Returned => (0, 1),
            Fate::Waits => (0, 0),
        };
        if (copies, bounces) != expected {
            wrong.push(format!(
                "{}: {copies} copies and {bounces} bounces instead of {expected:?}",
                case.recipient
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{log}");
}

fn ten_domains_in_one_run(start: Start) {
    let setting = Setting::start(Pki::new(), NO_RULES, &[&records(10)], MORE);
    let home = partner(&setting, HOME, Behaviour::default());
    let servers: Vec<_> = (0..10)
        .map(|number| partner(&setting, 10 + number, Behaviour::default()))
        .collect();
    let mta = start(setting.daemon.address(), home.address);
    let recipients: Vec<String> = (0..20)
        .map(|number| format!("r{number}@d{}.test", number % 10))
        .collect();
    let to: Vec<&str> = recipients.iter().map(String::as_str).collect();
    mta.submit(&to, "Subject: x\n\nto all\n.\nnot the end\n");
    mta.wait_until_empty();
    let attempts = mta.attempts(&to);
    for (recipient, states) in &attempts {
        assert_eq!(*states, [State::Sent], "{recipient}\n{}", mta.log());
    }
    assert!(!mta.log().contains(" 452 "), "{}", mta.log());
    for (number, server) in servers.iter().enumerate() {
        let taken = server.taken();
        assert_eq!(taken.len(), 1, "{taken:?}");
        let mut both = [number, number + 10].map(|who| format!("<r{who}@d{number}.test>"));
        both.sort();
        let mut recipients = taken[0].recipients.clone();
        recipients.sort();
        assert_eq!(recipients, both);
        assert!(taken[0].content.ends_with("\r\n..\r\nnot the end"));
    }
    assert!(home.taken().is_empty());
}

/// A partner for each way to answer, in an order that makes the first who decides, and each again later.
fn mixture() -> Vec<(Behaviour, Fate)> {
    let honest = Behaviour::default;
    let mut all = vec![(honest(), Fate::Delivered)];
    for step in [Step::Rcpt, Step::Data, Step::End] {
        all.push((honest().but(step, Action::Say(NEVER)), Fate::Returned));
        all.push((honest().but(step, Action::Say(LATER)), Fate::Waits));
        all.push((honest().but(step, Action::Silence), Fate::Waits));
        all.push((honest().but(step, Action::Cut), Fate::Waits));
        all.push((honest(), Fate::Delivered));
    }
    all.push((honest().but(Step::Greeting, Action::Cut), Fate::Waits));
    all.push((honest(), Fate::Delivered));
    all
}

fn every_mixture(start: Start, killed: bool) {
    let behaviours = mixture();
    let count = u8::try_from(behaviours.len()).expect("few");
    let mut setting = Setting::start(Pki::new(), NO_RULES, &[&records(count)], MORE);
    let home = partner(&setting, HOME, Behaviour::default());
    let cases: Vec<Case> = (0..count)
        .zip(behaviours)
        .map(|(number, (behaviour, before))| Case {
            recipient: format!("r@d{number}.test"),
            server: partner(&setting, 10 + number, behaviour),
            before,
            after: match before {
                Fate::Waits => Fate::Delivered,
                settled => settled,
            },
        })
        .collect();
    let mta = start(setting.daemon.address(), home.address);
    let to: Vec<&str> = cases.iter().map(|case| case.recipient.as_str()).collect();
    let nothing = BTreeMap::new();
    mta.submit(&to, "Subject: x\n\nto all\n");
    let all: Vec<String> = to.iter().map(|name| (*name).to_owned()).collect();
    mta.wait_for_attempts(&all, &nothing);
    // Whoever takes it has it after the first attempt.
    for case in cases.iter().filter(|case| case.before == Fate::Delivered) {
        let copies = copies(&case.server, &case.recipient);
        assert_eq!(copies, 1, "{}\n{}", case.recipient, mta.log());
    }
    let waiting = cases.iter().filter(|case| case.before == Fate::Waits);
    let waiting = waiting.count();
    // One attempt settles a partner, or those who have it, and no more than one in two is for one who waits.
    for _ in 0..2 * cases.len() {
        if mta.pending(&to).len() == waiting {
            break;
        }
        if killed {
            setting.daemon.restart();
        }
        mta.try_again(&to);
    }
    wait_for_bounces(&mta, &to, &home);
    judge(&cases, &home, |case| case.before, &mta.log());
    assert_eq!(mta.pending(&to).len(), waiting, "{}", mta.log());
    for case in &cases {
        case.server.behave(Behaviour::default());
    }
    for _ in 0..2 * cases.len() {
        if mta.pending(&to).is_empty() {
            break;
        }
        if killed {
            setting.daemon.restart();
        }
        mta.try_again(&to);
    }
    mta.wait_until_empty();
    judge(&cases, &home, |case| case.after, &mta.log());
}

#[test]
fn postfix_reaches_ten_domains_in_one_run() {
    ten_domains_in_one_run(Mta::postfix);
}

#[test]
fn exim_reaches_ten_domains_in_one_run() {
    ten_domains_in_one_run(Mta::exim);
}

#[test]
fn postfix_learns_the_true_result_of_each_recipient() {
    every_mixture(Mta::postfix, false);
}

#[test]
fn exim_learns_the_true_result_of_each_recipient() {
    every_mixture(Mta::exim, false);
}

#[test]
fn postfix_learns_it_too_when_we_are_killed_between_attempts() {
    every_mixture(Mta::postfix, true);
}

#[test]
fn exim_learns_it_too_when_we_are_killed_between_attempts() {
    every_mixture(Mta::exim, true);
}

/// What was in the air when the power went may come twice, as with any server; it is not lost.
#[test]
fn nobody_is_lost_when_we_are_killed_in_the_middle() {
    let mut setting = Setting::start(Pki::new(), NO_RULES, &[&records(2)], MORE);
    let home = partner(&setting, HOME, Behaviour::default());
    let taking = partner(&setting, 10, Behaviour::default());
    let silent = Behaviour::default().but(Step::End, Action::Silence);
    let silent = partner(&setting, 11, silent);
    let mta = Mta::postfix(setting.daemon.address(), home.address);
    let to = ["a@d0.test", "a@d1.test"];
    mta.submit(&to, "Subject: x\n\nto both\n");
    taking.wait_for(1);
    setting.daemon.restart();
    silent.behave(Behaviour::default());
    let all: Vec<String> = to.iter().map(|name| (*name).to_owned()).collect();
    mta.wait_for_attempts(&all, &BTreeMap::new());
    for _ in &to {
        if !mta.pending(&to).is_empty() {
            mta.try_again(&to);
        }
    }
    mta.wait_until_empty();
    assert!((1..=2).contains(&copies(&taking, "a@d0.test")));
    assert_eq!(copies(&silent, "a@d1.test"), 1);
    assert!(home.taken().is_empty(), "{}", mta.log());
}

/// A server that keeps saying that it is not ready stands in nobody's way, wherever it is in the list.
fn never_ready(start: Start) {
    let setting = Setting::start(Pki::new(), NO_RULES, &[&records(4)], MORE);
    let home = partner(&setting, HOME, Behaviour::default());
    let later = || Behaviour::default().but(Step::End, Action::Say(LATER));
    let never = Behaviour::default().but(Step::End, Action::Say(NEVER));
    let servers = [
        partner(&setting, 10, later()),
        partner(&setting, 11, never),
        partner(&setting, 12, later()),
        partner(&setting, 13, Behaviour::default()),
    ];
    let mta = start(setting.daemon.address(), home.address);
    let to = ["a@d0.test", "a@d1.test", "a@d2.test", "a@d3.test"];
    mta.submit(&to, "Subject: x\n\nto all\n");
    let all: Vec<String> = to.iter().map(|name| (*name).to_owned()).collect();
    mta.wait_for_attempts(&all, &BTreeMap::new());
    let try_until = |left: &[&str]| {
        for _ in 0..2 * to.len() {
            if mta.pending(&to).len() > left.len() {
                mta.try_again(&to);
            }
        }
        assert_eq!(mta.pending(&to), left, "{}", mta.log());
    };
    // Nobody is returned with another one's reason.
    try_until(&["a@d0.test", "a@d2.test"]);
    wait_for_bounces(&mta, &to, &home);
    assert_eq!(to.map(|to| bounces(&home, to)), [0, 1, 0, 0]);
    // The last one too, while the first one is as it was.
    servers[2].behave(Behaviour::default());
    try_until(&["a@d0.test"]);
    let copies = || [0, 1, 2, 3].map(|number| copies(&servers[number], to[number]));
    assert_eq!(copies(), [0, 0, 1, 1]);
    servers[0].behave(Behaviour::default());
    try_until(&[]);
    mta.wait_until_empty();
    assert_eq!(copies(), [1, 0, 1, 1]);
    assert_eq!(home.taken().len(), 1);
}

#[test]
fn who_is_never_ready_holds_nobody_up_in_postfix() {
    never_ready(Mta::postfix);
}

#[test]
fn who_is_never_ready_holds_nobody_up_in_exim() {
    never_ready(Mta::exim);
}

fn mailboxes_all_take_it(start: Start) {
    let server = MockServer::start(lmtp());
    let mailboxes = mailboxes(server.address);
    let home = MockServer::start(Behaviour::default());
    let mta = start(mailboxes.address(), home.address);
    let recipients: Vec<String> = (0..30)
        .map(|number| format!("r{number}@dest.test"))
        .collect();
    let to: Vec<&str> = recipients.iter().map(String::as_str).collect();
    mta.submit(&to, "Subject: x\n\nto all\n");
    mta.wait_until_empty();
    for (recipient, states) in mta.attempts(&to) {
        assert_eq!(states, [State::Sent], "{recipient}\n{}", mta.log());
    }
    let taken = server.taken();
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert_eq!(taken[0].recipients.len(), 30);
    assert!(home.taken().is_empty());
}

fn mailboxes_differ(start: Start, killed: bool) {
    let full = "452 4.2.2 full\r\n";
    let server = MockServer::start(
        lmtp()
            .tells("<never-at-rcpt", Step::Rcpt, NEVER)
            .tells("<later-at-rcpt", Step::Rcpt, full)
            .tells("<never", Step::End, NEVER)
            .tells("<later", Step::End, full),
    );
    let mut mailboxes = mailboxes(server.address);
    let home = MockServer::start(Behaviour::default());
    let mta = start(mailboxes.address(), home.address);
    let names = [
        ("taken-0", Fate::Delivered),
        ("later-0", Fate::Waits),
        ("never-0", Fate::Returned),
        ("never-at-rcpt", Fate::Returned),
        ("later-at-rcpt", Fate::Waits),
        ("taken-1", Fate::Delivered),
        ("never-1", Fate::Returned),
        ("later-1", Fate::Waits),
        ("taken-2", Fate::Delivered),
    ];
    let recipients = names.map(|(name, _)| format!("{name}@dest.test"));
    let to: Vec<&str> = recipients.iter().map(String::as_str).collect();
    mta.submit(&to, "Subject: x\n\nto all\n");
    mta.wait_for_attempts(&recipients, &BTreeMap::new());
    let judge = |of_waiting: (usize, usize)| {
        for ((_, fate), recipient) in names.iter().zip(&recipients) {
            let expected = match fate {
                Fate::Delivered => (1, 0),
                Fate::Returned => (0, 1),
                Fate::Waits => of_waiting,
            };
            let found = (copies(&server, recipient), bounces(&home, recipient));
            assert_eq!(found, expected, "{recipient}\n{}", mta.log());
        }
    };
    for _ in 0..2 * names.len() {
        if mta.pending(&to).len() == 3 {
            break;
        }
        if killed {
            mailboxes.restart();
        }
        mta.try_again(&to);
    }
    wait_for_bounces(&mta, &to, &home);
    judge((0, 0));
    server.behave(lmtp());
    for _ in 0..2 * names.len() {
        if mta.pending(&to).is_empty() {
            break;
        }
        if killed {
            mailboxes.restart();
        }
        mta.try_again(&to);
    }
    mta.wait_until_empty();
    judge((1, 0));
}

#[test]
fn postfix_reaches_many_mailboxes_at_once() {
    mailboxes_all_take_it(Mta::postfix);
}

#[test]
fn exim_reaches_many_mailboxes_at_once() {
    mailboxes_all_take_it(Mta::exim);
}

#[test]
fn postfix_learns_the_true_result_of_each_mailbox() {
    mailboxes_differ(Mta::postfix, false);
}

#[test]
fn exim_learns_the_true_result_of_each_mailbox() {
    mailboxes_differ(Mta::exim, false);
}

#[test]
fn postfix_learns_of_each_mailbox_too_when_we_are_killed() {
    mailboxes_differ(Mta::postfix, true);
}

#[test]
fn exim_learns_of_each_mailbox_too_when_we_are_killed() {
    mailboxes_differ(Mta::exim, true);
}
