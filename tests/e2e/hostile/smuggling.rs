//! No sequence of octets that we take as one message is read as two behind us: by smtp-sink, by a Postfix
//! that is as lenient as it used to be, by Exim, by Sendmail.
//!
//! Every end of line that CR, LF and NUL can make stands before and behind one dot and two, with another
//! envelope after it, by DATA and by BDAT, and cut at each place; from a client whose bare LF become CRLF, and from
//! one that is refused with them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::exim::Exim;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::sendmail::Sendmail;
use portcullis_tests::{
    Behaviour, Client, Config, Daemon, Listener, MockServer, NO_RULES, Reply, SmtpSink, TestBed,
    machine,
};

/// The envelope and message that somebody wants to get past us.
const SMUGGLED: &str = "RCPT TO:<b@dest.test>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n";

/// What stands before and behind a dot: up to three of CR, LF and NUL.
fn line_ends() -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    let mut begin = 0;
    for _ in 0..3 {
        let end = all.len();
        for known in begin..end {
            for octet in *b"\r\n\0" {
                all.push([&all[known][..], &[octet]].concat());
            }
        }
        begin = end;
    }
    all
}

/// All the sequences.
fn sequences() -> Vec<Vec<u8>> {
    let ends = line_ends();
    let mut all = Vec::new();
    for before in &ends {
        for dots in [&b"."[..], b".."] {
            for behind in &ends {
                all.push([before, dots, behind].concat());
            }
        }
    }
    all
}

/// Whose bare LF become CRLF; each has a listener of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Normalize {
    Nobody,
    ThisClient,
    AnotherClient,
}

/// What an end of line is for this client.
const BOTH: [Normalize; 2] = [Normalize::Nobody, Normalize::ThisClient];

/// The end of a message (RFC 5321 §4.1.1.4).
const END: &[u8] = b"\r\n.\r\n";

/// A session that tries a sequence.
struct Case {
    number: usize,
    chunked: bool,
    normalize: Normalize,
    sequence: Vec<u8>,
}

impl Case {
    fn all(normalize: Normalize) -> Vec<Case> {
        let numbered = sequences().into_iter().enumerate();
        let both = numbered.flat_map(|(number, sequence)| {
            [false, true].map(|chunked| Case {
                number,
                chunked,
                normalize,
                sequence: sequence.clone(),
            })
        });
        both.collect()
    }

    /// Those that are not refused for a reason that has nothing to do with line ends.
    fn without_nul(normalize: Normalize) -> Vec<Case> {
        let mut cases = Case::all(normalize);
        cases.retain(|case| !case.sequence.contains(&0));
        cases
    }

    fn sender(&self, who: &str) -> String {
        let way = if self.chunked { "bdat" } else { "data" };
        format!(
            "{who}-{way}-{:?}-{}@example.org",
            self.normalize, self.number
        )
        .to_lowercase()
    }

    /// The header field by which its message is known.
    fn subject(&self) -> String {
        format!("Subject: {}", self.sender("case"))
    }

    /// The content, in two pieces cut at each place in turn.
    fn pieces(&self) -> (Vec<u8>, Vec<u8>) {
        let begin = format!("{}\r\n\r\nx", self.subject());
        let evil = format!("MAIL FROM:<{}>\r\n{SMUGGLED}", self.sender("evil"));
        let mut content = [begin.as_bytes(), &self.sequence, evil.as_bytes()].concat();
        let behind = content.split_off(begin.len() + self.number % (self.sequence.len() + 1));
        (content, behind)
    }

    /// Whether RFC 5321 itself ends the message there, and what follows is a second one indeed.
    fn ends(&self) -> bool {
        !self.chunked && position(&self.sequence, END).is_some()
    }

    /// The message up to its end, which is not part of it.
    fn message(&self) -> Vec<u8> {
        let (first, second) = self.pieces();
        let mut message = [first, second].concat();
        if !self.chunked {
            let end = position(&message, END).expect("an end");
            message.truncate(end + 2);
        }
        message
    }

