//! What the documentation says of the source is so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::imports::{Imports, circles, of_crate, of_folders};

/// The crates, and in each the folders that count as one module.
const CRATES: [(&str, &[&str]); 4] = [
    // Each is one type, whose methods are sorted by subject.
    ("host", &["frontend::smtp::session", "cli::validate"]),
    ("runtime", &[]),
    ("guest", &[]),
    ("types", &[]),
];

const BEGIN: &str = "<!-- The imports, from the code. -->\n```text\n";
const END: &str = "```\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The longest chain of imports below each module: who imports nobody is at 0.
fn layers(imports: &Imports) -> BTreeMap<String, usize> {
    fn layer(name: &str, imports: &Imports, known: &mut BTreeMap<String, usize>) -> usize {
        if let Some(layer) = known.get(name) {
            return *layer;
        }
        let below = imports[name].iter();
        let layer = below.map(|below| layer(below, imports, known) + 1).max();
        known.insert(name.to_owned(), layer.unwrap_or(0));
        layer.unwrap_or(0)
    }
    let mut known = BTreeMap::new();
    for name in imports.keys() {
        layer(name, imports, &mut known);
    }
    known
}

fn graph(krate: &str, imports: &Imports) -> String {
    let layers = layers(imports);
    let mut modules: Vec<_> = layers.iter().map(|(name, layer)| (*layer, name)).collect();
    modules.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let width = modules
        .iter()
        .map(|(_, name)| name.len())
        .max()
        .unwrap_or(0);
    let mut text = format!("{krate}/src\n");
    for (layer, name) in modules {
        let below: Vec<&str> = imports[name].iter().map(String::as_str).collect();
        let line = format!("{layer:>3}  {name:<width$}  {}", below.join(" "));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[test]
fn no_module_imports_one_that_imports_it() {
    for (krate, merged) in CRATES {
        let imports = of_crate(&root().join(krate), merged);
        assert_eq!(circles(&imports), Vec::<Vec<String>>::new(), "{krate}");
        let folders = of_folders(&imports);
        assert_eq!(circles(&folders), Vec::<Vec<String>>::new(), "{krate}");
    }
}

/// `UPDATE_GOLDEN=1` writes it.
#[test]
fn the_picture_of_the_modules_is_the_code() {
    let graphs = CRATES.map(|(krate, merged)| {
        let imports = of_folders(&of_crate(&root().join(krate), merged));
        assert_eq!(circles(&imports), Vec::<Vec<String>>::new(), "{krate}");
        graph(krate, &imports)
    });
    let expected = graphs.join("\n");
    let path = root().join("docs/architecture.md");
    let text = read(&path);
    let (before, rest) = text
        .split_once(BEGIN)
        .expect("the beginning of the picture");
    let (found, after) = rest.split_once(END).expect("the end of the picture");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(
        found, expected,
        "docs/architecture.md shows other imports than the code has; UPDATE_GOLDEN=1 writes them"
    );
}

/// The program of `docs/embedding.md` is the library's own example, which is run with its documentation.
#[test]
fn the_program_of_the_embedding_guide_is_the_librarys_example() {
    let library = read(&root().join("runtime/src/lib.rs"));
    let (_, example) = library.split_once("//! ```\n").expect("an example");
    let (example, _) = example.split_once("//! ```\n").expect("its end");
    let visible: String = example
        .lines()
        .map(|line| line.trim_start_matches("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .filter(|line| !line.starts_with("# "))
        .map(|line| format!("{line}\n"))
        .collect();
    let guide = read(&root().join("docs/embedding.md"));
    assert!(
        guide.contains(&format!("```rust\n{visible}```")),
        "{visible}"
    );
}

#[test]
fn the_files_that_the_documentation_names_exist() {
    let mut documents: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(|name| root().join(name))
        .into();
    for folder in ["docs", "docs/decisions", "docs/integrations"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        documents.extend(paths.filter(|path| path.extension().is_some_and(|it| it == "md")));
    }
    let tops = [
        "benches",
        "bindings",
        "conformance",
        "docs",
        "examples",
        "fuzz",
        "guest",
        "host",
        "runtime",
        "scripts",
        "tests",
        "types",
        "wit",
    ];
    let mut missing = BTreeSet::new();
    let mut named = 0;
    for document in &documents {
        for span in read(document).split('`').skip(1).step_by(2) {
            let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
            let top = span.split('/').next().unwrap_or_default();
            let is_placeholder = span.contains("VERSION");
            let is_named = span.contains('/') && tops.contains(&top) && !is_placeholder;
            if !is_named || !span.chars().all(is_path) {
                continue;
            }
            named += 1;
            if !root().join(span).exists() {
                missing.insert(format!("{}: {span}", document.display()));
            }
        }
    }
    assert!(named > 100, "{named} names were found");
    assert_eq!(missing, BTreeSet::new());
}
