//! Policies that are to be components, and what they say to a terminal.

use std::fs;
use std::path::Path;

use portcullis_tests::modules::Module;
use portcullis_tests::run;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{RULES, assert_one_error, edit, edited, run_on, samples};

/// Asks for the connectors of each component; gives how many were refused.
fn list_all(folder: &Path, components: &[Vec<u8>]) -> usize {
    let halves = components.chunks(components.len().div_ceil(2));
    std::thread::scope(|scope| {
        let list_half = |(half, components): (usize, &[Vec<u8>])| {
            let path = folder.join(format!("policy-{half}.wasm"));
            let refused = components.iter().filter(|bytes| !is_listed(&path, bytes));
            refused.count()
        };
        let halves: Vec<_> = halves
            .enumerate()
            .map(|half| scope.spawn(move || list_half(half)))
            .collect();
        halves
            .into_iter()
            .map(|half| half.join().expect("all are refused properly"))
            .sum()
    })
}

/// Whether a component is taken; otherwise it is refused with one clear error.
fn is_listed(path: &Path, component: &[u8]) -> bool {
    fs::write(path, component).expect("a file");
    let output = run_on(&["list"], path);
    if output.status.code() == Some(0) {
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            told.is_empty() || told == "the policy lists no connectors\n",
            "{told}"
        );
        return true;
    }
    let error = assert_one_error(&output, "a component");
    let begin = format!("portcullis: policy {}: ", path.display());
    assert!(error.starts_with(&begin), "{error}");
    false
}

/// The component of the example rules.
fn built(folder: &Path) -> Vec<u8> {
    let (rules, policy) = (folder.join("rules.json"), folder.join("built.wasm"));
    fs::write(&rules, RULES).expect("a file");
    let output = run(
        &[
            "build",
            &rules.to_string_lossy(),
            "-o",
            &policy.to_string_lossy(),
        ],
        b"",
    );
    assert!(output.status.success());
    fs::read(policy).expect("a component")
}

#[test]
fn what_is_no_component_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut modules = samples(vec(any::<u8>(), 0..2000), 100);
    for head in [&b"\0asm\x0d\0\x01\0"[..], b"\0asm\x01\0\0\0"] {
        let tails = samples(vec(any::<u8>(), 0..500), 50);
        modules.extend(tails.into_iter().map(|tail| [head, &tail].concat()));
    }
    assert_eq!(list_all(folder.path(), &modules), modules.len());
}

/// How long a component is without the custom sections at its end, which say who has made it and may be missing.
fn without_custom_end(component: &[u8]) -> usize {
    let (mut place, mut needed) = (8, 8);
    while let Some(kind) = component.get(place) {
        // The section's size (LEB128) follows its kind.
        let (mut size, mut shift) = (0, 0);
        loop {
            place += 1;
            let octet = component[place];
            size |= usize::from(octet & 0x7f) << shift;
            shift += 7;
            if octet < 0x80 {
                break;
            }
        }
        place += 1 + size;
        if *kind != 0 {
            needed = place;
        }
    }
    needed
}

#[test]
fn a_component_that_was_cut_off_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = built(folder.path());
    let ends = samples(any::<prop::sample::Index>(), 150);
    let needed = without_custom_end(&whole);
    let modules: Vec<_> = ends
        .iter()
        .map(|end| whole[..end.index(needed)].to_vec())
        .collect();
    assert_eq!(list_all(folder.path(), &modules), modules.len());
}

#[test]
fn a_component_with_many_changes_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = built(folder.path());
    let edits = samples(vec(edit(), 100), 100);
    let modules: Vec<_> = edits.iter().map(|edits| edited(&whole, edits)).collect();
    assert_eq!(list_all(folder.path(), &modules), modules.len());
}

#[test]
fn a_component_with_one_change_is_taken_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = built(folder.path());
    let edits = samples(edit(), 40);
    let modules: Vec<_> = edits
        .into_iter()
        .map(|edit| edited(&whole, &[edit]))
        .collect();
    // A byte of data can be any; one of code or of a type hardly.
    let refused = list_all(folder.path(), &modules);
    assert!((5..40).contains(&refused), "{refused}");
}

#[test]
fn a_small_component_is_changed_everywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = Module::new("(i32.const 0)").component();
    let edits = samples(vec(edit(), 1..3), 400);
    let modules: Vec<_> = edits.iter().map(|edits| edited(&whole, edits)).collect();
    let refused = list_all(folder.path(), &modules);
    assert!((100..400).contains(&refused), "{refused}");
}

#[test]
fn a_refused_component_is_told_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.wasm");
    let whole = Module::new("(i32.const 0)").component();
    let name = b"smart-hosts";
    let at = whole
        .windows(name.len())
        .position(|window| window == name)
        .expect("the name of a type");
    // Where another section follows its length, and in a name.
    let bad_magic = [&b"\0asm\x0d\0\x01\0\x01\x08"[..], b"\0xsm\x01\0\0\0"].concat();
    let mut bad_name = whole.clone();
    bad_name[at..at + 3].copy_from_slice(b"\x1b[J");
    for module in [bad_magic, bad_name] {
        assert!(!is_listed(&path, &module));
        let error = assert_one_error(&run_on(&["list"], &path), "a component");
        let line = error.strip_suffix('\n').expect("a line");
        assert!(!line.contains(char::is_control), "{error:?}");
    }
}

/// A module whose only connector is called `name`, which stands at 4096.
fn module_with_connector(name: &[u8]) -> Vec<u8> {
    let escaped: String = name.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let fields = format!("(data (i32.const 4096) \"{escaped}\")");
    let length = name.len();
    // By the canonical ABI: `total` and `connectors` of the description; of the connector its name,
    // and its direction and mode as zeros.
    let describe = format!(
        "(i32.store (i32.const 3104) (i32.const 1))
         (i32.store (i32.const 3108) (i32.const 3200)) (i32.store (i32.const 3112) (i32.const 1))
         (i32.store (i32.const 3200) (i32.const 4096)) (i32.store (i32.const 3204) (i32.const {length}))
         i32.const 3072"
    );
    let module = Module {
        describe,
        ..Module::new("(i32.const 0)")
    };
    module.with(&fields).component()
}

#[test]
fn a_module_cannot_speak_to_the_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.wasm");
    let long = [&b"Bank"[..], &[b'x'; 70_000]].concat();
    for name in [&b"Bank\x1b[2J\r\nTrusted\xe2\x80\xae"[..], &long] {
        fs::write(&path, module_with_connector(name)).expect("a file");
        let output = run_on(&["list"], &path);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(output.status.code(), Some(0));
        assert!(text.starts_with("Bank"), "{text:.80?}");
        assert!(!text.contains(['\x1b', '\r', '\u{202e}']), "{text:.80?}");
        assert_eq!(text.lines().count(), 1, "{text:.80?}");
    }
}
