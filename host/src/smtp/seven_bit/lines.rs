//! Lines of a message that comes in chunks.

/// Cuts content into lines, their ends included.
#[derive(Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    /// Takes a chunk of content, and gives each line that is whole.
    pub fn push(&mut self, content: &[u8], mut each: impl FnMut(&[u8])) {
        let mut rest = content;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(at + 1);
            match self.0.is_empty() {
                true => each(line),
                false => {
                    self.0.extend_from_slice(line);
                    each(&std::mem::take(&mut self.0));
                }
            }
            rest = after;
        }
        self.0.extend_from_slice(rest);
    }

    /// The last line, if it has no end.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}
