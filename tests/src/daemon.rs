//! The `portcullis` program: built, started, watched by its log.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Client, NO_RULES};

/// Nothing that is waited for takes this long unless it never comes.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The same of a daemon that starts: it compiles policies of others before it listens.
const START: Duration = Duration::from_secs(120);

/// The program, built from the sources as they are.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("PORTCULLIS_BIN") {
            return path.into();
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--package", "portcullis-server"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo can be run");
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        // This test stands in <target>/release/deps.
        let test = std::env::current_exe().expect("a test has a path");
        test.ancestors()
            .nth(2)
            .expect("a target folder")
            .join("portcullis")
    })
}

/// A command line, not yet run; without colour, and with the tests' own compile cache and state.
pub fn portcullis(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .env("XDG_CACHE_HOME", cache())
        .env("XDG_STATE_HOME", cache());
    command
}

/// Runs a command to its end, with `input` on standard input.
pub fn run(arguments: &[&str], input: &[u8]) -> Output {
    use std::io::Write;
    let mut child = portcullis(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    let input = input.to_vec();
    // The program may end without having read all of it.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the program ends");
    writer.join().expect("the input was written");
    output
}

/// Compiled policies of this test run.
fn cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| binary().with_file_name("e2e-cache"))
}

/// Has the evaluator compiled before the first daemon starts: a daemon listens once its policies have been compiled, which
/// can take a minute on a busy machine.
fn compile_evaluator() {
    static COMPILED: OnceLock<()> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rules = folder.path().join("rules.json");
        fs::write(&rules, NO_RULES).expect("a file is written");
        let output = run(&["list", &rules.to_string_lossy()], b"");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
    });
}

/// Starts the program with the configuration in a folder. What it logs comes to `log`.
fn spawn(folder: &TempDir, variables: &[(&str, &str)], more: &[&str], log: &Arc<Log>) -> Child {
    let mut child = portcullis(&["run", "--log-level", "debug", "--config"])
        .arg(folder.path().join("portcullis.toml"))
        .args(more)
        .env("XDG_STATE_HOME", folder.path().join("state"))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the daemon starts");
    let stderr = child.stderr.take().expect("standard error is a pipe");
    let writer = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            writer.lines.lock().unwrap().push(line);
            writer.more.notify_all();
        }
    });
    child
}

/// A running daemon in a folder of its own.
pub struct Daemon {
    child: Child,
    folder: TempDir,
    log: Arc<Log>,
    /// The addresses that it listens on, in the order of the configuration.
    pub addresses: Vec<SocketAddr>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Daemon {
    /// Starts a daemon with this configuration (TOML) and files beside it, and waits until it listens
    /// on all its listeners. Listen on port 0; `addresses` has the real ones.
    pub fn start(config: &str, files: &[(&str, &str)]) -> Daemon {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("a file is written");
        }
        Daemon::start_in(folder, config)
    }

    /// The same in a folder that has its files already.
    pub fn start_in(folder: TempDir, config: &str) -> Daemon {
        Daemon::start_with(folder, config, &[])
    }

    /// The same with these variables in its environment.
    pub fn start_with(folder: TempDir, config: &str, variables: &[(&str, &str)]) -> Daemon {
        compile_evaluator();
        let path = folder.path().join("portcullis.toml");
        fs::write(&path, config).expect("the configuration is written");
        let listeners = config.matches("[[listener]]").count();
        let log = Arc::new(Log::default());
        let child = spawn(&folder, variables, &[], &log);
        let mut daemon = Daemon {
            child,
            folder,
            log,
            addresses: Vec::new(),
        };
        for number in 1..=listeners {
            let line = daemon.wait_for_log_within(START, &["listening address="], number);
            let (_, address) = line.rsplit_once('=').expect("an address");
            daemon
                .addresses
                .push(address.trim().parse().expect("an address"));
        }
        daemon
    }

    /// Starts a second process, which is to take over from this one; gives the one there was, which has not ended yet.
    /// The new one writes the same log.
    pub fn upgrade(&mut self) -> Child {
        let new = spawn(&self.folder, &[], &["--upgrade"], &self.log);
        std::mem::replace(&mut self.child, new)
    }

    /// The socket by which it gives its sockets away.
    pub fn upgrade_socket(&self) -> PathBuf {
        let state = self.folder().join("state/portcullis");
        let entries = fs::read_dir(state).expect("a folder");
        let mut paths = entries.map(|entry| entry.expect("an entry").path());
        let socket = paths.find(|path| path.extension().is_some_and(|it| it == "sock"));
        socket.expect("an upgrade socket")
    }

