//! What `portcullis new` makes: built and tried as its README says, in each language, and then changed for the worse.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis_tests::daemon::{binary, run};
use portcullis_tests::programs::unpacked;
use portcullis_tests::{Client, Config, Listener, TestBed};
use serde_json::json;
use tempfile::TempDir;
use wasmparser::{Parser, Payload};

/// Between two transactions of a client.
const PAUSE: Duration = Duration::from_millis(20);

/// A folder that `portcullis new` has made, with the tools that its README installs.
struct Made {
    _parent: TempDir,
    folder: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Made {
    fn new(language: &str) -> Made {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("bouncer");
        let arguments = ["new", "policy", "--language", language];
        let output = run(
            &[&arguments[..], &[&folder.to_string_lossy()]].concat(),
            b"",
        );
        assert!(output.status.success(), "{output:?}");
        let mut variables = vec![("PORTCULLIS", binary().display().to_string())];
        // The tools were installed before: there may be no network.
        match language {
            "rust" => variables.push(("CARGO_NET_OFFLINE", "true".into())),
            "javascript" => {
                let package = unpacked("Haraka", "haraka/package/installed.json");
                let tools = package.parent().expect("a folder");
                let modules = tools.join("node_modules");
                std::os::unix::fs::symlink(modules, folder.join("node_modules")).expect("a link");
                let node = tools.join("../node/bin");
                let path = env::var("PATH").expect("a PATH");
                variables.push(("PATH", format!("{}:{path}", node.display())));
            }
            "c" => {}
            _ => {
                let tool = unpacked("componentize-py", "componentize-py/bin/componentize-py");
                variables.push(("COMPONENTIZE", tool.display().to_string()));
            }
        }
        Made {
            _parent: parent,
            folder,
            variables,
        }
    }

    fn make(&self, arguments: &[&str]) -> Output {
        let mut make = Command::new("make");
        make.args(arguments)
            .current_dir(&self.folder)
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("MAKEFLAGS")
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        make.output().expect("make can be run")
    }

    /// Builds it, and holds it against its tests.
    fn passes(&self) -> Vec<u8> {
        for arguments in [&[][..], &["test"]] {
            let output = self.make(arguments);
            assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        }
        fs::read(self.component()).expect("the component")
    }

    fn component(&self) -> PathBuf {
        self.folder.join("bouncer.wasm")
    }

    /// What the author is told of a policy with another beginning of its function.
    fn worse(&self, file: &str, beginning: &str, instead: &str) -> String {
        let path = self.folder.join(file);
        let program = fs::read_to_string(&path).expect("the program");
        assert!(program.contains(beginning), "{program}");
        fs::write(&path, program.replacen(beginning, instead, 1)).expect("a file");
        // Where `build` runs the tests there is no component; the others make one that fails.
        let _ = fs::remove_file(self.component());
        let output = self.make(&["test"]);
        fs::write(&path, program).expect("a file");
        assert!(!output.status.success(), "{instead}");
        told(&output)
    }
}

fn told(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// The component decides about mail, and is replaced by another one, again and again, while it does.
fn decides_in_a_server(component: &[u8], other: &[u8], swaps: usize) {
    let config = Config::new()
        .listener(Listener::maildir())
        // Components are compiled meanwhile, on two processors.
        .with("[sandbox]\nevaluation = \"10s\"")
        .tenant_with("contoso", &["contoso.com"], "bouncer.wasm")
        .file("bouncer.wasm", component);
    let bed = TestBed::start(config);
    bed.wait_for_log("policy loaded tenant=contoso");
    let code = |from: &str| Client::recipient(bed.address(), from, "bob@contoso.com");
    let ended = AtomicBool::new(false);
    std::thread::scope(|threads| {
        // Even if this thread panics: the others are waited for.
        let _end = Ending(&ended);
        for _ in 0..2 {
            threads.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    assert_eq!(code("alice@example.org"), 250);
                    let blocked = code("eve@blocked.example");
                    assert!([250, 550].contains(&blocked), "{blocked}");
                    // What compiles components has to have its turn, on two processors.
                    std::thread::sleep(PAUSE);
                }
            });
        }
        let mut policies = [(component, 550), (other, 250)].into_iter().cycle();
        for swap in 0..=swaps {
            let Some((policy, expected)) = policies.next() else {
                unreachable!("they come again and again");
            };
            if swap > 0 {
                bed.replace("bouncer.wasm", policy);
            }
            bed.wait_for_log_times("policy loaded tenant=contoso", swap + 1);
            assert_eq!(code("eve@blocked.example"), expected, "after {swap}");
        }
    });
}

