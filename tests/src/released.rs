//! Released interfaces stay as they are: components of others were built with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The SHA-256 digests of the released interfaces. A line is added with each version, and none is changed.
const RELEASED: [(&str, &str); 1] = [(
    "0.1.0",
    "1ae28813bc07674dd38a0236c49034e6a8779cee762d6ef1edc7076c99d2e4c5",
)];

fn wit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The interface in each folder below `wit/released`, by the folder's name.
fn released() -> BTreeMap<String, String> {
    let folders = fs::read_dir(wit().join("released")).expect("released interfaces");
    let read = |folder: fs::DirEntry| {
        let name = folder.file_name().into_string().expect("a version");
        (name, read(&folder.path().join("policy.wit")))
    };
    folders
        .map(|folder| read(folder.expect("a folder")))
        .collect()
}

/// The version in `package portcullis:policy@0.1.0;`.
fn version(wit: &str) -> &str {
    let mut lines = wit.lines();
    let package = lines.find_map(|line| line.strip_prefix("package portcullis:policy@"));
    let version = package.and_then(|rest| rest.strip_suffix(';'));
    version.expect("the package has a version")
}

#[test]
fn a_released_interface_never_changes() {
    let digest = |wit: &String| {
        let digest = Sha256::digest(wit.as_bytes());
        digest.iter().map(|octet| format!("{octet:02x}")).collect()
    };
    let found: BTreeMap<String, String> = released()
        .iter()
        .map(|(version, wit)| (version.clone(), digest(wit)))
        .collect();
    let expected = RELEASED.map(|(version, digest)| (version.to_owned(), digest.to_owned()));
    assert_eq!(
        found,
        BTreeMap::from(expected),
        "CONTRIBUTING.md says how a version is added"
    );
}

#[test]
fn a_released_interface_has_the_version_of_its_folder() {
    for (folder, wit) in released() {
        assert_eq!(version(&wit), folder);
    }
}

#[test]
fn the_working_interface_is_the_released_one_of_its_version() {
    let working = read(&wit().join("policy.wit"));
    if let Some(released) = released().get(version(&working)) {
        assert!(
            working == *released,
            "wit/policy.wit differs from wit/released/{0}/policy.wit: a change needs a new version (CONTRIBUTING.md)",
            version(&working)
        );
    }
}
