//! Lists and long texts, shortened for messages.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

/// The first of some names, and how many more there are.
pub fn some_of<T: Display>(items: impl Iterator<Item = T>, count: usize) -> String {
    const MAX_SHOWN: usize = 5;
    let shown: Vec<String> = items.take(MAX_SHOWN).map(|item| item.to_string()).collect();
    match count.saturating_sub(MAX_SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What of a text is shown in a message.
pub fn shorten(text: &str) -> String {
    const MAX_SHOWN: usize = 60;
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}
