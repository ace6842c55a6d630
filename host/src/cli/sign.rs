//! `portcullis sign`: statements about policies and tenants.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::output;
use super::paint::printable;
use super::policy::{self, Kind, extension, read};
use super::signed::read_statement;
use crate::edit::replace::replace;
use crate::trust::{private_key, public_key};
use portcullis::statement::{
    Envelope, Format, KeySet, NamedKey, Payload, PolicyStatement, Retirement, Signature,
    TenantStatement, Time, digest_of,
};
use portcullis::store::{statement_beside, tenant_statement_beside};

/// Sign policies, tenants and their retirement
///
/// A statement is a DSSE envelope that is signed with Ed25519. docs/signing.md says who signs what.
#[derive(Args)]
pub struct SignCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Policy(Box<SignPolicy>),
    Tenant(Box<SignTenant>),
    Retire(SignRetirement),
    Add(AddSignature),
    Bytes(Bytes),
}

/// Sign a policy for a tenant
///
/// The policy is checked first. The statement goes into NAME.dsse.json beside it; its sequence is one higher than that
/// of the statement which is there.
#[derive(Args)]
#[command(
    after_help = "Example:\n  portcullis sign policy contoso.json --tenant contoso --key contoso.pem --note 'new bank'"
)]
struct SignPolicy {
    /// The rules document (.json) or component (.wasm)
    policy: PathBuf,
    /// The tenant whose policy it is
    #[arg(long, value_name = "NAME")]
    tenant: String,
    #[command(flatten)]
    signing: Signing,
    /// Before then it is not taken (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    not_before: Option<Time>,
    /// What people should know about it
    #[arg(long)]
    note: Option<String>,
}

/// Sign what a tenant is: its domains, and whose keys sign its policies
///
/// The statement goes into NAME.tenant.dsse.json, where NAME is that of the tenant.
#[derive(Args)]
#[command(
    after_help = "Example:\n  portcullis sign tenant contoso --domain contoso.com --policy-key contoso.pem.pub --key ops-2026.pem"
)]
struct SignTenant {
    /// The tenant
    tenant: String,
    /// A domain that it receives mail for, exact or *.domain; may be given several times
    #[arg(long = "domain", value_name = "DOMAIN")]
    domains: Vec<String>,
    /// A key that signs its policies, with the name for it: NAME=FILE or FILE; may be given several times
    #[arg(long = "policy-key", value_name = "FILE", required = true)]
    policy_keys: Vec<String>,
    /// How many of these keys must sign a policy
    #[arg(long, default_value_t = 1)]
    threshold: usize,
    /// Sequences of its policies begin again here: for keys that somebody has misused
    #[arg(long, value_name = "N")]
    policies_from: Option<u64>,
    #[command(flatten)]
    signing: Signing,
}

