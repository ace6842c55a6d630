//! No sequence of octets that we take as one message is read as two behind us: by smtp-sink, by a Postfix
//! that is as lenient as it used to be, by Exim.
//!
//! Every end of line that CR, LF and NUL can make stands before and behind one dot and two, with another
//! envelope after it, by DATA and by BDAT, and cut at each place.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use portcullis_tests::exim::Exim;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::{
    Client, Config, Daemon, Listener, NO_RULES, SmtpSink, TestBed, machine, sink,
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

/// A session that tries a sequence.
struct Case {
    number: usize,
    chunked: bool,
    sequence: Vec<u8>,
}

impl Case {
    fn all() -> Vec<Case> {
        let numbered = sequences().into_iter().enumerate();
        let both = numbered.flat_map(|(number, sequence)| {
            [false, true].map(|chunked| Case {
                number,
                chunked,
                sequence: sequence.clone(),
            })
        });
        both.collect()
    }

    fn sender(&self, who: &str) -> String {
        let way = if self.chunked { "bdat" } else { "data" };
        format!("{who}-{way}-{}@example.org", self.number)
    }

    /// The content, in two pieces cut at each place in turn.
    fn pieces(&self) -> (Vec<u8>, Vec<u8>) {
        let begin = b"Subject: x\r\n\r\nx";
        let evil = format!("MAIL FROM:<{}>\r\n{SMUGGLED}", self.sender("evil"));
        let mut content = [&begin[..], &self.sequence, evil.as_bytes()].concat();
        let behind = content.split_off(begin.len() + self.number % (self.sequence.len() + 1));
        (content, behind)
    }

    /// Whether RFC 5321 itself ends the message there, and what follows is a second one indeed.
    fn ends(&self) -> bool {
        let end = b"\r\n.\r\n";
        !self.chunked && self.sequence.windows(end.len()).any(|part| part == end)
    }

    /// Gives the senders of the messages that were confirmed.
    fn send(&self, to: SocketAddr) -> Vec<String> {
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
        let replies: Vec<_> = std::iter::from_fn(|| client.try_reply().ok()).collect();
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

fn start(hop: SocketAddr) -> TestBed {
    let config = Config::new()
        .hostname("mx.dest.test")
        .listener(Listener::smtp(hop))
        .tenant("dest.test", NO_RULES);
    TestBed::start(config)
}

/// Sends all of them; gives the senders of all messages that were confirmed.
fn send_all(daemon: &Daemon, cases: &[Case]) -> BTreeSet<String> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut confirmed = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            confirmed.extend(case.send(daemon.address()));
        }
        confirmed
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        let confirmed = workers.into_iter().map(|worker| worker.join());
        confirmed.flat_map(|some| some.expect("a worker")).collect()
    })
}

/// Holds what we have confirmed against what came, sender by sender.
fn judge(name: &str, hop: SocketAddr, arrived: impl Fn() -> Vec<String>) {
    let daemon = start(hop);
    let cases = Case::all();
    let confirmed = send_all(&daemon, &cases);
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
        assert!(case.ends(), "{name} has read two: {:?}", case.sequence);
    }
    eprintln!(
        "{name}: {} sequences, {} messages",
        cases.len(),
        taken.len()
    );
}

/// Sends what such a server takes for two messages, past us, so that it is known to be noticed.
fn smuggle(hop: SocketAddr, sequence: &[u8]) {
    let case = Case {
        number: usize::MAX,
        chunked: false,
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
    let address = sink::free_address();
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
