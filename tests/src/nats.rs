//! A NATS server of the test's own.

use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use crate::daemon::TIMEOUT;
use crate::machine::free_address;
use crate::programs::{listens, missing, unpacked};

/// A NATS server with JetStream.
pub struct Nats {
    child: Option<Child>,
    folder: TempDir,
    /// Where it listens, also after it was killed and started again.
    pub address: SocketAddr,
    /// Further settings.
    settings: String,
}

impl Nats {
    /// Starts one.
    pub fn start() -> Nats {
        Nats::with("")
    }

    /// Starts one with further settings (nats.conf).
    pub fn with(settings: &str) -> Nats {
        let address = free_address();
        let mut nats = Nats {
            child: None,
            folder: tempfile::tempdir().expect("a temporary folder"),
            address,
            settings: settings.into(),
        };
        nats.resume();
        nats
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Starts it again after it was killed.
    pub fn resume(&mut self) {
        let program = unpacked("NATS", "nats/bin/nats-server");
        let file = self.folder.path().join("nats.conf");
        let settings = format!(
            "listen: \"{}\"\njetstream {{ store_dir: {:?} }}\n{}\n",
            self.address,
            self.folder.path().join("store"),
            self.settings
        );
        fs::write(&file, settings).expect("a file");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a file");
        let mut child = Command::new(program)
            .arg("-c")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(missing("NATS"));
        let listens = listens(&mut child, self.address);
        self.child = Some(child);
        assert!(listens, "NATS does not listen: {}", self.log());
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its disk is lost.
    pub fn lose_disk(&mut self) {
        self.kill();
        fs::remove_dir_all(self.folder.path().join("store")).expect("the store is removed");
    }

    /// Publishes something under a subject, whoever may.
    pub fn publish(&self, subject: &str, payload: &[u8]) {
        self.publish_all([(subject.to_owned(), payload.to_vec())]);
    }

    /// Publishes all of this, and returns once it has been read.
    pub fn publish_all(&self, all: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let stream = TcpStream::connect(self.address).expect("a connection");
        let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
        let mut stream = BufWriter::new(stream);
        stream
            .write_all(b"CONNECT {\"verbose\":false}\r\n")
            .expect("NATS reads");
        for (subject, payload) in all {
            let head = format!("PUB {subject} {}\r\n", payload.len());
            stream.write_all(head.as_bytes()).expect("NATS reads");
            stream.write_all(&payload).expect("NATS reads");
            stream.write_all(b"\r\n").expect("NATS reads");
        }
        // It has read all of that when it answers.
        stream.write_all(b"PING\r\n").expect("NATS reads");
        stream.flush().expect("NATS reads");
        let answer = lines.find(|line| {
            let line = line.as_ref().expect("NATS answers");
            assert!(!line.starts_with("-ERR"), "{line}");
            line == "PONG"
        });
        assert!(answer.is_some(), "{}", self.log());
    }

    /// What is answered to a request.
    pub fn request(&self, subject: &str, payload: &[u8]) -> Vec<u8> {
        let mut answers = self.subscribe("answers");
        let head = format!("PUB {subject} answers {}\r\n", payload.len());
        let request = [head.as_bytes(), payload, b"\r\n"].concat();
        answers.stream.write_all(&request).expect("NATS reads");
        answers.receive()
    }

    /// What is published under a subject from now on.
    pub fn subscribe(&self, subject: &str) -> Subscription {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let lines = BufReader::new(stream.try_clone().expect("a stream"));
        let begin = format!("CONNECT {{\"verbose\":false}}\r\nSUB {subject} 1\r\nPING\r\n");
        stream.write_all(begin.as_bytes()).expect("NATS reads");
        let mut subscription = Subscription { stream, lines };
        while subscription.line() != "PONG" {}
        subscription
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// What is published under a subject.
pub struct Subscription {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Subscription {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines
            .read_line(&mut line)
            .expect("NATS says something");
        line.trim_end().to_owned()
    }

    /// What is published next.
    pub fn receive(&mut self) -> Vec<u8> {
        loop {
            let line = self.line();
            if line == "PING" {
                self.stream.write_all(b"PONG\r\n").expect("NATS reads");
            }
            if let Some(message) = line.strip_prefix("MSG ") {
                let size = message.rsplit(' ').next().and_then(|it| it.parse().ok());
                let mut payload = vec![0; size.expect("a size")];
                self.lines.read_exact(&mut payload).expect("a message");
                return payload;
            }
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three NATS servers that keep each entry three times.
pub struct Cluster {
    servers: Vec<Nats>,
}

impl Cluster {
    /// Starts three, and waits until they have a leader.
    pub fn start() -> Cluster {
        let addresses: Vec<SocketAddr> = (0..3).map(|_| free_address()).collect();
        let routes: Vec<String> = addresses
            .iter()
            .map(|address| format!("\"nats://{address}\""))
            .collect();
        let routes = routes.join(", ");
        let servers = addresses.iter().enumerate().map(|(number, address)| {
            Nats::with(&format!(
                "server_name: n{number}\ncluster {{ name: fleet, listen: \"{address}\", routes: [{routes}] }}"
            ))
        });
        let cluster = Cluster {
            servers: servers.collect(),
        };
        let deadline = Instant::now() + TIMEOUT;
        while !cluster
            .servers
            .iter()
            .any(|it| it.log().contains("JetStream cluster new metadata leader"))
        {
            assert!(Instant::now() < deadline, "{}", cluster.servers[0].log());
            std::thread::yield_now();
        }
        cluster
    }

    /// Their URLs.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Nats::url).collect()
    }

    /// Ends one as a power cut would.
    pub fn kill(&mut self, number: usize) {
        self.servers[number].kill();
    }

    /// Starts it again.
    pub fn resume(&mut self, number: usize) {
        self.servers[number].resume();
    }
}
