//! A fleet that follows files: behind a real web server, or in a folder.

use std::fs;
use std::path::{Path, PathBuf};

use portcullis_tests::fleet::{Fleet, reply, wait_for_reply};
use portcullis_tests::nginx::Nginx;
use portcullis_tests::office::{Office, rules};
use portcullis_tests::{Config, Listener, Pki, TestBed};
use serde_json::{Value, json};

/// An office whose policies go to hosts as files.
struct Files {
    office: Office,
}

impl Files {
    fn new() -> Files {
        let office = Office::new();
        office.add_tenants();
        for folder in ["signed", "stick"] {
            fs::create_dir(office.path(folder)).expect("a folder");
        }
        Files { office }
    }

    /// Signs rules of a tenant, and puts them where they are exported from.
    fn sign(&self, tenant: &str, rules: &str) {
        self.office.sign_policy(tenant, rules, &[]);
        for end in ["json", "dsse.json", "tenant.dsse.json"] {
            let name = format!("{tenant}.{end}");
            let to = self.office.path("signed").join(&name);
            fs::copy(self.office.path(&name), to).expect("a file");
        }
    }

    const EXPORT: [&str; 7] = [
        "fleet",
        "export",
        "files",
        "--policies",
        "signed",
        "--root",
        "root.json",
    ];

    fn export(&self) -> String {
        self.office.succeed(&Files::EXPORT)
    }

    /// Carries what was exported to where hosts read it.
    fn carry(&self) {
        copy_objects(
            &self.office.path("files/sha256"),
            &self.place().join("sha256"),
        );
        self.replace("index.json", self.office.read("files/index.json"));
    }

    /// Where hosts read.
    fn place(&self) -> PathBuf {
        self.office.path("stick")
    }

    fn host(&self) -> TestBed {
        let url = format!("file://{}", self.place().display());
        TestBed::start(host(&self.office, &url, ""))
    }

    /// The index that was exported.
    fn index(&self) -> Value {
        serde_json::from_slice(&self.office.read("files/index.json")).expect("JSON")
    }

    /// Puts something else into a file of the store, as a whole.
    fn replace(&self, path: &str, content: impl AsRef<[u8]>) {
        let temporary = self.office.path("temporary");
        fs::write(&temporary, content).expect("a file");
        fs::rename(&temporary, self.place().join(path)).expect("a file");
    }

    /// The number of the shard that has an entry, and where that is, as was exported.
    fn places(&self, key: &str) -> (usize, String) {
        let index = self.index();
        let shards = index["shards"].as_array().expect("shards");
        for (number, shard) in shards.iter().enumerate().filter(|(_, it)| !it.is_null()) {
            let shard = format!("files/{}", path(&shard["sha256"]));
            let shard: Value = serde_json::from_slice(&self.office.read(&shard)).expect("JSON");
            let mut entries = shard.as_array().expect("entries").iter();
            if let Some(entry) = entries.find(|it| it["key"] == key) {
                return (number, path(&entry["sha256"]));
            }
        }
        panic!("{key} is in no shard");
    }
}

/// Where the file with a digest is.
fn path(sha256: &Value) -> String {
    let digest = sha256.as_str().expect("a digest");
    format!("sha256/{}/{digest}", &digest[..2])
}

fn host(office: &Office, url: &str, more: &str) -> Config {
    Config::new()
        .listener(Listener::maildir())
        .file("root.json", office.read("root.json"))
        .with(&format!(
            "[trust]\npolicies = \"signed\"\npolicy-root = \"root.json\"\n[fleet]\nurl = {url:?}\npoll = \"1s\"\n{more}"
        ))
}

fn count(requests: &[String], wanted: &str) -> usize {
    requests.iter().filter(|it| it.contains(wanted)).count()
}

