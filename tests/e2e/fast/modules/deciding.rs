//! Modules that fail while they decide.

use portcullis_tests::modules::{DATA, Module, Refusal, data, words};

use super::{
    CONTEXT, accepting, answering, assert_fails, assert_unavailable, evaluate,
    reply_beside_a_good_neighbour, start,
};

#[test]
fn a_module_that_behaves_is_a_policy() {
    let daemon = start(&accepting().component());
    let mut client = daemon.client();
    assert_eq!(
        client.envelope("alice@example.org", "bob@bad.test").code,
        250
    );
    let (code, stdout, stderr) = evaluate(daemon.folder(), &[CONTEXT]);
    assert_eq!(
        stdout,
        "{\"verdict\":\"accept\",\"connectors\":[],\"audit\":[]}\n"
    );
    assert_eq!((code, &*stderr), (Some(0), ""));
}

#[test]
fn a_trap() {
    assert_fails(
        &Module::new("unreachable"),
        "trap",
        "the policy trapped: wasm trap: wasm `unreachable` instruction executed",
    );
    let divides = Module::new("(i32.div_u (i32.const 1) (i32.const 0))");
    assert_fails(
        &divides,
        "trap",
        "the policy trapped: wasm trap: integer divide by zero",
    );
    let reads = Module::new("(i32.load (i32.const -4))");
    assert_fails(
        &reads,
        "trap",
        "the policy trapped: wasm trap: out of bounds memory access",
    );
}

#[test]
fn an_endless_loop() {
    let module = Module::new("(loop $for-ever (br $for-ever)) unreachable");
    assert_fails(&module, "timeout", "the policy did not answer within 50 ms");
}

#[test]
fn an_endless_loop_in_place_of_room_for_the_question() {
    let module = Module {
        realloc: "(loop $for-ever (br $for-ever)) unreachable".into(),
        ..accepting()
    };
    assert_fails(&module, "timeout", "the policy did not answer within 50 ms");
}

#[test]
fn an_endless_loop_after_the_answer() {
    let module = accepting().with(
        r#"(func (export "cabi_post_portcullis:policy/evaluation@0.1.0#evaluate") (param i32)
            (loop $for-ever (br $for-ever)))"#,
    );
    assert_fails(&module, "timeout", "the policy did not answer within 50 ms");
}

const OUT_OF_MEMORY: &str =
    "the policy asked for more than the 65536 KiB of memory that it may have";

#[test]
fn eating_memory() {
    let module = Module::new(
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) unreachable",
    );
    assert_fails(&module, "out-of-memory", OUT_OF_MEMORY);
}

#[test]
fn eating_tables() {
    let module = Module::new(
        "(loop $more (br_if $more
            (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable",
    );
    assert_fails(
        &module.with("(table $t 1 funcref)"),
        "out-of-memory",
        OUT_OF_MEMORY,
    );
}

#[test]
fn endless_recursion() {
    let module = Module::new("(call $evaluate (local.get $context))");
    assert_fails(
        &module,
        "stack-overflow",
        "the policy used up its stack of 512 KiB",
    );
}

#[test]
fn an_answer_outside_of_memory() {
    assert_fails(
        &Module::new("(i32.const -8)"),
        "invalid",
        "pointer out of bounds of memory",
    );
    assert_fails(
        &Module::new("(i32.const 4194300)"),
        "invalid",
        "pointer out of bounds of memory",
    );
}

#[test]
fn an_answer_that_is_not_aligned() {
    assert_fails(&Module::new("(i32.const 2)"), "invalid", "align");
}

#[test]
fn a_verdict_that_there_is_not() {
    assert_fails(&answering(&[4]), "invalid", "discriminant");
    assert_fails(&answering(&[255; 64]), "invalid", "discriminant");
}

#[test]
fn room_for_the_question_outside_of_memory() {
    for at in ["-8", "4194304", "3"] {
        let module = Module {
            realloc: format!("(i32.const {at})"),
            ..accepting()
        };
        assert_fails(&module, "invalid", "realloc return");
    }
}

#[test]
fn a_list_longer_than_memory() {
    for length in [0x1fff_ffff, u32::MAX] {
        let module = answering(&words(&[0, 8, length, 0, 0]));
        assert_fails(
            &module,
            "invalid",
            "list pointer/length out of bounds of memory",
        );
    }
}

#[test]
fn a_list_of_one_long_text_many_times() {
    let list = [1 << 20, 1 << 20].repeat(1000);
    let module =
        answering(&words(&[0, DATA + 64, 1000, 0, 0])).with(&data(DATA + 64, &words(&list)));
    assert_fails(
        &module,
        "invalid",
        "too much data is being copied between the host and the guest",
    );
}

#[test]
fn a_text_that_is_not_utf_8() {
    let refusal = Refusal {
        text: b"\xff\xfe no",
        ..Refusal::default()
    };
    assert_fails(&refusal.module(), "invalid", "utf-8");
}

#[test]
fn an_outbound_verdict_on_inbound_mail() {
    let daemon = start(&answering(&[3]).component());
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    let line = daemon.wait_for_log("policy failed");
    assert!(line.contains(r#"failure="invalid""#), "{line}");
    assert!(
        line.contains("the policy answers inbound mail with an outbound verdict"),
        "{line}"
    );
}
