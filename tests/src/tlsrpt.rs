//! Who keeps what became of TLS, and writes reports of it (RFC 8460): the programs of tlsrpt_reporter.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::TIMEOUT;
use crate::programs::{missing, unpacked};

/// A running tlsrpt-collectd, and what is made of what it has collected.
pub struct Collector {
    child: Child,
    folder: TempDir,
}

/// Reads the collector's database, and writes it as JSON.
const READ: &str = "
import json, sqlite3, sys
database = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True)
results = database.execute('SELECT domain, tlsrptrecord, policy, cntrtotal, cntrfailure FROM finalresults ORDER BY domain, policy')
rows = []
for domain, record, policy, total, failed in results.fetchall():
    failures = database.execute('SELECT reason, cntr FROM failures WHERE domain=? AND tlsrptrecord=? AND policy=? ORDER BY reason', (domain, record, policy))
    rows.append({'domain': domain, 'record': record, 'policy': json.loads(policy), 'total': total, 'failed': failed,
                 'failures': [dict(json.loads(reason), times=times) for reason, times in failures]})
print(json.dumps(rows))
";

impl Collector {
    /// Starts one with a socket and a database of its own.
    pub fn start() -> Collector {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().display();
        let fetcher = program("tlsrpt-fetcher");
        // Each datagram is in the database before the next one is read, so the log tells what is there.
        let config = format!(
            "[tlsrpt_collectd]
storage = sqlite://{place}/collected
socketname = {place}/socket
logfilename = {place}/collectd.log
max_uncommited_datagrams = 1
dump_path_for_invalid_datagram = {place}/invalid
log_level = debug

[tlsrpt_fetcher]
storage = sqlite://{place}/collected
log_level = error

[tlsrpt_reportd]
organization_name = Contoso
contact_info = tls@contoso.com
sender_address = tls@contoso.com
dbname = {place}/reported
log_level = error
fetchers = {fetcher} --config_file {place}/config
debug_send_file_dest = {place}/reports
sendmail_script = cat >/dev/null
spread_out_delivery = 1
interval_main_loop = 1
min_wait_domainlist = 0
max_wait_domainlist = 1
",
            fetcher = fetcher.display()
        );
        fs::write(folder.path().join("config"), config).expect("a file is written");
        fs::create_dir(folder.path().join("reports")).expect("a folder");
        let child = Command::new(program("tlsrpt-collectd"))
            .arg("--config_file")
            .arg(folder.path().join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(missing("tlsrpt-collectd"));
        let mut collector = Collector { child, folder };
        let socket = collector.socket();
        collector.wait(|collector| {
            let ended = collector.child.try_wait().expect("a child");
            assert!(ended.is_none(), "{ended:?}\n{}", collector.log());
            socket.exists()
        });
        collector
    }

    /// Where datagrams go.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Waits until it has taken that many datagrams, and gives what it has then, a row for each domain and policy.
    pub fn wait_for(&mut self, datagrams: usize) -> Vec<Value> {
        let line = format!("({datagrams} total)");
        self.wait(|collector| collector.log().contains(&line));
        let log = self.log();
        // It writes down what it does not understand.
        assert!(!log.contains(" ERROR "), "{log}");
        let output = Command::new("python3")
            .args(["-c", READ])
            .arg(self.folder.path().join("collected"))
            .output()
            .unwrap_or_else(missing("Python"));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}\n{log}");
        serde_json::from_slice(&output.stdout).expect("rows")
    }

    /// Ends its day, and has the reports written of it, one a domain: of these, and of no other.
    pub fn reports(&mut self, domains: &[&str]) -> Vec<Value> {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", "USR2", &pid]).status();
        assert!(status.expect("kill can be run").success());
        // The first one of its life was there before it took anything.
        self.wait(|collector| collector.log().matches("Old database moved to").count() == 2);
        let mut reporter = Command::new(program("tlsrpt-reportd"))
            .arg("--config_file")
            .arg(self.folder.path().join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(missing("tlsrpt-reportd"));
        let folder = self.folder.path().join("reports");
        let deadline = Instant::now() + TIMEOUT;
        let reports = loop {
            let reports: Option<Vec<Value>> =
                domains.iter().map(|of| report(&folder, of)).collect();
            if reports.is_some() || Instant::now() >= deadline {
                break reports;
            }
            // It tells nobody when it has written one.
            std::thread::sleep(Duration::from_millis(50));
        };
        // It ends only when it is told to.
        let _ = reporter.kill();
        let _ = reporter.wait();
        let reports = reports.unwrap_or_else(|| panic!("only {:?} came", names(&folder)));
        assert_eq!(
            only_reports(&folder).len(),
            domains.len(),
            "{:?}",
            names(&folder)
        );
        reports
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("collectd.log")).unwrap_or_default()
    }

    fn wait(&mut self, is_so: impl Fn(&mut Collector) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "it never came:\n{}", self.log());
            // It tells nobody what it does but in its log.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn program(name: &str) -> PathBuf {
    let path = unpacked("tlsrpt_reporter", &format!("tlsrpt_reporter/bin/{name}"));
    path.canonicalize().expect("a path")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// The names of the reports, without the mail that takes them.
fn only_reports(folder: &Path) -> Vec<String> {
    let mut names = names(folder);
    names.retain(|name| !name.contains("THE_EMAIL_TO"));
    names
}

/// The report of a domain, if it is there and whole.
fn report(folder: &Path, domain: &str) -> Option<Value> {
    let of_domain = format!("testreport-{domain}-");
    let name = only_reports(folder)
        .into_iter()
        .find(|name| name.starts_with(&of_domain))?;
    let text = fs::read_to_string(folder.join(name)).expect("a report");
    serde_json::from_str(&text).ok()
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the collector\n{}", self.log());
        }
    }
}
