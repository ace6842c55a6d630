//! The API of a daemon, as a hosting panel uses it: by curl.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::{Daemon, programs};

/// The table that switches the API on, in the daemon's folder.
pub const ADMIN: &str = "[admin]\naddress = \"admin.sock\"";

/// Somebody who uses the API.
pub struct Api {
    socket: PathBuf,
    token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// What is wrong.
    pub fn error(&self) -> String {
        self.json()["error"].as_str().expect("an error").to_owned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

/// The URL of an API that listens on an address.
pub fn url(daemon: &Daemon) -> String {
    let line = daemon.wait_for_log("API listening");
    let (_, url) = line.rsplit_once("admin=").expect("an address");
    url.trim().to_owned()
}

/// Makes a token, with the options of `portcullis admin token`.
pub fn token(daemon: &Daemon, options: &[&str]) -> String {
    let config = daemon.folder().join("portcullis.toml");
    let config = config.to_string_lossy();
    let state = daemon.folder().join("state");
    let fixed = ["admin", "token", "--config", &config];
    let output = crate::portcullis(&[&fixed, options].concat())
        .env("XDG_STATE_HOME", state)
        .output()
        .expect("the program runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("UTF-8")
        .trim()
        .to_owned()
}

/// Runs a command that reads what the daemon remembers.
pub fn remembered(daemon: &Daemon, arguments: &[&str]) -> Output {
    let config = daemon.folder().join("portcullis.toml");
    let config = config.to_string_lossy();
    let state = daemon.folder().join("state");
    crate::portcullis(&[arguments, &["--config", &config]].concat())
        .env("XDG_STATE_HOME", state)
        .output()
        .expect("the program runs")
}

impl Api {
    /// With a token.
    pub fn new(daemon: &Daemon, token: &str) -> Api {
        daemon.wait_for_log("API listening");
        Api {
            socket: daemon.folder().join("admin.sock"),
            token: Some(token.into()),
        }
    }

    /// As an operator.
    pub fn operator(daemon: &Daemon) -> Api {
        Api::new(daemon, &token(daemon, &["--name", "alice"]))
    }

    /// Without a token.
    pub fn nobody(daemon: &Daemon) -> Api {
        Api {
            token: None,
            ..Api::new(daemon, "")
        }
    }

    fn curl(&self, path: &str, options: &[&str]) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--no-buffer", "--unix-socket"])
            .arg(&self.socket)
            .args(options)
            .arg(format!("http://localhost{path}"));
        if let Some(token) = &self.token {
            curl.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        curl
    }

    /// Asks, with further options of curl, and a body if there is one.
    pub fn ask(&self, method: &str, path: &str, options: &[&str], body: Option<&[u8]>) -> Answer {
        let fixed = ["--include", "--request", method];
        let sent = ["--data-binary", "@-"];
        let options = match body {
            Some(_) => [&fixed[..], options, &sent[..]].concat(),
            None => [&fixed[..], options].concat(),
        };
        let mut child = self
            .curl(path, &options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(programs::missing("curl"));
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        let body = body.unwrap_or_default().to_vec();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&body)));
        let output = child.wait_with_output().expect("curl ends");
        writer.join().expect("the body was written");
        answer(&output)
    }

    /// Reads.
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None)
    }

    /// Sends JSON, with further headers.
    pub fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut options = vec!["--header", "Content-Type: application/json"];
        for header in headers {
            options.extend(["--header", header]);
        }
        self.ask(method, path, &options, Some(body.as_bytes()))
    }

    /// A request whose answer does not end.
    pub fn stream(&self, path: &str) -> Child {
        self.curl(path, &[])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(programs::missing("curl"))
    }
}

fn answer(output: &Output) -> Answer {
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut rest = &output.stdout[..];
    // 100 Continue comes before.
    loop {
        let end = rest
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: {errors}"));
        let head = String::from_utf8_lossy(&rest[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("no status: {head}"));
        rest = &rest[end + 4..];
        if status != 100 {
            return Answer {
                status,
                head,
                body: rest.to_vec(),
            };
        }
    }
}
