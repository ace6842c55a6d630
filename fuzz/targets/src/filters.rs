use portcullis_server::frontend::mta::attributes::Attributes;
use portcullis_server::opensmtpd::{Asked, Sessions};

/// Whatever smtpd says, a question is a whole request, and its answer a line.
pub fn filters(input: &[u8]) {
    let mut sessions = Sessions::default();
    for line in input.split(|octet| *octet == b'\n') {
        let Ok(Asked::Recipient(question)) = sessions.read(&String::from_utf8_lossy(line)) else {
            continue;
        };
        let answer = question.answer(None);
        assert!(answer.starts_with("filter-result|") && answer.ends_with('\n'));
        assert_eq!(answer.matches('\n').count(), 1);
        if let Some(request) = question.request {
            let parsed = Attributes::parse(request.as_bytes());
            assert!(matches!(parsed, Ok(Some((_, length))) if length == request.len()));
        }
    }
}
