//! Folders where none is configured: systemd's, or the user's.

use std::path::PathBuf;

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

fn folder_of(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
