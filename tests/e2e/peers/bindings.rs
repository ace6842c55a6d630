//! `bindings/`: the packages for other languages, made and installed as others do, against the conformance kit.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::conformance::{Kind, conforms_wholly, file};
use portcullis_tests::daemon::binary;
use portcullis_tests::modules::Module;
use portcullis_tests::programs::unpacked;
use serde_json::json;
use tempfile::TempDir;

use crate::haraka::{copy, evaluator};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A file of the project.
fn project(path: &str) -> PathBuf {
    Path::new(ROOT).join(path)
}

/// The tools of the tests, and the evaluator made of the project.
fn tools() -> (PathBuf, PathBuf) {
    let package = unpacked("Haraka", "haraka/package/installed.json");
    let tools = package.ancestors().nth(2).expect("a folder").to_owned();
    let component = evaluator(&tools.join("target"));
    (tools, component)
}

/// Runs a command to its end, which is a good one; gives what it wrote.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    command
        .env("PORTCULLIS_BIN", binary())
        .env("PORTCULLIS_CASES", project("conformance/cases"));
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}: run `make setup-tests`"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}:\n{text}{error}");
    text
}

/// Holds a host against the conformance kit: with documents, and with the components that are built of them.
fn conforms(command: &[&str], variables: &[(&str, &Path)]) {
    for kind in [Kind::Documents, Kind::Components] {
        conforms_wholly(kind, command, variables);
    }
}

/// The path of programs with the tools of Node in front.
fn path(tools: &Path) -> String {
    let folders =
        ["node/bin", "package/node_modules/.bin"].map(|it| tools.join(it).display().to_string());
    format!(
        "{}:{}",
        folders.join(":"),
        env::var("PATH").expect("a PATH")
    )
}

/// The program of a package's README, in a folder where it finds rules by which its mail is refused.
fn program(readme: &str, language: &str, folder: &Path) -> PathBuf {
    let text = fs::read_to_string(project(readme)).expect("the README");
    let start = format!("```{language}\n");
    let (_, block) = text.split_once(&start).expect("a program");
    let (program, _) = block.split_once("```").expect("its end");
    let rules = r#"{"connectors": [{"name": "Contoso Bank", "direction": "inbound",
        "from": {"sender-domains": ["contosobank.com"]}, "require": {"tls": true}}]}"#;
    fs::write(folder.join("rules.json"), rules).expect("a file");
    let path = folder.join(format!("program.{}", language.replace("js", "mjs")));
    fs::write(&path, program).expect("a file");
    path
}

/// Runs npm to its end.
fn npm(tools: &Path, folder: &Path, arguments: &[&str]) -> String {
    let mut npm = Command::new("npm");
    npm.args(arguments)
        .current_dir(folder)
        .env("PATH", path(tools));
    succeed(&mut npm)
}

/// The package for JavaScript where it is made, and a folder where it is installed.
fn package_for_javascript(tools: &Path, component: &Path) -> (TempDir, TempDir) {
    let made = TempDir::new().expect("a folder");
    copy(&project("bindings/javascript"), made.path());
    let build = ["run", "build", "--", &component.to_string_lossy()];
    npm(tools, made.path(), &build);
    npm(tools, made.path(), &["pack", "--silent"]);
    let packed = made.path().join("portcullis-policy-0.1.0.tgz");

    let user = TempDir::new().expect("a folder");
    fs::write(user.path().join("package.json"), "{\"private\": true}").expect("a file");
    let packed = packed.to_string_lossy();
    npm(
        tools,
        user.path(),
        &["install", "--offline", "--silent", &packed],
    );
    (made, user)
}

#[test]
fn the_package_for_javascript_is_made_installed_and_conforms() {
    let (tools, component) = tools();
    let (made, user) = package_for_javascript(&tools, &component);
    let told = npm(&tools, made.path(), &["test"]);
    assert!(
        told.contains("fail 0") && told.contains("skipped 0"),
        "{told}"
    );
    let way = user.path().join("way.mjs");
    fs::copy(file("ways/javascript.mjs"), &way).expect("a file is copied");
    let search = PathBuf::from(path(&tools));
    conforms(&["node", &way.to_string_lossy()], &[("PATH", &search)]);

    let program = program("bindings/javascript/README.md", "js", user.path());
    let mut node = Command::new("node");
    let told = succeed(
        node.arg(program)
            .current_dir(user.path())
            .env("PATH", path(&tools)),
    );
    assert_eq!(told, "reject\n");

    fs::copy(
        project("bindings/javascript/test/types.ts"),
        user.path().join("types.ts"),
    )
    .expect("a file is copied");
    let mut tsc = Command::new("tsc");
    tsc.args([
        "--noEmit",
        "--strict",
        "--module",
        "nodenext",
        "--lib",
        "es2022,dom",
        "--types",
        "",
        "types.ts",
    ]);
    succeed(tsc.current_dir(user.path()).env("PATH", path(&tools)));
}