/// Tells when it is dropped.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One that blocks nobody, and does not pass the tests beside it.
fn harmless(made: &Made, file: &str) -> Vec<u8> {
    let path = made.folder.join(file);
    let tests = made.folder.join("bouncer.tests.json");
    let (program, cases) = (
        fs::read(&path).expect("a program"),
        fs::read(&tests).expect("tests"),
    );
    let changed = String::from_utf8_lossy(&program).replace("blocked.example", "other.example");
    fs::write(&path, changed).expect("a file");
    fs::remove_file(&tests).expect("removed");
    let output = made.make(&[]);
    assert!(output.status.success(), "{}", told(&output));
    fs::write(&path, program).expect("a file");
    fs::write(&tests, cases).expect("a file");
    fs::read(made.component()).expect("the component")
}

fn imports_nothing(component: &Path) {
    let octets = fs::read(component).expect("the component");
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(&octets) {
        match payload.expect("a component") {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(imports) if depth == 0 => {
                assert_eq!(imports.count(), 0, "{}", component.display());
            }
            _ => {}
        }
    }
}

#[test]
fn a_policy_in_rust() {
    let made = Made::new("rust");
    let component = made.passes();
    imports_nothing(&made.component());
    decides_in_a_server(&component, &harmless(&made, "src/lib.rs"), 20);
    let beginning = "    if BLOCKED";
    for (instead, expected) in [
        (
            "    panic!(\"no\");\n    if BLOCKED",
            "instruction executed in ",
        ),
        (
            "    loop { std::hint::black_box(()); }\n    if BLOCKED",
            "the policy did not answer within 50 ms",
        ),
        (
            "    let mut all = Vec::new();\n    while context.mail_from.len() < 1000 { all.push(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20))); }\n    if BLOCKED",
            "the policy asked for more than the 65536 KiB of memory",
        ),
        (
            "    return Verdict::reject(\"blocked\", &\"x\".repeat(50 << 20));\n    if BLOCKED",
            "the policy",
        ),
    ] {
        let told = made.worse("src/lib.rs", beginning, instead);
        assert!(told.contains(expected), "{instead}: {told}");
    }
}

#[test]
fn a_policy_in_javascript() {
    let made = Made::new("javascript");
    let component = made.passes();
    imports_nothing(&made.component());
    decides_in_a_server(&component, &harmless(&made, "policy.js"), 3);
    let beginning = "  const domain";
    for (instead, expected) in [
        (
            "  throw new Error('no such word')\n  const domain",
            "verdict is \"defer\" (failed: \"exception: Error: no such word\"), not \"reject\"",
        ),
        (
            "  while (true) {}\n  const domain",
            "the policy did not answer within 50 ms",
        ),
        (
            "  const again = (n) => again(n + 1) + 1\n  again(0)\n  const domain",
            "tests failed",
        ),
        (
            "  const all = []\n  while (true) all.push(new Uint8Array(1 << 20))\n  const domain",
            "tests failed",
        ),
        (
            "  return refuse('reject', 'blocked', [550, '5.7.1'], 'x'.repeat(50 << 20))\n  const domain",
            "tests failed",
        ),
    ] {
        let told = made.worse("policy.js", beginning, instead);
        assert!(told.contains(expected), "{instead}: {told}");
    }
}

