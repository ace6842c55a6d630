//! Garbage for every parser: random, mutated, cut off, enormous and deeply nested. Each must end in
//! an answer that a person can use, and none may harm what comes after it.

mod components;
mod configurations;
mod contexts;
mod rules;
mod smtp;

use std::path::Path;
use std::process::Output;

use portcullis_tests::run;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const RULES: &str = include_str!("../../../../examples/rules.json");

/// A change to a text.
#[derive(Clone, Debug)]
enum Edit {
    /// Another byte in place of one.
    Replace(prop::sample::Index, u8),
    /// A byte more.
    Insert(prop::sample::Index, u8),
    /// A run that is gone.
    Remove(prop::sample::Index, usize),
    /// A run that stands twice.
    Repeat(prop::sample::Index, usize),
    /// Nothing from here on.
    Cut(prop::sample::Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        4 => (at(), prop::sample::select(b"{}[]\",:\\*/.-0e\n ".to_vec()))
            .prop_map(|(at, byte)| Edit::Replace(at, byte)),
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        2 => (at(), 1..40_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        2 => (at(), 1..400_usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
        1 => at().prop_map(Edit::Cut),
    ]
}

fn edited(original: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for edit in edits {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match edit {
            Edit::Replace(at, byte) => bytes[at.index(length)] = *byte,
            Edit::Insert(at, byte) => bytes.insert(at.index(length), *byte),
            Edit::Remove(at, run) => {
                let start = at.index(length);
                bytes.drain(start..(start + run).min(length));
            }
            Edit::Repeat(at, run) => {
                let start = at.index(length);
                let again = bytes[start..(start + run).min(length)].to_vec();
                bytes.splice(start..start, again);
            }
            Edit::Cut(at) => bytes.truncate(at.index(length)),
        }
    }
    bytes
}

/// Random values of a strategy; the same in every run.
fn samples<S: Strategy>(strategy: S, count: usize) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    let mut sample = || strategy.new_tree(&mut runner).expect("a value").current();
    (0..count).map(|_| sample()).collect()
}

/// A list of so many bytes, and what stands around it.
fn list_of(bytes: usize, before: &str, item: &str, after: &str) -> String {
    let count = bytes / (item.len() + 1);
    format!("{before}{}{after}", vec![item; count].join(","))
}

/// Holds that a command gave one clear error and no result.
fn assert_one_error(output: &Output, what: &str) -> String {
    let error = String::from_utf8(output.stderr.clone()).expect("errors are UTF-8");
    assert_eq!(output.status.code(), Some(2), "{what}: {error}");
    assert!(output.stdout.is_empty(), "{what}");
    assert!(error.starts_with("portcullis: "), "{what}: {error}");
    assert!(!error.contains("panicked"), "{what}: {error}");
    assert!(error.len() < 2000, "{what}: {error:.3000}");
    error
}

fn run_on(command: &[&str], path: &Path) -> Output {
    run(&[command, &[&path.to_string_lossy()]].concat(), b"")
}
