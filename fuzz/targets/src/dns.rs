use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::RData;
use portcullis::smtp::outbound::dane::Demand;
use portcullis::smtp::outbound::dns::Path;
use portcullis::smtp::outbound::mta_sts::policy::record_id;
use rustls::pki_types::CertificateDer;

use crate::certificates::EXAMPLE;

/// What we make of the records in any answer.
pub fn dns(input: &[u8]) {
    let Ok(message) = Message::from_vec(input) else {
        return;
    };
    for query in &message.queries {
        // Whatever leads where.
        Path::of(&message.answers, query.query_type(), query.name());
    }
    let mut demands = Vec::new();
    let mut texts = Vec::new();
    for record in &message.answers {
        match &record.data {
            RData::TLSA(record) => demands.push(record.clone()),
            RData::TXT(text) => texts.push(text.to_string()),
            _ => {}
        }
    }
    record_id(&texts);
    let chain = [CertificateDer::from_slice(&EXAMPLE)];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // A demand is met, or the answer is why it is not.
    let _ = Demand::from_records(demands).judge(&chain, &["mx.example"], &provider);
}
