//! An HTTPS server with one text, as those of MTA-STS policies are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::pki::Identity;

/// A running server.
pub struct Https {
    /// Where it listens.
    pub address: SocketAddr,
    response: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Https {
    /// Starts one that gives this text.
    pub fn start(identity: &Identity, text: &str) -> Https {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = Https {
            address,
            response: Arc::new(Mutex::new(ok(text))),
            requests: Arc::default(),
            stop: Arc::default(),
        };
        let (response, requests, stop) = (
            server.response.clone(),
            server.requests.clone(),
            server.stop.clone(),
        );
        let config = config(identity);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(session) = ServerConnection::new(config.clone()) else {
                    continue;
                };
                requests.fetch_add(1, Ordering::SeqCst);
                let response = response.lock().unwrap().clone();
                // A client that refuses the certificate is gone by then.
                let _ = answer(StreamOwned::new(session, stream), &response);
            }
        });
        server
    }

    /// Gives another text from now on.
    pub fn say(&self, text: &str) {
        *self.response.lock().unwrap() = ok(text);
    }

    /// Gives these octets from now on, header and all.
    pub fn respond(&self, response: &str) {
        *self.response.lock().unwrap() = response.to_owned();
    }

    /// How many connections there were.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // It wakes up for one more connection.
        let _ = TcpStream::connect(self.address);
    }
}

fn ok(text: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
}

fn answer(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    response: &str,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&buffer[..read]),
        }
    }
    let wanted = b"GET /.well-known/mta-sts.txt HTTP/1.1\r\n";
    let response = if request.starts_with(wanted) {
        response
    } else {
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    };
    stream.write_all(response.as_bytes())?;
    stream.flush()
}

fn config(identity: &Identity) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = identity
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    let key = PrivateKeyDer::try_from(identity.key_der.clone()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the versions are known")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key fits");
    Arc::new(config)
}
