//! Components that were built for released interfaces, by the tools of other languages, are loaded and asked.
//!
//! The components are in `tests/compat/`, with their sources and the cases that hold for all of them.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests end where something is not as expected"
)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use portcullis::{Compiler, Context, Engine, Limits, LoadError, Policy, Priority, Rejection};
use portcullis_types::Attribute;
use ruzstd::decoding::StreamingDecoder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A context, and what each policy says of it.
#[derive(Deserialize)]
struct Case {
    name: String,
    context: Value,
    #[serde(default)]
    attributes: Vec<(String, String)>,
    #[serde(default)]
    verdict: Value,
    #[serde(default)]
    considered: Value,
    #[serde(default)]
    others: u32,
}

impl Case {
    fn context(&self) -> Context {
        let mut context = portcullis_types::parse_context(&self.context.to_string())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let attributes = self.attributes.iter().cloned();
        context
            .attributes
            .extend(attributes.map(|(name, value)| Attribute { name, value }));
        context.into()
    }

    /// JSON with a line for each field.
    fn to_lines(&self) -> String {
        let mut lines = vec![
            format!("\"name\": {}", json(&self.name)),
            format!("\"context\": {}", self.context),
        ];
        if !self.attributes.is_empty() {
            lines.push(format!("\"attributes\": {}", json(&self.attributes)));
        }
        lines.extend([
            format!("\"verdict\": {}", self.verdict),
            format!("\"considered\": {}", self.considered),
            format!("\"others\": {}", self.others),
        ]);
        format!("{{\n{}\n}}", lines.join(",\n"))
    }
}

fn file(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/compat/0.1.0");
    PathBuf::from(folder).join(name)
}

