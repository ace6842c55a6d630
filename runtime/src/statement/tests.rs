//! What is taken, and what is not.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use proptest::prelude::*;

use super::*;

/// What was accepted, in memory.
#[derive(Debug, Default)]
struct Memory(Mutex<HashMap<(Subject, String), Accepted>>);

impl Ledger for Memory {
    fn accepted(&self, subject: Subject, tenant: &str) -> Result<Option<Accepted>, LedgerError> {
        let known = self.0.lock().unwrap();
        Ok(known.get(&(subject, tenant.to_owned())).copied())
    }

    fn accept(
        &self,
        subject: Subject,
        tenant: &str,
        accepted: &Accepted,
    ) -> Result<(), LedgerError> {
        let mut known = self.0.lock().unwrap();
        known.insert((subject, tenant.to_owned()), *accepted);
        Ok(())
    }
}

/// A ledger that cannot be read.
#[derive(Debug)]
struct Broken;

impl Ledger for Broken {
    fn accepted(&self, _: Subject, _: &str) -> Result<Option<Accepted>, LedgerError> {
        let (what, reason) = ("read", "the disk is gone".into());
        Err(LedgerError { what, reason })
    }

    fn accept(&self, _: Subject, _: &str, _: &Accepted) -> Result<(), LedgerError> {
        Ok(())
    }
}

/// Keys of people. They are made once.
struct People {
    ops: SigningKey,
    deputy: SigningKey,
    contoso: SigningKey,
    thief: SigningKey,
}

static PEOPLE: LazyLock<People> = LazyLock::new(|| People {
    ops: SigningKey::generate().unwrap(),
    deputy: SigningKey::generate().unwrap(),
    contoso: SigningKey::generate().unwrap(),
    thief: SigningKey::generate().unwrap(),
});

const POLICY: &[u8] = br#"{"connectors": []}"#;

fn time(text: &str) -> Time {
    Time::parse(text).unwrap()
}

fn now() -> Time {
    time("2026-11-27T20:00:00Z")
}

fn keys(keys: &[(&str, &SigningKey)], threshold: usize) -> KeySet {
    let named = |(name, key): &(&str, &SigningKey)| NamedKey {
        name: (*name).to_owned(),
        key: key.public(),
    };
    KeySet {
        keys: keys.iter().map(named).collect(),
        threshold,
    }
}

fn signed<P: Payload>(statement: &P, keys: &[&SigningKey]) -> Envelope {
    let mut envelope = Envelope::of(statement).unwrap();
    keys.iter().for_each(|key| envelope.sign(key));
    envelope
}

fn root(version: u64, operators: KeySet) -> Root {
    Root {
        version,
        created: time("2026-01-01T00:00:00Z"),
        expires: time("2027-01-01T00:00:00Z"),
        operators,
    }
}

/// Roots of the operator alone.
fn roots() -> Roots {
    let root = root(1, keys(&[("ops", &PEOPLE.ops)], 1));
    Roots::read(signed(&root, &[&PEOPLE.ops]).to_json().as_bytes()).unwrap()
}

fn about(sequence: u64, policies: KeySet) -> TenantStatement {
    TenantStatement {
        tenant: "contoso".into(),
        sequence,
        created: time("2026-02-01T00:00:00Z"),
        expires: None,
        domains: vec!["contoso.com".into()],
        policies,
        policies_from: None,
    }
}

fn policy(sequence: u64) -> PolicyStatement {
    PolicyStatement {
        tenant: "contoso".into(),
        sequence,
        created: time("2026-03-01T00:00:00Z"),
        not_before: None,
        expires: None,
        format: Format::Json,
        sha256: digest_of(POLICY),
        size: POLICY.len() as u64,
        note: None,
    }
}

fn contosos() -> KeySet {
    keys(&[("contoso", &PEOPLE.contoso)], 1)
}

