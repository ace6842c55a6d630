//! The embedded default: what `portcullis run` does without a configuration.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use tempfile::TempDir;

use crate::admin::tokens::{self, Scope, default_place};

const RULES: &str = include_str!("../../examples/rules.json");
const ADDRESS: &str = "127.0.0.1:2525";
const CONFIGURATION: &str = "portcullis.toml";

/// Where the page is.
const PAGE: &str = "127.0.0.1:8025";
/// How long whoever tries it out may look at the page.
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A folder with rules and certificates, gone when this is dropped.
pub struct Demo {
    folder: TempDir,
    /// Lets its user see the page.
    token: String,
}

impl Demo {
    /// Makes the folder, with the configuration in it: loopback, the example connectors, mail in `./mail`.
    pub fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("portcullis-")
            .tempdir()
            .context("no temporary folder")?;
        fs::write(folder.path().join("rules.json"), RULES)?;
        Authority::new(folder.path())?
            .issue("server", "localhost")?
            .issue("fabrikam", "mail.fabrikam.com")?
            .issue("other", "mail.example.net")?;
        let mail = std::env::current_dir()?.join("mail");
        let text = format!(
            "hostname = \"localhost\"
             [[listener]]
             address = {ADDRESS:?}
             certificate = \"server.pem\"
             key = \"server.key\"
             next-hop = {{ maildir = {mail:?} }}
             [[tenant]]
             name = \"contoso\"
             domains = [\"contoso.com\", \"*.contoso.com\"]
             policy = \"rules.json\"
             [delivery]
             state-directory = \"state\"
             [admin]
             address = {PAGE:?}
             [trust]
             roots = \"ca.pem\""
        );
        fs::write(folder.path().join(CONFIGURATION), text)?;
        let tokens = default_place(&folder.path().join("state"));
        let (_, token) = tokens::create(&tokens, "you", Scope::Operator, Vec::new(), LIFETIME)?;
        Ok(Demo { folder, token })
    }

    /// The file of the configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join(CONFIGURATION)
    }

    /// What a person is told: what runs, and a line to paste for each outcome.
    pub fn introduction(&self) -> String {
        let folder = self.folder.path().display();
        let swaks = format!("swaks --server {ADDRESS}");
        let mut text = format!(
            "Portcullis listens on {ADDRESS} with example connectors and a certificate made on the spot.
Accepted mail is kept in ./mail. See the connectors, and decisions as they are made:

    http://{PAGE}/#token={token}

The rules are in {folder}/rules.json: edit them, there or on the page, and the next MAIL FROM goes by them.
Try, in another terminal:

",
            token = self.token
        );
        let mut line = |about: &str, command: String| {
            // Writing to a string cannot fail.
            let _ = write!(text, "# {about}\n{command}\n");
        };
        let fabrikam =
            format!("--tls --tls-cert {folder}/fabrikam.pem --tls-key {folder}/fabrikam.key");
        let other = format!("--tls --tls-cert {folder}/other.pem --tls-key {folder}/other.key");
        line(
            "1. mail from contosobank.com must be encrypted: refused",
            format!("{swaks} --from alice@contosobank.com --to bob@contoso.com"),
        );
        line(
            "   encrypted: accepted",
            format!("{swaks} --from alice@contosobank.com --to bob@contoso.com --tls"),
        );
        line(
            "2. ... and come from a server with the right certificate: refused, the name is another",
            format!("{swaks} --from alice@fabrikam.com --to bob@contoso.com {other}"),
        );
        line(
            "   with the right certificate: accepted",
            format!("{swaks} --from alice@fabrikam.com --to bob@contoso.com {fabrikam}"),
        );
        line(
            "3. mail from adatum.com must come from its addresses: refused",
            format!("{swaks} --from alice@adatum.com --to bob@contoso.com"),
        );
        line(
            "   from its address: accepted",
            format!(
                "{swaks} --from alice@adatum.com --to bob@contoso.com --local-interface 127.0.0.3"
            ),
        );
        line(
            "4. everything for filtered.contoso.com must come from the filter: refused",
            format!("{swaks} --from alice@example.org --to bob@filtered.contoso.com"),
        );
        line(
            "   from the filter: accepted",
            format!(
                "{swaks} --from alice@example.org --to bob@filtered.contoso.com --local-interface 127.0.0.4"
            ),
        );
        line(
            "5. the partner's servers, known by address, must encrypt: refused",
            format!(
                "{swaks} --from alice@example.org --to bob@contoso.com --local-interface 127.0.0.5"
            ),
        );
        line(
            "   encrypted: accepted",
            format!(
                "{swaks} --from alice@example.org --to bob@contoso.com --local-interface 127.0.0.5 --tls"
            ),
        );
        line(
            "the same by hand: the certificate is shown, and the sender accepted",
            format!(
                "printf 'EHLO me\\r\\nMAIL FROM:<alice@fabrikam.com>\\r\\nRCPT TO:<bob@contoso.com>\\r\\nQUIT\\r\\n' |\n  openssl s_client -quiet -starttls smtp -connect {ADDRESS} -cert {folder}/fabrikam.pem -key {folder}/fabrikam.key"
            ),
        );
        text
    }
}

/// A certificate authority that lives as long as its folder.
struct Authority<'a> {
    folder: &'a Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn new(folder: &'a Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "Portcullis example authority");
        fs::write(folder.join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Authority {
            folder,
            issuer: Issuer::new(params, key),
        })
    }

    fn issue(self, file: &str, name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.folder.join(format!("{file}.pem")), certificate.pem())?;
        // Only its owner enters the folder.
        let private = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(self.folder.join(format!("{file}.key")));
        private?.write_all(key.serialize_pem().as_bytes())?;
        Ok(self)
    }
}
