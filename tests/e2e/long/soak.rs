//! Half of full load for a long time, with faults, exchanges of policies and attacks again and again: at the
//! end memory, descriptors and latency are what they were at the beginning, and no message is lost.
//!
//! `PORTCULLIS_SOAK` is how long it takes, in seconds. The time is divided into rounds. In the first third
//! of a round nothing but mail happens, and latency is measured; in the rest everything does.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::load::{SENDERS, Stop, Totals};
use portcullis_tests::{Fault, FaultInjector, Load, attack, machine};

/// The longest round, and the shortest soak.
const ROUND: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(20);
/// How many attackers there are.
const ATTACKERS: usize = 4;
/// Attempts that are made between one fault and the next.
const BETWEEN: usize = 25;

/// What a round has shown.
struct Round {
    totals: Totals,
    /// Of messages while nothing else happened: the median and the 99th percentile.
    latency: [Duration; 2],
    /// Processor time of the daemon for a message, while nothing else happened.
    cpu: Duration,
    /// What is in use when everybody has gone: resident memory in KiB, and descriptors.
    resident: u64,
    descriptors: usize,
}

/// What happens beside the load in all rounds.
struct Trouble {
    faults: Box<dyn Iterator<Item = Fault>>,
    happened: usize,
    attacks: AtomicUsize,
    inputs: Vec<Vec<u8>>,
}

impl Trouble {
    fn new() -> Trouble {
        // A daemon that is started anew would have forgotten whatever has piled up.
        let faults = Fault::sequence().filter(|fault| !matches!(fault, Fault::Kill));
        Trouble {
            faults: Box::new(faults),
            happened: 0,
            attacks: AtomicUsize::new(0),
            inputs: inputs(),
        }
    }

    /// Faults one after another and attacks all the time, until then.
    fn make(&mut self, faulty: &mut FaultInjector, load: &Load, until: Instant) {
        let address = faulty.bed.address();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (inputs, attacks, stop) = (&self.inputs, &self.attacks, &stop);
            for _ in 0..ATTACKERS {
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        attack(address, attacks.fetch_add(1, Ordering::Relaxed), inputs);
                    }
                });
            }
            let _stop = Stop(stop);
            while Instant::now() < until {
                faulty.inject(self.faults.next().expect("there is no end"));
                self.happened += 1;
                load.wait(BETWEEN);
                faulty.repair();
                load.wait(BETWEEN);
            }
        });
    }
}

/// What the fuzzer begins with: whole sessions, each with the places where to cut it.
fn inputs() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/session");
    let entries = fs::read_dir(folder).expect("the seeds are there");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| fs::read(path).expect("a seed"))
        .filter(|seed| !seed.is_empty())
        .collect()
}

/// One of the attacks. How it ends is the daemon's business.
fn attack(address: SocketAddr, number: usize, inputs: &[Vec<u8>]) {
    let from = IpAddr::V4(Ipv4Addr::new(198, 51, 100, (number % 256) as u8));
    match number % 10 {
        0 => {
            // All that an address may have, and some more.
            let held = (0..45).map(|state| attack::hold(address, from, state));
            drop(held.collect::<Vec<_>>());
        }
        1 => {
            let _ = attack::never_listen(address, from, 16 << 20);
        }
        2 => {
            let _ = attack::provoke(address, from);
        }
        3 => {
            let lines =
                b"EHLO a.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@hostile.test>\r\nQUIT\r\n";
            let _ = attack::say(address, from, lines, &[]);
        }
        4 => {
            let _ = attack::knock(address, 200);
        }
        5 => {
            let _ = attack::name_recipients(address, from, 1500);
        }
        _ => {
            let input = &inputs[number / 10 % inputs.len()];
            let (pieces, octets) = input[1..].split_at(usize::from(input[0]).min(input.len() - 1));
            let _ = attack::say(address, from, octets, pieces);
        }
    }
}

