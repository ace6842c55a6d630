//! Text of others, made harmless.

use std::borrow::Cow;

/// A text of others' as what it is: control characters could end a line or say anything to a terminal, and
/// those that turn the direction of writing could make a line look like another one.
pub fn one_line(text: &str) -> Cow<'_, str> {
    match text.contains(is_control_or_bidi) {
        true => text.replace(is_control_or_bidi, " ").into(),
        false => text.into(),
    }
}

/// The same of a text of several lines.
pub fn harmless_lines(text: &str) -> String {
    text.replace(|it| it != '\n' && is_control_or_bidi(it), " ")
}

/// Whether a character steers what others look like.
pub fn is_control_or_bidi(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// The same in place.
pub(crate) fn make_harmless(text: &mut String) {
    if let Cow::Owned(line) = one_line(text) {
        *text = line;
    }
}
