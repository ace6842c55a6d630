//! Exports of other products.

use portcullis_evaluator::Policy;
use portcullis_server::import::{Import, exchange, list, postfix, read};

/// Whatever a file has in it, what is made of it is a document that the evaluator takes, or that says what is wrong.
pub fn imports(input: &[u8]) {
    if let Ok(records) = read(input) {
        checked(&exchange::import(&records));
    }
    if let Ok(text) = std::str::from_utf8(input) {
        checked(&postfix::import("table", text, &[]));
        checked(&postfix::import("table", text, &["bank.test".into()]));
    }
    let _ = list::domains(input);
}

fn checked(import: &Import) {
    if let Err(problems) = Policy::configure(&import.document().to_string()) {
        assert!(!problems.is_empty());
    }
}