/// Waits until a web server was asked for the index again.
fn wait_for_look(nginx: &Nginx) {
    let deadline = std::time::Instant::now() + portcullis_tests::daemon::TIMEOUT;
    let before = count(&nginx.requests(), "/index.json 304");
    while count(&nginx.requests(), "/index.json 304") < before + 2 {
        assert!(std::time::Instant::now() < deadline, "{}", nginx.log());
        std::thread::yield_now();
    }
}

/// From NATS to files, and by HTTPS to a host: which asks only for what is new.
#[test]
fn a_web_server_gives_what_was_exported() {
    let fleet = Fleet::new();
    let files = tempfile::tempdir().expect("a folder");
    // The web server reads it as another user.
    let folder = files.path().join("files");
    let export = || {
        let folder = folder.display().to_string();
        fleet.run(&["export", &folder])
    };
    fleet.put("contoso", "one.test", &[]);
    fleet.put("fabrikam", "one.test", &[]);
    let told = export();
    assert!(
        told.contains("2 entries, revision 2 of the store of 2"),
        "{told}"
    );
    let pki = Pki::new();
    let nginx = Nginx::files(
        &folder,
        &pki.trusted(&["127.0.0.1"]),
        ("h1", "secret of h1"),
    );
    let url = format!("https://{}", nginx.address);
    let more = "roots = \"ca.pem\"\ncredentials = \"credentials\"";
    let config = host(&fleet.office, &url, more)
        .file("ca.pem", &pki.root_pem)
        .file("credentials", "h1:secret of h1\n");
    let mut host = TestBed::start(config);
    for tenant in ["contoso", "fabrikam"] {
        host.wait_for_log(&format!("policy loaded tenant={tenant} sequence=1"));
        assert_eq!(reply(&host, "one.test", tenant), 550);
        assert_eq!(reply(&host, "two.test", tenant), 250);
    }
    // All is known.
    wait_for_reply(&host, "one.test", "unknown", 550);

    // Nothing is fetched again, as long as nothing is new.
    let before = nginx.requests().len();
    wait_for_look(&nginx);
    let since = nginx.requests().split_off(before);
    assert_eq!(count(&since, "/index.json 304"), since.len(), "{since:?}");

    fleet.put("contoso", "two.test", &[]);
    let told = export();
    assert!(told.contains("revision 3"), "{told}");
    host.wait_for_log("policy loaded tenant=contoso sequence=2");
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
    // The index, a shard and an entry.
    let since = nginx.requests().split_off(before);
    assert_eq!(count(&since, " 200"), 3, "{since:?}");
    let told = export();
    assert!(
        told.contains("revision 3") && told.contains(" 0 files"),
        "{told}"
    );

    // Without the web server all goes on, also after a restart, and nobody is refused for good.
    drop(nginx);
    host.wait_for_log("no connection to the fleet's store");
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
    assert_eq!(reply(&host, "two.test", "unknown"), 451);
    host.restart();
    host.wait_for_log("the fleet's store is not followed");
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
    assert_eq!(reply(&host, "one.test", "fabrikam"), 550);
    assert_eq!(reply(&host, "two.test", "unknown"), 451);
}

