//! One message to many partners, or to many mailboxes: each recipient ends with a result of its own, nobody
//! is lost, and nobody gets it twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portcullis_tests::exim::Exim;
use portcullis_tests::outbound::Setting;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::{
    Action, Behaviour, Config, Listener, MockServer, NO_RULES, Pki, Step, TestBed,
};

/// Partners are on loopback, those who say nothing do not hold a test up, and who behaves otherwise does so
/// from the next message on.
const MORE: &str = "
    [timeouts]
    connect = \"2s\"
    reply = \"2s\"
    final-reply = \"2s\"
    route = \"20s\"
    [connections]
    messages = 1
    [delivery]
    private-networks = [\"127.0.0.0/8\"]
";

const SENDER: &str = "alice@contoso.com";

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

/// How the sending server sees a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sent,
    Deferred,
    Failed,
}

/// The organization's own server.
enum Mta {
    Postfix(Postfix),
    Exim(Exim),
}

impl Mta {
    fn postfix(relay: SocketAddr, home: SocketAddr) -> Mta {
        let settings = format!(
            "myhostname = mta.contoso.com
relayhost = [{}]:{}
transport_maps = inline:{{ contoso.com=smtp:[{}]:{} }}
minimal_backoff_time = 3000s
maximal_backoff_time = 3000s
queue_run_delay = 3000s
smtp_connection_cache_on_demand = no
smtp_tls_security_level = may",
            relay.ip(),
            relay.port(),
            home.ip(),
            home.port()
        );
        Mta::Postfix(Postfix::start(&settings, None))
    }

    fn exim(relay: SocketAddr, home: SocketAddr) -> Mta {
        let routers = format!(
            "home:
  driver = manualroute
  domains = contoso.com
  transport = remote
  route_list = * {}::{} byname
  self = send
relay:
  driver = manualroute
  transport = remote
  route_list = * {}::{} byname
  self = send
",
            home.ip(),
            home.port(),
            relay.ip(),
            relay.port()
        );
        let transports = "remote:
  driver = smtp
  allow_localhost
";
        Mta::Exim(Exim::start_with("", &routers, transports))
    }

    fn submit(&self, to: &[&str], text: &str) {
        match self {
            Mta::Postfix(postfix) => postfix.submit(SENDER, to, text),
            Mta::Exim(exim) => exim.submit(SENDER, to, text),
        }
    }

    fn log(&self) -> String {
        match self {
            Mta::Postfix(postfix) => postfix.log(),
            Mta::Exim(exim) => exim.log(),
        }
    }

    /// What it has written down for these recipients, attempt by attempt.
    fn attempts(&self, recipients: &[&str]) -> BTreeMap<String, Vec<State>> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| match self {
            Mta::Postfix(_) => postfix_attempt(line),
            Mta::Exim(_) => exim_attempt(line),
        });
        let mut attempts: BTreeMap<String, Vec<State>> = BTreeMap::new();
        for recipient in recipients {
            attempts.insert((*recipient).to_owned(), Vec::new());
        }
        for (recipient, state) in lines {
            if let Some(states) = attempts.get_mut(recipient) {
                states.push(state);
            }
        }
        attempts
    }

    /// The recipients that it still tries to reach.
    fn pending(&self, recipients: &[&str]) -> Vec<String> {
        let attempts = self.attempts(recipients).into_iter();
        let pending =
            attempts.filter(|(_, states)| matches!(states.last(), None | Some(State::Deferred)));
        pending.map(|(recipient, _)| recipient).collect()
    }

    /// Has the queue tried once more, and waits until it has been tried for each of these.
    fn try_again(&self, recipients: &[&str]) {
        match self {
            Mta::Exim(exim) => exim.run_queue(),
            Mta::Postfix(postfix) => {
                let before = self.attempts(recipients);
                let pending = self.pending(recipients);
                postfix.flush();
                self.wait_for_attempts(&pending, &before);
            }
        }
    }

    /// Waits until these have been tried once more than they had been.
    fn wait_for_attempts(&self, recipients: &[String], before: &BTreeMap<String, Vec<State>>) {
        let Mta::Postfix(postfix) = self else { return };
        postfix.wait_for_queue(|_| {
            let names: Vec<&str> = recipients.iter().map(String::as_str).collect();
            let attempts = self.attempts(&names);
            let tried = |name: &String| {
                let earlier = before.get(name).map_or(0, Vec::len);
                attempts[name].len() > earlier
            };
            recipients.iter().all(tried)
        });
        // Nothing is being tried any more.
        postfix.wait_for_queue(|queue| !queue.contains('*'));
    }

    fn wait_until_empty(&self) {
        match self {
            Mta::Postfix(postfix) => {
                postfix.wait_for_queue(|queue| queue.contains("Mail queue is empty"));
            }
            Mta::Exim(exim) => exim.wait_until_idle(),
        }
    }
}

