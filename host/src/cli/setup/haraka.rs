//! What Haraka needs. Its plugin asks in Haraka's own process, so there is no front door.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::paint::printable;
use crate::config::Config;

/// Where Haraka usually is.
const FOLDER: &str = "/etc/haraka";
/// The first version that the plugin is for.
const VERSION: (u32, u32) = (3, 3);
const PLUGIN: &str = "haraka-plugin-portcullis";

/// The commands for what is not there yet, in Haraka's folder.
pub fn lines(folder: Option<&Path>, config: &Config) -> String {
    let haraka = Haraka {
        folder: folder.unwrap_or(Path::new(FOLDER)).to_owned(),
    };
    let mut text = haraka.found();
    let mut wanted = Vec::new();
    let is_installed = haraka.version_of(PLUGIN).is_some();
    if !is_installed {
        wanted.push(format!(
            "npm install {PLUGIN}-*.tgz portcullis-policy-*.tgz    # integrations/haraka/README.md makes them"
        ));
    }
    if !haraka.path("config/portcullis.json").exists()
        && !haraka.path("config/portcullis.ini").exists()
    {
        wanted.extend(rules(config));
    }
    let plugins = haraka.plugins();
    for (name, why) in [
        (
            "tls",
            "    # without it, partners can neither encrypt nor show certificates",
        ),
        ("portcullis", ""),
    ] {
        if !plugins.iter().any(|it| it == name) {
            wanted.push(format!("echo {name} >> config/plugins{why}"));
        }
    }
    // Writing to a string cannot fail.
    let _ = match wanted.is_empty() {
        true => writeln!(text, "\nAll is as it should be."),
        false => writeln!(
            text,
            "\ncd {}\n{}\n\nThen restart Haraka.",
            haraka.folder.display(),
            wanted.join("\n")
        ),
    };
    text
}

/// How the rules get there: Haraka takes those of one organization.
fn rules(config: &Config) -> Vec<String> {
    let files = config.tenants.iter().map(|tenant| &tenant.policy);
    let documents: Vec<String> = files
        .filter(|policy| policy.extension().is_some_and(|it| it == "json"))
        .map(|policy| format!("cp {} config/portcullis.json", policy.display()))
        .collect();
    match &documents[..] {
        [] => vec!["# no tenant has a rules document: integrations/haraka/README.md says how to use a component".into()],
        [one] => vec![one.clone()],
        several => {
            let mut lines = vec!["# Haraka takes the rules of one organization. One of:".to_owned()];
            lines.extend(several.iter().map(|line| format!("# {line}")));
            lines
        }
    }
}

struct Haraka {
    folder: PathBuf,
}

impl Haraka {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What is installed.
    fn found(&self) -> String {
        let folder = self.folder.display();
        let Some(version) = self.version_of("Haraka") else {
            return format!(
                "There is no Haraka in {folder}/node_modules: if it is elsewhere, give the folder that has config/plugins (--directory).\n"
            );
        };
        let mut parts = version
            .split('.')
            .map_while(|part| part.parse::<u32>().ok());
        let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        let note = match found >= VERSION {
            true => String::new(),
            false => format!(": the plugin is for {}.{} and later", VERSION.0, VERSION.1),
        };
        format!("Haraka {} in {folder}{note}\n", printable(&version))
    }

    /// The version of a package that is installed in its folder.
    fn version_of(&self, package: &str) -> Option<String> {
        let text = fs::read_to_string(self.path("node_modules").join(package).join("package.json"))
            .ok()?;
        let package: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(package.get("version")?.as_str()?.to_owned())
    }

    /// The plugins that are switched on.
    fn plugins(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("config/plugins")).unwrap_or_default();
        let lines = text
            .lines()
            .map(|line| line.split(['#', ';']).next().unwrap_or_default().trim());
        lines
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }
}
