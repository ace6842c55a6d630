//! Clients that are not ours log in at a listener for mail to partners.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use portcullis_tests::exim::Exim;
use portcullis_tests::machine::free_address;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::programs::{missing, unpacked};
use portcullis_tests::{
    Behaviour, Client, Config, Dns, Listener, MockServer, NO_RULES, Pki, TestBed,
};

use super::{PASSWORD, USER, WRONG, shows};

/// Whose passwords were hashed by other programs.
const BY_DOVEADM: &str = "doveadm@contoso.com";
const BY_ARGON2: &str = "argon2@contoso.com";

const NAME: &str = "relay.contoso.com";

/// Portcullis, at which nobody may send without logging in, and a partner.
struct World {
    daemon: TestBed,
    partner: MockServer,
    _dns: Dns,
}

/// Runs a program with this on its standard input, and gives what it prints.
fn printed(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(missing(program));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it is read");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8(output.stdout)
        .expect("UTF-8")
        .trim()
        .to_owned()
}

/// A file of passwords, of which each line was made by another program.
fn users() -> String {
    let own = portcullis_tests::run(
        &["admin", "password", USER],
        format!("{PASSWORD}\n").as_bytes(),
    );
    assert!(own.status.success(), "{own:?}");
    let own = String::from_utf8(own.stdout).expect("UTF-8");
    let doveadm = printed("doveadm", &["pw", "-s", "ARGON2ID", "-p", PASSWORD], "");
    let argon2 = printed("argon2", &["saltsaltsalt", "-id", "-e"], PASSWORD);
    format!("# who may send\n{own}\n{BY_DOVEADM}:{doveadm}\n{BY_ARGON2}:{argon2}\n")
}

impl World {
    fn new(more: &str) -> World {
        let pki = Pki::new();
        let port = free_address().port();
        let dns = Dns::start(&["bank.test. MX 10 mx.bank.test.\nmx.bank.test. A 127.0.0.2"]);
        let listener = || Listener::outbound("clients = [], password-file = \"users\"");
        let config = Config::new()
            .hostname(NAME)
            .listener(listener().starttls())
            .listener(listener().implicit_tls())
            .certificate(&pki)
            .tenant("contoso.com", NO_RULES)
            .file("users", users())
            .trust(&pki)
            .dns(&dns)
            .partners_here(port)
            .with(more);
        World {
            daemon: TestBed::start(config),
            partner: MockServer::start_at(([127, 0, 0, 2], port).into(), Behaviour::default()),
            _dns: dns,
        }
    }

    fn port(&self, listener: usize) -> String {
        self.daemon.addresses[listener].port().to_string()
    }

    /// The path of a file beside the configuration.
    fn path(&self, name: &str) -> String {
        self.daemon.folder().join(name).display().to_string()
    }

    /// Waits for the only message that the partner has got since this was asked last.
    fn arrived(&self, to: &str) {
        let taken = self.partner.wait_for(1);
        assert_eq!(taken[0].recipients, [format!("<{to}>")]);
        assert_eq!(self.partner.forget().len(), 1);
    }