/// Sign that a tenant is taken away
///
/// The statement goes into NAME.retire.dsse.json, where NAME is that of the tenant.
#[derive(Args)]
#[command(
    after_help = "Example:\n  portcullis sign retire contoso --sequence 4 --key ops-2026.pem"
)]
struct SignRetirement {
    /// The tenant
    tenant: String,
    /// One higher than that of the statement about the tenant
    #[arg(long)]
    sequence: u64,
    /// The operator's key; may be given several times
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// The file of the statement
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Add a signature to a statement: by a key in a file, or one that was made elsewhere
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis sign add contoso.dsse.json --key second.pem
  portcullis sign bytes contoso.dsse.json > bytes
  openssl pkeyutl -sign -rawin -inkey ops.pem -in bytes -out signature
  portcullis sign add contoso.dsse.json --public ops.pub --signature signature")]
struct AddSignature {
    /// The statement
    statement: PathBuf,
    /// A private key
    #[arg(long, value_name = "FILE", required_unless_present = "signature")]
    key: Option<PathBuf>,
    /// A signature that was made elsewhere
    #[arg(long, value_name = "FILE", requires = "public", conflicts_with = "key")]
    signature: Option<PathBuf>,
    /// The public key that it is by
    #[arg(long, value_name = "FILE", requires = "signature")]
    public: Option<PathBuf>,
}

/// Write the octets of a statement that are signed, for other programs that sign
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis sign bytes contoso.dsse.json > bytes")]
struct Bytes {
    /// The statement
    statement: PathBuf,
}

#[derive(Args)]
struct Signing {
    /// A key that signs it; may be given several times. Without, nobody has signed yet
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// The sequence [default: one higher than before]
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,
    /// After so much time it is no longer taken; where it is in force, it stays
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// The file of the statement
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Signing {
    fn expires(&self) -> anyhow::Result<Option<Time>> {
        self.expires.map(end).transpose()
    }

    /// The sequence after that of the statement that is there.
    fn sequence<P: Payload>(
        &self,
        place: &Path,
        sequence: impl FnOnce(P) -> u64,
    ) -> anyhow::Result<u64> {
        if let Some(sequence) = self.sequence {
            return Ok(sequence);
        }
        if !place.exists() {
            return Ok(1);
        }
        let before = read_statement(place)?.statement::<P>();
        let before = before.with_context(|| place.display().to_string())?;
        Ok(sequence(before) + 1)
    }
}

impl SignCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Policy(command) => command.run().await?,
            What::Tenant(command) => command.run()?,
            What::Retire(command) => command.run()?,
            What::Add(command) => command.run()?,
            What::Bytes(command) => {
                let octets = read_statement(&command.statement)?.signed_octets();
                output::bytes(&octets)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl SignPolicy {
    async fn run(self) -> anyhow::Result<()> {
        let place = self.signing.output.clone();
        let place = place.unwrap_or_else(|| statement_beside(&self.policy));
        let engine = policy::engine(policy::limits())?;
        let (format, content) = match extension(&self.policy)? {
            Kind::Component => {
                let content = read(&self.policy)?;
                let name = self.policy.display().to_string();
                engine.load_component(&name, content.clone()).await?;
                (Format::Wasm, content)
            }
            Kind::Document => {
                policy::read_rules(&self.policy, &engine).await?;
                (Format::Json, read(&self.policy)?)
            }
        };
        let before = |before: PolicyStatement| before.sequence;
        let statement = PolicyStatement {
            tenant: self.tenant,
            sequence: self.signing.sequence(&place, before)?,
            created: Time::now(),
            not_before: self.not_before,
            expires: self.signing.expires()?,
            format,
            sha256: digest_of(&content),
            size: content.len() as u64,
            note: self.note,
        };
        let sequence = statement.sequence;
        let written = write(&statement, &self.signing.keys, &place)?;
        told(&place, &statement.tenant, sequence, &written)
    }
}

impl SignTenant {
    fn run(self) -> anyhow::Result<()> {
        let place = self.signing.output.clone();
        let place = place.unwrap_or_else(|| tenant_statement_beside(&named(&self.tenant)));
        for domain in &self.domains {
            if portcullis::normal_domain(domain).is_none() {
                bail!("{:?} is not a domain or *.domain", printable(domain));
            }
        }
        let before = |before: TenantStatement| before.sequence;
        let statement = TenantStatement {
            sequence: self.signing.sequence(&place, before)?,
            tenant: self.tenant,
            created: Time::now(),
            expires: self.signing.expires()?,
            domains: self.domains,
            policies: key_set(&self.policy_keys, self.threshold)?,
            policies_from: self.policies_from,
        };
        let sequence = statement.sequence;
        let written = write(&statement, &self.signing.keys, &place)?;
        told(&place, &statement.tenant, sequence, &written)
    }
}

impl SignRetirement {
    fn run(self) -> anyhow::Result<()> {
        let place = self.output;
        let place = place.unwrap_or_else(|| named(&self.tenant).with_extension("retire.dsse.json"));
        let statement = Retirement {
            tenant: self.tenant,
            sequence: self.sequence,
            created: Time::now(),
        };
        let written = write(&statement, &self.keys, &place)?;
        told(&place, &statement.tenant, self.sequence, &written)
    }
}

impl AddSignature {
    fn run(self) -> anyhow::Result<()> {
        let mut envelope = read_statement(&self.statement)?;
        match (&self.key, &self.public, &self.signature) {
            (None, Some(public), Some(signature)) => {
                let octets = read(signature)?;
                let key = public_key(public)?;
                if !key.has_signed(&envelope.signed_octets(), &octets) {
                    bail!(
                        "{} is no signature of {} by {}; `portcullis sign bytes` writes what is to be signed",
                        signature.display(),
                        self.statement.display(),
                        key.id()
                    );
                }
                envelope.add(Signature {
                    key_id: Some(key.id()),
                    octets,
                });
            }
            (Some(key), ..) => envelope.sign(&private_key(key)?),
            _ => bail!("say who signs: --key, or --signature and --public"),
        }
        put(&self.statement, &envelope)
    }
}

/// A time in an argument.
fn parse_time(text: &str) -> Result<Time, String> {
    Time::parse(text).ok_or_else(|| "it is no time of RFC 3339, like 2027-01-31T00:00:00Z".into())
}

/// The moment that is so much later than now.
pub(super) fn end(after: Duration) -> anyhow::Result<Time> {
    Time::now().after(after).context("that is too far away")
}

/// Keys as they are given: `NAME=FILE`, or a file whose name is that of the key.
pub(super) fn key_set(given: &[String], threshold: usize) -> anyhow::Result<KeySet> {
    let keys = given.iter().map(|given| {
        let (name, file) = match given.split_once('=') {
            Some((name, file)) => (name.to_owned(), Path::new(file)),
            None => (key_name(Path::new(given)), Path::new(given)),
        };
        let key = public_key(file)?;
        Ok(NamedKey { name, key })
    });
    Ok(KeySet {
        keys: keys.collect::<anyhow::Result<_>>()?,
        threshold,
    })
}

/// What a key in a file is called: `ops-2026.pem.pub` and `ops-2026.pem` are `ops-2026`.
pub(super) fn key_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".pub").unwrap_or(&name);
    name.strip_suffix(".pem").unwrap_or(name).to_owned()
}

/// Replaces a file by one with this envelope.
pub(super) fn put(path: &Path, envelope: &Envelope) -> anyhow::Result<()> {
    let text = envelope.to_json() + "\n";
    replace(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn named(tenant: &str) -> PathBuf {
    // As the file of a policy would be called.
    PathBuf::from(format!("{}.json", tenant.replace('/', "_")))
}

fn write<P: Payload>(statement: &P, keys: &[PathBuf], place: &Path) -> anyhow::Result<Vec<String>> {
    let mut envelope = Envelope::of(statement)?;
    for key in keys {
        envelope.sign(&private_key(key)?);
    }
    put(place, &envelope)?;
    Ok(keys.iter().map(|key| key_name(key)).collect())
}

fn told(place: &Path, tenant: &str, sequence: u64, signed_by: &[String]) -> anyhow::Result<()> {
    let by = match signed_by {
        [] => "signed by nobody yet; `portcullis sign add` signs it".to_owned(),
        names => format!("signed by {}", names.join(", ")),
    };
    let text = format!(
        "{}: tenant {}, sequence {sequence}, {by}",
        place.display(),
        printable(tenant)
    );
    output::result(&format!("{text}\n"))
}