fn read(name: &str) -> Vec<u8> {
    fs::read(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn cases() -> Vec<Case> {
    serde_json::from_slice(&read("cases.json")).expect("the cases")
}

fn component(name: &str) -> Vec<u8> {
    let compressed = read(&format!("{name}.wasm.zst"));
    let mut decoder = StreamingDecoder::new(&compressed[..]).expect("a frame");
    let mut component = Vec::new();
    std::io::copy(&mut decoder, &mut component).expect("the component");
    component
}

/// An engine that compiles components, and gives them time however busy the machine is.
fn compiling() -> Engine {
    let mut limits = Limits::default();
    limits.evaluation = Duration::from_secs(30);
    let engine = Engine::builder()
        .limits(limits)
        .compiler(Compiler::InProcess)
        .priority(Priority::Normal);
    engine.build().expect("an engine")
}

/// An engine that compiles nothing, and so instantiates nothing, of what it is given.
fn inspecting() -> Engine {
    Engine::new(Limits::default()).expect("an engine")
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("JSON")
}

/// Loads a component once, and compares what it says with the cases.
async fn assert_decides_as_ever(name: &str) {
    let policy = compiling().load_component(name, component(name)).await;
    let policy = policy.unwrap_or_else(|error| panic!("{error}"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        update(&policy).await;
    }
    assert_eq!(policy.name(), name);
    assert!(!policy.is_built_in());
    assert_eq!(
        description(&policy).await,
        serde_json::from_slice::<Value>(&read("description.json")).expect("JSON"),
        "{name}"
    );
    let mut session = policy.session();
    for case in cases() {
        let of_case = format!("{name}: {}", case.name);
        let context = case.context();
        let decision = session.try_decide(&context).await;
        let decision = decision.unwrap_or_else(|error| panic!("{of_case}: {error}"));
        assert_eq!(json(decision.verdict()), case.verdict, "{of_case}");
        let explanation = session.explain(&context).await;
        let explanation = explanation.unwrap_or_else(|error| panic!("{of_case}: {error}"));
        assert_eq!(json(&explanation.verdict), case.verdict, "{of_case}");
        assert_eq!(json(&explanation.considered), case.considered, "{of_case}");
        assert_eq!(explanation.others, case.others, "{of_case}");
    }
}

async fn description(policy: &Policy) -> Value {
    let mut description = policy.description().clone();
    description.connectors = policy.connectors().await.expect("its connectors");
    json(&description)
}

async fn update(policy: &Policy) {
    let mut updated = Vec::new();
    for mut case in cases() {
        let explanation = policy.session().explain(&case.context()).await;
        let explanation = explanation.expect("an explanation");
        case.verdict = json(&explanation.verdict);
        case.considered = json(&explanation.considered);
        case.others = explanation.others;
        updated.push(case.to_lines());
    }
    write("cases.json", &format!("[\n{}\n]", updated.join(",\n")));
    let description = description(policy).await;
    let text = serde_json::to_string_pretty(&description).expect("JSON");
    write("description.json", &text);
}

fn write(name: &str, text: &str) {
    fs::write(file(name), format!("{text}\n")).expect("a file");
}

#[tokio::test]
async fn a_component_of_rust_decides_as_ever() {
    assert_decides_as_ever("rust").await;
}

#[tokio::test]
async fn a_component_of_python_decides_as_ever() {
    assert_decides_as_ever("python").await;
}

#[tokio::test]
async fn a_component_of_javascript_decides_as_ever() {
    assert_decides_as_ever("javascript").await;
}

/// The component with another name of the same length in each place of this one.
fn renamed(component: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut renamed = component.to_vec();
    let mut at = 0;
    while let Some(found) = find(&renamed[at..], from.as_bytes()) {
        renamed[at + found..][..to.len()].copy_from_slice(to.as_bytes());
        at += found + to.len();
    }
    assert!(at > 0, "{from} is in the component");
    renamed
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|it| it == part)
}

/// What an engine that compiles nothing says of a component.
async fn rejection(bytes: Vec<u8>) -> (Rejection, String) {
    match inspecting().load_component("p.wasm", bytes).await {
        Err(error @ LoadError::Rejected { .. }) => {
            let text = error.to_string();
            let LoadError::Rejected { rejection, .. } = error else {
                unreachable!()
            };
            (rejection, text)
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is loaded"),
    }
}

#[tokio::test]
async fn a_whole_component_passes_inspection() {
    let loaded = inspecting()
        .load_component("p.wasm", component("rust"))
        .await;
    assert!(matches!(loaded, Err(LoadError::NoCompiler(_))));
}

#[tokio::test]
async fn a_later_version_is_refused_by_name() {
    let later = renamed(&component("rust"), "evaluation@0.1.0", "evaluation@0.2.0");
    let (rejection, text) = rejection(later).await;
    let found = "portcullis:policy/evaluation@0.2.0".to_owned();
    assert_eq!(rejection, Rejection::Version { found });
    assert_eq!(
        text,
        "policy p.wasm: this module exports portcullis:policy/evaluation@0.2.0, and this host speaks \
         portcullis:policy/evaluation@0.1.0"
    );
}

#[tokio::test]
async fn another_interface_is_no_policy() {
    let other = renamed(
        &component("rust"),
        "portcullis:policy/evaluation@0.1.0",
        "portcullis:policy/estimation@0.1.0",
    );
    let (rejection, text) = rejection(other).await;
    assert_eq!(rejection, Rejection::NoPolicy);
    assert_eq!(
        text,
        "policy p.wasm: this module does not export portcullis:policy/evaluation@0.1.0, so it is not a policy \
         (see wit/policy.wit)"
    );
}

#[tokio::test]
async fn a_core_module_is_told_from_a_component() {
    let module = wat::parse_str("(module (memory (export \"memory\") 1))").expect("a module");
    let (rejection, text) = rejection(module).await;
    assert_eq!(rejection, Rejection::CoreModule);
    assert!(
        text.starts_with("policy p.wasm: this is a core WebAssembly module, not a component;"),
        "{text}"
    );
}

#[tokio::test]
async fn a_file_that_is_cut_off_is_refused() {
    let component = component("rust");
    for length in [0, 4, component.len() / 2, component.len() - 1] {
        let (rejection, text) = rejection(component[..length].to_vec()).await;
        assert!(matches!(rejection, Rejection::Malformed(_)), "{length}");
        assert!(
            text.starts_with("policy p.wasm: this is not a WebAssembly component: "),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_damaged_inside_is_refused() {
    let mut damaged = component("rust");
    let middle = damaged.len() / 2;
    damaged[middle..middle + 16].fill(0xff);
    let loaded = compiling().load_component("p.wasm", damaged).await;
    // It is found by the inspection or the compiler, depending on where the damage is.
    match loaded {
        Err(LoadError::Rejected {
            rejection: Rejection::Malformed(_),
            ..
        }) => {}
        Err(error @ LoadError::Compile { .. }) => {
            let text = error.to_string();
            assert!(
                text.starts_with("policy p.wasm: it cannot be compiled: "),
                "{text}"
            );
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is loaded"),
    }
}
