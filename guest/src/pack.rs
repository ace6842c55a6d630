//! Rules as one run of bytes, which needs no reading before it is used: a policy is this run in the
//! component's memory, and a decision looks at the few bytes of it that it concerns.
//!
//! Numbers are little-endian, or of variable length (LEB128) where most of them are small. Whoever
//! reads knows what stands there; what is cut short reads as nothing.

use alloc::vec::Vec;

/// Where something stands, in bytes from the beginning.
pub type At = u32;

/// The end of a run that is being written.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Where the next byte will stand.
    pub fn at(&self) -> At {
        self.bytes.len() as At
    }

    /// The run.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.shrink_to_fit();
        self.bytes
    }

    /// What is written so far.
    pub fn written(&self) -> Reader<'_> {
        Reader::new(&self.bytes)
    }

    /// One byte.
    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    /// Bytes whose number the reader knows.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A number of four bytes.
    pub fn word(&mut self, word: u32) {
        self.bytes(&word.to_le_bytes());
    }

    /// A number that is small as a rule.
    pub fn number(&mut self, mut number: u32) {
        while number > 0x7f {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }

    /// A text with its length.
    pub fn text(&mut self, text: &str) {
        self.run(text.as_bytes());
    }

    /// Bytes with their number.
    pub fn run(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u32);
        self.bytes(bytes);
    }
}

/// A run from some place on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The run from its beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// The run from a place on.
    pub fn from(self, at: At) -> Self {
        Reader::new(self.rest.get(at as usize..).unwrap_or_default())
    }

    /// What is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        match self.rest.split_first() {
            Some((byte, rest)) => {
                self.rest = rest;
                *byte
            }
            None => 0,
        }
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at_checked(len).unwrap_or_default();
        self.rest = rest;
        bytes
    }

    /// A number of four bytes.
    pub fn word(&mut self) -> u32 {
        let bytes = self.bytes(4);
        bytes.try_into().map_or(0, u32::from_le_bytes)
    }

    /// A number of variable length.
    pub fn number(&mut self) -> u32 {
        let mut number = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.byte();
            number |= u32::from(byte & 0x7f) << shift;
            if byte <= 0x7f {
                break;
            }
        }
        number
    }

    /// Bytes that stand with their number.
    pub fn run(&mut self) -> &'a [u8] {
        let len = self.number() as usize;
        self.bytes(len)
    }

    /// A text that stands with its length.
    pub fn text(&mut self) -> &'a str {
        text(self.run())
    }
}

/// The text that was written as these bytes.
pub fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or_default()
}

/// The word with that number in a table of words.
pub fn word_of(table: &[u8], number: usize) -> Option<u32> {
    let bytes = table.get(4 * number..4 * number + 4)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number in any::<u32>(), word in any::<u32>(), text in ".*") {
            let mut writer = Writer::default();
            writer.number(number);
            writer.word(word);
            writer.text(&text);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.number(), number);
            prop_assert_eq!(reader.word(), word);
            prop_assert_eq!(reader.text(), text);
            prop_assert!(reader.rest().is_empty());
        }

        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader::new(&bytes);
            while !reader.rest().is_empty() {
                reader.number();
                reader.text();
                reader.word();
            }
        }
    }
}
