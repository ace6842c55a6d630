//! Modules that fail before they are asked anything, or take too much from the beginning.

use portcullis_tests::TestBed;
use portcullis_tests::modules::{Module, crowded};

use super::{
    accepting, assert_not_taken, assert_unavailable, config, reply_beside_a_good_neighbour,
};

#[test]
fn describing_itself_fails() {
    let describing = |describe: &str| {
        let module = Module {
            describe: describe.into(),
            ..accepting()
        };
        module.component()
    };
    assert_not_taken(&describing("unreachable"), "the policy trapped");
    let for_ever = describing("(loop $for-ever (br $for-ever)) unreachable");
    assert_not_taken(&for_ever, "the policy did not answer within 50 ms");
    assert_not_taken(
        &describing("(i32.const -8)"),
        "pointer out of bounds of memory",
    );
}

#[test]
fn starting_fails() {
    let starting = |body: &str| {
        accepting()
            .with(&format!("(func $start {body}) (start $start)"))
            .component()
    };
    assert_not_taken(&starting("unreachable"), "the policy trapped");
    let for_ever = starting("(loop $for-ever (br $for-ever))");
    assert_not_taken(&for_ever, "the policy did not answer within 50 ms");
    assert_not_taken(
        &starting("(call $start)"),
        "the policy used up its stack of 512 KiB",
    );
}

#[test]
fn more_memory_from_the_beginning_than_there_may_be() {
    let module = Module {
        memory: r#"(memory (export "memory") 1025)"#.into(),
        ..accepting()
    };
    assert_not_taken(&module.component(), "memory");
    assert_not_taken(
        &accepting().with("(table 100001 funcref)").component(),
        "table",
    );
}

#[test]
fn more_than_its_share_of_what_instances_need() {
    let module = accepting().component();
    for (fields, instances, what) in [
        ("(memory 0)", 10, "memories"),
        ("(table 0 funcref)", 10, "tables"),
        ("", 90, "core module instances"),
    ] {
        assert_not_taken(&crowded(&module, fields, instances), what);
    }
}

#[test]
fn a_module_that_takes_too_much_memory_to_look_at() {
    // To validate it takes gigabytes: each of very many instances has very many exports.
    let exports: String = (0..2000)
        .map(|number| format!(r#"(export "x{number}" (func $f))"#))
        .collect();
    let nested = format!(
        "(component (alias outer 1 $c (component $d)) {})",
        "(instance (instantiate $d))".repeat(900)
    );
    let text = format!(
        r#"(component
            (component $c
                (core module $m (func (export "f"))) (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f"))) {exports})
            {}
            (instance $i) (export "portcullis:policy/evaluation@0.1.0" (instance $i)))"#,
        nested.repeat(30)
    );
    let bomb = wat::parse_str(text).expect("a component");
    assert!(bomb.len() < 200_000, "{} bytes", bomb.len());
    let daemon = TestBed::start(config(&bomb).with("[sandbox]\ncompile-memory = \"300MiB\""));
    let line = daemon.wait_for_log("new policy rejected");
    assert!(line.contains("compile-memory"), "{line}");
    let resident = daemon.resident();
    assert!(resident < 200 * 1024, "{resident} KiB");
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
}
