//! Boils the public suffix list down to sorted hashes: a policy carries 4 bytes a suffix, not its
//! text.

// A build that cannot go on says so by panicking.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::{env, fs};

#[path = "src/hash.rs"]
mod hash;

const LIST: &str = "data/public_suffixes.txt";

fn main() {
    println!("cargo::rerun-if-changed={LIST}");
    println!("cargo::rerun-if-changed=src/hash.rs");
    let list = fs::read_to_string(LIST).unwrap();
    let rules = list.lines().filter(|line| !line.starts_with("//"));
    let mut hashes: Vec<u32> = rules.map(|rule| hash::hash(rule.as_bytes())).collect();
    hashes.sort_unstable();
    let out = Path::new(&env::var_os("OUT_DIR").unwrap()).join("suffixes.rs");
    fs::write(out, format!("&{hashes:?}")).unwrap();
}