    /// Whether the message is taken: no line ends in it, but in CRLF, or in LF where that becomes CRLF.
    fn is_taken(&self) -> bool {
        let message = self.message();
        let before = |at: usize| at.checked_sub(1).and_then(|at| message.get(at));
        message.iter().enumerate().all(|(at, octet)| match octet {
            b'\0' => false,
            b'\r' => message.get(at + 1) == Some(&b'\n'),
            b'\n' => self.normalize == Normalize::ThisClient || before(at) == Some(&b'\r'),
            _ => true,
        })
    }

    /// The message on its way to the next hop, without its end.
    fn passed_on(&self) -> String {
        let message = String::from_utf8(self.message()).expect("ASCII");
        let lines = message.split_terminator('\n').map(|line| {
            let line = line.strip_suffix('\r').unwrap_or(line);
            // A dot alone that ends nothing is a line of the message.
            let line = match line.strip_prefix('.') {
                Some(rest) if !self.chunked && !rest.is_empty() => rest,
                _ => line,
            };
            match line.starts_with('.') {
                true => format!(".{line}"),
                false => line.to_owned(),
            }
        });
        lines.collect::<Vec<_>>().join("\r\n")
    }

    /// Gives the replies from the end of the message on.
    fn send(&self, to: SocketAddr) -> Vec<Reply> {
        let mut client = Client::greeted(to);
        client.expect("EHLO client.example", 250);
        client.expect(&format!("MAIL FROM:<{}>", self.sender("case")), 250);
        client.expect("RCPT TO:<b@dest.test>", 250);
        let (first, second) = self.pieces();
        if self.chunked {
            client.send(format!("BDAT {}\r\n", first.len()).as_bytes());
            client.send(&first);
            client.reply();
            client.send(format!("BDAT {} LAST\r\n", second.len()).as_bytes());
        } else {
            client.expect("DATA", 354);
            client.send(&first);
        }
        client.send(&second);
        client.send(b"QUIT\r\n");
        std::iter::from_fn(|| client.try_reply().ok()).collect()
    }

    /// The senders of the messages that these replies confirm.
    fn confirmed(&self, replies: &[Reply]) -> Vec<String> {
        // If there is a second message, its reply comes behind that to its DATA.
        let go_on = replies.iter().position(|reply| reply.code == 354);
        let second = go_on.and_then(|at| replies.get(at + 1));
        let messages = [("case", replies.first()), ("evil", second)];
        let confirmed = messages
            .into_iter()
            .filter(|(_, reply)| reply.is_some_and(|reply| reply.code == 250));
        confirmed.map(|(who, _)| self.sender(who)).collect()
    }
}

fn position(octets: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut windows = octets.windows(wanted.len());
    windows.position(|part| part == wanted)
}

fn start(hop: SocketAddr) -> TestBed {
    let config = Config::new()
        .hostname("mx.dest.test")
        .listener(Listener::smtp(hop))
        .listener(Listener::smtp(hop).with("normalize = [\"127.0.0.1\"]"))
        .listener(Listener::smtp(hop).with("normalize = [\"10.0.0.0/8\", \"127.0.0.2\"]"))
        .tenant("dest.test", NO_RULES);
    TestBed::start(config)
}

/// Sends all of them; gives the replies to each.
fn send_all(daemon: &Daemon, cases: &[Case]) -> Vec<Vec<Reply>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut replies = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(number) else {
                return replies;
            };
            replies.push((number, case.send(daemon.addresses[case.normalize as usize])));
        }
    };
    let mut replies: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        let replies = workers.into_iter().map(|worker| worker.join());
        replies.flat_map(|some| some.expect("a worker")).collect()
    });
    replies.sort_by_key(|(number, _)| *number);
    replies.into_iter().map(|(_, replies)| replies).collect()
}

