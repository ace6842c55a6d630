//! What wit-bindgen makes of the interface is in the source of components, so that building them takes no generator.

use std::path::Path;

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};
use wit_bindgen_rust::Opts;

fn generated(root: &Path, files: &[&str], world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let mut packages = files
        .iter()
        .map(|file| resolve.push_path(root.join(file)).unwrap().0);
    let package = packages.by_ref().last().unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let options = Opts {
        format: true,
        additional_derive_attributes: vec!["PartialEq".into()],
        generate_all: true,
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
fn the_bindings_of_components_are_those_of_their_interfaces() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (policy, middleware) = ("wit/policy.wit", "wit/middleware/middleware.wit");
    for (files, world, path) in [
        (
            &[policy][..],
            "evaluator",
            "guest/src/bindings/evaluator.rs",
        ),
        (
            &[policy],
            "packed-policy",
            "guest/src/bindings/packed_policy.rs",
        ),
        (
            &[policy, middleware],
            "caller",
            "bindings/http/src/bindings.rs",
        ),
    ] {
        let expected = generated(&root, files, world);
        let path = root.join(path);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, expected).unwrap();
            continue;
        }
        let is_same = std::fs::read(&path).is_ok_and(|found| found == expected);
        assert!(
            is_same,
            "{} is not what wit/ says; UPDATE_GOLDEN=1 writes it",
            path.display()
        );
    }
}
