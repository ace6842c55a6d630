//! The guide for operators: each line of its blocks is run here, or where packages are tried.

use std::path::Path;
use std::process::{Command, Output};

use portcullis_tests::daemon::portcullis;
use portcullis_tests::{Client, Config, Listener, NO_RULES, TestBed};

const GUIDE: &str = include_str!("../../../docs/operating.md");
/// What `make package-test` runs, with a system that it may change.
const PACKAGE_TEST: &str = include_str!("../../../scripts/package-test.sh");

const CASES: &str = r#"[{"name": "all is taken", "expect": {"verdict": "accept"},
    "context": {"direction": "inbound", "mail-from": "a@example.org", "rcpt-to": "bob@contoso.com"}}]"#;

/// The lines of its blocks.
fn commands() -> Vec<&'static str> {
    let lines = GUIDE.lines().filter(|line| line.starts_with("    "));
    lines
        .map(|line| line.split(" #").next().unwrap_or(line).trim())
        .collect()
}

fn bed() -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant_with("contoso", &["contoso.com"], "rules.json")
        .file("rules.json", NO_RULES)
        .file("cases.json", CASES)
        .with("[admin]\naddress = \"127.0.0.1:0\"");
    TestBed::start(config)
}

/// Runs a command of ours in a folder, with the state of its daemon.
fn run(folder: &Path, line: &str) -> Output {
    let line = line.replace("/etc/portcullis/portcullis.toml", "portcullis.toml");
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let mut command = portcullis(&words);
    command.current_dir(folder);
    command.env("XDG_STATE_HOME", folder.join("state"));
    command.output().expect("the program starts")
}

#[test]
fn each_command_of_the_guide_works() {
    let mut bed = bed();
    for line in commands() {
        let ours = line.strip_prefix("sudo -u portcullis ").unwrap_or(line);
        match ours.split(' ').next().unwrap_or_default() {
            "portcullis" if ours.contains("--upgrade") => {
                let mut old = bed.upgrade();
                assert!(old.wait().expect("it ends").success());
                let code = Client::recipient(bed.address(), "a@example.org", "bob@contoso.com");
                assert_eq!(code, 250);
            }
            "portcullis" => {
                let output = run(bed.folder(), ours);
                assert!(output.status.success(), "{line}: {output:?}");
            }
            "systemctl" => {
                // There is no systemd to ask here; what the unit does with these is.
                let verbs = [
                    "enable",
                    "status",
                    "reload",
                    "kill --signal=USR2",
                    "restart",
                ];
                assert!(verbs.iter().any(|verb| line.contains(verb)), "{line}");
            }
            "tar" => {
                let etc = bed.folder().join("etc/portcullis");
                std::fs::create_dir_all(etc).expect("a folder");
                std::fs::create_dir_all(bed.folder().join("var/lib/portcullis")).expect("a folder");
                let here = line.replace("-C / ", "");
                let words: Vec<&str> = here.split(' ').skip(1).collect();
                let done = Command::new("tar")
                    .args(words)
                    .current_dir(bed.folder())
                    .status();
                assert!(done.expect("tar runs").success(), "{line}");
            }
            "install" => assert!(line.contains("-m 640 -g portcullis"), "{line}"),
            "make" | "apt" => {}
            "swaks" => assert!(
                PACKAGE_TEST.contains("swaks --server 127.0.0.1:2525"),
                "{line}"
            ),
            _ => panic!("nothing runs this: {line}"),
        }
    }
}

/// What the table of symptoms quotes is what the program says.
#[test]
fn the_symptoms_are_in_the_words_of_the_program() {
    let sources = sources(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../host/src")
            .as_path(),
    );
    for words in [
        "the policy for this recipient is not available",
        "new policy rejected",
        "there is no previous version",
        "previous version remains active",
        "relay access denied",
        "the next hop does not answer",
        "policy keeps failing; all of its mail is deferred",
        "not delivered: ",
        "server skipped: ",
        "cannot listen on ",
        "the upgrade has come to nothing; the old process goes on",
    ] {
        assert!(
            GUIDE.contains(words.trim_end()),
            "the guide has no {words:?}"
        );
        assert!(
            sources.contains(words),
            "the program does not say {words:?}"
        );
    }
}

/// All sources of the server and the library below it.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    let mut folders = vec![folder.to_owned(), folder.join("../../runtime/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => folders.push(path),
                false => text += &std::fs::read_to_string(&path).unwrap_or_default(),
            }
        }
    }
    text
}
