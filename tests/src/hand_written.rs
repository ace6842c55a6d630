//! Policies written by hand in WebAssembly text, for what no decent compiler makes.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;
/// Where a function that has nothing to say points: zeros are an acceptance without connectors, and
/// a description of nothing.
pub const NOTHING: &str = "i32.const 1024";
/// The parts of a policy's core module.
pub struct Policy<'a> {
    /// Fields of the module, such as functions, data and a start.
    pub fields: &'a str,
    /// The limits of its memory, in pages of 64 KiB.
    pub memory: &'a str,
    /// The body of `evaluate`: it leaves the address of a verdict.
    pub evaluate: &'a str,
    /// The body of `describe`: it leaves the address of a description.
    pub describe: &'a str,
}
impl Default for Policy<'_> {
    fn default() -> Self {
        Policy {
            fields: "",
            memory: "4",
            evaluate: NOTHING,
            describe: NOTHING,
        }
    }
}
impl Policy<'_> {
    /// The component.
    pub fn component(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");
        let (package, _) = resolve.push_path(wit).expect("the interface");
        let world = resolve
            .select_world(&[package], Some("policy"))
            .expect("the world");
        let mut module = wat::parse_str(self.text()).expect("the text is WebAssembly");
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("the world can be described");
        ComponentEncoder::default()
            .module(&module)
            .and_then(|encoder| encoder.encode())
            .expect("fits")
    }

    fn text(&self) -> String {
        let Policy {
            fields,
            memory,
            evaluate,
            describe,
        } = self;
        let name = "portcullis:policy/evaluation@0.1.0";
        format!(
            r#"(module
                (memory (export "memory") {memory})
                (global $top (mut i32) (i32.const 65536))
                {fields}
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    global.get $top
                    (global.set $top (i32.add (global.get $top)
                        (i32.and (i32.add (local.get 3) (i32.const 15)) (i32.const -16)))))
                (func (export "{name}#evaluate") (param i32) (result i32) {evaluate})
                (func (export "{name}#explain") (param i32) (result i32) {NOTHING})
                (func (export "{name}#describe") (param i32 i32) (result i32) {describe}))"#
        )
    }
}
/// A body of `evaluate` that refuses with these words, each a place in memory and a length.
pub fn refusal(code: u16, enhanced: (u32, usize), text: (u32, usize)) -> String {
    // The layout of the variant, by the canonical ABI.
    format!(
        "(i32.store8 (i32.const 2048) (i32.const 1))
         (i32.store (i32.const 2064) (i32.const {failed})) (i32.store (i32.const 2068) (i32.const {failed_len}))
         (i32.store16 (i32.const 2072) (i32.const {code}))
         (i32.store (i32.const 2076) (i32.const {})) (i32.store (i32.const 2080) (i32.const {}))
         (i32.store (i32.const 2084) (i32.const {})) (i32.store (i32.const 2088) (i32.const {}))
         i32.const 2048",
        enhanced.0, enhanced.1, text.0, text.1, failed = enhanced.0, failed_len = enhanced.1,
    )
}