#[test]
fn a_policy_in_python() {
    let made = Made::new("python");
    let component = made.passes();
    decides_in_a_server(&component, &harmless(&made, "policy.py"), 1);
    // It takes long to build, so one is hostile in each way.
    let beginning = "        domain =";
    let instead = r#"        way = context.mail_from
        if way == "exception":
            raise KeyError("no such word")
        if way == "recursion":
            again = lambda number: again(number + 1) + 1
            again(0)
        while way == "loop":
            pass
        held = []
        while way == "memory":
            held.append(bytearray(1 << 20))
        if way == "text":
            return reject("blocked", "x" * (50 << 20))
        domain ="#;
    let expected = [
        (
            "exception",
            "(failed: \"exception: KeyError('no such word')\")",
        ),
        ("recursion", "(failed: \"exception: RecursionError("),
        ("loop", "the policy did not answer within 50 ms"),
        ("memory", "the test \"memory\" fails"),
        ("text", "the test \"text\" fails"),
    ];
    let cases = expected.map(|(way, _)| {
        json!({
            "name": way,
            "context": {"direction": "inbound", "mail-from": way, "rcpt-to": "bob@contoso.com"},
            "expect": {"verdict": "accept"}
        })
    });
    let tests = made.folder.join("bouncer.tests.json");
    fs::write(tests, json!(cases).to_string()).expect("a file");
    let told = made.worse("policy.py", beginning, instead);
    for (way, expected) in expected {
        assert!(told.contains(expected), "{way}: {told}");
    }
}

#[test]
fn a_policy_in_c() {
    let made = Made::new("c");
    let component = made.passes();
    imports_nothing(&made.component());
    decides_in_a_server(&component, &harmless(&made, "policy.c"), 20);
    let beginning = "    if (is_blocked";
    for (instead, expected) in [
        (
            "    return defer(joined(string(\"no such word: \"), decimal(1)));\n    if (is_blocked",
            "verdict is \"defer\" (failed: \"no such word: 1\"), not \"reject\"",
        ),
        (
            "    abort();\n    if (is_blocked",
            "instruction executed in abort, called by evaluate",
        ),
        (
            "    for (volatile int i = 0;; i++) {}\n    if (is_blocked",
            "the policy did not answer within 50 ms",
        ),
        (
            "    volatile char all[2 << 20];\n    all[context->mail_from.length] = 1;\n    if (is_blocked",
            "out of bounds memory access in evaluate",
        ),
        (
            "    while (context) *(volatile char *)allocate(1 << 20) = 1;\n    if (is_blocked",
            "the policy asked for more than the 65536 KiB of memory",
        ),
        (
            "    return reject(string(\"blocked\"), (struct string){allocate(50 << 20), 50 << 20});\n    if (is_blocked",
            "too much data is being copied between the host and the guest",
        ),
        (
            "    struct verdict verdict;\n    verdict.tag = VERDICT_ACCEPT;\n    return verdict;\n    if (is_blocked",
            "out of bounds of memory",
        ),
    ] {
        let told = made.worse("policy.c", beginning, instead);
        assert!(told.contains(expected), "{instead}: {told}");
    }
}

#[test]
fn names_and_folders_that_cannot_be() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("there")).expect("a folder");
    for (name, reason) in [
        ("there", "is there already"),
        (
            "My Policy",
            "a name has a-z, 0-9 and -, and begins with a letter",
        ),
        ("1st", "begins with a letter"),
        ("x-", "begins with a letter"),
    ] {
        let path = folder.path().join(name);
        let arguments = [
            "new",
            "policy",
            "--language",
            "python",
            &path.to_string_lossy(),
        ];
        let output = run(&arguments, b"");
        assert_eq!(output.status.code(), Some(2), "{name}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(reason), "{name}: {told}");
    }
}
