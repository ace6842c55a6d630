//! Several certificates of one listener.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::openssl::{Made, OWN, Wish, Workshop, s_client};
use portcullis_tests::{Config, Listener, TestBed, machine, run};

use super::files::private;
use super::{NOW, PAST};

/// A listener with several certificates, and metrics.
struct Several {
    shop: Workshop,
    root: Made,
    daemon: TestBed,
    metrics: SocketAddr,
}

impl Several {
    fn new() -> Several {
        let shop = Workshop::new();
        let root = shop.ca("/CN=Root", "", None);
        let folder = tempfile::tempdir().expect("a folder");
        let metrics = machine::free_address();
        for (name, key, host) in [
            ("rsa", "rsa:2048", "mx.contoso.com"),
            ("ecdsa", "P-256", "mx.contoso.com"),
            ("other", "P-256", "*.other.test"),
        ] {
            let made = dated(&shop, &root, (name, key, host), NOW);
            private(&folder.path().join(format!("{name}.pem")), made.pem());
            private(&folder.path().join(format!("{name}.key")), made.key_pem());
        }
        let listener = Listener::maildir()
            .with(r#"certificate = ["rsa.pem", "ecdsa.pem", "other.pem"]"#)
            .with(r#"key = ["rsa.key", "ecdsa.key", "other.key"]"#);
        let config = Config::new()
            .listener(listener)
            .with("[trust]\nroots = \"ca.pem\"")
            .file("ca.pem", root.pem())
            .with(&format!("[metrics]\naddress = \"{metrics}\""));
        let daemon = TestBed::start_in(folder, config);
        Several {
            shop,
            root,
            daemon,
            metrics,
        }
    }

    /// The common name of the certificate that a client is shown.
    fn shown(&self, options: &str) -> String {
        let list: Vec<&str> = options.split_whitespace().collect();
        let text = s_client(self.daemon.address(), None, &list, "QUIT\r\n");
        let subject = text.lines().find_map(|line| line.strip_prefix("subject="));
        let subject = subject.unwrap_or_else(|| panic!("{options}: {text}"));
        // Versions differ in the blanks around the sign.
        let subject = subject.replace(' ', "");
        subject.trim_start_matches("CN=").to_owned()
    }

    /// The value for a file at the metrics address.
    fn expires(&self, file: &str) -> Option<i64> {
        let deadline = Instant::now() + TIMEOUT;
        // It comes after the listeners.
        let mut stream = loop {
            match TcpStream::connect(self.metrics) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "no metrics: {error}"),
            }
            std::thread::yield_now();
        };
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        let file = self.daemon.folder().join(file);
        let name = "portcullis_certificate_expires_timestamp_seconds";
        let begin = format!("{name}{{file=\"{}\"}} ", file.display());
        let value = text.lines().find_map(|line| line.strip_prefix(&begin))?;
        Some(value.trim().parse().expect("a number"))
    }
}

/// A certificate with this common name, key and name.
fn dated(
    shop: &Workshop,
    root: &Made,
    (common_name, key, host): (&str, &str, &str),
    valid: (&str, &str),
) -> Made {
    let names = format!("{OWN}\nsubjectAltName = DNS:{host}");
    let subject = format!("/CN={common_name}");
    let wish = Wish::new(&subject, &names).key(key).valid(valid);
    shop.make(&wish, Some(root))
}

#[test]
fn the_suite_that_all_must_have_is_chosen_before_others() {
    let several = Several::new();
    for (options, expected) in [
        ("", "TLS_AES_128_GCM_SHA256"),
        (
            "-ciphersuites TLS_AES_256_GCM_SHA384",
            "TLS_AES_256_GCM_SHA384",
        ),
    ] {
        let list: Vec<&str> = options.split_whitespace().collect();
        let text = s_client(several.daemon.address(), None, &list, "QUIT\r\n");
        assert!(text.contains(&format!("Cipher is {expected}")), "{text}");
    }
}

#[test]
fn a_certificate_is_chosen_by_name_and_by_key() {
    let several = Several::new();
    for (options, expected) in [
        ("-servername mx.contoso.com", "rsa"),
        ("-servername MX.Contoso.com", "rsa"),
        ("-servername mx.contoso.com -sigalgs ECDSA+SHA256", "ecdsa"),
        (
            "-servername mx.contoso.com -tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384",
            "ecdsa",
        ),
        (
            "-servername mx.contoso.com -tls1_2 -cipher ECDHE-RSA-AES256-GCM-SHA384",
            "rsa",
        ),
        (
            "-servername mx.contoso.com -sigalgs RSA-PSS+SHA256:ECDSA+SHA256",
            "rsa",
        ),
        ("-servername mx.other.test", "other"),
        ("-servername mx.other.test -tls1_2", "other"),
        // What it cannot check is of no use to it, whatever the name.
        ("-servername mx.other.test -sigalgs RSA-PSS+SHA256", "rsa"),
        ("-servername a.mx.other.test", "rsa"),
        ("-servername other.test", "rsa"),
        ("-servername unknown.test", "rsa"),
        ("-noservername", "rsa"),
        ("-noservername -sigalgs ECDSA+SHA256", "ecdsa"),
    ] {
        assert_eq!(several.shown(options), expected, "{options}");
    }
}

#[test]
fn the_end_of_each_certificate_is_a_metric() {
    let several = Several::new();
    for file in ["rsa.pem", "ecdsa.pem", "other.pem"] {
        // 2048-01-01.
        assert_eq!(several.expires(file), Some(2_461_449_600), "{file}");
    }
    assert!(several.expires("ca.pem").is_some());
    let Several {
        shop, root, daemon, ..
    } = &several;
    let made = dated(shop, root, ("ecdsa", "P-256", "mx.contoso.com"), PAST);
    // Both are taken once they belong together again.
    daemon.replace("ecdsa.key", made.key_pem().as_bytes());
    daemon.replace("ecdsa.pem", made.pem().as_bytes());
    daemon.wait_for_log("the certificate has expired");
    daemon.wait_for_log("configuration reloaded");
    // 2021-01-01.
    assert_eq!(several.expires("ecdsa.pem"), Some(1_609_459_200));
    assert_eq!(several.expires("rsa.pem"), Some(2_461_449_600));
}

#[test]
fn a_list_of_certificates_needs_as_many_keys() {
    let several = Several::new();
    let path = several.daemon.folder().join("portcullis.toml");
    let text = fs::read_to_string(&path).expect("a configuration");
    let path = path.with_file_name("other.toml");
    for (from, to, told) in [
        (
            r#", "other.key"]"#,
            "]",
            "certificate and key belong together",
        ),
        (
            r#""ecdsa.key", "other.key""#,
            r#""other.key", "ecdsa.key""#,
            "ecdsa.pem: the key ",
        ),
    ] {
        fs::write(&path, text.replace(from, to)).expect("a file");
        let path = path.to_str().expect("a path");
        let output = run(&["run", "--check-config", "--config", path], b"");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
}
