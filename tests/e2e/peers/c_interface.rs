//! `interface.h` of policies in C, held against the interface: a file of assertions about layouts and constants, which
//! compiles only if they hold.

use std::fs;
use std::path::Path;
use std::process::Command;

use wit_parser::{Resolve, SizeAlign, Type, TypeDefKind, TypeId, WorldItem};

#[test]
fn the_header_of_policies_in_c_is_what_the_interface_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("layout.c");
    fs::write(&file, assertions(&root.join("wit/policy.wit"))).expect("a file");
    let compiled = Command::new("clang")
        .args([
            "--target=wasm32",
            "-std=c17",
            "-Wall",
            "-Werror",
            "-fsyntax-only",
            "-I",
        ])
        .arg(root.join("host/templates/c"))
        .arg(&file)
        .output()
        .expect("clang can be run");
    let told = String::from_utf8_lossy(&compiled.stderr);
    assert!(
        compiled.status.success(),
        "{}",
        told.chars().take(2000).collect::<String>()
    );
}

struct Layout {
    resolve: Resolve,
    sizes: SizeAlign,
    lines: Vec<String>,
}

fn assertions(wit: &Path) -> String {
    let mut resolve = Resolve::default();
    let text = fs::read_to_string(wit).expect("the interface");
    let package = resolve.push_str("policy.wit", &text).expect("WIT");
    let world = resolve
        .select_world(&[package], Some("policy"))
        .expect("the world");
    let mut sizes = SizeAlign::default();
    sizes.fill(&resolve);
    let lines = vec!["#include \"interface.h\"".into()];
    let mut layout = Layout {
        resolve,
        sizes,
        lines,
    };
    for item in layout.resolve.worlds[world].exports.clone().values() {
        let WorldItem::Interface { id, .. } = item else {
            panic!("an export that is no interface")
        };
        let interface = layout.resolve.interfaces[*id].clone();
        for (name, id) in &interface.types {
            layout.named(name, *id);
        }
    }
    assert!(
        layout.lines.len() > 500,
        "{} assertions",
        layout.lines.len()
    );
    layout.lines.join("\n") + "\n"
}

fn snake(name: &str) -> String {
    name.replace('-', "_")
}

/// As an enum's members are called.
fn constant(of: &str, name: &str) -> String {
    format!("{of}_{name}").replace('-', "_").to_uppercase()
}

impl Layout {
    fn holds(&mut self, what: String) {
        self.lines.push(format!("_Static_assert({what}, \"\");"));
    }

    /// The name of a type in C, if it has one.
    fn c_type(&self, ty: &Type) -> Option<String> {
        Some(match ty {
            Type::Bool => "bool".into(),
            Type::U16 => "uint16_t".into(),
            Type::U32 => "uint32_t".into(),
            Type::U64 => "uint64_t".into(),
            Type::S64 => "int64_t".into(),
            Type::String => "struct string".into(),
            Type::Id(id) => {
                let name = snake(self.resolve.types[*id].name.as_ref()?);
                match self.resolve.types[*id].kind {
                    TypeDefKind::Enum(_) => format!("enum {name}"),
                    _ => format!("struct {name}"),
                }
            }
            _ => return None,
        })
    }

    /// An expression of a type.
    fn expression(&mut self, expression: &str, ty: &Type) {
        let (size, align) = (
            self.sizes.size(ty).size_wasm32(),
            self.sizes.align(ty).align_wasm32(),
        );
        self.holds(format!(
            "sizeof({expression}) == {size} && _Alignof(__typeof__({expression})) == {align}"
        ));
        if let Some(name) = self.c_type(ty) {
            self.holds(format!(
                "__builtin_types_compatible_p(__typeof__({expression}), {name})"
            ));
            return;
        }
        let Type::Id(id) = ty else {
            panic!("{expression}: a type without a rule")
        };
        match self.resolve.types[*id].kind.clone() {
            TypeDefKind::List(item) => {
                self.at(&format!("__typeof__({expression})"), "items", 0);
                self.at(&format!("__typeof__({expression})"), "count", 4);
                self.expression(&format!("{expression}.items[0]"), &item)
            }
            TypeDefKind::Option(item) => {
                let offset = self.sizes.align(&item).align_wasm32();
                self.at(&format!("__typeof__({expression})"), "present", 0);
                self.at(&format!("__typeof__({expression})"), "value", offset);
                self.expression(&format!("{expression}.present"), &Type::Bool);
                self.expression(&format!("{expression}.value"), &item)
            }
            // An array, whose items are all of one type.
            TypeDefKind::Tuple(tuple) => {
                let count = tuple.types.len();
                self.holds(format!("COUNT({expression}) == {count}"));
                self.expression(&format!("{expression}[0]"), &tuple.types[0])
            }
            other => panic!("{expression}: {} has no rule", other.as_str()),
        }
    }

    fn at(&mut self, of: &str, field: &str, offset: usize) {
        self.holds(format!("offsetof({of}, {field}) == {offset}"));
    }

    fn named(&mut self, name: &str, id: TypeId) {
        let ty = Type::Id(id);
        let c_type = self.c_type(&ty).expect("a name");
        let (size, align) = (
            self.sizes.size(&ty).size_wasm32(),
            self.sizes.align(&ty).align_wasm32(),
        );
        self.holds(format!(
            "sizeof({c_type}) == {size} && _Alignof({c_type}) == {align}"
        ));
        let value = |field: &str| format!("(({c_type} *)0)->{}", snake(field));
        match self.resolve.types[id].kind.clone() {
            TypeDefKind::Record(record) => {
                let offsets = self
                    .sizes
                    .field_offsets(record.fields.iter().map(|it| &it.ty));
                let offsets: Vec<_> = offsets
                    .iter()
                    .map(|(offset, _)| offset.size_wasm32())
                    .collect();
                for (field, offset) in record.fields.iter().zip(offsets) {
                    self.at(&c_type, &snake(&field.name), offset);
                    self.expression(&value(&field.name), &field.ty);
                }
            }
            TypeDefKind::Variant(variant) => {
                let cases = variant.cases.iter().map(|it| it.ty.as_ref());
                let offset = self
                    .sizes
                    .payload_offset(variant.tag(), cases)
                    .size_wasm32();
                self.holds(format!("sizeof({}) == 1", value("tag")));
                self.at(&c_type, "tag", 0);
                for (number, case) in variant.cases.iter().enumerate() {
                    self.holds(format!("{} == {number}", constant(name, &case.name)));
                    if let Some(ty) = &case.ty {
                        self.at(&c_type, &snake(&case.name), offset);
                        self.expression(&value(&case.name), ty);
                    }
                }
            }
            TypeDefKind::Enum(cases) => {
                for (number, case) in cases.cases.iter().enumerate() {
                    self.holds(format!("{} == {number}", constant(name, &case.name)));
                }
            }
            // `type sha256 = tuple<…>`: a struct, whose words are the tuple.
            TypeDefKind::Tuple(tuple) => {
                self.holds(format!(
                    "COUNT({}) == {}",
                    value("words"),
                    tuple.types.len()
                ));
                self.expression(&format!("{}[0]", value("words")), &tuple.types[0]);
            }
            other => panic!("{name}: {} has no rule", other.as_str()),
        }
    }
}
