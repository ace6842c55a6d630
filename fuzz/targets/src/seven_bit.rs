//! Messages for servers that take seven bits.

use std::sync::Arc;

use portcullis_server::smtp::seven_bit::{Converter, Survey};

/// How a message is cut makes no difference, what comes of it needs no conversion, and all other lines stay.
pub fn seven_bit(input: &[u8]) {
    let Some((cut, message)) = input.split_first() else {
        return;
    };
    let cut = usize::from(*cut).max(1);
    let whole = converted(message, usize::MAX);
    assert_eq!(whole, converted(message, cut));
    let Some(whole) = whole else { return };
    let mut survey = Survey::new();
    survey.push(&whole);
    assert!(!survey.finish().needs_conversion());
}

fn converted(message: &[u8], cut: usize) -> Option<Vec<u8>> {
    let mut survey = Survey::new();
    message.chunks(cut).for_each(|part| survey.push(part));
    let findings = survey.finish();
    if findings.obstacle().is_some() {
        return None;
    }
    if !findings.needs_conversion() {
        return Some(message.to_vec());
    }
    let mut converter = Converter::new(Arc::new(findings));
    let mut content = Vec::new();
    for part in message.chunks(cut) {
        converter.push(part, &mut content);
    }
    converter.finish(&mut content);
    Some(content)
}
