//! The memory of the built-in evaluator between two questions.

use std::sync::LazyLock;

use portcullis_types::{Context, Verdict};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, OptLevel, Store};

use self::bindings::exports::portcullis::policy::evaluation;

/// The Rust side of `wit/policy.wit`.
#[allow(missing_docs)]
mod bindings {
    wasmtime::component::bindgen!({ path: "../../wit", world: "policy" });
}

portcullis_types::conversions!(crate::instances::bindings::exports::portcullis::policy::evaluation);

/// A component tells nobody what is in its memory. This one does, as the next question finds it: it begins when the host
/// asks for memory for its arguments. Place and length of the answer are put where the stack never gets.
const LEFT: &str = r#"
    (func (export "left") (result i32)
        (drop (call REALLOC (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0)))
        (i32.store (i32.const 0) (i32.const STACK))
        (i32.store (i32.const 4) (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const STACK)))
        (i32.const 0))
"#;
const EXPORT: &str = r#"
    (alias core export 0 "memory" (core memory $left-memory))
    (alias core export 0 "left" (core func $left))
    (func $lifted-left (result (list u8)) (canon lift (core func $left) (memory $left-memory)))
    (export "left" (func $lifted-left))
"#;

/// A finished policy whose memory can be read.
pub struct Evaluator {
    engine: Engine,
    component: Component,
}

impl Evaluator {
    /// The policy of a rules document.
    pub fn new(rules: &str) -> Evaluator {
        let library = portcullis::Engine::new(portcullis::Limits::default()).expect("an engine");
        let rules = crate::runtime().block_on(library.read(rules.into()));
        let policy = library.build("policy", &rules.expect("good rules"));
        let text = wasmprinter::print_bytes(policy.expect("it is built")).expect("a component");
        let mut config = Config::new();
        // It answers few questions.
        config.cranelift_opt_level(OptLevel::None);
        let engine = Engine::new(&config).expect("an engine");
        let opened = wat::parse_str(open(&text)).expect("a component");
        let component = Component::new(&engine, opened).expect("a component");
        Evaluator { engine, component }
    }

    /// The verdicts on contexts, asked of one instance, and its memory when it is asked for the next.
    pub fn ask(&self, contexts: &[&Context]) -> (Vec<Verdict>, Vec<u8>) {
        let mut store = Store::new(&self.engine, ());
        let linker = Linker::new(&self.engine);
        let instance = linker.instantiate(&mut store, &self.component);
        let instance = instance.expect("it needs nothing");
        let policy = bindings::Policy::new(&mut store, &instance).expect("a policy");
        let evaluation = policy.portcullis_policy_evaluation();
        let ask = |context: &&Context| {
            let context = evaluation::Context::from((*context).clone());
            let verdict = evaluation.call_evaluate(&mut store, &context);
            Verdict::from(verdict.expect("a verdict"))
        };
        let verdicts = contexts.iter().map(ask).collect();
        let left = instance.get_typed_func::<(), (Vec<u8>,)>(&mut store, "left");
        let left = left.expect("it is there").call(&mut store, ());
        let (memory,) = left.expect("its memory");
        (verdicts, memory)
    }

    /// What was asked before changes neither the answer nor what is left in the memory.
    ///
    /// # Panics
    /// If it does.
    pub fn forgets(&self, before: &Context, context: &Context) {
        let (alone, memory) = self.ask(&[context]);
        let (both, mut memory_of_both) = self.ask(&[before, context]);
        assert_eq!(alone[0], both[1]);
        // It may have grown.
        let more = memory_of_both.split_off(memory.len());
        assert!(
            more.iter().all(|byte| *byte == 0),
            "what has grown is not wiped"
        );
        let pairs = memory.iter().zip(&memory_of_both).enumerate();
        let differ: Vec<usize> = { pairs }
            .filter(|(_, (one, both))| one != both)
            .map(|(at, _)| at)
            .collect();
        let (Some(first), Some(last)) = (differ.first(), differ.last()) else {
            return;
        };
        assert!(
            last - first < ANSWER,
            "it differs from byte {first} to {last}"
        );
        let left = &memory_of_both[*first..=*last];
        let is_text = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_graphic);
        assert!(!left.windows(4).any(is_text), "{left:x?}");
    }
}

/// Bytes in which an answer is handed over: places, lengths and other numbers, but no text. An answer that has fewer of
/// them leaves those of an earlier one.
const ANSWER: usize = 38 * 4;

/// The component with its memory to be read: its only module has a function more, behind all others, and it exports that.
fn open(text: &str) -> String {
    let data = text.find("\n    (data ").expect("a module with data");
    let end = text.rfind(')').expect("the end");
    let realloc = text.split_once(r#"(export "cabi_realloc" (func "#);
    let realloc = realloc.expect("the canonical ABI's").1.split(')').next();
    let left = LEFT.replace("REALLOC", realloc.expect("a function"));
    let left = left.replace("STACK", stack(text));
    [&text[..data], &left, &text[data..end], EXPORT, &text[end..]].concat()
}

/// The first address that is not the stack's: the linker puts it first.
fn stack(text: &str) -> &str {
    let globals = text.split_once("(global ").expect("a stack pointer").1;
    let value = globals
        .split_once("(mut i32) i32.const ")
        .expect("its value")
        .1;
    value.split(')').next().expect("a number")
}

static EVALUATOR: LazyLock<Evaluator> = LazyLock::new(|| Evaluator::new(crate::contexts::RULES));

/// An instance answers any two questions as two instances would, and neither leaves anything.
pub fn instances(input: &[u8]) {
    let Some((first, second)) = crate::read(input) else {
        return;
    };
    let [first, second] = [first, second].map(|facts| crate::contexts::context(facts).into());
    EVALUATOR.forgets(&first, &second);
    EVALUATOR.forgets(&second, &first);
}