/// From the beginning of a sender's message to that of its next, at half of the rate that client, daemon
/// and next hop reach together on this machine.
fn pause_of_half_load(faulty: &FaultInjector, length: Duration) -> Duration {
    let load = Load::new(faulty.bed.address(), "full", Duration::ZERO);
    let account = load.run(|_| thread::sleep(length));
    let messages = account.reconcile(&faulty.hop.forget()).confirmed;
    eprintln!(
        "full load: {:.0} messages a second",
        messages as f64 / length.as_secs_f64()
    );
    length * 2 * SENDERS as u32 / messages as u32
}

fn round(
    faulty: &mut FaultInjector,
    number: usize,
    length: Duration,
    pause: Duration,
    trouble: &mut Trouble,
) -> Round {
    let address = faulty.bed.address();
    let cpu = faulty.bed.cpu();
    let quiet = Load::new(address, &format!("q{number}"), pause);
    let mut quiet = quiet.run(|_| thread::sleep(length / 3));
    let cpu = faulty.bed.cpu() - cpu;
    let troubled = Load::new(address, &format!("t{number}"), pause);
    let until = Instant::now() + length * 2 / 3;
    let troubled = troubled.run(|load| trouble.make(faulty, load, until));
    quiet.times.sort_unstable();
    let of_hundred = |percent| quiet.times[(quiet.times.len() - 1) * percent / 100];
    let (latency, cpu) = (
        [of_hundred(50), of_hundred(99)],
        cpu / quiet.times.len() as u32,
    );
    let mut account = quiet;
    account.add(troubled);
    let totals = account.reconcile(&faulty.hop.forget());
    let descriptors = settled(faulty);
    // Nothing has gone wrong that must not.
    let log = faulty.bed.take_log();
    let panics: Vec<_> = log.iter().filter(|line| line.contains("panick")).collect();
    assert!(panics.is_empty(), "{panics:?}");
    Round {
        totals,
        latency,
        cpu,
        resident: faulty.bed.resident(),
        descriptors,
    }
}

/// The descriptors that stay when the last session has ended.
fn settled(faulty: &FaultInjector) -> usize {
    faulty.hop.hang_up();
    let deadline = Instant::now() + TIMEOUT;
    let mut least = (faulty.bed.descriptors(), Instant::now());
    while least.1.elapsed() < Duration::from_secs(3) && Instant::now() < deadline {
        let now = faulty.bed.descriptors();
        if now < least.0 {
            least = (now, Instant::now());
        }
        thread::sleep(Duration::from_millis(20));
    }
    least.0
}

#[test]
fn nothing_piles_up() {
    let _alone = machine::alone();
    let length = std::env::var("PORTCULLIS_SOAK");
    let length = length.map_or(SHORT, |text| {
        Duration::from_secs(text.parse().expect("seconds"))
    });
    let length_of_round = ROUND.min(length / 3);
    let mut faulty = FaultInjector::new();
    let mut trouble = Trouble::new();
    let pause = pause_of_half_load(&faulty, length_of_round / 4);
    let begun = Instant::now();
    let mut totals = Totals::default();
    let mut rounds = Vec::new();
    eprintln!("minute messages  p50 ms  p99 ms  cpu us/message  resident KiB  descriptors");
    while begun.elapsed() < length {
        let round = round(
            &mut faulty,
            rounds.len(),
            length_of_round,
            pause,
            &mut trouble,
        );
        let [p50, p99] = round.latency.map(|time| time.as_secs_f64() * 1e3);
        eprintln!(
            "{:6.1} {:8} {p50:7.2} {p99:7.2} {:15} {:13} {:12}",
            begun.elapsed().as_secs_f64() / 60.0,
            round.totals.messages,
            round.cpu.as_micros(),
            round.resident,
            round.descriptors
        );
        totals = totals.and(round.totals);
        rounds.push(round);
    }
    let attacks = trouble.attacks.load(Ordering::Relaxed);
    eprintln!("{} faults, {attacks} attacks: {totals}", trouble.happened);
    // The first round has met everything that is made once.
    let (first, last) = (&rounds[0], &rounds[rounds.len() - 1]);
    // Code that was exchanged may still be mapped.
    assert!(
        last.descriptors <= first.descriptors + 4,
        "descriptors pile up"
    );
    assert!(
        last.resident < first.resident + 32 * 1024,
        "memory piles up"
    );
}