#[test]
fn the_package_runs_in_a_browser() {
    let (tools, component) = tools();
    let (_made, user) = package_for_javascript(&tools, &component);
    let way = user.path().join("way.mjs");
    fs::copy(file("ways/browser.mjs"), &way).expect("a file is copied");
    let way = way.to_string_lossy();
    let search = PathBuf::from(path(&tools));
    for limits in [&[][..], &["--timeout", "5000"]] {
        let command = [&["node", &*way], limits].concat();
        conforms(&command, &[("PATH", &search)]);
    }

    // A worker of a browser ends where it has to.
    let looping = Module::new("(loop $again (br $again)) (unreachable)").component();
    let policy = user.path().join("policy.wasm");
    fs::write(&policy, looping).expect("a file");
    let context = json!({ "direction": "inbound", "mail-from": "a@b.test", "rcpt-to": "c@d.test" });
    let questions = [
        json!({ "conformance": "0.1.0" }),
        json!({ "load": "looping", "rules": {}, "component": policy }),
        json!({ "context": context }),
        json!({ "load": "none", "rules": { "connectors": [] } }),
        json!({ "context": context }),
    ];
    let asked = user.path().join("questions");
    fs::write(&asked, questions.map(|it| format!("{it}\n")).concat()).expect("a file");
    let mut node = Command::new("node");
    node.args([&*way, "--timeout", "500"])
        .env("PATH", path(&tools))
        .stdin(File::open(asked).expect("a file"));
    let told = succeed(&mut node);
    let told: Vec<&str> = told.lines().skip(1).collect();
    let [loaded, late, loaded_too, verdict] = told[..] else {
        panic!("{told:?}");
    };
    assert_eq!([loaded, loaded_too], [r#"{"loaded":true}"#; 2]);
    assert!(late.contains("did not answer within 500 ms"), "{late}");
    assert!(verdict.contains(r#""verdict":"accept""#), "{verdict}");
}

#[test]
fn the_package_for_python_is_made_installed_and_conforms() {
    let (tools, component) = tools();
    let python = tools.join("../python-binding/bin/python");
    let made = TempDir::new().expect("a folder");
    copy(&project("bindings/python"), made.path());
    // What it is made with was installed before: there may be no network.
    let mut build = Command::new(&python);
    build
        .arg("build.py")
        .arg(&component)
        .args(["--wheel-dir", "dist"]);
    succeed(
        build
            .current_dir(made.path())
            .env("PIP_NO_BUILD_ISOLATION", "0"),
    );
    let wheel = made
        .path()
        .join("dist/portcullis_policy-0.1.0-py3-none-any.whl");

    let user = TempDir::new().expect("a folder");
    let mut install = Command::new(&python);
    install.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
    ]);
    succeed(install.arg(user.path()).arg(&wheel));
    let mut tests = Command::new(&python);
    tests
        .args(["-m", "unittest", "discover", "-s"])
        .arg(made.path().join("tests"));
    succeed(
        tests
            .current_dir(user.path())
            .env("PYTHONPATH", user.path()),
    );
    let way = project("conformance/ways/python.py");
    let command = [&*python.to_string_lossy(), &way.to_string_lossy()];
    conforms(&command, &[("PYTHONPATH", user.path())]);

    let program = program("bindings/python/README.md", "python", user.path());
    let mut readme = Command::new(&python);
    readme.arg(program).current_dir(user.path());
    assert_eq!(succeed(readme.env("PYTHONPATH", user.path())), "reject\n");

    let mut example = Command::new(&python);
    example.arg(project("bindings/python/tests/example.py"));
    let example = example.arg(project("bindings/python/examples/aiosmtpd_host.py"));
    succeed(example.env("PYTHONPATH", user.path()));
}

#[test]
fn the_library_for_c_is_made_and_conforms() {
    let (tools, _) = tools();
    let python = tools.join("../python-binding/bin/python");
    let wasmtime = unpacked("wasmtime for C", "wasmtime-c/lib/libwasmtime.so");
    let wasmtime = wasmtime.ancestors().nth(2).expect("a folder");
    let made = TempDir::new().expect("a folder");
    copy(&project("bindings/c"), made.path());
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.arg(target)
            .arg(format!("WASMTIME={}", wasmtime.display()))
            .arg(format!("PORTCULLIS={}", binary().display()))
            .arg(format!("PYTHON={}", python.display()))
            .args(["PREFIX=/usr", "DESTDIR=installed"])
            .current_dir(made.path())
            .env_remove("MAKEFLAGS");
        succeed(&mut make)
    };
    make("all");
    make("test");
    make("sanitize");
    make("install");
    let package = made
        .path()
        .join("installed/usr/lib/pkgconfig/portcullis_policy.pc");
    let mut flags = Command::new("pkg-config");
    flags.args(["--libs", "--cflags"]).arg(&package);
    let flags = succeed(&mut flags);
    assert!(flags.contains("-lportcullis_policy"), "{flags}");
    let library = made.path().join("build/libportcullis_policy.so");
    let way = file("ways/c.py");
    let command = [
        &*python.to_string_lossy(),
        &way.to_string_lossy(),
        &library.to_string_lossy(),
    ];
    let package = project("bindings/python/src");
    conforms_wholly(Kind::Components, &command, &[("PYTHONPATH", &package)]);

    let folder = made.path();
    let program = program("bindings/c/README.md", "c", folder);
    let policy = folder.join("policy.wasm");
    let rules = folder.join("rules.json");
    let mut build = Command::new(binary());
    succeed(build.arg("build").arg(rules).arg("-o").arg(policy));
    let mut compile = Command::new("cc");
    compile
        .arg(program)
        .arg("-Iinclude")
        .args(["-o", "build/program"]);
    let libraries = ["build/libportcullis_policy.a", "-lwasmtime", "-pthread"];
    compile
        .args(libraries)
        .arg(format!("-L{}", wasmtime.join("lib").display()));
    compile.arg(format!("-Wl,-rpath,{}", wasmtime.join("lib").display()));
    succeed(compile.current_dir(folder));
    let told = succeed(Command::new(folder.join("build/program")).current_dir(folder));
    assert!(
        told.starts_with("550 5.7.1 refused by connector \"Contoso Bank\" (tls)"),
        "{told}"
    );
}