/// Holds what we have confirmed against what came, sender by sender.
fn judge(name: &str, hop: SocketAddr, arrived: impl Fn() -> Vec<String>) {
    let daemon = start(hop);
    let cases: Vec<Case> = BOTH.into_iter().flat_map(Case::all).collect();
    let replies = send_all(&daemon, &cases);
    let mut confirmed = BTreeSet::new();
    for (case, replies) in cases.iter().zip(&replies) {
        let of_case = case.confirmed(replies);
        assert_eq!(
            of_case.contains(&case.sender("case")),
            case.is_taken(),
            "{:?}, {:?}: {replies:?}",
            case.normalize,
            case.sequence
        );
        confirmed.extend(of_case);
    }
    let arrived = arrived();
    let taken: BTreeSet<String> = arrived.iter().cloned().collect();
    assert_eq!(taken.len(), arrived.len(), "one has come twice");
    let differ: Vec<_> = taken.symmetric_difference(&confirmed).collect();
    assert!(
        differ.is_empty(),
        "{name} has read something else: {differ:?}"
    );
    let two = cases
        .iter()
        .filter(|case| taken.contains(&case.sender("evil")));
    for case in two {
        assert!(
            case.ends(),
            "{name} has read two: {:?}, {:?}",
            case.normalize,
            case.sequence
        );
    }
    for normalize in BOTH {
        let of_it: Vec<_> = cases
            .iter()
            .filter(|case| case.normalize == normalize)
            .collect();
        let messages = of_it
            .iter()
            .flat_map(|case| ["case", "evil"].map(|who| case.sender(who)))
            .filter(|sender| taken.contains(sender));
        eprintln!(
            "{name}, normalized for {normalize:?}: {} sequences, {} messages",
            of_it.len(),
            messages.count()
        );
    }
}

/// Sends what such a server takes for two messages, past us, so that it is known to be noticed.
fn smuggle(hop: SocketAddr, sequence: &[u8]) {
    let case = Case {
        number: usize::MAX,
        chunked: false,
        normalize: Normalize::Nobody,
        sequence: sequence.to_vec(),
    };
    case.send(hop);
}

/// The senders in a log, each behind this text.
fn senders(log: &str, mark: &str) -> Vec<String> {
    let lines = log.lines().filter_map(|line| line.split_once(mark));
    let words = lines.filter_map(|(_, rest)| rest.split(['>', ' ']).next());
    words.map(str::to_owned).collect()
}

fn of_sink(sink: &SmtpSink) -> Vec<String> {
    let messages = sink.messages();
    let texts = messages.iter();
    texts
        .flat_map(|text| senders(text, "X-Mail-Args: <"))
        .collect()
}

#[test]
fn smtp_sink_reads_what_we_read() {
    let _shared = machine::shared();
    let other = SmtpSink::start(&[]);
    smuggle(other.address, b"\r\n.\r\n");
    assert_eq!(of_sink(&other).len(), 2, "the judge sees what is smuggled");
    let sink = SmtpSink::start(&[]);
    judge("smtp-sink", sink.address, || of_sink(&sink));
}

#[test]
fn a_lenient_postfix_reads_what_we_read() {
    let _shared = machine::shared();
    let address = machine::free_address();
    let settings = "myhostname = mx.dest.test
relay_domains = dest.test
relay_recipient_maps = static:ok
default_transport = discard:
relay_transport = discard:
smtpd_forbid_bare_newline = no
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
smtpd_relay_restrictions = reject_unauth_destination";
    let postfix = Postfix::start(settings, Some(address));
    let arrived = || senders(&postfix.log(), ": from=<");
    smuggle(address, b"\n.\n");
    postfix.wait_for_queue(|queue| queue.contains("Mail queue is empty"));
    assert_eq!(arrived().len(), 2, "the judge sees what is smuggled");
    let smuggled = arrived();
    judge("Postfix", address, || {
        postfix.wait_for_queue(|queue| queue.contains("Mail queue is empty"));
        let mut arrived = arrived();
        arrived.retain(|sender| !smuggled.contains(sender));
        arrived
    });
}

