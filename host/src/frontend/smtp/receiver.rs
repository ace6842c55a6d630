//! A message on its way in: the same for DATA and BDAT.
//!
//! The header is kept until it is whole and decided on; from then on what comes goes on to the next
//! hop. Once something is wrong the rest is read and thrown away, because SMTP has its reply only at
//! the end.

use std::time::Duration;

use tokio::time::Instant;

use crate::frontend::smtp::limits::Held;
use crate::smtp::data::LineChecker;
use crate::smtp::header::{HeaderScanner, HeaderState};
use crate::smtp::reply::Reply;

/// What to do with content that was taken in.
pub enum Progress<'a> {
    /// Nothing yet, or no longer.
    Wait,
    /// The header is whole: decide. This is the beginning of the body.
    Header(&'a [u8]),
    /// This belongs to the body: pass it on.
    Body(&'a [u8]),
}

/// The state of a message.
pub struct MessageReceiver {
    /// What ends lines in content that comes by BDAT; DATA has its own decoder for that.
    pub lines: LineChecker,
    /// When it must have ended.
    pub deadline: Instant,
    scanner: HeaderScanner,
    /// What the header takes of the room that all sessions share.
    held: Held,
    decided: bool,
    size: u64,
    limit: u64,
    refused: Option<Reply>,
}

impl MessageReceiver {
    /// A message of at most `limit` octets with lines of at most `line_limit`, which has begun now and may
    /// take that long. A long header
    /// takes of the `held` room.
    pub fn new(limit: u64, line_limit: usize, time: Duration, held: Held) -> Self {
        MessageReceiver {
            lines: LineChecker::with_line_limit(line_limit),
            deadline: Instant::now() + time,
            scanner: HeaderScanner::new(),
            held,
            decided: false,
            size: 0,
            limit,
            refused: None,
        }
    }

    /// Notes that the message is refused; the first reason counts.
    pub fn refuse(&mut self, reply: Reply) {
        self.refused.get_or_insert(reply);
        // Nobody asks for the header any more.
        self.scanner.take_header();
        self.held.release();
    }

    /// The reply of a message that is refused already.
    pub fn refused(&self) -> Option<&Reply> {
        self.refused.as_ref()
    }

    /// How many octets there were.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the header has been decided on.
    pub fn is_decided(&self) -> bool {
        self.decided
    }

    /// The header, once. A message that ends without a body is all header.
    pub fn take_header(&mut self) -> Vec<u8> {
        self.scanner.take_header()
    }

    /// Takes content in.
    pub fn take<'a>(&mut self, content: &'a [u8]) -> Progress<'a> {
        self.size = self.size.saturating_add(content.len() as u64);
        if self.size > self.limit {
            let text = format!("the message is larger than {} octets", self.limit);
            self.refuse(Reply::new(552, (5, 3, 4), text));
        }
        if self.refused.is_some() {
            return Progress::Wait;
        }
        if self.decided {
            return Progress::Body(content);
        }
        let before = self.scanner.header().len();
        match self.scanner.push(content) {
            Ok(HeaderState::Incomplete) => {
                if !self.held.reach(self.scanner.header().len()) {
                    let text = "too many long headers at a time, try again later";
                    self.refuse(Reply::new(452, (4, 3, 1), text));
                }
                Progress::Wait
            }
            Ok(HeaderState::Complete { header_len }) => {
                self.decided = true;
                self.held.release();
                Progress::Header(
                    content
                        .get(header_len.saturating_sub(before)..)
                        .unwrap_or_default(),
                )
            }
            Err(error) => {
                self.refuse(Reply::new(552, (5, 3, 4), error.to_string()));
                Progress::Wait
            }
        }
    }
}
