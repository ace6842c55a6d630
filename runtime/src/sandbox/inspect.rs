//! What a component imports and exports, read before anything of it is compiled.

use wasmparser::{BinaryReaderError, Parser, Payload, Validator, WasmFeatures};

use crate::text::one_line;

/// The version of the interface. The build script reads it from `wit/policy.wit`.
pub const VERSION: &str = env!("PORTCULLIS_INTERFACE_VERSION");

/// What every policy exports.
pub const EVALUATION: &str = concat!(
    "portcullis:policy/evaluation@",
    env!("PORTCULLIS_INTERFACE_VERSION")
);
/// What the built-in evaluator exports besides.
pub const PACKED_RULES: &str = concat!(
    "portcullis:policy/packed-rules@",
    env!("PORTCULLIS_INTERFACE_VERSION")
);

/// Without the version.
const INTERFACE: &str = "portcullis:policy/evaluation";

/// The WASI 0.2 packages that have an empty world behind them.
const EMPTY_WORLD: [&str; 5] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
];

/// Why a component is no policy for this host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The bytes are not WebAssembly, or damaged.
    #[error("this is not a WebAssembly component: {0}")]
    Malformed(String),
    /// A core module.
    #[error(
        "this is a core WebAssembly module, not a component; build it for wasm32-wasip2, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// It asks for something that this host does not give.
    #[error(
        "this module imports {0}, which this host does not give (docs/policies.md says what it does; of Python, `componentize-py --stub-wasi` makes a module without it)"
    )]
    Import(String),
    /// It asks for a policy inside.
    #[error(
        "this module is a middleware: it imports {EVALUATION}, a policy inside it, which `portcullis build --around` gives it"
    )]
    Middleware,
    /// It is for another version of the interface.
    #[error("this module exports {found}, and this host speaks {EVALUATION}")]
    Version {
        /// The export that it has.
        found: String,
    },
    /// It is no policy.
    #[error("this module does not export {EVALUATION}, so it is not a policy (see wit/policy.wit)")]
    NoPolicy,
}

/// What was found in a component that is not refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Whether it imports anything of WASI.
    pub uses_wasi: bool,
}

/// Looks at a component from outside. Whether it is valid, its compiler finds out: that can take very long
/// and very much memory.
pub fn inspect(bytes: &[u8]) -> Result<Inspected, Rejection> {
    let (imports, exports) = names(bytes)?;
    if imports.iter().any(|import| import == EVALUATION) {
        return Err(Rejection::Middleware);
    }
    if let Some(import) = imports.iter().find(|import| !is_given(import)) {
        return Err(Rejection::Import(one_line(import).into()));
    }
    let versions = exports.iter().filter_map(|export| {
        let (name, version) = export.split_once('@').unwrap_or((export, ""));
        (name == INTERFACE).then_some(version)
    });
    let mut other = None;
    for version in versions {
        if version == VERSION {
            return Ok(Inspected {
                uses_wasi: !imports.is_empty(),
            });
        }
        other = other.or(Some(version));
    }
    Err(match other {
        None => Rejection::NoPolicy,
        Some(version) => Rejection::Version {
            found: one_line(&format!("{INTERFACE}@{version}")).into(),
        },
    })
}

fn is_given(import: &str) -> bool {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    let known = EMPTY_WORLD.iter().any(|package| name.starts_with(package));
    known && version.starts_with("0.2.")
}

/// Validates a component.
///
/// # Errors
/// What is wrong with it.
pub fn validate(bytes: &[u8]) -> Result<(), Rejection> {
    let mut validator = Validator::new_with_features(WasmFeatures::default());
    validator.validate_all(bytes).map_err(malformed)?;
    Ok(())
}

fn malformed(error: BinaryReaderError) -> Rejection {
    // It may quote the module, whatever that has in its names.
    Rejection::Malformed(one_line(&error.to_string()).into())
}

/// The names of the outermost imports and exports.
fn names(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), Rejection> {
    if !bytes.starts_with(b"\0asm") {
        return Err(Rejection::Malformed("it does not begin as one".into()));
    }
    if Parser::is_core_wasm(bytes) {
        return Err(Rejection::CoreModule);
    }
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect_text(text: &str) -> Result<Inspected, Rejection> {
        inspect(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let policy = r#"(instance $i) (export "portcullis:policy/evaluation@0.1.0" (instance $i))"#;
        for (text, expected) in [
            (format!("(component {policy})"), Ok(Inspected { uses_wasi: false })),
            (
                format!(r#"(component (import "wasi:cli/stdout@0.2.9" (instance)) {policy})"#),
                Ok(Inspected { uses_wasi: true }),
            ),
            (
                format!(r#"(component (import "wasi:sockets/tcp@0.2.0" (instance)) {policy})"#),
                Err(Rejection::Import("wasi:sockets/tcp@0.2.0".into())),
            ),
            (
                format!(r#"(component (import "wasi:cli/stdout@0.3.0" (instance)) {policy})"#),
                Err(Rejection::Import("wasi:cli/stdout@0.3.0".into())),
            ),
            (
                format!(r#"(component (import "wasi:http/types@0.2.0" (instance)) {policy})"#),
                Err(Rejection::Import("wasi:http/types@0.2.0".into())),
            ),
            (
                r#"(component (instance $i) (export "portcullis:policy/evaluation@0.2.0" (instance $i)))"#.into(),
                Err(Rejection::Version {
                    found: "portcullis:policy/evaluation@0.2.0".into(),
                }),
            ),
            (
                format!(r#"(component (import "portcullis:policy/evaluation@0.1.0" (instance)) {policy})"#),
                Err(Rejection::Middleware),
            ),
            ("(component)".into(), Err(Rejection::NoPolicy)),
            ("(module)".into(), Err(Rejection::CoreModule)),
        ] {
            assert_eq!(inspect_text(&text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_webassembly_is_malformed() {
        let component = wat::parse_str("(component (core module (memory 1)))").unwrap();
        for bytes in [
            &b""[..],
            b"\0as",
            b"hello",
            &component[..component.len() - 1],
        ] {
            assert!(matches!(inspect(bytes), Err(Rejection::Malformed(_))));
        }
    }
}
