//! Envelopes, the statements in them, and root statements.

use portcullis::statement::{
    Envelope, Payload, PolicyStatement, Retirement, Root, Roots, TenantStatement,
};

/// Whatever is read is written so that it reads the same, and nothing that nobody has signed is a root.
pub fn statements(input: &[u8]) {
    if let Ok(envelope) = Envelope::read(input) {
        assert_eq!(
            Envelope::read(envelope.to_json().as_bytes()).as_ref(),
            Ok(&envelope)
        );
        again::<Root>(&envelope);
        again::<TenantStatement>(&envelope);
        again::<PolicyStatement>(&envelope);
        again::<Retirement>(&envelope);
    }
    // Whatever is a payload, whichever envelope it would come in.
    for payload_type in [
        Root::TYPE,
        TenantStatement::TYPE,
        PolicyStatement::TYPE,
        Retirement::TYPE,
    ] {
        let envelope = Envelope {
            payload_type: payload_type.into(),
            payload: input.to_vec(),
            signatures: Vec::new(),
        };
        again::<Root>(&envelope);
        again::<TenantStatement>(&envelope);
        again::<PolicyStatement>(&envelope);
        again::<Retirement>(&envelope);
        assert!(Roots::read(envelope.to_json().as_bytes()).is_err());
    }
    if let Ok(roots) = Roots::read(input) {
        assert!(roots.newest().operators.threshold > 0);
    }
}

fn again<P: Payload>(envelope: &Envelope) {
    if let Ok(statement) = envelope.statement::<P>() {
        // A long one may have become too long, with the fields that were left out.
        if let Ok(written) = Envelope::of(&statement) {
            let again = written.statement::<P>().expect("it was written");
            assert_eq!(
                Envelope::of(&again).expect("as before").payload,
                written.payload
            );
        }
    }
}
