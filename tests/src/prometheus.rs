//! A Prometheus of the test's own, and what it makes of expressions.
//!
//! Its Debian package would start a server, so `scripts/setup.sh tests` only unpacks it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::TIMEOUT;
use crate::machine::free_address;
use crate::programs::{listens, missing, unpacked};

/// A running Prometheus.
pub struct Prometheus {
    child: Child,
    _folder: TempDir,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one that reads the numbers at an address, as the job `portcullis`, and watches these alerts.
    pub fn start(target: &str, alerts: &Path) -> Prometheus {
        let address = free_address();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = format!(
            "global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}\n\
             rule_files: [{alerts:?}]\n\
             scrape_configs: [{{job_name: portcullis, static_configs: [{{targets: [{target:?}]}}]}}]\n"
        );
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).expect("a file");
        let program = unpacked("prometheus", "prometheus/usr/bin/prometheus");
        let mut child = Command::new(program)
            .arg("--config.file")
            .arg(file)
            .arg("--storage.tsdb.path")
            .arg(folder.path().join("data"))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(missing("prometheus"));
        assert!(listens(&mut child, address), "Prometheus does not listen");
        let prometheus = Prometheus {
            child,
            _folder: folder,
            address,
        };
        // It listens before it can answer.
        let deadline = Instant::now() + TIMEOUT;
        while !prometheus.answer("/-/ready").contains(" 200 OK") {
            assert!(Instant::now() < deadline, "Prometheus is not ready");
            std::thread::yield_now();
        }
        prometheus
    }

    /// What an expression is now.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.get(&format!("/api/v1/query?query={}", encoded(expression)));
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().expect("a list").clone()
    }

    /// Waits until an expression is something.
    pub fn wait_for(&self, expression: &str) -> Vec<Value> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let found = self.query(expression);
            if !found.is_empty() {
                return found;
            }
            assert!(Instant::now() < deadline, "it is nothing: {expression}");
            std::thread::yield_now();
        }
    }

    fn get(&self, path: &str) -> Value {
        let answer = self.answer(path);
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn answer(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("Prometheus listens");
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What promtool has to say; it must agree.
pub fn promtool(arguments: &[&str], folder: &Path) -> String {
    let program = unpacked("promtool", "prometheus/usr/bin/promtool");
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap_or_else(missing("promtool"));
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}");
    told
}

fn encoded(text: &str) -> String {
    text.bytes().map(|octet| format!("%{octet:02X}")).collect()
}