/// A folder with what was signed is enough: on a stick that is carried to where no network is.
#[test]
fn a_folder_is_carried_to_hosts() {
    let files = Files::new();
    files.sign("contoso", &rules("one.test"));
    // More than an entry takes.
    files.sign("fabrikam", &large());
    let told = files.export();
    assert!(told.contains("3 entries, revision 1"), "{told}");
    files.carry();
    let host = files.host();
    host.wait_for_log("policy loaded tenant=contoso sequence=1");
    host.wait_for_log("policy loaded tenant=fabrikam sequence=1");
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    assert_eq!(reply(&host, "partner-number-5999.test", "fabrikam"), 550);
    wait_for_reply(&host, "one.test", "unknown", 550);

    // Nothing new, nothing written.
    assert!(files.export().contains("revision 1 of the store"));
    // A lower sequence than hosts have is not exported.
    let signed = files.office.read("signed/contoso.dsse.json");
    files.sign("contoso", &rules("two.test"));
    assert!(files.export().contains("revision 2"));
    files.carry();
    host.wait_for_log("policy loaded tenant=contoso sequence=2");
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
    files.office.write("signed/contoso.json", rules("one.test"));
    files.office.write("signed/contoso.dsse.json", signed);
    let told = files.office.fail(&Files::EXPORT, 2);
    assert!(
        told.contains("contoso.json: sequence 2 (of the tenant 1) was there before"),
        "{told}"
    );

    // What is signed by nobody who may, is not exported.
    files.sign("contoso", &rules("three.test"));
    files
        .office
        .write("signed/contoso.json", rules("evil.test"));
    let told = files.office.fail(&Files::EXPORT, 2);
    assert!(told.contains("contoso.json"), "{told}");
    files.sign("contoso", &rules("three.test"));
    files.export();
    files.carry();
    host.wait_for_log_with(&["policy loaded tenant=contoso"], 3);

    // Absence is no removal, and is told.
    fs::remove_file(files.office.path("signed/fabrikam.json")).expect("it is there");
    let told = files.export();
    assert!(
        told.contains("fabrikam was there before and is not now"),
        "{told}"
    );
    files.carry();
    host.wait_for_log("an entry of the fleet's store was deleted, which nobody can sign");
    assert_eq!(reply(&host, "partner-number-5999.test", "fabrikam"), 550);
    // The operators take it away.
    files.office.succeed(&[
        "sign",
        "retire",
        "fabrikam",
        "--sequence",
        "2",
        "--key",
        "ops.pem",
    ]);
    fs::rename(
        files.office.path("fabrikam.retire.dsse.json"),
        files.office.path("signed/fabrikam.retire.dsse.json"),
    )
    .expect("a file");
    files.export();
    files.carry();
    host.wait_for_log("tenant removed tenant=\"fabrikam\"");

    // Files that nothing names any more go when that is wanted.
    let all = |folder: &Path| -> usize {
        let folders = fs::read_dir(folder.join("sha256"))
            .expect("a folder")
            .flatten();
        folders
            .map(|folder| fs::read_dir(folder.path()).expect("a folder").count())
            .sum()
    };
    let before = all(&files.office.path("files"));
    let told = files
        .office
        .succeed(&[&Files::EXPORT[..], &["--prune"]].concat());
    let after = all(&files.office.path("files"));
    assert!(
        told.contains(&format!("0 files written, {} removed", before - after)),
        "{told}"
    );
    assert_eq!(after, 6, "{told}");
    let told = files
        .office
        .succeed(&[&Files::EXPORT[..], &["--prune"]].concat());
    assert!(told.contains(" 0 removed"), "{told}");
}