    /// swaks(1) of an address ends with 0, with 23 if the sender was not accepted, or with 28 if it could not log in.
    fn swaks(&self, listener: usize, options: &[&str]) -> (i32, String) {
        let output = Command::new("swaks")
            .args(["--server", &self.daemon.addresses[listener].to_string()])
            .args(["--from", "alice@contoso.com", "--to", "b@bank.test"])
            .args(options)
            .output()
            .unwrap_or_else(missing("swaks"));
        let code = output.status.code().expect("swaks ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (code, text + &error)
    }

    /// No log line has a password.
    fn nothing_is_shown(&self) {
        let log = self.daemon.log().join("\n");
        assert!(!shows(&log, PASSWORD) && !shows(&log, WRONG), "{log}");
    }
}

#[test]
fn swaks_logs_in() {
    let world = World::new("");
    for (listener, tls) in [(0, "--tls"), (1, "--tlsc")] {
        for mechanism in ["PLAIN", "LOGIN"] {
            for user in [USER, BY_DOVEADM, BY_ARGON2] {
                let login = [
                    "--auth",
                    mechanism,
                    "--auth-user",
                    user,
                    "--auth-password",
                    PASSWORD,
                ];
                let (code, output) = world.swaks(listener, &[&[tls][..], &login].concat());
                assert_eq!(code, 0, "{user} {mechanism}: {output}");
                assert!(output.contains(" 235 2.7.0 "), "{output}");
                world.arrived("b@bank.test");
            }
        }
    }
    let (code, output) = world.swaks(0, &["--tls"]);
    assert_eq!(code, 23, "{output}");
    assert!(output.contains("530 5.7.0 "), "{output}");
    assert!(world.partner.taken().is_empty());
    world.nothing_is_shown();
}

#[test]
fn nobody_logs_in_without_tls() {
    let world = World::new("");
    let login = [
        "--auth",
        "PLAIN",
        "--auth-user",
        USER,
        "--auth-password",
        PASSWORD,
    ];
    let (code, output) = world.swaks(0, &login);
    assert_eq!(code, 28, "{output}");
    assert!(
        output.contains("Host did not advertise authentication"),
        "{output}"
    );
    let mut client = Client::greeted(world.daemon.address());
    let offer = client.expect("EHLO client.example", 250).text();
    assert!(!offer.contains("AUTH"), "{offer}");
    let claim = BASE64_STANDARD.encode(format!("\0{USER}\0{PASSWORD}"));
    let reply = client.expect(&format!("AUTH PLAIN {claim}"), 538);
    assert!(reply.text().starts_with("5.7.11 "), "{reply:?}");
    client.expect("AUTH LOGIN", 538);
    client.starttls(None);
    let offer = client.expect("EHLO client.example", 250).text();
    assert!(offer.contains("AUTH PLAIN LOGIN"), "{offer}");
    client.expect(&format!("AUTH PLAIN {claim}"), 235);
    assert_eq!(
        client.envelope("alice@contoso.com", "b@bank.test").code,
        250
    );
    world.nothing_is_shown();
}

/// Runs msmtp(1) with these further lines in its configuration.
fn msmtp(world: &World, listener: usize, lines: &str) -> Output {
    let config = world.path("msmtprc");
    fs::write(
        &config,
        format!(
            "account default
host 127.0.0.1
port {port}
from alice@contoso.com
tls on
tls_trust_file {roots}
tls_host_override {NAME}
{lines}
",
            port = world.port(listener),
            roots = world.path("ca.pem"),
        ),
    )
    .expect("a file");
    fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).expect("it is closed");
    let mut child = Command::new("msmtp")
        .args(["-C", &config, "b@bank.test"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(missing("msmtp"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(b"Subject: x\n\nhello\n")
        .expect("it is read");
    drop(stdin);
    child.wait_with_output().expect("msmtp ends")
}

#[test]
fn msmtp_logs_in() {
    let world = World::new("");
    for (listener, begins) in [(0, "tls_starttls on"), (1, "tls_starttls off")] {
        // Where it may choose, it takes the best that is offered.
        for mechanism in ["on", "plain", "login"] {
            let lines = format!("{begins}\nauth {mechanism}\nuser {USER}\npassword \"{PASSWORD}\"");
            let output = msmtp(&world, listener, &lines);
            assert!(output.status.success(), "{begins}, {mechanism}: {output:?}");
            world.arrived("b@bank.test");
        }
    }
    let lines = format!("tls_starttls on\nauth plain\nuser {USER}\npassword \"{WRONG}\"");
    let output = msmtp(&world, 0, &lines);
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("535 5.7.8 "), "{error}");
    assert!(world.partner.taken().is_empty());
    world.nothing_is_shown();
}

const NODEMAILER: &str = r#"
const [host, port, secure, method, user, pass, roots, name] = process.argv.slice(1);
const transport = require("nodemailer").createTransport({
    host, port: Number(port), secure: secure === "true", requireTLS: true, authMethod: method, auth: { user, pass },
    tls: { ca: require("fs").readFileSync(roots), servername: name },
});
transport.sendMail({ from: "alice@contoso.com", to: "b@bank.test", subject: "x", text: "hello" }).then(
    (info) => console.log(info.response),
    (error) => { console.log(error.code, error.response); process.exitCode = 1; },
);
"#;

#[test]
fn nodemailer_logs_in() {
    let package = unpacked(
        "nodemailer",
        "nodemailer/node_modules/nodemailer/package.json",
    );
    let modules = package.ancestors().nth(2).expect("a folder");
    let node = modules
        .ancestors()
        .nth(2)
        .expect("a folder")
        .join("haraka/node/bin");
    let path = format!("{}:{}", node.display(), env::var("PATH").expect("a PATH"));
    let world = World::new("");
    let nodemailer = |listener, method: &str, password: &str| {
        let output = Command::new("node")
            .args(["-e", NODEMAILER, "--", "127.0.0.1", &world.port(listener)])
            .args([&(listener == 1).to_string(), method, USER, password])
            .args([&world.path("ca.pem"), NAME])
            .env("PATH", &path)
            .env("NODE_PATH", modules)
            .output()
            .unwrap_or_else(missing("node"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), text + &error)
    };
    for listener in [0, 1] {
        for method in ["PLAIN", "LOGIN"] {
            let (is_sent, told) = nodemailer(listener, method, PASSWORD);
            assert!(is_sent && told.starts_with("250 "), "{method}: {told}");
            world.arrived("b@bank.test");
        }
    }
    let (is_sent, told) = nodemailer(0, "PLAIN", WRONG);
    assert!(!is_sent && told.starts_with("EAUTH 535 5.7.8 "), "{told}");
    world.nothing_is_shown();
}

#[test]
fn postfix_logs_in() {
    let world = World::new("");
    for mechanism in ["plain", "login"] {
        let postfix = Postfix::start(
            &format!(
                "myhostname = mta.contoso.com
relayhost = [127.0.0.1]:{port}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{{ {{[127.0.0.1]:{port} = {USER}:{PASSWORD}}} }}
smtp_sasl_security_options = noanonymous
smtp_sasl_mechanism_filter = {mechanism}
smtp_tls_security_level = encrypt",
                port = world.port(0)
            ),
            None,
        );
        postfix.submit(
            "alice@contoso.com",
            &["b@bank.test"],
            "Subject: x\n\nhello\n",
        );
        let line = postfix.wait_for_log("to=<b@bank.test>");
        assert!(line.contains("status=sent"), "{mechanism}: {line}");
        world.arrived("b@bank.test");
    }
    world.nothing_is_shown();
}

/// Its queue keeps what could not be sent for a wrong password.
#[test]
fn postfix_waits_while_its_password_is_wrong() {
    let world = World::new("");
    let postfix = Postfix::start(
        &format!(
            "myhostname = mta.contoso.com
relayhost = [127.0.0.1]:{port}
smtp_sasl_auth_enable = yes
smtp_sasl_password_maps = inline:{{ {{[127.0.0.1]:{port} = {USER}:{WRONG}}} }}
smtp_sasl_security_options = noanonymous
smtp_tls_security_level = encrypt",
            port = world.port(0)
        ),
        None,
    );
    postfix.submit(
        "alice@contoso.com",
        &["b@bank.test"],
        "Subject: x\n\nhello\n",
    );
    let line = postfix.wait_for_log("to=<b@bank.test>");
    assert!(
        line.contains("status=deferred") && line.contains("535 5.7.8 "),
        "{line}"
    );
    world.nothing_is_shown();
}

#[test]
fn exim_logs_in() {
    let world = World::new("");
    for (listener, more) in [(0, ""), (1, "  protocol = smtps\n")] {
        for (name, sends) in [
            ("PLAIN", format!("<; ^{USER}^{PASSWORD}")),
            ("LOGIN", format!("<; ; {USER} ; {PASSWORD}")),
        ] {
            let routers = format!(
                "all:\n  driver = manualroute\n  transport = remote\n  route_list = * 127.0.0.1::{} byname\n  self = send\n",
                world.port(listener)
            );
            let transports = format!(
                "remote:\n  driver = smtp\n{more}  allow_localhost\n  hosts_require_tls = *\n  hosts_require_auth = *\n  tls_verify_certificates = {}\n  tls_verify_cert_hostnames =\nbegin authenticators\nours:\n  driver = plaintext\n  public_name = {name}\n  client_send = {sends}\n",
                world.path("ca.pem")
            );
            let open = PermissionsExt::from_mode(0o755);
            fs::set_permissions(world.daemon.folder(), open).expect("the folder is opened");
            let exim = Exim::start_with("", &routers, &transports);
            exim.submit(
                "alice@contoso.com",
                &["b@bank.test"],
                "Subject: x\n\nhello\n",
            );
            assert!(exim.is_idle(), "{name}: {}", exim.log());
            assert!(exim.log().contains("A=ours"), "{name}: {}", exim.log());
            world.arrived("b@bank.test");
        }
    }
    world.nothing_is_shown();
}

const FEW: &str = "[limits]\nlogin-failures = 3";

/// Whoever guesses is told so before long, and a client of another address is not kept out by it.
#[test]
fn who_guesses_has_to_wait() {
    let world = World::new(FEW);
    let login = |from: &str, password: &str| {
        let all = ["--tls", "--local-interface", from, "--auth", "PLAIN"];
        let who = ["--auth-user", USER, "--auth-password", password];
        world.swaks(0, &[&all[..], &who].concat())
    };
    assert_eq!(login("127.0.0.6", PASSWORD).0, 0);
    world.arrived("b@bank.test");
    for _ in 0..3 {
        let (code, output) = login("127.0.0.5", WRONG);
        assert_eq!(code, 28, "{output}");
        assert!(output.contains(" 535 5.7.8 "), "{output}");
    }
    // The right one is not told from others then.
    for password in [WRONG, PASSWORD] {
        let (code, output) = login("127.0.0.5", password);
        assert_eq!(code, 28, "{output}");
        assert!(output.contains(" 454 4.7.0 "), "{output}");
    }
    // Nor does anybody else guess the name's password from elsewhere.
    let (code, output) = login("127.0.0.7", WRONG);
    assert_eq!(code, 28, "{output}");
    assert!(output.contains(" 454 4.7.0 "), "{output}");
    assert_eq!(login("127.0.0.6", PASSWORD).0, 0);
    world.arrived("b@bank.test");
    assert!(world.partner.taken().is_empty());
    world.nothing_is_shown();
}

/// Those who try at the same time have no more tries than those who try one after another.
#[test]
fn who_guesses_all_at_once_has_no_more_tries() {
    let world = World::new(FEW);
    let address = world.daemon.address();
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let mut client = Client::greeted(address);
            client.hello(true, None);
            client
        })
        .collect();
    let tries: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            thread::spawn(move || {
                let claim = BASE64_STANDARD.encode(format!("\0{USER}\0guess {number}"));
                client.command(&format!("AUTH PLAIN {claim}")).code
            })
        })
        .collect();
    let codes: Vec<u16> = tries
        .into_iter()
        .map(|it| it.join().expect("a reply"))
        .collect();
    let tried = codes.iter().filter(|code| **code == 535).count();
    assert!(tried <= 3, "{codes:?}");
    assert!(
        codes.iter().all(|code| [535, 454].contains(code)),
        "{codes:?}"
    );
}
