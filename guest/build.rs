//! Boils the public suffix list down to sorted hashes: a policy carries 4 bytes a suffix, not its
//! text. And sets the size of the memory that a policy begins with.

// A build that cannot go on says so by panicking.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::{env, fs};

#[path = "src/hash.rs"]
mod hash;

const LIST: &str = "data/public_suffixes.txt";

/// Bytes of memory for an evaluator that takes packed rules: its stack and statics, and 64 KiB for rules. A memory that
/// grows costs two system calls an instance.
const MEMORY: u32 = 20 << 16;

fn main() {
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        // Numbers that the linker has filled in take as few bytes as they need, not five.
        println!("cargo::rustc-link-arg-cdylib=--compress-relocations");
        // The linker asks for it then: debugging information has places in it.
        println!("cargo::rustc-link-arg-cdylib=--strip-debug");
        if env::var_os("CARGO_FEATURE_DOCUMENT").is_none() {
            println!("cargo::rustc-link-arg-cdylib=--initial-memory={MEMORY}");
        }
    }
    println!("cargo::rerun-if-changed={LIST}");
    println!("cargo::rerun-if-changed=src/hash.rs");
    let list = fs::read_to_string(LIST).unwrap();
    let rules = list.lines().filter(|line| !line.starts_with("//"));
    let mut hashes: Vec<u32> = rules.map(|rule| hash::hash(rule.as_bytes())).collect();
    hashes.sort_unstable();
    let out = Path::new(&env::var_os("OUT_DIR").unwrap()).join("suffixes.rs");
    fs::write(out, format!("&{hashes:?}")).unwrap();
}
