//! The files of a listener.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use portcullis_tests::openssl::{OWN, Wish, Workshop};
use portcullis_tests::{Config, Listener, NO_RULES, run};

use super::{FUTURE, NOW, PAST};

/// What `run --check-config` says of a certificate and a key.
fn check(folder: &Path, certificate: &str, key: &str) -> (Option<i32>, String) {
    let listener = Listener::maildir()
        .with(&format!("certificate = {certificate:?}"))
        .with(&format!("key = {key:?}"));
    let config = Config::new()
        .listener(listener)
        .tenant("contoso.com", NO_RULES)
        .with("[trust]\nroots = \"ca.pem\"");
    config.write(folder);
    let path = folder.join("portcullis.toml");
    let path = path.to_str().expect("a path");
    let output = run(&["run", "--check-config", "--config", path], b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

/// A file that only its owner reads.
pub(super) fn private(path: &Path, content: impl AsRef<[u8]>) {
    with_mode(path, content, 0o600);
}

fn with_mode(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
    fs::write(path, content).expect("a file");
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("the mode is set");
}

/// A folder with a certificate and a key for the listener in every form that turns up.
fn every_form() -> tempfile::TempDir {
    let shop = Workshop::new();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let root = shop.ca("/CN=Root", "", None);
    fs::write(at("ca.pem"), root.pem()).expect("a file");
    let names = format!("{OWN}\nsubjectAltName = DNS:mx.contoso.com");
    for (name, key, valid) in [
        ("mx", "P-256", Some(NOW)),
        ("other", "P-256", Some(NOW)),
        ("over", "P-256", Some(PAST)),
        ("early", "P-256", Some(FUTURE)),
        ("small", "rsa:1024", None),
        ("brainpool", "brainpoolP256r1", None),
    ] {
        let wish = Wish {
            key,
            valid,
            ..Wish::new("/CN=mx.contoso.com", &names)
        };
        let made = shop.make(&wish, Some(&root));
        private(&at(&format!("{name}.pem")), made.pem());
        private(&at(&format!("{name}.key")), made.key_pem());
    }
    let read = |name: &str| fs::read_to_string(at(name)).expect("a file");
    let (pem, key) = (read("mx.pem"), read("mx.key"));
    let path = |name: &str| at(name).to_str().expect("a path").to_owned();
    let (pem_path, key_path) = (path("mx.pem"), path("mx.key"));
    let convert = |name: &str, options: &[&str]| private(&at(name), shop.openssl(options));
    private(&at("bom.pem"), format!("\u{feff}{pem}"));
    private(&at("bom.key"), format!("\u{feff}{key}"));
    private(&at("dos.pem"), pem.replace('\n', "\r\n"));
    private(&at("dos.key"), key.replace('\n', "\r\n"));
    private(&at("chain.pem"), format!("{pem}{}", root.pem()));
    private(&at("reversed.pem"), format!("{}{pem}", root.pem()));
    private(&at("both.pem"), format!("{key}{pem}"));
    private(&at("cut.pem"), &pem[..pem.len() / 2]);
    private(&at("cut.key"), &key[..key.len() / 2]);
    private(&at("empty.pem"), "");
    private(&at("text.pem"), "hello");
    with_mode(&at("open.key"), &key, 0o644);
    with_mode(&at("group.key"), &key, 0o640);
    fs::create_dir(at("folder.pem")).expect("a folder");
    convert("der.pem", &["x509", "-in", &pem_path, "-outform", "DER"]);
    convert("der.key", &["pkey", "-in", &key_path, "-outform", "DER"]);
    convert("sec1.key", &["ec", "-in", &key_path]);
    convert(
        "encrypted.key",
        &[
            "pkey",
            "-in",
            &key_path,
            "-aes256",
            "-passout",
            "pass:secret",
        ],
    );
    convert(
        "old.key",
        &["ec", "-in", &key_path, "-aes256", "-passout", "pass:secret"],
    );
    convert("public.pem", &["pkey", "-in", &key_path, "-pubout"]);
    convert(
        "request.pem",
        &[
            "req",
            "-new",
            "-subj",
            "/CN=mx.contoso.com",
            "-key",
            &key_path,
        ],
    );
    convert(
        "archive.pem",
        &[
            "pkcs12", "-export", "-passout", "pass:", "-in", &pem_path, "-inkey", &key_path,
        ],
    );
    folder
}

#[test]
fn files_of_a_listener_that_work_are_taken_and_warned_of() {
    let folder = every_form();
    for (certificate, key, warning) in [
        ("mx.pem", "mx.key", ""),
        ("bom.pem", "bom.key", ""),
        ("dos.pem", "dos.key", ""),
        ("chain.pem", "sec1.key", ""),
        ("both.pem", "both.pem", ""),
        ("mx.pem", "group.key", ""),
        (
            "mx.pem",
            "open.key",
            "open.key: the key can be read by everybody on this machine",
        ),
        (
            "over.pem",
            "over.key",
            "the certificate has expired; partners who check it refuse us",
        ),
        (
            "early.pem",
            "early.key",
            "early.pem: the certificate is not valid yet",
        ),
    ] {
        let (code, said) = check(folder.path(), certificate, key);
        assert_eq!(code, Some(0), "{certificate} {key}: {said}");
        let bad = |line: &&str| line.contains("WARN") || line.contains("ERROR");
        let warnings: Vec<&str> = said.lines().filter(bad).collect();
        let as_expected = match warning {
            "" => warnings.is_empty(),
            text => warnings.len() == 1 && warnings[0].contains(text),
        };
        assert!(as_expected, "{certificate} {key}: {said}");
    }
}

#[test]
fn files_of_a_listener_that_do_not_work_are_named_in_one_sentence() {
    let folder = every_form();
    let mut wrong = Vec::new();
    let (directory, cut) = (
        "cannot be read: it is not a regular file",
        "cut off or broken",
    );
    let (kind, der) = (
        "the key is of a kind that is not supported",
        "PEM is wanted: openssl",
    );
    for (certificate, key, blamed, told) in [
        ("der.pem", "mx.key", "der.pem", der),
        ("mx.pem", "der.key", "der.key", der),
        (
            "archive.pem",
            "mx.key",
            "archive.pem",
            "it is DER (or PKCS #12)",
        ),
        (
            "mx.pem",
            "encrypted.key",
            "encrypted.key",
            "the key is encrypted",
        ),
        ("mx.pem", "old.key", "old.key", "the key is encrypted"),
        (
            "reversed.pem",
            "mx.key",
            "reversed.pem",
            "the chain is in the wrong order",
        ),
        (
            "mx.pem",
            "other.key",
            "mx.pem",
            "does not belong to the certificate",
        ),
        (
            "request.pem",
            "mx.key",
            "request.pem",
            "there is a certificate request in it, and no certificate",
        ),
        (
            "public.pem",
            "mx.key",
            "public.pem",
            "there is a public key in it, and no certificate",
        ),
        (
            "mx.pem",
            "public.pem",
            "public.pem",
            "there is a public key in it, and no private key",
        ),
        (
            "mx.key",
            "mx.pem",
            "mx.key",
            "there is a private key in it, and no certificate",
        ),
        (
            "mx.pem",
            "mx.pem",
            "mx.pem",
            "there is a certificate in it, and no private key",
        ),
        ("folder.pem", "mx.key", "folder.pem", directory),
        ("mx.pem", "folder.pem", "folder.pem", directory),
        (
            "empty.pem",
            "mx.key",
            "empty.pem",
            "the file is empty; a certificate is wanted",
        ),
        (
            "mx.pem",
            "empty.pem",
            "empty.pem",
            "the file is empty; a private key is wanted",
        ),
        (
            "text.pem",
            "mx.key",
            "text.pem",
            "there is no certificate in it",
        ),
        (
            "mx.pem",
            "text.pem",
            "text.pem",
            "there is no private key in it",
        ),
        (
            "missing.pem",
            "mx.key",
            "missing.pem",
            "cannot be read: No such file",
        ),
        ("mx.pem", "cut.key", "cut.key", cut),
        ("cut.pem", "mx.key", "cut.pem", cut),
        ("small.pem", "small.key", "small.key", kind),
        ("brainpool.pem", "brainpool.key", "brainpool.key", kind),
    ] {
        let (code, said) = check(folder.path(), certificate, key);
        let begin = format!("portcullis: {}: ", folder.path().join(blamed).display());
        let is_one = said.starts_with(&begin) && said.lines().count() == 1;
        if code != Some(2) || !is_one || !said.contains(told) {
            wrong.push(format!(
                "{certificate} {key}: {code:?} {said:?} and not {told:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