/// Verifies a policy of Contoso, and accepts it.
fn take(
    roots: &Roots,
    ledger: &Memory,
    about: Option<&TenantStatement>,
    envelope: &Envelope,
) -> Result<Verified<PolicyStatement>, VerifyError> {
    let verified = roots.policy(envelope, "contoso", about, ledger, now())?;
    verified.is_of(Format::Json, POLICY.len(), digest_of(POLICY))?;
    if !verified.is_known {
        ledger.accept(Subject::Policy, "contoso", &verified.accepted)?;
    }
    Ok(verified)
}

#[test]
fn a_policy_is_taken_of_those_whom_the_operators_name() {
    let (roots, ledger) = (roots(), Memory::default());
    let about = signed(&about(1, contosos()), &[&PEOPLE.ops]);
    let about = roots.tenant(&about, "contoso", &ledger, now()).unwrap();
    assert_eq!(about.signed_by, ["ops"]);
    let about = Some(&about.statement);
    let good = signed(&policy(1), &[&PEOPLE.contoso]);
    let taken = take(&roots, &ledger, about, &good).unwrap();
    assert_eq!(taken.signed_by, ["contoso"]);
    for key in [&PEOPLE.thief, &PEOPLE.ops] {
        let error = take(&roots, &ledger, about, &signed(&policy(2), &[key])).unwrap_err();
        assert!(error.to_string().contains("0 of 1"), "{error}");
        assert!(error.to_string().contains("contoso (ed25519:"), "{error}");
    }
    let by_operators = signed(&policy(2), &[&PEOPLE.ops]);
    let taken = take(&roots, &ledger, None, &by_operators).unwrap();
    assert_eq!(taken.signed_by, ["ops"]);
}

#[test]
fn a_tenants_key_signs_nothing_else() {
    let (roots, ledger) = (roots(), Memory::default());
    let own = about(1, contosos());
    let by_tenant = signed(&own, &[&PEOPLE.contoso]);
    assert!(roots.tenant(&by_tenant, "contoso", &ledger, now()).is_err());
    let retirement = Retirement {
        tenant: "contoso".into(),
        sequence: 2,
        created: now(),
    };
    let by_tenant = signed(&retirement, &[&PEOPLE.contoso]);
    let refused = roots.retirement(&by_tenant, "contoso", &ledger, now());
    assert!(refused.is_err());
    // Another tenant's policy, and a statement that stands for another kind of one.
    let good = signed(&policy(1), &[&PEOPLE.contoso]);
    let error = roots.policy(&good, "other", Some(&own), &ledger, now());
    assert!(matches!(error, Err(VerifyError::Tenant { .. })));
    let mut renamed = signed(&own, &[&PEOPLE.contoso]);
    renamed.payload_type = PolicyStatement::TYPE.into();
    assert!(take(&roots, &ledger, Some(&own), &renamed).is_err());
}

#[test]
fn nobody_brings_an_older_policy_back() {
    let (roots, ledger, own) = (roots(), Memory::default(), about(1, contosos()));
    let take = |statement: &PolicyStatement| {
        let envelope = signed(statement, &[&PEOPLE.contoso]);
        take(&roots, &ledger, Some(&own), &envelope)
    };
    assert!(!take(&policy(5)).unwrap().is_known);
    assert!(take(&policy(5)).unwrap().is_known);
    let error = take(&policy(4)).unwrap_err();
    assert_eq!(error, VerifyError::Rollback { found: 4, known: 5 });
    let other = PolicyStatement {
        note: Some("another".into()),
        ..policy(5)
    };
    assert_eq!(take(&other).unwrap_err(), VerifyError::Conflict(5));
    assert!(take(&policy(6)).is_ok());
    assert!(take(&policy(5)).is_err());
}

