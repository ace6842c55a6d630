//! A message that is kept until it is whole, because only then it is known who has it already.

use std::fs::File;
use std::io::{self, SeekFrom};

use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// Content that is gathered before it is written.
const WRITE_SIZE: usize = 64 << 10;

/// The content of a message, in a file without a name.
pub struct Spool {
    file: tokio::fs::File,
    buffer: Vec<u8>,
}

impl Spool {
    /// Nothing yet, in an empty file.
    pub fn new(file: File) -> Self {
        Spool {
            file: tokio::fs::File::from_std(file),
            buffer: Vec::new(),
        }
    }

    /// Keeps more of the message.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub async fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(content);
        if self.buffer.len() < WRITE_SIZE {
            return Ok(());
        }
        self.file.write_all(&self.buffer).await?;
        self.buffer.clear();
        Ok(())
    }

    /// The message is whole: it is read from now on.
    ///
    /// # Errors
    /// If the disk does not take the rest of it.
    pub async fn rewind(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer).await?;
        self.file.flush().await?;
        self.file.seek(SeekFrom::Start(0)).await?;
        self.buffer.clear();
        Ok(())
    }

    /// The next part of the message; empty at its end.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn read(&mut self) -> io::Result<&[u8]> {
        self.buffer.resize(WRITE_SIZE, 0);
        let octets = self.file.read(&mut self.buffer).await?;
        Ok(&self.buffer[..octets])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_comes_back() {
        for size in [0, 10, WRITE_SIZE, 3 * WRITE_SIZE + 7] {
            let content: Vec<u8> = (0..size).map(|number| number as u8).collect();
            let mut spool = Spool::new(tempfile::tempfile().unwrap());
            for part in content.chunks(1000) {
                spool.write(part).await.unwrap();
            }
            spool.rewind().await.unwrap();
            let mut read = Vec::new();
            loop {
                let part = spool.read().await.unwrap();
                if part.is_empty() {
                    break;
                }
                read.extend_from_slice(part);
            }
            assert!(read == content, "{size}");
        }
    }
}
