use bytes::Bytes;
use domain::base::name::ToName;
use domain::base::{Message, Rtype};
use portcullis_server::egress::partner::dane::Demand;
use portcullis_server::egress::partner::dns::Tlsa;
use portcullis_server::egress::partner::dns::answer::{Answered, Data, Name};
use portcullis_server::egress::partner::mta_sts::policy::record_id;
use rustls::pki_types::CertificateDer;

use crate::certificates::EXAMPLE;

/// What we make of the records in any answer.
pub fn dns(input: &[u8]) {
    let Ok(message) = Message::from_octets(Bytes::copy_from_slice(input)) else {
        return;
    };
    let asked = message
        .first_question()
        .map(|question| question.qname().to_name());
    let Ok(answered) = Answered::read(message) else {
        return;
    };
    let asked: Name = asked.unwrap_or_else(Name::root);
    // What is left of it can be read again.
    if let Ok(guarded) = answered.guarded() {
        assert!(Answered::read(guarded).is_ok());
    }
    let _ = answered.link(&asked);
    let mut demands = Vec::new();
    let mut texts = Vec::new();
    for kind in [Rtype::TLSA, Rtype::TXT, Rtype::CNAME] {
        // Whatever leads where.
        for data in answered.path(&asked, kind).records {
            match data {
                Data::Tlsa(record) => demands.push(Tlsa {
                    usage: record.usage().to_int(),
                    selector: record.selector().to_int(),
                    matching: record.matching_type().to_int(),
                    data: record.data().to_vec(),
                }),
                Data::Txt(text) => texts.push(text.to_string()),
                _ => {}
            }
        }
    }
    record_id(&texts);
    let chain = [CertificateDer::from_slice(&EXAMPLE)];
    // A demand is met, or the answer is why it is not.
    let _ = Demand::from_records(demands, "mx.example").verify(&chain, &["mx.example"]);
}
