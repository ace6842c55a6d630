//! Certificates, revocation lists and peers of the `openssl` command: what Rust libraries do not make, or do not speak.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tempfile::TempDir;

use crate::daemon::TIMEOUT;
use crate::programs::missing;

/// Where s_server listens in its folder.
const SOCKET: &str = "socket";

/// What an authority's certificate says.
pub const AUTHORITY: &str = "basicConstraints = critical, CA:TRUE
    keyUsage = critical, keyCertSign, cRLSign
    subjectKeyIdentifier = hash
    authorityKeyIdentifier = keyid
";

/// What the certificate of `mail.a.test` says.
pub const OWN: &str = "basicConstraints = critical, CA:FALSE
    keyUsage = critical, digitalSignature
    extendedKeyUsage = serverAuth
    subjectAltName = DNS:mail.a.test
    subjectKeyIdentifier = hash
    authorityKeyIdentifier = keyid
";

/// A certificate with its key, as files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The certificate (PEM).
    pub certificate: PathBuf,
    /// The key (PEM).
    pub key: PathBuf,
}

impl Made {
    /// The certificate (PEM).
    pub fn pem(&self) -> String {
        fs::read_to_string(&self.certificate).expect("a certificate")
    }

    /// The key (PEM).
    pub fn key_pem(&self) -> String {
        fs::read_to_string(&self.key).expect("a key")
    }
}

/// What is wanted of a certificate.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// The subject, `/C=DE/CN=name`.
    pub subject: &'a str,
    /// The key: a curve, `rsa:2048`, `ed25519` and the like, `rsa-pss`, or the file of one that is there.
    pub key: &'a str,
    /// Its extensions in the form of x509v3_config(5), and sections that they name. Of two that are the same the
    /// later one counts.
    pub extensions: &'a str,
    /// From when to when it is valid, `YYYYMMDDHHMMSSZ`; from now on if absent.
    pub valid: Option<(&'a str, &'a str)>,
    /// Further options of openssl-req(1).
    pub options: &'a [&'a str],
}

impl<'a> Wish<'a> {
    /// A certificate on P-256.
    pub fn new(subject: &'a str, extensions: &'a str) -> Self {
        Wish {
            subject,
            key: "P-256",
            extensions,
            valid: None,
            options: &[],
        }
    }

    /// On another key.
    pub fn key(self, key: &'a str) -> Self {
        Wish { key, ..self }
    }

    /// Valid from one time to the other.
    pub fn valid(self, (from, to): (&'a str, &'a str)) -> Self {
        let valid = Some((from, to));
        Wish { valid, ..self }
    }

    /// With further options of openssl-req(1).
    pub fn options(self, options: &'a [&'a str]) -> Self {
        Wish { options, ..self }
    }
}

/// A folder in which certificates are made.
pub struct Workshop {
    folder: TempDir,
    made: AtomicUsize,
}

impl Default for Workshop {
    fn default() -> Self {
        Workshop::new()
    }
}

impl Workshop {
    /// An empty one.
    pub fn new() -> Self {
        Workshop {
            folder: tempfile::tempdir().expect("a temporary folder"),
            made: AtomicUsize::new(0),
        }
    }

    /// Makes a certificate, signed by an issuer or by itself.
    pub fn make(&self, wish: &Wish, issuer: Option<&Made>) -> Made {
        let config = self.write("cnf", &config(wish.extensions));
        let made = Made {
            certificate: config.with_extension("pem"),
            key: match wish.key.starts_with('/') {
                true => wish.key.into(),
                false => config.with_extension("key"),
            },
        };
        let mut request = Command::new("openssl");
        request.args(["req", "-new", "-batch", "-utf8", "-noenc"]);
        match wish.key.split(':').next() {
            Some("rsa" | "ed25519" | "ed448") => request.args(["-newkey", wish.key]),
            Some("rsa-pss") => {
                request.args(["-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"])
            }
            _ if wish.key.starts_with('/') => request.args(["-key", wish.key]),
            _ => request.args([
                "-newkey",
                "ec",
                "-pkeyopt",
                &format!("ec_paramgen_curve:{}", wish.key),
            ]),
        };
        if !wish.key.starts_with('/') {
            request.arg("-keyout").arg(&made.key);
        }
        request.arg("-config").arg(&config);
        request.args(["-subj", wish.subject]).args(wish.options);
        match wish.valid {
            None => {
                request.args(["-x509", "-days", "90", "-extensions", "own"]);
                if let Some(issuer) = issuer {
                    request.arg("-CA").arg(&issuer.certificate);
                    request.arg("-CAkey").arg(&issuer.key);
                }
                done(request.arg("-out").arg(&made.certificate));
            }
            Some((from, to)) => {
                let csr = config.with_extension("csr");
                done(request.arg("-out").arg(&csr));
                let mut sign = self.authority(&config, issuer.unwrap_or(&made));
                if issuer.is_none() {
                    sign.arg("-selfsign");
                }
                sign.args(["-batch", "-notext", "-preserveDN", "-extensions", "own"]);
                sign.args(["-startdate", from, "-enddate", to]);
                done(sign.arg("-in").arg(&csr).arg("-out").arg(&made.certificate));
            }
        }
        made
    }

