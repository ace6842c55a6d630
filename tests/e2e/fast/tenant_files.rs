//! Tenants in files of their own: a bad one concerns its tenant only.

use std::fs;

use portcullis_tests::{Client, Config, Listener, NO_RULES, TestBed, run};

const CLOSED: &str = r#"{"connectors": [{"name": "closed", "direction": "inbound",
    "from": {"sender-domains": ["*"]}, "require": {"certificate-names": ["x.test"]}}]}"#;

fn rcpt(bed: &TestBed, to: &str) -> u16 {
    Client::recipient(bed.address(), "a@sender.test", to)
}

fn bed() -> TestBed {
    let folder = tempfile::tempdir().expect("a folder");
    let tenants = folder.path().join("tenants.d");
    fs::create_dir(&tenants).expect("a folder");
    for name in ["a", "b"] {
        let text = format!("domains = [\"{name}.test\"]\npolicy = \"rules.json\"\n");
        fs::write(tenants.join(format!("{name}.toml")), text).expect("a file");
    }
    fs::write(tenants.join("rules.json"), NO_RULES).expect("a file");
    fs::write(tenants.join(".hidden.toml"), "nothing").expect("a file");
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", NO_RULES)
        .tenant_files("tenants.d/*.toml");
    TestBed::start_in(folder, config)
}

#[test]
fn each_file_is_a_tenant_that_comes_and_goes() {
    let bed = bed();
    assert_eq!(
        [
            rcpt(&bed, "x@contoso.com"),
            rcpt(&bed, "x@a.test"),
            rcpt(&bed, "x@b.test"),
            rcpt(&bed, "x@c.test")
        ],
        [250, 250, 250, 550]
    );
    let folder = bed.folder().join("tenants.d");
    let put = |name: &str, text: &str| {
        fs::write(folder.join(".new"), text).expect("a file");
        fs::rename(folder.join(".new"), folder.join(name)).expect("it is there");
    };
    bed.change(|_| {
        put(
            "c.toml",
            "name = \"cee\"\ndomains = [\"c.test\"]\npolicy = \"rules.json\"\n",
        )
    });
    bed.wait_for_log("tenant added tenant=\"cee\"");
    bed.wait_for_log("policy loaded tenant=cee");
    assert_eq!(rcpt(&bed, "x@c.test"), 250);
    // A mistake concerns nobody else, and its own tenant stays what it was.
    put(
        "a.toml",
        "domains = [\"a.test\", \"b.test\"]\npolicy = \"rules.json\"\n",
    );
    put("d.toml", "domains = [\"d.test\"\n");
    put(
        "e.toml",
        "domains = [\"e.test\"]\npolicy = \"closed.json\"\nunknown = 1\n",
    );
    fs::write(folder.join("closed.json"), CLOSED).expect("a file");
    put(
        "f.toml",
        "domains = [\"f.test\"]\npolicy = \"closed.json\"\n",
    );
    bed.wait_for_log("policy loaded tenant=f");
    let told = bed.wait_for_log("tenant's file rejected");
    assert!(told.contains(".toml"), "{told}");
    bed.wait_for_log("a.toml:1:22: domains[1]: \"b.test\" belongs to tenant \"b\" already");
    bed.wait_for_log("e.toml:3:1");
    assert_eq!(
        [
            rcpt(&bed, "x@a.test"),
            rcpt(&bed, "x@b.test"),
            rcpt(&bed, "x@d.test"),
            rcpt(&bed, "x@f.test")
        ],
        [250, 250, 451, 550]
    );
    let config = bed.folder().join("portcullis.toml");
    let checked = run(
        &[
            "run",
            "--check-config",
            "--config",
            &config.to_string_lossy(),
        ],
        b"",
    );
    assert_eq!(checked.status.code(), Some(1));
    // Nobody's mail is refused while it may be a tenant's whose file is wrong.
    for name in ["d.toml", "e.toml"] {
        fs::remove_file(folder.join(name)).expect("it goes");
    }
    fs::remove_file(folder.join("c.toml")).expect("it goes");
    bed.wait_for_log("tenant removed tenant=\"cee\"");
    let until = std::time::Instant::now() + portcullis_tests::daemon::TIMEOUT;
    while rcpt(&bed, "x@c.test") != 550 {
        assert!(std::time::Instant::now() < until, "it stays a tenant's");
    }
}
