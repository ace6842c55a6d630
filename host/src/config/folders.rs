//! Folders where none is configured: systemd's, or the user's.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// How many octets of a digest a name has.
const OCTETS: usize = 16;

/// The folder of compiled policies where none is configured: systemd's, or the user's.
pub fn default_cache_folder() -> Option<PathBuf> {
    folder_of("CACHE_DIRECTORY")
        .or_else(|| folder_of("XDG_CACHE_HOME").map(|folder| folder.join("portcullis")))
        .or_else(|| folder_of("HOME").map(|folder| folder.join(".cache/portcullis")))
}

/// The folder of what must not be lost, where none is configured. It is not that of compiled policies, which may be
/// emptied at any time.
pub fn default_state_folder() -> Option<PathBuf> {
    folder_of("STATE_DIRECTORY")
        .or_else(|| folder_of("XDG_STATE_HOME").map(|folder| folder.join("portcullis")))
        .or_else(|| folder_of("HOME").map(|folder| folder.join(".local/state/portcullis")))
}

/// A file of a configuration in the folder of what must not be lost: several configurations may share the folder.
pub fn state_file(folder: &Path, kind: &str, configuration: &Path, end: &str) -> PathBuf {
    let path = configuration
        .canonicalize()
        .unwrap_or_else(|_| configuration.into());
    let digest = digest(&SHA256, path.as_os_str().as_encoded_bytes());
    let octets = digest.as_ref().iter().take(OCTETS);
    let digest: String = octets.map(|octet| format!("{octet:02x}")).collect();
    folder.join(format!("{kind}-{digest}.{end}"))
}

fn folder_of(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
