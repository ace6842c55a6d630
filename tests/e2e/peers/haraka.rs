//! `integrations/haraka/`: made and installed as others do, its own tests and the conformance kit in a real Haraka, and the
//! evaluator as it is built now.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::conformance::{Kind, conforms, file};
use portcullis_tests::daemon::binary;
use portcullis_tests::programs::unpacked;
use tempfile::TempDir;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Copies the package, without what was made there by hand.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_name().to_str() {
            Some("node_modules" | "evaluator" | "package-lock.json") => {}
            _ if from.is_dir() => copy(&from, &to),
            _ => drop(fs::copy(&from, &to).expect("a file is copied")),
        }
    }
}

/// The evaluator as a component, made as the package's README says.
pub fn evaluator(target: &Path) -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--target",
            "wasm32-wasip2",
        ])
        .args(["--package", "portcullis-evaluator", "--target-dir"])
        .arg(target)
        .current_dir(ROOT)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the evaluator is built: {status}");
    target.join("wasm32-wasip2/release/portcullis_evaluator.wasm")
}

/// A folder of Haraka's with the plugin.
struct Installed {
    folder: TempDir,
    /// Where Haraka itself is.
    haraka: PathBuf,
    /// The path of programs with the tools of Node in front.
    path: String,
}

impl Installed {
    /// Makes the packages and installs them, as the plugin's README says.
    fn new() -> Installed {
        let package = unpacked("Haraka", "haraka/package/installed.json");
        let haraka = package.parent().expect("a folder").to_owned();
        let tools = haraka.parent().expect("a folder");
        let programs = [tools.join("node/bin"), haraka.join("node_modules/.bin")];
        let path = env::var("PATH").expect("a PATH");
        let installed = Installed {
            folder: TempDir::new().expect("a folder"),
            path: format!("{}:{}:{path}", programs[0].display(), programs[1].display()),
            haraka: haraka.clone(),
        };
        let component = evaluator(&tools.join("target"));
        let made = TempDir::new().expect("a folder");
        for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
            fs::copy(Path::new(ROOT).join(name), made.path().join(name)).expect("a file is copied");
        }
        let [policy, plugin] = ["bindings/javascript", "integrations/haraka"].map(|name| {
            copy(&Path::new(ROOT).join(name), &made.path().join(name));
            made.path().join(name)
        });
        let component = component.to_str().expect("UTF-8");
        installed.npm(&policy, &["run", "build", "--", component]);
        installed.npm(&policy, &["pack", "--silent"]);
        installed.npm(&plugin, &["pack", "--silent"]);

        let user = installed.folder.path();
        fs::write(user.join("package.json"), "{\"private\": true}").expect("a file");
        let packed = [
            policy.join("portcullis-policy-0.1.0.tgz"),
            plugin.join("haraka-plugin-portcullis-0.1.0.tgz"),
        ];
        let [policy, packed] = packed.map(|it| it.display().to_string());
        installed.npm(
            user,
            &["install", "--offline", "--silent", &policy, &packed],
        );
        // The tests are no part of the package, and stand beside what is.
        copy(&plugin.join("test"), &installed.plugin().join("test"));
        installed
    }

    fn plugin(&self) -> PathBuf {
        self.folder
            .path()
            .join("node_modules/haraka-plugin-portcullis")
    }

    /// Runs npm to its end, which is a good one; gives what it wrote.
    #[track_caller]
    fn npm(&self, folder: &Path, arguments: &[&str]) -> String {
        let output = Command::new("npm")
            .args(arguments)
            .current_dir(folder)
            .env("PATH", &self.path)
            .env("HARAKA_DIR", &self.haraka)
            .env("PORTCULLIS_BIN", binary())
            .output()
            .expect("npm runs: `make setup-tests`");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "npm {arguments:?}: {text}{error}");
        text
    }
}

#[test]
fn the_package_passes_its_tests_in_a_real_haraka() {
    let installed = Installed::new();
    let told = installed.npm(&installed.plugin(), &["test"]);
    let has = |line: &str| {
        told.lines()
            .any(|it| it.trim_start_matches(['#', '\u{2139}', ' ']) == line)
    };
    assert!(
        has("fail 0") && has("skipped 0") && has("todo 0") && !has("pass 0"),
        "{told}"
    );
}

#[test]
fn the_package_conforms_in_a_real_haraka() {
    let installed = Installed::new();
    let [way, plugin] =
        [file("ways/haraka.mjs"), installed.plugin()].map(|it| it.display().to_string());
    let path = PathBuf::from(&installed.path);
    let variables = [("PATH", &*path), ("HARAKA_DIR", &*installed.haraka)];
    for kind in [Kind::Documents, Kind::Components] {
        let report = conforms(kind, &["node", &way, &plugin], &variables);
        // A case that is left out has to say so itself.
        let unsayable = "a certificate that no client of this test can present";
        let left_out = report.skipped.get(unsayable).copied().unwrap_or(0);
        assert!(
            report.passed > 400 && left_out < 10,
            "{} cases, {left_out} left out",
            report.passed
        );
    }
}
