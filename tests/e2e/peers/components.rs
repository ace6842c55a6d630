//! What docs/policies.md says of components elsewhere and of middleware, with the tools that it names.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use portcullis_tests::conformance::{Kind, conforms_wholly, file};
use portcullis_tests::daemon::binary;
use portcullis_tests::modules::Module;
use portcullis_tests::programs::unpacked;
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const DOCUMENT: &str = include_str!("../../../docs/policies.md");
const RULES: &str = r#"{"connectors": [{"name": "Contoso Bank", "direction": "inbound",
    "from": {"sender-domains": ["contosobank.com"]}, "require": {"tls": true}}]}"#;

fn wasmtime() -> PathBuf {
    unpacked("wasmtime", "wasmtime/bin/wasmtime")
}

/// A line of the document: a command.
fn command(beginning: &str) -> &'static str {
    let mut lines = DOCUMENT.lines().map(str::trim_start);
    let found = lines.find(|line| line.starts_with(beginning));
    found.unwrap_or_else(|| panic!("the document has no line {beginning}"))
}

/// A command of the document in a folder, with the programs that it names.
fn shell(folder: &Path, line: &str) -> Command {
    let programs = folder.join("programs");
    fs::create_dir_all(&programs).expect("a folder");
    for (name, program) in [("portcullis", binary()), ("wasmtime", &wasmtime())] {
        let _ = fs::remove_file(programs.join(name));
        std::os::unix::fs::symlink(program, programs.join(name)).expect("a link");
    }
    let path = std::env::var("PATH").expect("a PATH");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", line])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", programs.display()));
    shell
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("it can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}:\n{text}{error}");
    text
}

/// A folder with rules.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.json"), RULES).expect("a file");
    folder
}

#[test]
fn the_command_line_of_wasmtime_asks_a_built_policy() {
    let folder = folder();
    succeed(&mut shell(
        folder.path(),
        command("portcullis build rules.json -o "),
    ));
    let told = succeed(&mut shell(folder.path(), command("wasmtime run --invoke ")));
    assert!(
        told.starts_with("reject({connector: some(\"Contoso Bank\"), failed: \"tls\", code: 550"),
        "{told}"
    );
}

/// A program that ends with this, and what it still says.
struct Ended(Child, Option<BufReader<ChildStderr>>);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command of the folder serves, and its address.
fn serve(folder: &Path, line: &str) -> (Ended, String) {
    let mut serve = shell(folder, &format!("exec {line}"));
    let mut serving = serve.stderr(Stdio::piped()).spawn().expect("it runs");
    let stderr = serving.stderr.take().map(BufReader::new);
    let mut serving = Ended(serving, stderr);
    let mut told = String::new();
    let stderr = serving.1.as_mut().expect("a pipe");
    stderr.read_line(&mut told).expect("UTF-8");
    let address = told.trim_end().trim_end_matches('/').split_once("http://");
    let (_, address) = address.unwrap_or_else(|| panic!("{told}"));
    (serving, address.to_owned())
}

/// The status that comes of a request to a path, and the answer.
fn status(folder: &Path, address: &str, request: &str) -> (String, String) {
    let line = format!("curl --silent --write-out ' %{{http_code}}' http://{address}{request}");
    let told = succeed(&mut shell(folder, &line));
    let (answer, status) = told.rsplit_once(' ').expect("a status");
    (status.to_owned(), answer.to_owned())
}