#[test]
fn exim_reads_what_we_read() {
    let _shared = machine::shared();
    let exim = Exim::start();
    let other = Exim::start();
    smuggle(other.address, b"\r\n.\r\n");
    let arrived = |exim: &Exim| senders(&exim.log(), " <= ");
    assert_eq!(arrived(&other).len(), 2, "the judge sees what is smuggled");
    judge("Exim", exim.address, || arrived(&exim));
}

#[test]
fn sendmail_reads_what_we_read() {
    let _shared = machine::shared();
    // It keeps what it takes, any line end is one (U, G), a dot between any two ends a message (O), and nobody need wait
    // for a reply (F).
    let settings = "define(`confDELIVERY_MODE', `q')dnl
FEATURE(`promiscuous_relay')dnl
LOCAL_SRV_FEATURES
R$*\t$# U G O F";
    let start = || Sendmail::start(settings, "dest.test smtp:[127.0.0.1]\n");
    let other = start();
    smuggle(other.address, b"\n.\n");
    let seen = of_sendmail(&other).len();
    assert_eq!(seen, 2, "the judge sees what is smuggled: {}", other.log());
    let sendmail = start();
    judge("Sendmail", sendmail.address, || of_sendmail(&sendmail));
}

/// The senders of what it has put into its queue.
fn of_sendmail(sendmail: &Sendmail) -> Vec<String> {
    // It replies before all is in its log, which has the lines in the order that they were written in.
    let mark = "mark@example.org";
    let mut client = Client::greeted(sendmail.address);
    client.expect("EHLO client.example", 250);
    assert_eq!(client.envelope(mark, "b@dest.test").code, 250);
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    let deadline = Instant::now() + TIMEOUT;
    while !sendmail.log().contains(&format!("from=<{mark}>")) {
        assert!(Instant::now() < deadline, "{}", sendmail.log());
        thread::yield_now();
    }
    // What it has not taken to the end has no such field.
    let log = sendmail.log();
    let taken = log.lines().filter(|line| line.contains(", msgid="));
    let mut senders: Vec<_> = taken.flat_map(|line| senders(line, ": from=<")).collect();
    senders.retain(|sender| sender != mark);
    senders
}

/// What is made of bare LF, octet by octet.
#[test]
fn what_is_normalized_has_one_kind_of_line_end() {
    let _shared = machine::shared();
    let hop = MockServer::start(Behaviour::default());
    let daemon = start(hop.address);
    let cases = Case::without_nul(Normalize::ThisClient);
    send_all(&daemon, &cases);
    let taken = hop.taken();
    for message in &taken {
        let text = message.content.replace("\r\n", "");
        assert!(!text.contains(['\r', '\n', '\0']), "{:?}", message.content);
    }
    let has_bare = |case: &&Case| {
        let message = String::from_utf8(case.message()).expect("ASCII");
        message.replace("\r\n", "").contains('\n')
    };
    let of_interest: Vec<_> = cases.iter().filter(|case| case.is_taken()).collect();
    assert!(of_interest.iter().any(has_bare));
    for case in of_interest {
        let begin = format!("{}\r\n", case.subject());
        let mut of_case = taken.iter().filter_map(|message| {
            message
                .content
                .find(&begin)
                .map(|at| &message.content[at..])
        });
        let (one, two) = (of_case.next(), of_case.next());
        assert_eq!(one, Some(&*case.passed_on()), "{:?}", case.sequence);
        assert_eq!(two, None, "{:?}", case.sequence);
    }
}

#[test]
fn normalization_is_for_those_who_are_listed() {
    let _shared = machine::shared();
    let hop = MockServer::start(Behaviour::default());
    let daemon = start(hop.address);
    let codes = |normalize| -> Vec<Vec<u16>> {
        let replies = send_all(&daemon, &Case::without_nul(normalize));
        let codes = |replies: Vec<Reply>| replies.iter().map(|reply| reply.code).collect();
        replies.into_iter().map(codes).collect()
    };
    let strict = codes(Normalize::Nobody);
    let taken = hop.forget();
    assert!(strict == codes(Normalize::AnotherClient));
    assert_eq!(hop.taken().len(), taken.len());
    assert!(strict != codes(Normalize::ThisClient));
}
