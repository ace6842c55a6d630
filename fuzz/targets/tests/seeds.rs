//! The seeds of each target, and what the fuzzer has found, with a stable compiler.

use std::fs;
use std::path::Path;

use portcullis_fuzz_targets::TARGETS;

#[test]
fn every_seed_holds() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    for (name, target) in TARGETS {
        let folder = seeds.join(name);
        let files =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files {
            let path = file.expect("a seed").path();
            eprintln!("{}", path.display());
            target(&fs::read(&path).expect("a seed is read"));
            count += 1;
        }
        assert!(count > 0, "{name} has no seeds");
    }
}