/// Whatever is wrong with a file is told, touches nobody else, and is over once the file is right.
#[test]
fn what_is_bad_is_told_and_touches_nobody_else() {
    let files = Files::new();
    files.sign("contoso", &rules("one.test"));
    files.sign("fabrikam", &rules("one.test"));
    files.export();
    files.carry();
    let host = files.host();
    host.wait_for_log("policy loaded tenant=contoso sequence=1");
    host.wait_for_log("policy loaded tenant=fabrikam sequence=1");
    wait_for_reply(&host, "one.test", "unknown", 550);

    // Indexes that are none: nothing is known, and what is in force stays.
    let good = files.index();
    let mut of_later = good.clone();
    of_later["version"] = json!(2);
    let mut twice = good.to_string();
    twice.insert_str(1, "\"revision\":9,");
    for (bad, told) in [
        (String::new(), "index.json: it is no index: EOF"),
        (
            "{".repeat(100_000),
            "index.json: it is larger than 64.0 KiB",
        ),
        (of_later.to_string(), "index.json: its version is 2"),
        (
            twice,
            "index.json: it is no index: duplicate field `revision`",
        ),
    ] {
        let before = host.count_log("connected to the fleet's store");
        files.replace("index.json", bad);
        host.wait_for_log_with(&["no connection to the fleet's store", told], 1);
        assert_eq!(reply(&host, "one.test", "unknown"), 451);
        assert_eq!(reply(&host, "one.test", "contoso"), 550);
        files.carry();
        host.wait_for_log_times("connected to the fleet's store", before + 1);
        wait_for_reply(&host, "one.test", "unknown", 550);
    }

    // A shard that is none, or not the one that the index names, and an entry that is not what the shard names, is cut
    // off, or missing: others go on.
    let garbage = "[{}]";
    let digest = portcullis_tests::pki::sha256(garbage.as_bytes());
    let of_garbage = json!({"sha256": digest, "size": garbage.len()});
    let elsewhere = json!({"sha256": "0".repeat(64), "size": 2});
    for (round, bad) in ["shard", "no shard", "{}", "", "missing"]
        .into_iter()
        .enumerate()
    {
        let (domain, sequence) = (format!("round-{round}.test"), round + 2);
        files.sign("contoso", &rules(&domain));
        files.sign("fabrikam", &rules(&domain));
        files.export();
        let (number, place) = files.places("all.contoso");
        copy_objects(
            &files.office.path("files/sha256"),
            &files.place().join("sha256"),
        );
        let mut index = files.index();
        match bad {
            "shard" => {
                let place = files.place().join(path(&json!(digest)));
                fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
                fs::write(place, garbage).expect("a file");
                index["shards"][number] = of_garbage.clone();
            }
            "no shard" => index["shards"][number] = elsewhere.clone(),
            "missing" => fs::remove_file(files.place().join(&place)).expect("an entry"),
            content => files.replace(&place, content),
        }
        files.replace("index.json", index.to_string());
        host.wait_for_log(&format!(
            "policy loaded tenant=fabrikam sequence={sequence}"
        ));
        match bad {
            "shard" => host.wait_for_log_with(&["the fleet's store is damaged", &digest], 1),
            "no shard" => host.wait_for_log_with(&["the fleet's store is damaged", "00000000"], 1),
            _ => host.wait_for_log_with(
                &[
                    "an entry of the fleet's store is not taken",
                    "all.contoso",
                    &place,
                ],
                1,
            ),
        };
        assert_eq!(reply(&host, &domain, "fabrikam"), 550);
        assert_eq!(reply(&host, &domain, "contoso"), 250);
        assert_eq!(reply(&host, &domain, "unknown"), 451);
        files.carry();
        host.wait_for_log(&format!("policy loaded tenant=contoso sequence={sequence}"));
        assert_eq!(reply(&host, &domain, "contoso"), 550);
        wait_for_reply(&host, "one.test", "unknown", 550);
    }

    // What was there before, as caches give it, is not followed.
    files.replace("index.json", good.to_string());
    host.wait_for_log_with(
        &["index.json is of revision 1, older than what was there before (6)"],
        1,
    );
    assert_eq!(reply(&host, "round-4.test", "contoso"), 550);
    assert_eq!(reply(&host, "one.test", "unknown"), 451);
    files.carry();
    wait_for_reply(&host, "one.test", "unknown", 550);
    // One that stays is compared.
    files.replace("index.json", good.to_string());
    host.wait_for_log("the fleet's store is another one than before, or has lost entries");
    assert_eq!(reply(&host, "round-4.test", "contoso"), 550);
    files.carry();
    wait_for_reply(&host, "one.test", "unknown", 550);
    // Another store is compared, and takes nothing away.
    let mut other = files.index();
    other["store"] = json!("another");
    let (number, _) = files.places("all.contoso");
    other["shards"][number] = json!(null);
    files.replace("index.json", other.to_string());
    host.wait_for_log_times("the fleet's store is another one than before", 2);
    host.wait_for_log("1 tenants of this host are not in the store, and stay: contoso");
    assert_eq!(reply(&host, "round-4.test", "contoso"), 550);
}

fn copy_objects(from: &Path, to: &Path) {
    for folder in fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(folder.file_name());
        fs::create_dir_all(&to).expect("a folder");
        for file in fs::read_dir(folder.path()).expect("a folder").flatten() {
            fs::copy(file.path(), to.join(file.file_name())).expect("a file");
        }
    }
}