#[test]
fn what_is_over_is_not_taken_and_what_is_in_force_stays() {
    let (roots, ledger, own) = (roots(), Memory::default(), about(1, contosos()));
    let expiring = PolicyStatement {
        expires: Some(time("2026-12-01T00:00:00Z")),
        not_before: Some(time("2026-11-01T00:00:00Z")),
        ..policy(1)
    };
    let envelope = signed(&expiring, &[&PEOPLE.contoso]);
    let at = |now: &str| roots.policy(&envelope, "contoso", Some(&own), &ledger, time(now));
    let early = at("2026-10-31T23:59:59Z");
    assert!(matches!(early, Err(VerifyError::NotYet { .. })));
    let late = at("2026-12-01T00:00:00Z");
    assert!(matches!(late, Err(VerifyError::Expired { .. })));
    let verified = at("2026-11-15T00:00:00Z").unwrap();
    ledger
        .accept(Subject::Policy, "contoso", &verified.accepted)
        .unwrap();
    // Also when the operators' keys are no longer good.
    let later = at("2028-01-01T00:00:00Z").unwrap();
    assert!(later.is_known);
    let new = signed(&policy(2), &[&PEOPLE.contoso]);
    let later = time("2028-01-01T00:00:00Z");
    let error = roots.policy(&new, "contoso", Some(&own), &ledger, later);
    assert!(matches!(error, Err(VerifyError::RootExpired { .. })));
}

#[test]
fn a_stolen_key_is_exchanged_and_its_high_sequences_count_no_longer() {
    let (roots, ledger) = (roots(), Memory::default());
    let before = about(1, keys(&[("stolen", &PEOPLE.thief)], 1));
    let by_thief = signed(&policy(MAX_SEQUENCE), &[&PEOPLE.thief]);
    take(&roots, &ledger, Some(&before), &by_thief).unwrap();
    let after = TenantStatement {
        policies_from: Some(100),
        ..about(2, contosos())
    };
    // What is in force stays until there is another.
    let stays = take(&roots, &ledger, Some(&after), &by_thief).unwrap();
    assert!(stays.is_known && stays.signed_by.is_empty());
    let take = |about: &TenantStatement, sequence, key| {
        take(
            &roots,
            &ledger,
            Some(about),
            &signed(&policy(sequence), &[key]),
        )
    };
    let low = take(&after, 99, &PEOPLE.contoso);
    let (found, least) = (99, 100);
    assert_eq!(low.unwrap_err(), VerifyError::TooLow { found, least });
    assert!(take(&after, 101, &PEOPLE.thief).is_err());
    take(&after, 101, &PEOPLE.contoso).unwrap();
    assert!(take(&after, 100, &PEOPLE.contoso).is_err());
    // Also under later statements, whether they say so again or not.
    for from in [Some(100), None] {
        let later = TenantStatement {
            policies_from: from,
            ..about(3, contosos())
        };
        assert!(take(&later, 100, &PEOPLE.contoso).is_err(), "{from:?}");
    }
    take(&about(4, contosos()), 102, &PEOPLE.contoso).unwrap();
}

#[test]
fn as_many_sign_as_must() {
    let two = keys(&[("ops", &PEOPLE.ops), ("deputy", &PEOPLE.deputy)], 2);
    let first = root(1, two.clone());
    let alone = signed(&first, &[&PEOPLE.ops]).to_json();
    let error = Roots::read(alone.as_bytes()).unwrap_err();
    assert!(error.to_string().starts_with("1 of 2"), "{error}");
    let mut twice = signed(&first, &[&PEOPLE.ops]);
    twice.signatures.push(Signature {
        key_id: None,
        ..twice.signatures[0].clone()
    });
    assert!(Roots::read(twice.to_json().as_bytes()).is_err());
    let both = signed(&first, &[&PEOPLE.ops, &PEOPLE.deputy]);
    Roots::read(both.to_json().as_bytes()).unwrap();
    // The name of a key is a hint.
    let mut nameless = both;
    nameless.signatures[0].key_id = None;
    nameless.signatures[1].key_id = Some("2026-11".into());
    Roots::read(nameless.to_json().as_bytes()).unwrap();
}