#[test]
fn wasmtime_serves_what_build_makes_of_a_policy() {
    let folder = folder();
    let folder = folder.path();
    succeed(&mut shell(
        folder,
        command("portcullis build rules.json --http"),
    ));
    let line = command("wasmtime serve ").replace(":8080", ":0");
    let (_serving, address) = serve(folder, &line);
    let ask = command("curl http://127.0.0.1:8080/").replace("127.0.0.1:8080", &address);
    let answer = succeed(&mut shell(folder, &format!("{ask} --silent")));
    assert_eq!(answer, r#"{"audit":[],"connectors":[],"verdict":"accept"}"#);
    let mail = r#"{"direction":"inbound","mail-from":"","rcpt-to":"a@b.test"}"#;
    for (request, expected) in [
        ("/v1/evaluate -d '{}'", "422"),
        ("/v1/evaluate -d ''", "422"),
        ("/v1/evaluate --data-binary @programs/portcullis", "413"),
        ("/v1/evaluate", "405"),
        ("/elsewhere -d '{}'", "404"),
        (&format!("/v1/explain -d '{mail}'"), "200"),
    ] {
        let (status, answer) = status(folder, &address, request);
        assert_eq!(status, expected, "{request}");
        assert_eq!(answer.contains("\"error\""), expected != "200", "{answer}");
    }
}

/// A policy that fails gives no verdict: the client defers the mail.
#[test]
fn a_trap_behind_http_is_no_verdict() {
    let folder = folder();
    let folder = folder.path();
    let module = Module::new("unreachable");
    fs::write(folder.join("trap.wasm"), module.component()).expect("a file");
    let build = "portcullis build trap.wasm --http -o server.wasm";
    let output = shell(folder, build).output().expect("it can be run");
    assert!(output.status.success(), "{output:?}");
    let line = "wasmtime serve -S cli --addr 127.0.0.1:0 server.wasm";
    let (_serving, address) = serve(folder, line);
    let mail = r#"{"direction":"inbound","mail-from":"","rcpt-to":"a@b.test"}"#;
    let (status, answer) = status(folder, &address, &format!("/v1/evaluate -d '{mail}'"));
    assert_eq!(status, "500");
    assert!(!answer.contains("verdict"), "{answer}");
}

#[test]
fn wasmtime_serve_conforms() {
    let (way, program, wasmtime) = (file("ways/wasmtime_serve.py"), binary(), wasmtime());
    let command = [&way, program, &wasmtime].map(|path| path.to_string_lossy());
    let command = ["python3", &command[0], &command[1], &command[2]];
    for kind in [Kind::Documents, Kind::Components] {
        conforms_wholly(kind, &command, &[]);
    }
}

/// `scripts/policy-table.sh` has written them.
#[test]
fn the_document_has_the_tables_that_a_script_measures() {
    for row in [
        "\n| `rust` | ",
        "\n| `javascript` | ",
        "\n| `python` | ",
        "\n| `c` | ",
        "\n| the middleware around them | ",
    ] {
        assert!(DOCUMENT.contains(row), "{row}");
    }
}

#[test]
fn the_middleware_of_the_document_is_built_and_passes_its_tests() {
    let (_, block) = DOCUMENT.split_once("```rust\n").expect("a program");
    let (program, _) = block.split_once("```").expect("its end");
    let source = Path::new(ROOT).join("examples/middleware/src/lib.rs");
    let source = fs::read_to_string(source).expect("the example");
    assert!(
        source.ends_with(program),
        "the document has another program than examples/middleware"
    );
    // Where it is built, nothing else is.
    let folder = tempfile::tempdir().expect("a folder");
    for part in ["examples/middleware", "bindings/rust"] {
        let to = folder.path().join(part);
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        succeed(
            Command::new("cp")
                .arg("-rL")
                .arg(Path::new(ROOT).join(part))
                .arg(to),
        );
    }
    let example = folder.path().join("examples/middleware");
    let _ = fs::remove_file(example.join("policy.wasm"));
    let mut make = Command::new("make");
    make.current_dir(&example)
        .env("PORTCULLIS", binary())
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("MAKEFLAGS");
    succeed(&mut make);
    let listed = succeed(
        Command::new(binary())
            .arg("list")
            .arg(example.join("policy.wasm")),
    );
    assert!(listed.starts_with("Contoso Bank  inbound"), "{listed}");
    // What is composed can be inside another one.
    let module = "target/wasm32-unknown-unknown/release/middleware.wasm";
    let mut build = Command::new(binary());
    build.current_dir(&example);
    build.args([
        "build",
        module,
        "--around",
        "policy.wasm",
        "-o",
        "twice.wasm",
    ]);
    succeed(&mut build);
}