    /// An authority with these further extensions.
    pub fn ca(&self, subject: &str, extensions: &str, issuer: Option<&Made>) -> Made {
        let extensions = format!("{AUTHORITY}\n{extensions}");
        self.make(&Wish::new(subject, &extensions), issuer)
    }

    /// A certificate for `mail.a.test` with these further extensions.
    pub fn own(&self, extensions: &str, issuer: &Made) -> Made {
        let extensions = format!("{OWN}\n{extensions}");
        let wish = Wish::new("/C=DE/O=Bank/CN=mail.a.test", &extensions);
        self.make(&wish, Some(issuer))
    }

    /// A revocation list (PEM) that is valid between two times, `YYYYMMDDHHMMSSZ`.
    pub fn crl(&self, issuer: &Made, revoked: &[&Made], (from, to): (&str, &str)) -> String {
        let config = self.write("cnf", &config(""));
        // The authority's database, which is empty.
        fs::write(config.with_extension("index"), "").expect("a file");
        for made in revoked {
            let mut revoke = self.authority(&config, issuer);
            done(revoke.arg("-revoke").arg(&made.certificate));
        }
        let list = config.with_extension("crl");
        let mut sign = self.authority(&config, issuer);
        sign.args(["-gencrl", "-crl_lastupdate", from, "-crl_nextupdate", to]);
        done(sign.arg("-out").arg(&list));
        fs::read_to_string(list).expect("a list")
    }

    /// openssl-ca(1) with a database that belongs to the configuration file.
    fn authority(&self, config: &Path, issuer: &Made) -> Command {
        let index = config.with_extension("index");
        if !index.exists() {
            fs::write(&index, "").expect("a file");
        }
        let mut command = Command::new("openssl");
        command
            .env("INDEX", &index)
            .env("FOLDER", self.folder.path());
        command.arg("ca").arg("-config").arg(config);
        command.arg("-cert").arg(&issuer.certificate);
        command.arg("-keyfile").arg(&issuer.key);
        command
    }

