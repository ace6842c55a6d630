//! The metrics of a daemon, as Prometheus reads them.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::Daemon;

/// The table that switches them on, at a port of their own.
pub const METRICS: &str = "[metrics]\naddress = \"127.0.0.1:0\"";

/// Where they are served.
pub fn address(daemon: &Daemon) -> String {
    let line = daemon.wait_for_log("metrics server listening");
    let (_, address) = line.rsplit_once('=').expect("an address");
    address.trim().to_owned()
}

/// What Prometheus would read.
pub fn read(daemon: &Daemon) -> String {
    get(daemon, "/metrics")
}

/// What is answered for a path.
pub fn get(daemon: &Daemon, path: &str) -> String {
    let mut stream = TcpStream::connect(address(daemon)).expect("metrics are served");
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .expect("a request is written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// The value of a sample, which is given with its labels; `None` if there is no such sample.
pub fn value(daemon: &Daemon, sample: &str) -> Option<u64> {
    let text = read(daemon);
    let mut values = text.lines().filter_map(|line| line.strip_prefix(sample));
    values.next()?.trim().parse().ok()
}
