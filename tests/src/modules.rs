//! Policy modules written by hand, so that they can do what no compiler would make them do.
//!
//! A module is core WebAssembly text with the functions of the interface in the canonical ABI; the
//! types around it are those of `wit/policy.wit`, whatever the text does.

use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Where the text of a module may put data of its own; below is room for the answers.
pub const DATA: u32 = 4096;

/// A policy module.
pub struct Module {
    /// The body of `evaluate`: it leaves the address of a verdict on the stack.
    pub evaluate: String,
    /// The body of `describe`: the same with a description. All zeros are one.
    pub describe: String,
    /// The body of `cabi_realloc`, by which the host asks for room for the context.
    pub realloc: String,
    /// The module's memory.
    pub memory: String,
    /// Further fields of the module, such as data.
    pub fields: String,
}

impl Module {
    /// A module that behaves, but for the body of `evaluate`.
    pub fn new(evaluate: &str) -> Module {
        Module {
            evaluate: evaluate.into(),
            describe: "(i32.const 0)".into(),
            // Aligned to 8; `evaluate` begins anew, because the context is all that is ever asked for.
            realloc: "(local $at i32)
                (local.set $at (global.get $next))
                (global.set $next (i32.and
                    (i32.add (i32.add (global.get $next) (local.get $size)) (i32.const 7))
                    (i32.const -8)))
                (local.get $at)"
                .into(),
            memory: r#"(memory (export "memory") 64)"#.into(),
            fields: String::new(),
        }
    }

    /// The same with further fields.
    pub fn with(mut self, fields: &str) -> Module {
        self.fields.push_str(fields);
        self
    }

    /// The component.
    pub fn component(&self) -> Vec<u8> {
        self.component_of(&[], include_str!("../../wit/policy.wit"), "0.1.0")
    }

    /// The core module, as a compiler makes it.
    pub fn core(&self) -> Vec<u8> {
        wat::parse_str(self.text("0.1.0")).expect("WebAssembly")
    }

    /// The component with these imports in its world, of these packages (WIT).
    pub fn component_with(&self, packages: &[&str], imports: &[&str]) -> Vec<u8> {
        let wit = include_str!("../../wit/policy.wit");
        let world = "world policy {";
        assert!(wit.contains(world), "the world is declared so");
        let imports: String = imports
            .iter()
            .map(|name| format!("import {name};"))
            .collect();
        let wit = wit.replace(world, &format!("{world} {imports}"));
        self.component_of(packages, &wit, "0.1.0")
    }

    /// The component for another version of the interface.
    pub fn component_of_version(&self, version: &str) -> Vec<u8> {
        let wit = include_str!("../../wit/policy.wit");
        let package = "package portcullis:policy@0.1.0;";
        assert!(wit.contains(package), "the package is declared so");
        let wit = wit.replace(package, &format!("package portcullis:policy@{version};"));
        self.component_of(&[], &wit, version)
    }

    fn component_of(&self, packages: &[&str], wit: &str, version: &str) -> Vec<u8> {
        let text = self.text(version);
        let module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        encode(module, packages, wit)
    }

    fn text(&self, version: &str) -> String {
        let Module {
            evaluate,
            describe,
            realloc,
            memory,
            fields,
        } = self;
        let export = format!("portcullis:policy/evaluation@{version}#");
        // 256 KiB of the memory are for answers, what is behind for contexts.
        format!(
            r#"(module
              {memory}
              (global $next (mut i32) (i32.const 262144))
              (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32)
                  (result i32)
                {realloc})
              (func $evaluate (export "{export}evaluate") (param $context i32) (result i32)
                (global.set $next (i32.const 262144))
                {evaluate})
              (func (export "{export}explain") (param $context i32) (result i32)
                (global.set $next (i32.const 262144))
                (i32.const 0))
              (func (export "{export}describe") (param $first i32) (param $limit i32) (result i32)
                {describe})
              {fields})"#
        )
    }
}

