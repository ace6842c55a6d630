//! Where keys are, and policies are signed: by the commands.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::json;

use crate::portcullis;

/// Mail of this domain comes encrypted, which clients of this test do not do.
pub fn rules(domain: &str) -> String {
    json!({"connectors": [{"name": domain, "direction": "inbound",
        "from": {"sender-domains": [domain]}, "require": {"tls": true}}]})
    .to_string()
}

/// Where keys are, and policies are signed.
pub struct Office {
    folder: tempfile::TempDir,
}

impl Default for Office {
    fn default() -> Self {
        Office::new()
    }
}

impl Office {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An operator, whose key signs, and root statements.
    pub fn new() -> Office {
        let office = Office {
            folder: tempfile::tempdir().expect("a folder"),
        };
        office.succeed(&["key", "new", "ops.pem"]);
        office.succeed(&["trust", "new", "root.json", "--key", "ops.pem"]);
        office
    }

    /// A file of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What is in a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect(name);
    }

    /// Runs a command in its folder.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = portcullis(arguments);
        command.current_dir(self.folder.path());
        command.output().expect("the program runs")
    }

    /// What a command says that does its work.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (told, error) = both(&output);
        assert!(output.status.success(), "{arguments:?}: {told}{error}");
        told + &error
    }

    /// What a command says that does not.
    pub fn fail(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let (told, error) = both(&output);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {told}{error}"
        );
        told + &error
    }

    /// Tenants with keys of their own.
    pub fn add_tenants(&self) {
        for tenant in ["contoso", "fabrikam"] {
            self.succeed(&["key", "new", &format!("{tenant}.pem")]);
            self.sign_tenant(tenant, &[]);
        }
    }

    /// Signs what the operators say about a tenant that has a key of its own.
    pub fn sign_tenant(&self, tenant: &str, more: &[&str]) {
        let (domain, key) = (format!("{tenant}.com"), format!("{tenant}.pem.pub"));
        let sign = [
            "sign",
            "tenant",
            tenant,
            "--domain",
            &domain,
            "--policy-key",
            &key,
            "--key",
            "ops.pem",
        ];
        self.succeed(&[&sign[..], more].concat());
    }

    /// Signs rules of a tenant with its key.
    pub fn sign_policy(&self, tenant: &str, rules: &str, more: &[&str]) {
        let (policy, key) = (format!("{tenant}.json"), format!("{tenant}.pem"));
        self.write(&policy, rules);
        let sign = ["sign", "policy", &policy, "--tenant", tenant, "--key", &key];
        self.succeed(&[&sign[..], more].concat());
    }

    /// Signs rules for Contoso.
    pub fn sign(&self, rules: &str, more: &[&str]) {
        self.write("contoso.json", rules);
        let sign = [
            "sign",
            "policy",
            "contoso.json",
            "--tenant",
            "contoso",
            "--key",
            "ops.pem",
        ];
        self.succeed(&[&sign[..], more].concat());
    }
}

/// What a command has said.
pub fn both(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