/// A large policy of a new tenant that is not there is asked for now and then, and taken once it is there.
#[test]
fn a_policy_that_is_missing_is_asked_for_now_and_then() {
    let files = Files::new();
    files.sign("contoso", &large());
    files.sign("fabrikam", &rules("one.test"));
    files.export();
    files.carry();
    let digest = portcullis_tests::pki::sha256(&files.office.read("contoso.json"));
    let place = path(&json!(digest));
    let hidden = files.office.path("hidden");
    fs::rename(files.place().join(&place), &hidden).expect("a policy");
    let pki = Pki::new();
    let identity = pki.trusted(&["127.0.0.1"]);
    let web = tempfile::tempdir().expect("a folder");
    let served = web.path().join("files");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([files.place(), served.clone()])
        .status();
    assert!(copied.expect("cp runs").success());
    let nginx = Nginx::files(&served, &identity, ("h1", "secret"));
    let url = format!("https://{}", nginx.address);
    let more = "roots = \"ca.pem\"\ncredentials = \"credentials\"";
    let config = host(&files.office, &url, more)
        .file("ca.pem", &pki.root_pem)
        .file("credentials", "h1:secret");
    let host = TestBed::start(config);
    host.wait_for_log("policy loaded tenant=fabrikam sequence=1");
    host.wait_for_log_with(
        &["an entry of the fleet's store is not taken", &digest, "404"],
        1,
    );
    for _ in 0..3 {
        wait_for_look(&nginx);
    }
    let asked = count(&nginx.requests(), &digest);
    assert!((1..=2).contains(&asked), "{asked}");
    assert_eq!(
        host.count_log("an entry of the fleet's store is not taken"),
        1
    );
    // It is somebody's, and not nobody's.
    assert_eq!(reply(&host, "one.test", "contoso"), 451);
    assert_eq!(reply(&host, "one.test", "fabrikam"), 550);
    fs::copy(&hidden, served.join(&place)).expect("a policy");
    host.wait_for_log("policy loaded tenant=contoso sequence=1");
    wait_for_reply(&host, "one.test", "unknown", 550);
}

fn large() -> String {
    let connectors: Vec<Value> = (0..6000)
        .map(|number| {
            json!({"name": format!("partner {number}"), "direction": "inbound",
                "from": {"sender-domains": [format!("partner-number-{number}.test")]}, "require": {"tls": true}})
        })
        .collect();
    json!({"connectors": connectors}).to_string()
}

/// What is signed by the operators' next keys waits for the statement that names them, however long that does not come.
#[test]
fn tenants_wait_for_the_next_root() {
    let files = Files::new();
    let first = files.office.read("root.json");
    files.office.succeed(&["key", "new", "next.pem"]);
    files.office.succeed(&[
        "trust",
        "rotate",
        "root.json",
        "--operator",
        "next.pem.pub",
        "--key",
        "ops.pem",
        "--key",
        "next.pem",
    ]);
    for tenant in ["contoso", "fabrikam"] {
        files.office.succeed(&[
            "sign",
            "tenant",
            tenant,
            "--domain",
            &format!("{tenant}.com"),
            "--policy-key",
            &format!("{tenant}.pem.pub"),
            "--sequence",
            "2",
            "--key",
            "next.pem",
        ]);
        files.sign(tenant, &rules("one.test"));
    }
    files.export();
    files.carry();
    let (_, root) = files.places("root.2");
    let hidden = files.office.path("hidden");
    fs::rename(files.place().join(&root), &hidden).expect("a root statement");
    let url = format!("file://{}", files.place().display());
    let host = TestBed::start(host(&files.office, &url, "").file("root.json", first));
    host.wait_for_log_with(&["an entry of the fleet's store is not taken", "root.2"], 1);
    for tenant in ["contoso", "fabrikam"] {
        assert_eq!(reply(&host, "one.test", tenant), 451);
    }
    fs::rename(hidden, files.place().join(&root)).expect("a root statement");
    for tenant in ["contoso", "fabrikam"] {
        host.wait_for_log(&format!("policy loaded tenant={tenant} sequence=1"));
    }
    wait_for_reply(&host, "one.test", "unknown", 550);
}