/// `..., to=<a@bank.test>, ..., status=sent (250 ...)`
fn postfix_attempt(line: &str) -> Option<(&str, State)> {
    let (recipient, rest) = line.split_once(": to=<")?.1.split_once('>')?;
    let status = rest.split_once(" status=")?.1.split(' ').next()?;
    let state = match status {
        "sent" => State::Sent,
        "bounced" => State::Failed,
        _ => State::Deferred,
    };
    Some((recipient, state))
}

/// `2026-01-01 00:00:00 1aBcDe-000001-AA => a@bank.test R=relay T=remote ...`
fn exim_attempt(line: &str) -> Option<(&str, State)> {
    let mut words = line.split(' ').skip(3);
    let state = match words.next()? {
        "=>" | "->" => State::Sent,
        "==" => State::Deferred,
        "**" => State::Failed,
        _ => return None,
    };
    Some((words.next()?.trim_end_matches(':'), state))
}

type Start = fn(SocketAddr, SocketAddr) -> Mta;

fn partner(setting: &Setting, host: u8, behaviour: Behaviour) -> MockServer {
    MockServer::start_at(setting.address(host), behaviour)
}

/// The records of so many domains, `d0.test` and so on, whose exchangers are at 127.0.0.10 and so on.
fn records(count: u8) -> String {
    let lines = (0..count).map(|number| {
        let host = 10 + number;
        format!("d{number}.test. MX 10 mx.d{number}.test.\nmx.d{number}.test. A 127.0.0.{host}\n")
    });
    lines.collect()
}

/// How often a recipient has got the message.
fn copies(server: &MockServer, recipient: &str) -> usize {
    let wanted = format!("<{recipient}>");
    let taken = server.taken();
    let all = taken.iter().flat_map(|message| &message.recipients);
    all.filter(|recipient| **recipient == wanted).count()
}

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

const LATER: &str = "450 4.2.0 later\r\n";
const NEVER: &str = "550 5.2.1 never\r\n";

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

/// Sends a message to those of the recipients that are taken together, and gives them with the reply.
fn send_what_is_taken<'a>(setting: &Setting, to: &[&'a str], text: &str) -> (Vec<&'a str>, u16) {
    let mut client = setting.client();
    client.expect(&format!("MAIL FROM:<{SENDER}>"), 250);
    let mut taken = to.to_vec();
    taken.retain(|to| {
        let reply = client.command(&format!("RCPT TO:<{to}>"));
        assert!(reply.code == 250 || reply.code / 100 == 4, "{reply:?}");
        reply.code == 250
    });
    (taken, client.data(text).code)
}

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
        let (to, code) = send_what_is_taken(&setting, &left, text);
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
    let (to, code) = send_what_is_taken(&setting, &left, text);
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
            let (taken, code) = send_what_is_taken(&setting, left, &text(body));
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
            let copies = taken.iter().filter(|it| it.content.contains(body));
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
    assert_eq!(send_what_is_taken(&setting, &to, text).1, 451);
    taking.behave(Behaviour::default().but(Step::Rcpt, Action::Say(NEVER)));
    assert_eq!(
        send_what_is_taken(&setting, &to, text),
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
    let (taken, code) = send_what_is_taken(&setting, &to, "Subject: x\r\n\r\nx");
    assert_eq!((taken.len(), code), (3, 250));
    assert_eq!(copies(&taking, "a@d0.test"), 1);
    assert_eq!(copies(&taking, "b@d0.test"), 1);
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

/// In front of a server that speaks LMTP; the folder has what is remembered.
fn mailboxes(server: SocketAddr) -> TestBed {
    let config = Config::new()
        .hostname("mx.dest.test")
        .listener(Listener::lmtp(server))
        .tenant("dest.test", NO_RULES)
        .with(
            "[delivery]
            state = \"state\"
            private-networks = [\"127.0.0.0/8\"]
            [connections]
            messages = 1
            [timeouts]
            reply = \"2s\"
            final-reply = \"2s\"",
        );
    TestBed::start(config)
}

fn lmtp() -> Behaviour {
    Behaviour {
        lmtp: true,
        ..Behaviour::default()
    }
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