#[test]
fn roots_follow_each_other() {
    let (ops, deputy, thief) = (&PEOPLE.ops, &PEOPLE.deputy, &PEOPLE.thief);
    let one = signed(&root(1, keys(&[("ops", ops)], 1)), &[ops]);
    let two = root(2, keys(&[("deputy", deputy)], 1));
    let three = root(3, keys(&[("ops", ops), ("deputy", deputy)], 2));
    let chain = |envelopes: &[&Envelope]| {
        let lines = envelopes.iter().map(|it| it.to_json() + "\n");
        Roots::read(lines.collect::<String>().as_bytes())
    };
    let second = signed(&two, &[ops, deputy]);
    let third = signed(&three, &[deputy, ops]);
    assert_eq!(chain(&[&one, &second, &third]).unwrap().newest().version, 3);
    for wrong in [&[ops][..], &[deputy], &[thief, deputy]] {
        assert!(chain(&[&one, &signed(&two, wrong)]).is_err());
    }
    let (found, known) = (3, 1);
    let error = chain(&[&one, &third]).unwrap_err();
    assert_eq!(error, VerifyError::RootVersion { found, known });
    assert_eq!(chain(&[]).unwrap_err(), VerifyError::NoRoot);
    // A policy of an operator who is none any more.
    let rotated = chain(&[&one, &second]).unwrap();
    let ledger = Memory::default();
    assert!(take(&rotated, &ledger, None, &signed(&policy(1), &[ops])).is_err());
    take(&rotated, &ledger, None, &signed(&policy(1), &[deputy])).unwrap();
}