    /// Goes on with a process that there was before.
    pub fn keep(&mut self, old: Child) {
        self.child = old;
    }

    /// The address of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// A client of the first listener that has said EHLO.
    pub fn client(&self) -> Client {
        self.client_of(0)
    }

    /// The same of another listener.
    pub fn client_of(&self, listener: usize) -> Client {
        let mut client = Client::greeted(self.addresses[listener]);
        client.hello(false, None);
        client
    }

    /// The same from an address, by the PROXY protocol.
    pub fn client_from(&self, address: &str) -> Client {
        let address = address.parse().expect("an address");
        let mut client = Client::connect_as(self.address(), address);
        client.hello(false, None);
        client
    }

    /// The daemon's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in KiB.
    pub fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let amount = line.and_then(|line| line.trim().strip_suffix(" kB"));
        amount.expect("an amount").trim().parse().expect("a number")
    }

    /// How many file descriptors are open.
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        fs::read_dir(path).expect("it runs").count()
    }

    /// Processor time so far, user and system.
    pub fn cpu(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(path).expect("it runs");
        // What follows the name, in which anything may stand (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let fields = fields.split_whitespace().skip(11).take(2);
        let ticks = fields.map(|ticks| ticks.parse::<u64>().expect("a number"));
        // Linux tells user space of a hundred ticks a second, whatever its own clock does.
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// All log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().clone()
    }

    /// All log lines so far, which are then forgotten.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lines.lock().unwrap())
    }

    /// Waits for a log line that contains `text`.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.wait_for_log_times(text, 1)
    }

    /// Waits for the `times`th log line that contains `text`.
    pub fn wait_for_log_times(&self, text: &str, times: usize) -> String {
        self.wait_for_log_with(&[text], times)
    }

    /// Waits for the `times`th log line that contains all of these texts.
    pub fn wait_for_log_with(&self, texts: &[&str], times: usize) -> String {
        self.wait_for_log_within(TIMEOUT, texts, times)
    }

    fn wait_for_log_within(&self, limit: Duration, texts: &[&str], times: usize) -> String {
        let deadline = Instant::now() + limit;
        let (mut searched, mut missing) = (0, times);
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            // Each line is looked at once: under load there are very many.
            for line in &lines[searched..] {
                let is_it = texts.iter().all(|text| line.contains(text));
                missing -= usize::from(is_it);
                if missing == 0 {
                    return line.clone();
                }
            }
            searched = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let log = lines.join("\n");
                // The log is shown once more when the daemon is dropped.
                drop(lines);
                panic!("no log line number {times} with {texts:?} in:\n{log}");
            }
            lines = self.log.more.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// How many log lines contain `text` by now.
    pub fn count_log(&self, text: &str) -> usize {
        self.log
            .lines
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Replaces a file of the daemon's folder in one step.
    pub fn replace(&self, name: &str, content: &[u8]) {
        let path = self.folder().join(name);
        let new = path.with_extension("new");
        fs::write(&new, content).expect("a file is written");
        fs::rename(&new, &path).expect("a file is renamed");
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status();
        assert!(status.expect("kill can be run").success());
    }

    /// Ends it as a power cut would, and gives its folder.
    pub fn kill(mut self) -> TempDir {
        self.cut()
    }

    /// Ends it as a power cut would, and starts it again with this configuration in the same folder.
    pub fn restart(&mut self, config: &str) {
        let folder = self.cut();
        *self = Daemon::start_in(folder, config);
    }

    fn cut(&mut self) -> TempDir {
        self.child.kill().expect("the daemon is killed");
        self.child.wait().expect("the daemon ends");
        std::mem::replace(
            &mut self.folder,
            tempfile::tempdir().expect("a temporary folder"),
        )
    }

    /// Waits for its end, and gives its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("the daemon ends").code()
    }

    /// The messages in a Maildir of the daemon's folder.
    pub fn maildir(&self, name: &str) -> Vec<String> {
        messages(&self.folder().join(name))
    }
}

/// The messages in `new/` of a Maildir.
pub fn messages(maildir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(maildir.join("new")) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| String::from_utf8_lossy(&fs::read(path).expect("a message")).into_owned())
        .collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}", self.log().join("\n"));
        }
    }
}
