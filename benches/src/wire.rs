//! SMTP on a stream: lines and replies in, octets out.

use std::io;

use memchr::{memchr, memmem};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Room for what has been read and not yet used; the longest line or reply.
const ROOM: usize = 8192;

/// TCP, or TLS on it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One side of an SMTP session.
pub struct Wire {
    stream: Box<dyn Stream>,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    output: Vec<u8>,
}

impl Wire {
    /// SMTP on this stream.
    pub fn new(stream: impl Stream + 'static) -> Wire {
        Wire {
            stream: Box::new(stream),
            input: vec![0; ROOM].into_boxed_slice(),
            start: 0,
            end: 0,
            output: Vec::new(),
        }
    }

    /// The stream, for TLS. What came in the clear after STARTTLS is forgotten.
    pub fn into_stream(self) -> Box<dyn Stream> {
        self.stream
    }

    /// Has this sent before the next wait for input.
    pub fn put(&mut self, octets: &[u8]) {
        self.output.extend_from_slice(octets);
    }

    /// Sends all that was put.
    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
            self.stream.flush().await?;
        }
        Ok(())
    }

    /// Sends this now, without a copy of it.
    pub async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.flush().await?;
        self.stream.write_all(octets).await?;
        self.stream.flush().await
    }

    /// What has come and is not used yet.
    pub fn received(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// Uses up this much of what was received.
    pub fn consume(&mut self, octets: usize) {
        self.start += octets;
    }

    /// Waits for more input; the end of the connection is an error.
    pub async fn fill(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.input.len() {
            return Err(io::Error::other("the line or reply is too long"));
        }
        match self.stream.read(&mut self.input[self.end..]).await? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed",
            )),
            length => {
                self.end += length;
                Ok(())
            }
        }
    }

    /// The next line, with its end.
    pub async fn line(&mut self) -> io::Result<&[u8]> {
        self.next(|octets| memchr(b'\n', octets).map(|at| at + 1))
            .await
    }

    /// The next reply, all lines of it.
    pub async fn reply(&mut self) -> io::Result<&[u8]> {
        self.next(whole_reply).await
    }

    async fn next(&mut self, length: impl Fn(&[u8]) -> Option<usize>) -> io::Result<&[u8]> {
        loop {
            if let Some(length) = length(self.received()) {
                let start = self.start;
                self.consume(length);
                return Ok(&self.input[start..start + length]);
            }
            self.fill().await?;
        }
    }
}

fn whole_reply(octets: &[u8]) -> Option<usize> {
    let mut line = 0;
    loop {
        let end = line + memchr(b'\n', &octets[line..])? + 1;
        if octets[line..end].get(3) != Some(&b'-') {
            return Some(end);
        }
        line = end;
    }
}

const END: &[u8] = b"\r\n.\r\n";
/// How much of the end can have come with the octets before.
const BEFORE: usize = END.len() - 1;

/// Finds the end of a message in octets that come in parts.
pub struct EndOfData {
    before: [u8; BEFORE],
}

impl EndOfData {
    /// For a message of which nothing has come.
    pub fn new() -> EndOfData {
        // The line of the DATA command is over, so a dot may come at once.
        EndOfData {
            before: *b"\0\0\r\n",
        }
    }

    /// How many of these octets, the next ones, belong to the message, if they end it.
    pub fn find(&mut self, octets: &[u8]) -> Option<usize> {
        let head = &octets[..octets.len().min(BEFORE)];
        let mut joint = [0; 2 * BEFORE];
        let joint = &mut joint[..BEFORE + head.len()];
        joint[..BEFORE].copy_from_slice(&self.before);
        joint[BEFORE..].copy_from_slice(head);
        if let Some(at) = memmem::find(joint, END) {
            return Some(at + END.len() - BEFORE);
        }
        let last = if octets.len() < BEFORE { joint } else { octets };
        self.before.copy_from_slice(&last[last.len() - BEFORE..]);
        memmem::find(octets, END).map(|at| at + END.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_in_parts(text: &[u8], part: usize) -> Option<usize> {
        let mut end = EndOfData::new();
        let mut parts = text.chunks(part).enumerate();
        parts.find_map(|(index, octets)| Some(index * part + end.find(octets)?))
    }

    #[test]
    fn the_end_of_data_is_found_however_it_is_cut() {
        let cases: [(&[u8], Option<usize>); 6] = [
            (b".\r\nQUIT\r\n", Some(3)),
            (b"a\r\n.\r\nQUIT\r\n", Some(6)),
            (b"a\r\n..\r\n.b\r\n\r\n.\r\n.\r\n", Some(16)),
            (b"a.\r\n.\n\r\n", None),
            (b"a\r\n.\r", None),
            (b"", None),
        ];
        for (text, end) in cases {
            for part in 1..=text.len().max(1) {
                assert_eq!(end_in_parts(text, part), end, "{text:?} by {part}");
            }
        }
    }

    #[test]
    fn a_reply_is_whole_with_its_last_line() {
        assert_eq!(whole_reply(b"250-a\r\n250-b\r\n"), None);
        assert_eq!(whole_reply(b"250-a\r\n250 b\r\n354"), Some(14));
        assert_eq!(whole_reply(b"250\r\n"), Some(5));
    }
}