#[test]
fn what_differs_from_the_policy_is_told() {
    let (roots, ledger) = (roots(), Memory::default());
    let envelope = signed(&policy(1), &[&PEOPLE.ops]);
    let verified = roots
        .policy(&envelope, "contoso", None, &ledger, now())
        .unwrap();
    let size = POLICY.len();
    for (format, size, sha256, what) in [
        (Format::Wasm, size, digest_of(POLICY), "format"),
        (Format::Json, size + 1, digest_of(POLICY), "size"),
        (Format::Json, size, digest_of(b"another"), "SHA-256"),
    ] {
        let error = verified.is_of(format, size, sha256).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn nothing_is_taken_if_it_cannot_be_told_what_was_accepted() {
    let envelope = signed(&policy(1), &[&PEOPLE.ops]);
    let error = roots().policy(&envelope, "contoso", None, &Broken, now());
    assert!(error.unwrap_err().to_string().contains("the disk is gone"));
}

#[test]
fn bad_envelopes_are_refused_by_name() {
    let good = signed(&policy(1), &[&PEOPLE.ops]).to_json();
    let many = format!(
        r#"{{"payloadType":"x","payload":"","signatures":[{}]}}"#,
        vec![r#"{"sig":""}"#; MAX_SIGNATURES + 1].join(",")
    );
    let large = format!(
        r#"{{"payloadType":"x","payload":"{}","signatures":[]}}"#,
        "AAAA".repeat(MAX_PAYLOAD / 3 + 1)
    );
    let enormous = format!("{}{}", good, " ".repeat(MAX_ENVELOPE));
    for (json, told) in [
        ("", "EOF"),
        ("[]", "no DSSE envelope"),
        (&good[..good.len() - 9], "EOF"),
        (
            &good.replacen("{", "{\"payload\":\"\",", 1),
            "duplicate field",
        ),
        (&good.replacen("{", "{\"x\":1,", 1), "unknown field `x`"),
        (
            &good.replacen("\"sig\":\"", "\"sig\":\"!", 1),
            "sig is not Base64",
        ),
        (
            &good.replacen("\"payload\":\"", "\"payload\":\"!", 1),
            "payload is not Base64",
        ),
        (
            &good.replacen("\"payload\":\"", "\"payload\":7,\"", 1),
            "line 1",
        ),
        (&many, "17 signatures"),
        (&large, "the payload is larger"),
        (&enormous, "the envelope is larger"),
    ] {
        let error = Envelope::read(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(told), "{told}: {error}");
    }
}

#[test]
fn bad_statements_are_refused_by_name() {
    let good = serde_json::to_string(&policy(7)).unwrap();
    let id = format!("{:?}", "a".repeat(3));
    for (payload, told) in [
        (String::new(), "EOF"),
        (
            good.replacen("{", "{\"sequence\":7,", 1),
            "duplicate field `sequence`",
        ),
        (
            good.replacen("{", "{\"serial\":7,", 1),
            "unknown field `serial`",
        ),
        (
            good.replace("\"sequence\":7", "\"sequence\":0"),
            "the sequence 0",
        ),
        (
            good.replace("\"sequence\":7", "\"sequence\":9007199254740992"),
            "the sequence 9007199254740992",
        ),
        (
            good.replace("\"sequence\":7", "\"sequence\":-7"),
            "sequence",
        ),
        (
            good.replace("\"sequence\":7", "\"sequence\":\"7\""),
            "sequence: invalid type",
        ),
        (
            good.replace("\"contoso\"", "\" \""),
            "the name of the tenant is empty",
        ),
        (good.replace("\"json\"", "\"lua\""), "format"),
        (
            good.replace("2026-03-01", "2026-13-01"),
            "no time of RFC 3339",
        ),
        (good.replace(&digest_of(POLICY).to_string(), &id), "sha256"),
        (format!("{good} {good}"), "trailing"),
    ] {
        let envelope = Envelope {
            payload_type: PolicyStatement::TYPE.into(),
            payload: payload.into_bytes(),
            signatures: Vec::new(),
        };
        let error = envelope.statement::<PolicyStatement>().unwrap_err();
        assert!(error.to_string().contains(told), "{told}: {error}");
    }
    let mut other = signed(&policy(1), &[]);
    other.payload_type = "application/vnd.portcullis.policy.v2+json".into();
    let error = other.statement::<PolicyStatement>().unwrap_err();
    assert!(matches!(error, StatementError::Version(_)), "{error}");
    other.payload_type = Root::TYPE.into();
    let error = other.statement::<PolicyStatement>().unwrap_err();
    assert!(matches!(error, StatementError::Type { .. }), "{error}");
    let contoso = ("contoso", &PEOPLE.contoso);
    for (keys, told) in [
        (keys(&[], 0), "threshold 0"),
        (keys(&[contoso], 2), "threshold 2"),
        (keys(&[contoso, ("b", &PEOPLE.contoso)], 1), "named twice"),
        (keys(&[contoso, ("contoso", &PEOPLE.ops)], 1), "named twice"),
        (keys(&[(" ", &PEOPLE.ops)], 1), "the name of a key is empty"),
    ] {
        let error = Envelope::of(&about(1, keys)).unwrap_err().to_string();
        assert!(error.contains(told), "{told}: {error}");
    }
}

proptest! {
    /// Whichever bit of an envelope is another, nobody has signed that.
    #[test]
    fn no_changed_bit_is_signed(at: prop::sample::Index, bit in 0..8_u8) {
        let envelope = signed(&policy(1), &[&PEOPLE.ops]);
        let mut json = envelope.to_json().into_bytes();
        let at = at.index(json.len());
        json[at] ^= 1 << bit;
        let (roots, ledger) = (roots(), Memory::default());
        if let Ok(changed) = Envelope::read(&json) {
            let verified = roots.policy(&changed, "contoso", None, &ledger, now());
            // The name of a key is a hint, and Base64 may be written in several ways.
            let is_same = changed.payload == envelope.payload && changed.payload_type == envelope.payload_type
                && changed.signatures[0].octets == envelope.signatures[0].octets;
            prop_assert_eq!(verified.is_ok(), is_same);
        }
    }

    #[test]
    fn whatever_is_read_is_read_again_as_it_is_written(json in "\\PC{0,300}") {
        if let Ok(envelope) = Envelope::read(json.as_bytes()) {
            prop_assert_eq!(Envelope::read(envelope.to_json().as_bytes()), Ok(envelope));
        }
    }
}
