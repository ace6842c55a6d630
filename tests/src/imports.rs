//! Which module of the source imports which: read from the code, for the graph in `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The files of a crate by their module path, each with the files that it imports. A folder whose `mod.rs` has code of
/// its own and `merged` says so counts as one.
pub type Imports = BTreeMap<String, BTreeSet<String>>;

/// Reads the imports of the crate in a folder. What stands in `mod tests` does not count.
pub fn of_crate(folder: &Path, merged: &[&str]) -> Imports {
    let mut sources = BTreeMap::new();
    read(&folder.join("src"), &[], &mut sources);
    let names: BTreeSet<String> = sources.keys().cloned().collect();
    let merge = |name: &str| -> String {
        let whole = merged
            .iter()
            .find(|whole| name == **whole || name.starts_with(&format!("{whole}::")));
        whole.map_or_else(|| name.to_owned(), |whole| (*whole).to_owned())
    };
    let mut imports = Imports::new();
    for (name, source) in &sources {
        let own = imports.entry(merge(name)).or_default();
        for path in paths(source)
            .into_iter()
            .chain(children(name, source, &names))
        {
            if let Some(target) = resolve(name, &path, &names) {
                own.insert(merge(&target));
            }
        }
    }
    for (name, targets) in &mut imports {
        targets.remove(name);
    }
    imports
}

/// The circles: sets of modules each of which leads to all others.
pub fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for next in imports.get(at).into_iter().flatten() {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        imports.keys().map(|name| (name, reach(name))).collect();
    let mut circles: Vec<Vec<String>> = Vec::new();
    for (name, reaches) in &reached {
        let circle: Vec<String> = reaches
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(*name)))
            .map(|other| (*other).clone())
            .collect();
        if circle.len() > 1 && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

/// The same by the first segment of each path: of folders, if there are any.
pub fn of_folders(imports: &Imports) -> Imports {
    let folder = |name: &str| name.split("::").next().unwrap_or_default().to_owned();
    let mut folders = Imports::new();
    for (name, targets) in imports {
        let own = folders.entry(folder(name)).or_default();
        own.extend(targets.iter().map(|target| folder(target)));
    }
    for (name, targets) in &mut folders {
        targets.remove(name);
    }
    folders
}

fn read(folder: &Path, path: &[String], sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder of source") {
        let file = entry.expect("an entry").path();
        let name = file
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if file.is_dir() {
            read(&file, &[path, &[name]].concat(), sources);
            continue;
        }
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let source = fs::read_to_string(&file).expect("source");
        let module = match name.as_str() {
            "mod" => path.join("::"),
            // The root declares modules and re-exports them.
            "lib" | "main" if path.is_empty() => continue,
            _ => [path, &[name]].concat().join("::"),
        };
        let code = source.split("\n#[cfg(test)]\nmod tests").next();
        sources.insert(module, plain(code.unwrap_or_default()));
    }
    // A module of tests only.
    let declared = sources.get(&path.join("::")).cloned().unwrap_or_default();
    for declaration in declared.split("#[cfg(test)]\nmod ").skip(1) {
        let name = declaration.split(';').next().unwrap_or_default();
        sources.remove(&[path, &[name.to_owned()]].concat().join("::"));
    }
}

/// The code without comments and what is for tests. In a module that stands in it, the parent is the code itself.
fn plain(source: &str) -> String {
    let mut text = String::new();
    let mut is_inside = false;
    for line in source.lines() {
        let code = line.split("//").next().unwrap_or_default();
        let is_module = code.starts_with("mod ") || code.starts_with("pub mod ");
        is_inside = (is_inside || is_module && code.ends_with('{')) && code != "}";
        if code.contains("cfg_attr(test") {
            continue;
        }
        match is_inside {
            true => text.push_str(&code.replace("super::", "self::")),
            false => text.push_str(code),
        }
        text.push('\n');
    }
    text
}

/// The paths in `use` declarations, and those in the code that begin with `crate::` or `super::`.
fn paths(source: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for declaration in source.split(';') {
        let Some(start) = declaration.rfind("use ") else {
            continue;
        };
        let before = declaration[..start].chars().next_back();
        if before.is_none_or(|c| c.is_whitespace() || c == ')') {
            let tree = declaration[start + 4..]
                .split_whitespace()
                .collect::<String>();
            expand("", &tree, &mut paths);
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in source.match_indices(start) {
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let before = source[..at].chars().next_back();
            if before.is_some_and(is_path) {
                continue;
            }
            let end = source[at..]
                .find(|c| !is_path(c))
                .unwrap_or(source.len() - at);
            let path = &source[at..at + end];
            // A tree of names, which is part of a `use` declaration.
            if !path.ends_with("::") {
                paths.push(path.to_owned());
            }
        }
    }
    paths
}

/// The paths in the code that begin with a module below this one.
fn children(name: &str, source: &str, names: &BTreeSet<String>) -> Vec<String> {
    let prefix = format!("{name}::");
    let children = names.iter().filter_map(|other| other.strip_prefix(&prefix));
    let children = children.filter(|child| !child.contains("::"));
    let is_used = |child: &&str| {
        let start = format!("{child}::");
        source.match_indices(&start).any(|(at, _)| {
            let before = source[..at].chars().next_back();
            before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || c == ':'))
        })
    };
    children.filter(is_used).map(str::to_owned).collect()
}

/// `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        paths.push(format!("{prefix}{tree}"));
        return;
    };
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let prefix = format!("{prefix}{head}");
    let (mut depth, mut start) = (0, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &inner[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if start < inner.len() {
        expand(&prefix, &inner[start..], paths);
    }
}

/// The module that a path leads to, if it is one of the crate's.
fn resolve(from: &str, path: &str, names: &BTreeSet<String>) -> Option<String> {
    let mut segments: Vec<&str> = path.split("::").filter(|it| !it.is_empty()).collect();
    let mut base: Vec<&str> = from.split("::").collect();
    match *segments.first()? {
        "crate" => {
            base.clear();
            segments.remove(0);
        }
        "self" => {
            segments.remove(0);
        }
        "super" => {
            while segments.first() == Some(&"super") {
                base.pop();
                segments.remove(0);
            }
        }
        // A child of this module.
        first if names.contains(&format!("{from}::{first}")) => {}
        _ => return None,
    }
    let whole: Vec<&str> = base.into_iter().chain(segments).collect();
    (1..=whole.len())
        .rev()
        .map(|length| whole[..length].join("::"))
        .find(|name| names.contains(name))
}