/// An index that names more under the same revision: as long as not all has come, nobody is refused for good.
#[test]
fn more_may_come_under_the_same_revision() {
    let files = Files::new();
    files.sign("contoso", &rules("one.test"));
    files.export();
    files.carry();
    let host = files.host();
    host.wait_for_log("policy loaded tenant=contoso sequence=1");
    wait_for_reply(&host, "one.test", "fabrikam", 550);
    files.sign("fabrikam", &rules("one.test"));
    files.export();
    let (_, entry) = files.places("all.fabrikam");
    copy_objects(
        &files.office.path("files/sha256"),
        &files.place().join("sha256"),
    );
    fs::remove_file(files.place().join(&entry)).expect("an entry");
    let mut index = files.index();
    index["revision"] = json!(1);
    files.replace("index.json", index.to_string());
    host.wait_for_log_with(
        &["an entry of the fleet's store is not taken", "all.fabrikam"],
        1,
    );
    assert_eq!(reply(&host, "one.test", "fabrikam"), 451);
    copy_objects(
        &files.office.path("files/sha256"),
        &files.place().join("sha256"),
    );
    host.wait_for_log("policy loaded tenant=fabrikam sequence=1");
    assert_eq!(reply(&host, "one.test", "fabrikam"), 550);
    wait_for_reply(&host, "one.test", "unknown", 550);
}

/// An export keeps what it cannot have, and says so.
#[test]
fn an_export_loses_nobody() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    fleet.sign("fabrikam", &large(), &[]);
    let mut entry = fleet.entry("fabrikam");
    entry.as_object_mut().expect("an object").remove("body");
    fleet.smuggle("all.fabrikam", entry.to_string().as_bytes());
    let folder = fleet.office.path("files").display().to_string();
    let told = fleet.fail(&["export", &folder]);
    assert!(
        told.contains("all.fabrikam is there without its policy"),
        "{told}"
    );
    assert!(told.contains("2 entries, revision 2"), "{told}");
    // Once it is there, the next export has it.
    fleet.run(&["put", "fabrikam.json", "--ring", "canary"]);
    let told = fleet.run(&["export", &folder]);
    assert!(told.contains("3 entries, revision 3"), "{told}");

    // Of many policies, one that is wrong keeps no other back, and stays as it was.
    let files = Files::new();
    files.sign("contoso", &rules("one.test"));
    files.sign("fabrikam", &rules("one.test"));
    files.export();
    let (_, before) = files.places("all.contoso");
    files.sign("fabrikam", &rules("two.test"));
    files
        .office
        .write("signed/contoso.json", rules("evil.test"));
    let told = files.office.fail(&Files::EXPORT, 2);
    assert!(
        told.contains("contoso.json") && told.contains("revision 2"),
        "{told}"
    );
    assert_eq!(files.places("all.contoso").1, before);
    // A domain of one that was taken away is free.
    files.sign("contoso", &rules("one.test"));
    files.office.succeed(&[
        "sign",
        "retire",
        "contoso",
        "--sequence",
        "2",
        "--key",
        "ops.pem",
    ]);
    fs::rename(
        files.office.path("contoso.retire.dsse.json"),
        files.office.path("signed/contoso.retire.dsse.json"),
    )
    .expect("a file");
    files.office.succeed(&[
        "sign",
        "tenant",
        "fabrikam",
        "--domain",
        "fabrikam.com",
        "--domain",
        "contoso.com",
        "--policy-key",
        "fabrikam.pem.pub",
        "--key",
        "ops.pem",
    ]);
    files.sign("fabrikam", &rules("three.test"));
    files.export();
}