    /// Writes a file of its own.
    pub fn write(&self, extension: &str, content: &str) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("{number}.{extension}"));
        fs::write(&path, content).expect("a file is written");
        path
    }

    /// Runs openssl(1) in the folder, and gives what it writes.
    pub fn openssl(&self, options: &[&str]) -> Vec<u8> {
        done(
            Command::new("openssl")
                .current_dir(self.folder.path())
                .args(options),
        )
    }

    /// Another authority that has the name and the key identifier of one.
    pub fn forger(&self, genuine: &Made) -> Made {
        let path = genuine.certificate.to_str().expect("a path");
        let said = |options: &[&str]| {
            let options = [&["x509", "-noout", "-in", path][..], options].concat();
            String::from_utf8(self.openssl(&options)).expect("text")
        };
        let subject = said(&["-subject", "-nameopt", "compat"]);
        let subject = subject.trim().trim_start_matches("subject=");
        let identifier = said(&["-ext", "subjectKeyIdentifier"]);
        let identifier = identifier.lines().last().expect("an identifier").trim();
        let extensions = format!("subjectKeyIdentifier = {}", identifier.replace(':', ""));
        self.ca(subject, &extensions, None)
    }

    /// What openssl-verify(1) says of a certificate for a purpose, `sslserver` or `sslclient`.
    pub fn verify(&self, roots: &Path, own: &Made, between: &[Made], purpose: &str) -> bool {
        let mut command = Command::new("openssl");
        command.args(["verify", "-no-CApath", "-no-CAstore", "-CAfile"]);
        command.arg(roots);
        if !between.is_empty() {
            let between = self.write("pem", &concatenated(between));
            command.arg("-untrusted").arg(between);
        }
        let output = command
            // Any policy will do; the usual security level; any authority that is trusted ends a chain.
            .args(["-policy_check", "-policy", "2.5.29.32.0"])
            .args(["-auth_level", "2", "-partial_chain", "-trusted_first"])
            .args(["-purpose", purpose])
            .arg(&own.certificate)
            .output();
        let output = output.unwrap_or_else(missing("openssl"));
        output.status.success()
    }

    /// A chain to be shown.
    pub fn shown(&self, own: &Made, between: &[Made], version: &'static str) -> Shown {
        let between = match between {
            [] => None,
            some => Some(self.write("pem", &concatenated(some))),
        };
        Shown {
            own: own.clone(),
            between,
            version,
        }
    }
}

fn config(extensions: &str) -> String {
    let extensions: Vec<&str> = extensions.lines().map(str::trim).collect();
    format!(
        "[req]
         distinguished_name = subject
         string_mask = utf8only
         [subject]
         [ca]
         default_ca = authority
         [authority]
         database = $ENV::INDEX
         new_certs_dir = $ENV::FOLDER
         rand_serial = yes
         default_md = sha256
         policy = any
         unique_subject = no
         default_crl_days = 7
         crl_extensions = list
         [any]
         countryName = optional
         organizationName = optional
         commonName = optional
         [list]
         authorityKeyIdentifier = keyid
         [own]
         {}\n",
        extensions.join("\n")
    )
}

/// Certificates in one file.
pub fn concatenated(all: &[Made]) -> String {
    all.iter().map(Made::pem).collect()
}

