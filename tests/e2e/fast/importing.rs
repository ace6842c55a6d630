//! What other products export becomes rules that are never weaker, and a table of what differs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use portcullis_tests::daemon::run;
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("imports")
        .join(name)
}

fn import(source: &str, path: &Path, more: &[&str]) -> Output {
    let path = path.to_string_lossy();
    run(&[&["import", source, &path], more].concat(), b"")
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// The rules and the rows, as JSON.
fn told(source: &str, path: &Path, more: &[&str], code: i32) -> Value {
    let output = import(source, path, &[&["--format", "json"], more].concat());
    assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn connectors(told: &Value) -> Vec<Value> {
    let list = told["rules"]["connectors"].as_array().expect("a list");
    let mut list = list.clone();
    for connector in &mut list {
        connector
            .as_object_mut()
            .expect("an object")
            .remove("comment");
    }
    list
}

/// The kinds of the differences of a record.
fn kinds(told: &Value, there: &str) -> Vec<String> {
    let rows = told["rows"].as_array().expect("rows");
    let row = rows
        .iter()
        .find(|row| row["there"].as_str().expect("a text").contains(there));
    let differences = row.expect("the record")["differences"]
        .as_array()
        .expect("a list");
    differences
        .iter()
        .map(|it| it["kind"].as_str().expect("a kind").to_owned())
        .collect()
}

/// The records of a tenant with a connector of each kind, and what they mean here.
#[test]
fn connectors_of_exchange_keep_their_meaning() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.json");
    let rules = rules.to_string_lossy();
    let output = import("exchange", &fixture("exchange.json"), &["-o", &rules]);
    assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
    let listed = String::from_utf8(run(&["list", &rules], b"").stdout).expect("UTF-8");
    let listed: Vec<String> = listed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = "Contoso Bank inbound enforce from *.contosobank.com → TLS
Fabrikam inbound enforce from fabrikam.com → TLS, certificate *.fabrikam.com
Adatum inbound enforce from adatum.com → source 203.0.113.0/25
Lock-down inbound enforce from *, except from adatum.com, contoso.com, fabrikam.com, wingtip.com → TLS, source 198.51.100.0/24
Servers inbound enforce from 192.0.2.0/24 → TLS
Servers (all senders) inbound audit from * → TLS
Tailspin inbound enforce from tailspin.com → TLS
Tailspin (by address) inbound audit from 192.0.2.200 → TLS
Tailspin (certificate) inbound audit from tailspin.com → TLS, certificate mail.tailspin.com
Own by SendGrid inbound enforce from contoso.com → TLS, certificate *.mailgun.org, *.smtp.sendgrid.net
Wingtip by certificate inbound enforce from wingtip.com, except with certificate *.wingtip.com → TLS, source 203.0.113.200
Old inbound disabled from old.example and to contoso.net → TLS
Contoso Bank (outbound) outbound enforce to *.contosobank.com → TLS with a trusted certificate for *.contosobank.com, without MTA-STS, by MX
To Fabrikam outbound enforce to fabrikam.com → TLS and DANE, by mx.fabrikam.com
To on-premises outbound enforce to contoso.com, contoso.net → TLS with a trusted certificate for mail.contoso.com, by mail.contoso.com
By rule outbound enforce to adatum.com → TLS with a trusted certificate, by MX
Tried outbound disabled to northwind.com → TLS if offered, by MX";
    assert_eq!(listed, expected.lines().collect::<Vec<_>>());
    let told = told("exchange", &fixture("exchange.json"), &[], 1);
    for (there, expected) in [
        ("\"Contoso Bank\"", &[][..]),
        ("\"Fabrikam\"", &["note"]),
        ("\"Adatum\"", &["note"]),
        ("\"Lock-down\"", &["differs"; 5]),
        ("\"Servers\"", &["uncertain"]),
        ("\"Tailspin\"", &["uncertain"; 2]),
        (
            "\"Own by SendGrid\", \"Own by Mailgun\"",
            &["note", "note", "differs"],
        ),
        (
            "\"Wingtip by certificate\", \"Wingtip by address\"",
            &["note", "differs"],
        ),
        ("\"Old\"", &["note"]),
        ("\"Hybrid\"", &["not-imported"]),
        ("outbound \"Contoso Bank\"", &["note"]),
        ("\"By rule\"", &["note"]),
        ("\"Tried\"", &["uncertain"]),
    ] {
        assert_eq!(kinds(&told, there), expected, "{there}");
    }
    // The same is there already.
    let again = import("exchange", &fixture("exchange.json"), &["-o", &rules]);
    assert_eq!(again.status.code(), Some(1), "{}", errors(&again));
    // Something else is not replaced without a word.
    fs::write(&*rules, "{\"connectors\": []}").expect("a file");
    let again = import("exchange", &fixture("exchange.json"), &["-o", &rules]);
    assert_eq!(again.status.code(), Some(2));
    assert!(
        errors(&again).contains("--accept-differences"),
        "{}",
        errors(&again)
    );
    // What was there can come back.
    let accepted = import(
        "exchange",
        &fixture("exchange.json"),
        &["-o", &rules, "--accept-differences"],
    );
    assert_eq!(accepted.status.code(), Some(1));
    let history = run(&["history", &rules, "--format", "json"], b"");
    let versions: Value = serde_json::from_slice(&history.stdout).expect("JSON");
    let actions: Vec<&str> = versions
        .as_array()
        .expect("a list")
        .iter()
        .map(|it| it["action"].as_str().expect("a text"))
        .collect();
    assert_eq!(actions.last(), Some(&"import rules"));
    let back = run(
        &["restore", &rules, &(actions.len() - 1).to_string(), "--yes"],
        b"",
    );
    assert_eq!(back.status.code(), Some(0), "{}", errors(&back));
    assert_eq!(
        fs::read_to_string(&*rules).expect("rules"),
        "{\"connectors\": []}"
    );
    // An export of a real tenant means the same.
    let output = import("exchange", &fixture("one-partner.json"), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
}

/// Where two claim a domain, mail to it is protected as the stricter one says, and mail to the others as before.
#[test]
fn a_domain_that_two_connectors_claim_has_the_stricter_one() {
    let outbound = |name: &str, domains: Value, level: &str| {
        json!({"Name": name, "Enabled": true, "ConnectorType": "Partner", "RecipientDomains": domains,
            "UseMXRecord": true, "TlsSettings": level, "SmtpDaneMode": "Opportunistic", "MtaStsMode": "Opportunistic"})
    };
    let export = json!([
        outbound("weak", json!(["b.test", "c.test"]), "EncryptionOnly"),
        outbound(
            "strict",
            json!(["a.test", "b.test"]),
            "CertificateValidation"
        ),
        outbound("twin", json!(["a.test"]), "CertificateValidation"),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("export.json");
    fs::write(&path, export.to_string()).expect("a file");
    let told = told("exchange", &path, &[], 1);
    let to = |number: usize| connectors(&told)[number]["to"]["recipient-domains"].clone();
    assert_eq!(
        [to(0), to(1)],
        [json!(["c.test"]), json!(["a.test", "b.test"])]
    );
    assert_eq!(connectors(&told)[2]["enabled"], false);
}

#[test]
fn every_form_of_an_export_is_read() {
    let fabrikam = |require: Value| {
        json!({"name": "Fabrikam", "direction": "inbound",
            "from": {"sender-domains": ["fabrikam.com", "*.fabrikam.net"]}, "require": require})
    };
    let clixml = fixture("connectors.clixml");
    let read = told("exchange", &clixml, &[], 0);
    let mut first = fabrikam(json!({"tls": true, "certificate-names": ["*.fabrikam.com"]}));
    first["name"] = json!("Fabrikam & Co");
    let second = json!({"name": "To Fabrikam", "direction": "outbound", "to": {"recipient-domains": ["fabrikam.com"]},
        "tls": {"level": "verify"}, "dane": "none"});
    assert_eq!(connectors(&read), [first, second]);
    let comment = read["rules"]["connectors"][0]["comment"]
        .as_str()
        .expect("a comment");
    assert!(comment.starts_with("first\nsecond"), "{comment}");
    // PowerShell 5.1 writes UTF-16.
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    };
    let text = fs::read_to_string(&clixml).expect("the fixture");
    let wide: Vec<u8> = [0xfeff]
        .into_iter()
        .chain(text.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(told("exchange", &write("wide.xml", &wide), &[], 0), read);
    let read = told("exchange", &fixture("connectors.ps1"), &[], 0);
    let second = json!({"name": "To Fabrikam", "direction": "outbound", "to": {"recipient-domains": ["fabrikam.com"]},
        "route": {"smart-hosts": ["mx.fabrikam.com"]}, "tls": {"level": "name", "names": ["*.fabrikam.com"]}});
    let first = fabrikam(json!({"tls": true, "source-ips": ["198.51.100.7", "203.0.113.0/24"]}));
    assert_eq!(connectors(&read), [first, second]);
    // One record alone, and what PowerShell 5.1 puts around a list.
    let one = json!({"Name": "x", "Enabled": true, "ConnectorType": "Partner", "SenderDomains": "smtp:x.test;1",
        "RequireTls": true});
    let wrapped = json!({"InboundConnector": {"value": [one], "Count": 1}});
    for (name, value) in [("one.json", &one), ("wrapped.json", &wrapped)] {
        let read = told(
            "exchange",
            &write(name, value.to_string().as_bytes()),
            &[],
            0,
        );
        assert_eq!(
            connectors(&read)[0]["from"],
            json!({"sender-domains": ["x.test"]})
        );
    }
    // A table with lists that are whole is read, in either culture.
    let table =
        "Name;Enabled;ConnectorType;SenderDomains;RequireTls\nx;True;Partner;smtp:x.test;True\n";
    let quoted = table
        .replace(';', ",")
        .replace("x.test,True", "x.test\",True")
        .replace("smtp:", "\"smtp:");
    let read = told("exchange", &write("table.csv", quoted.as_bytes()), &[], 0);
    assert_eq!(connectors(&read)[0]["name"], "x");
}

/// What was lost on the way, damaged or made to harm is refused, in one line, and nothing is written.
#[test]
fn exports_that_cannot_be_read_are_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.json");
    let refused = |bytes: &[u8], expected: &str| {
        let path = folder.path().join("\u{202e}export\u{1b}[31m");
        fs::write(&path, bytes).expect("a file");
        let output = import("exchange", &path, &["-o", &rules.to_string_lossy()]);
        let said = errors(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(
            !said.contains("panicked") && !said.contains(['\u{1b}', '\u{202e}']),
            "{said}"
        );
        assert!(!rules.exists());
    };
    refused(b"", "the file is empty");
    refused(b"hello", "this is no export of connectors");
    refused(b"\xff", "neither UTF-8 nor UTF-16");
    refused(b"[null]", "there is no connector in it");
    refused(b"{\"InboundConnector\": [", "this is not JSON");
    refused("[".repeat(100_000).as_bytes(), "this is not JSON");
    refused(
        b"Name      : x\nSenderDomains : {smtp:a.test;1, smtp:b.t...}\n",
        "Get-InboundConnector",
    );
    refused(
        b"#TYPE Selected\n\"Name\",\"SenderDomains\"\n\"x\",\"System.Collections.ArrayList\"\n",
        "ConvertTo-Json",
    );
    refused(
        b"\"Name\",\"SenderDomains\"\n\"x\",\"smtp:a.test;1 smtp:b.test;1\"\n",
        "no list where one is wanted",
    );
    refused(
        b"<!DOCTYPE x [<!ENTITY a \"aaaa\">]><Objs>&a;</Objs>",
        "document type",
    );
    refused(
        b"<Objs><S>&bomb;</S></Objs>",
        "\"bomb\" is not one of XML's own",
    );
    refused("<Obj>".repeat(100_000).as_bytes(), "nested too deep");
    refused(
        b"<Objs><Obj><MS><S N=\"Name\">x</S>",
        "it ends in the middle",
    );
    refused(
        b"EXOInboundConnector x\n{\n Name = \"$($name)\"\n}",
        "computed",
    );
    refused(
        b"EXOInboundConnector x\n{\n SenderDomains = Get-It\n",
        "does not end",
    );
    // What the file does not say for certain is not taken for granted.
    for (fields, expected) in [
        (json!({}), "Enabled"),
        (
            json!({"Enabled": true, "RestrictDomainsToCertificate": true}),
            "there is no TlsSenderCertificateName",
        ),
        (
            json!({"Enabled": true, "RestrictDomainsToIPAddresses": true}),
            "there are no SenderIPAddresses",
        ),
        (
            json!({"Enabled": true, "SenderIPAddresses": ["192.0.2.1-192.0.2.9"]}),
            "no address and no range",
        ),
        (json!({"Enabled": "maybe"}), "neither true nor false"),
        (
            json!({"Enabled": true, "TrustedOrganizations": ["x"]}),
            "TrustedOrganizations has no counterpart",
        ),
        (
            json!({"Enabled": true, "ConnectorType": "Other"}),
            "neither Partner nor OnPremises",
        ),
        (
            json!({"Enabled": true, "SenderDomains": ["a.test", "b.te…"]}),
            "was shortened",
        ),
    ] {
        let mut record = json!({"Name": "x", "ConnectorType": "Partner", "SenderDomains": ["x.test"], "RequireTls": true});
        for (name, value) in fields.as_object().expect("an object") {
            record[name] = value.clone();
        }
        refused(record.to_string().as_bytes(), expected);
    }
}

#[test]
fn tables_of_postfix_keep_their_meaning() {
    let path = fixture("tls_policy");
    let told = told("postfix", &path, &[], 1);
    let outbound = |name: &str, to: Value, more: Value| {
        let mut connector = json!({"name": name, "direction": "outbound", "to": to});
        for (field, value) in more.as_object().expect("an object") {
            connector[field] = value.clone();
        }
        connector
    };
    let to = |domain: &str| json!({"recipient-domains": [domain]});
    assert_eq!(
        connectors(&told),
        [
            outbound(
                "contosobank.com",
                to("contosobank.com"),
                json!({"tls": {"level": "name", "names": ["contosobank.com", "*.mx.contosobank.com"]}})
            ),
            outbound(
                ".contosobank.com",
                to("*.contosobank.com"),
                json!({"tls": {"level": "encrypt"}})
            ),
            outbound(
                ".below.example",
                to("*.below.example"),
                json!({"except": {"recipient-domains": ["below.example"]},
                "tls": {"level": "encrypt", "min-version": "TLSv1.3"}})
            ),
            outbound("adatum.com", to("adatum.com"), json!({"dane": "mandatory"})),
            outbound("fabrikam.com", to("fabrikam.com"), json!({})),
            outbound("none.example", to("none.example"), json!({})),
            outbound(
                "pinned.example",
                to("pinned.example"),
                json!({"tls": {"level": "encrypt", "certificate-fingerprints": ["ab".repeat(32)]}})
            ),
            outbound(
                "new.example",
                to("new.example"),
                json!({"tls": {"level": "encrypt", "min-version": "TLSv1.3"}}),
            ),
        ]
    );
    for (line, expected) in [
        ("none.example", &["differs"][..]),
        ("verify.example", &["not-imported"]),
        ("weak.example", &["not-imported"]),
        ("[mx.host.example]:587", &["not-imported"]),
        ("excluded.example", &["not-imported"]),
        ("pinned.example", &["differs"]),
        ("old.example", &["not-imported"]),
    ] {
        assert_eq!(kinds(&told, line), expected, "{line}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let write = |text: &str| {
        let path = folder.path().join("clients");
        fs::write(&path, text).expect("a file");
        path
    };
    let path = write("192.0.2.0/24 OK\n2001:db8::/32 OK\n");
    let output = import("postfix", &path, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("--from DOMAIN"));
    let read = self::told("postfix", &path, &["--from", "bank.test"], 1);
    assert_eq!(
        connectors(&read)[0]["require"],
        json!({"source-ips": ["192.0.2.0/24", "2001:db8::/32"]})
    );
    for text in [
        "192.0.2.0/24 OK\n192.0.2.7 REJECT\n",
        "if 192.0.2.0/24\n192.0.2.1 OK\nendif\n",
    ] {
        let output = import("postfix", &write(text), &["--from", "bank.test"]);
        assert_eq!(output.status.code(), Some(2), "{text}");
    }
    let digest = ["ab"; 32].join(":");
    let read = self::told(
        "postfix",
        &write(&format!("{digest} OK\n")),
        &["--from", "bank.test"],
        1,
    );
    assert_eq!(
        connectors(&read)[0]["require"],
        json!({"certificate-fingerprints": ["ab".repeat(32)]})
    );
}

/// A list that somebody else maintains is brought up to date, and what came and went is told.
#[test]
fn a_list_of_domains_is_kept_up_to_date() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.json");
    let list = folder.path().join("banks.csv");
    let run_with = |text: &str| {
        fs::write(&list, text).expect("a file");
        let rules = rules.to_string_lossy();
        let output = import(
            "list",
            &list,
            &["--name", "Banks", "--level", "verify", "-o", &rules],
        );
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        errors(&output)
    };
    let said = run_with("Bank;Domain\nA;a.test\nB;b.test\n");
    assert!(
        said.ends_with("Banks: 2 domains, 2 came, 0 went\n"),
        "{said}"
    );
    let read = || -> Value {
        serde_json::from_str(&fs::read_to_string(&rules).expect("rules")).expect("JSON")
    };
    assert_eq!(
        read()["connectors"],
        json!([{"name": "Banks", "comment": "the domains of banks.csv", "direction": "outbound",
        "to": {"recipient-domains": ["a.test", "b.test"]}, "tls": {"level": "verify"}}])
    );
    let said = run_with("Bank;Domain\nA;a.test\nC;c.test\n");
    assert_eq!(
        said,
        "came: c.test\nwent: b.test\nBanks: 2 domains, 1 came, 1 went\n"
    );
    assert_eq!(
        read()["connectors"][0]["to"],
        json!({"recipient-domains": ["a.test", "c.test"]})
    );
    let history = run(
        &["history", &rules.to_string_lossy(), "--format", "json"],
        b"",
    );
    let versions: Value = serde_json::from_slice(&history.stdout).expect("JSON");
    assert_eq!(versions[1]["action"], "import the list \"Banks\"");
    // Another level is not taken without a word.
    let other = [
        "--name",
        "Banks",
        "--level",
        "encrypt",
        "-o",
        &rules.to_string_lossy(),
    ];
    let output = import("list", &list, &other);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("portcullis edit changes that"));
    let damaged = folder.path().join("damaged.csv");
    fs::write(&damaged, "a.test\nhello\n").expect("a file");
    let before = read();
    let output = import(
        "list",
        &damaged,
        &["--name", "Banks", "-o", &rules.to_string_lossy()],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(
        errors(&output).contains("damaged.csv: 2:1: \"hello\" is not a domain"),
        "{}",
        errors(&output)
    );
    assert_eq!(read(), before);
}

/// A list takes no domain away from a connector that asks for more.
#[test]
fn a_list_weakens_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.json");
    let list = folder.path().join("banks.csv");
    fs::write(&list, "x.bank.test\nother.test\n").expect("a file");
    for (stronger, less) in [
        (
            json!({"tls": {"level": "name", "names": ["*.bank.test"]}}),
            "a higher level of TLS",
        ),
        (
            json!({"tls": {"level": "encrypt"}, "dane": "mandatory"}),
            "DANE",
        ),
        (
            json!({"tls": {"level": "encrypt"}, "route": {"smart-hosts": ["filter.test"]}}),
            "a smart host",
        ),
    ] {
        let mut connector = json!({"name": "Bank", "direction": "outbound", "to": {"recipient-domains": ["*.bank.test"]}});
        for (field, value) in stronger.as_object().expect("fields") {
            connector[field] = value.clone();
        }
        let document = json!({"connectors": [connector]}).to_string();
        fs::write(&rules, &document).expect("a file");
        let path = rules.to_string_lossy();
        let output = import("list", &list, &["--name", "Banks", "-o", &path]);
        assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
        let said = errors(&output);
        assert!(
            said.contains(&format!("x.bank.test: \"Bank\" asks for {less}")),
            "{said}"
        );
        assert_eq!(fs::read_to_string(&rules).expect("rules"), document);
    }
}

/// What an export says in a way that cannot be read is never taken for nothing.
#[test]
fn what_cannot_be_read_is_not_taken_for_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbound = |field: &str, value: Value| {
        let mut record = json!({"Name": "x", "Enabled": true, "RecipientDomains": ["a.test"], "UseMXRecord": true,
            "TlsSettings": "EncryptionOnly", "SmtpDaneMode": "None", "MtaStsMode": "None"});
        record[field] = value;
        json!({"OutboundConnector": [record]}).to_string()
    };
    let send = |tls_domain: Value, spaces: Value| {
        json!({"SendConnector": [{"Name": "x", "Enabled": true, "AddressSpaces": spaces,
        "DNSRoutingEnabled": true, "TlsAuthLevel": "DomainValidation", "TlsDomain": tls_domain}]})
        .to_string()
    };
    for (name, export, reason) in [
        ("a.json", outbound("TlsSettings", json!(3)), "TlsSettings is no text: 3"),
        ("a.json", outbound("SmtpDaneMode", json!({"value": 1})), "SmtpDaneMode is no text"),
        ("a.json", outbound("RecipientDomains", json!("a.test;b.test")), "no domain with a cost"),
        ("a.json", json!({"InboundConnector": [], "Inbound": [{"Name": "lost"}]}).to_string(), "neither a connector nor an accepted domain"),
        ("a.json", send(Value::Null, json!(["SMTP:*.a.test;1"])), "of each recipient's own domain"),
        ("a.ps1", "EXOOutboundConnector 'x' {\n Name = 'x'\n TlsSettings = $Node.Tls\n}".into(), "computed"),
        ("a.ps1", "EXOInboundConnector 'x' 'y' 'z' {\n Name = 'x'\n}".into(), "its name is to stand"),
        ("a.csv", "Name,Enabled,ConnectorType,SenderDomains,RequireTls\nx,True,Partner,smtp:a.test;smtp:b.test,True".into(), "no list where one is wanted"),
        ("tls_policy", ".a.test secure".into(), "of the very domain below"),
        ("cidr", "192.0.2.9/24 OK".into(), "bits behind its prefix"),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, &export).expect("a file");
        let kind = if name.contains('.') { "exchange" } else { "postfix" };
        let options: &[&str] = if name == "cidr" { &["--from", "a.test"] } else { &[] };
        let output = import(kind, &file, options);
        let said = errors(&output);
        assert_eq!(output.status.code(), Some(2), "{export}: {said}");
        assert!(said.contains(reason), "{export}: {said}");
    }
}

/// A remark of PowerShell, and names in another case, change nothing.
#[test]
fn a_configuration_is_read_as_powershell_reads_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.ps1");
    let text = "exoInboundConnector 'x'\n{\n Identity = 'x'\n Enabled = $True\n ConnectorType = 'Partner'\n senderdomains = @('a.test')\n RequireTls = $true\n <#\n RequireTls = $false\n #>\n RestrictDomainsToIpAddresses = $true\n SenderIPAddresses = @('192.0.2.1')\n Credential = $Credential\n}\n";
    fs::write(&file, text).expect("a file");
    let output = import("exchange", &file, &["--format", "json"]);
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        told["rules"]["connectors"][0]["require"],
        json!({"tls": true, "source-ips": ["192.0.2.1"]}),
        "{}",
        errors(&output)
    );
}

/// Rules that are there are not replaced without a word, even if the import means the same as its source.
#[test]
fn an_import_replaces_no_other_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let (rules, table) = (
        folder.path().join("rules.json"),
        folder.path().join("tls_policy"),
    );
    let own = r#"{"connectors": [{"name": "Own", "direction": "inbound", "from": {"sender-domains": ["b.test"]}, "require": {"tls": true}}]}"#;
    fs::write(&rules, own).expect("a file");
    fs::write(&table, "a.test encrypt\n").expect("a file");
    let path = rules.to_string_lossy();
    let output = import("postfix", &table, &["-o", &path]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read_to_string(&rules).expect("rules"), own);
    let output = import("postfix", &table, &["-o", &path, "--accept-differences"]);
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    let restored = run(&["restore", &path, "1", "--yes"], b"");
    assert!(restored.status.success());
    assert_eq!(fs::read_to_string(&rules).expect("rules"), own);
}
