//! What wit-bindgen makes of the interface is in the evaluator's source, so that building it takes no generator.

use std::path::Path;

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};
use wit_bindgen_rust::Opts;

fn generated(wit: &Path, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let options = Opts {
        format: true,
        additional_derive_attributes: vec!["PartialEq".into()],
        ..Opts::default()
    };
    let mut files = Files::default();
    let mut generator = options.build();
    generator.generate(&mut resolve, world, &mut files).unwrap();
    let (_, source) = files.iter().next().unwrap();
    source.to_vec()
}

/// `UPDATE_GOLDEN=1` writes them.
#[test]
fn the_bindings_of_the_evaluator_are_those_of_its_interface() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (world, name) in [
        ("evaluator", "evaluator.rs"),
        ("packed-policy", "packed_policy.rs"),
    ] {
        let path = root.join("guest/src/bindings").join(name);
        let expected = generated(&root.join("wit"), world);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, expected).unwrap();
            continue;
        }
        let is_same = std::fs::read(&path).is_ok_and(|found| found == expected);
        assert!(
            is_same,
            "{} is not what wit/policy.wit says; UPDATE_GOLDEN=1 writes it",
            path.display()
        );
    }
}