fn done(command: &mut Command) -> Vec<u8> {
    // The sections that are not used here name these.
    for variable in ["INDEX", "FOLDER"] {
        if !command.get_envs().any(|(name, _)| name == variable) {
            command.env(variable, "unused");
        }
    }
    let output = command.output().unwrap_or_else(missing("openssl"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output.stdout
}

/// A chain that a peer shows, with which version of TLS.
#[derive(Clone, Debug)]
pub struct Shown {
    own: Made,
    between: Option<PathBuf>,
    version: &'static str,
}

impl Shown {
    fn options(&self, command: &mut Command) {
        command.arg("-cert").arg(&self.own.certificate);
        command.arg("-key").arg(&self.own.key);
        if let Some(between) = &self.between {
            command.arg("-cert_chain").arg(between);
        }
        if !self.version.is_empty() {
            command.arg(self.version);
        }
        // It shows whatever it is told to.
        command.args(["-cipher", "ALL:@SECLEVEL=0"]);
    }
}

/// What openssl-s_client(1) writes for a session by STARTTLS with this input, and its errors.
pub fn s_client(
    address: SocketAddr,
    shown: Option<&Shown>,
    options: &[&str],
    input: &str,
) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-starttls", "smtp", "-ign_eof", "-connect"]);
    command.arg(address.to_string()).args(options);
    if let Some(shown) = shown {
        shown.options(&mut command);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(missing("openssl"));
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    // It may have ended, where the handshake fails.
    let _ = stdin.write_all(input.as_bytes());
    let output = child.wait_with_output().expect("openssl ends");
    drop(stdin);
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A partner's mail server whose TLS is openssl-s_server(1).
pub struct OpensslPartner {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    shown: Mutex<Option<Shown>>,
    taken: AtomicUsize,
    said: Mutex<String>,
    stop: AtomicBool,
}

impl OpensslPartner {
    /// Starts one on a port of its own.
    pub fn start() -> OpensslPartner {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let of_server = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if of_server.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let state = of_server.clone();
                // A client that goes away is no concern of ours.
                std::thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        OpensslPartner { address, state }
    }

    /// Shows this chain from the next connection on.
    pub fn show(&self, shown: Shown) {
        *self.state.shown.lock().unwrap() = Some(shown);
    }

    /// How many messages it has taken under TLS.
    pub fn taken(&self) -> usize {
        self.state.taken.load(Ordering::SeqCst)
    }

    /// What s_server said last of what went wrong.
    pub fn said(&self) -> String {
        self.state.said.lock().unwrap().clone()
    }
}

impl Drop for OpensslPartner {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // It wakes up for one more connection.
        let _ = TcpStream::connect(self.address);
    }
}

/// Until STARTTLS here, then by s_server.
fn serve(stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    let mut output = stream.try_clone()?;
    output.write_all(b"220 mx.partner.test ESMTP\r\n")?;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end().to_ascii_uppercase().as_str() {
            "STARTTLS" => break,
            ehlo if ehlo.starts_with("EHLO") => {
                output.write_all(b"250-mx.partner.test\r\n250 STARTTLS\r\n")?;
            }
            "QUIT" => return output.write_all(b"221 2.0.0 bye\r\n"),
            // Nothing is taken in plaintext.
            _ => output.write_all(b"550 5.7.0 by TLS only\r\n")?,
        }
    }
    let shown = state
        .shown
        .lock()
        .unwrap()
        .clone()
        .expect("a chain to show");
    let mut server = Server::start(&shown);
    let tls = server.connect();
    output.write_all(b"220 2.0.0 go ahead\r\n")?;
    let (stream_end, tls_end) = (stream.try_clone()?, tls.try_clone()?);
    std::thread::spawn(move || {
        copy(&stream, &tls);
        // Whatever has ended it, it is over.
        let _ = tls.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        copy(&tls_end, &stream_end);
        let _ = stream_end.shutdown(Shutdown::Write);
    });
    let outcome = server.session(state);
    let mut said = String::new();
    if let Some(stderr) = &mut server.end().stderr {
        stderr.read_to_string(&mut said)?;
    }
    *state.said.lock().unwrap() = said;
    outcome
}

fn copy(mut from: impl Read, mut to: impl Write) {
    // A peer that goes away is no concern of ours.
    let _ = std::io::copy(&mut from, &mut to);
}

/// A running s_server that takes one connection.
struct Server {
    child: Child,
    stdin: ChildStdin,
    folder: TempDir,
}

impl Server {
    fn start(shown: &Shown) -> Server {
        // It cannot be given a socket that listens. A port that is free now may be somebody else's before s_server has
        // bound it, so it listens in a folder of its own.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("openssl");
        command.args(["s_server", "-quiet", "-naccept", "1", "-unix"]);
        command.arg(folder.path().join(SOCKET));
        shown.options(&mut command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(missing("openssl"));
        let stdin = child.stdin.take().expect("standard input is a pipe");
        Server {
            child,
            stdin,
            folder,
        }
    }

    fn connect(&self) -> UnixStream {
        let deadline = Instant::now() + TIMEOUT;
        let socket = self.folder.path().join(SOCKET);
        // It says nothing when it is ready, other than by accepting.
        loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                return stream;
            }
            assert!(Instant::now() < deadline, "s_server does not listen");
            std::thread::yield_now();
        }
    }

    /// The session under TLS.
    fn session(&mut self, state: &State) -> std::io::Result<()> {
        let stdout = self.child.stdout.take().expect("standard output is a pipe");
        let mut lines = BufReader::new(stdout);
        let mut in_message = false;
        loop {
            let mut line = Vec::new();
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let line = String::from_utf8_lossy(&line)
                .trim_end()
                .to_ascii_uppercase();
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            let reply = match verb {
                _ if in_message && line != "." => continue,
                "." if in_message => {
                    in_message = false;
                    state.taken.fetch_add(1, Ordering::SeqCst);
                    "250 2.0.0 taken"
                }
                "DATA" => {
                    in_message = true;
                    "354 go on"
                }
                "QUIT" => "221 2.0.0 bye",
                _ => "250 2.0.0 ok",
            };
            self.stdin.write_all(format!("{reply}\r\n").as_bytes())?;
        }
    }

    fn end(&mut self) -> &mut Child {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        &mut self.child
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}