/// The component with so many instances of a core module of these fields beside it.
pub fn crowded(component: &[u8], fields: &str, instances: usize) -> Vec<u8> {
    let mut depth = 0;
    let mut before = 0;
    for payload in Parser::new(0).parse_all(component) {
        match payload.expect("a component") {
            Payload::ModuleSection { .. } => depth += 1,
            Payload::ComponentSection { .. } => {
                before += usize::from(depth == 0);
                depth += 1;
            }
            Payload::End(_) => depth -= 1,
            _ => {}
        }
    }
    // Stand-ins for those that are there already, so that the numbers are right behind them.
    let text = format!(
        "(component {} (component $c (core module $m {fields}) {}) (instance (instantiate $c)))",
        "(component)".repeat(before),
        "(core instance (instantiate $m))".repeat(instances),
    );
    let more = wat::parse_str(&text).expect("a component");
    const HEADER: usize = 8;
    const STAND_IN: usize = HEADER + 2;
    [component, &more[HEADER + before * STAND_IN..]].concat()
}

/// The component of a core module with the functions of the interface.
pub fn component(module: Vec<u8>) -> Vec<u8> {
    encode(module, &[], include_str!("../../wit/policy.wit"))
}

fn encode(mut module: Vec<u8>, packages: &[&str], wit: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    for package in packages {
        resolve
            .push_str("package.wit", package)
            .expect("the WIT is right");
    }
    let package = resolve
        .push_str("policy.wit", wit)
        .expect("the WIT is right");
    let world = resolve
        .select_world(&[package], Some("policy"))
        .expect("the world is there");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the types are put in");
    let mut encoder = ComponentEncoder::default();
    encoder.module(&module).expect("the module fits the types");
    encoder.encode().expect("a component")
}

/// A refusal in a module's memory.
#[derive(Clone)]
pub struct Refusal<'a> {
    /// Whether it is for good.
    pub permanent: bool,
    /// The connector.
    pub connector: &'a str,
    /// The reply code.
    pub code: u16,
    /// The enhanced code.
    pub enhanced: &'a str,
    /// The text.
    pub text: &'a [u8],
}

impl Default for Refusal<'_> {
    fn default() -> Self {
        Refusal {
            permanent: true,
            connector: "c",
            code: 550,
            enhanced: "5.7.1",
            text: b"text",
        }
    }
}

impl Refusal<'_> {
    /// A module that always gives this refusal.
    pub fn module(&self) -> Module {
        // Record by record as the canonical ABI lays `verdict` out: the discriminant, then `refusal`.
        let mut strings = Strings::default();
        let mut verdict = vec![if self.permanent { 1 } else { 2 }, 0, 0, 0, 1, 0, 0, 0];
        verdict.extend(strings.place(self.connector.as_bytes()));
        verdict.extend(strings.place(b"tls"));
        verdict.extend(self.code.to_le_bytes());
        verdict.extend([0, 0]);
        verdict.extend(strings.place(self.enhanced.as_bytes()));
        verdict.extend(strings.place(self.text));
        verdict.extend([0; 8]);
        Module {
            // Long texts reach further than the room for answers.
            realloc: "(i32.const 3145728)".into(),
            ..Module::new(&format!("(i32.const {DATA})"))
        }
        .with(&data(DATA, &verdict))
        .with(&data(strings.start(), &strings.bytes))
    }
}

/// Strings that stand in a module's memory behind [`DATA`] and 4 KiB.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
}

impl Strings {
    fn start(&self) -> u32 {
        DATA + 4096
    }

    /// Keeps a string; gives its pointer and length.
    fn place(&mut self, text: &[u8]) -> [u8; 8] {
        let at = self.start() + self.bytes.len() as u32;
        self.bytes.extend_from_slice(text);
        let mut place = [0; 8];
        place[..4].copy_from_slice(&at.to_le_bytes());
        place[4..].copy_from_slice(&(text.len() as u32).to_le_bytes());
        place
    }
}

/// A data segment.
pub fn data(at: u32, bytes: &[u8]) -> String {
    let escaped: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
    format!("(data (i32.const {at}) \"{escaped}\")\n")
}

/// 32-bit words as bytes.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
