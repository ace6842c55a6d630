//! Files of one thing a line.

use std::io::{self, BufRead};

/// No context is longer; a line that is has no end in sight.
pub const MAX_LINE: usize = 1 << 20;

/// A line of a file.
pub enum Line {
    /// It has something in it.
    Whole,
    /// It is blank.
    Blank,
    /// It is longer than a line may be.
    TooLong,
    /// There is no further one.
    End,
}

/// Reads a line without its end; one that is too long is skipped, not kept.
pub fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let mut length = 0;
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            if length == 0 {
                return Ok(Line::End);
            }
            break;
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        length += part.len();
        if length <= MAX_LINE {
            line.extend_from_slice(part);
        }
        let consumed = part.len() + usize::from(end.is_some());
        length += usize::from(end.is_some() && length == 0);
        input.consume(consumed);
        if end.is_some() {
            break;
        }
    }
    Ok(match length {
        _ if length > MAX_LINE => Line::TooLong,
        _ if line.iter().all(u8::is_ascii_whitespace) => Line::Blank,
        _ => Line::Whole,
    })
}
