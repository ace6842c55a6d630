//! The rules in the form in which they are decided on: packed, and read where they stand.
//!
//! [`crate::document`] has checked what is packed.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::connector::Connector;
use crate::facts::Facts;
use crate::index::Index;
use crate::names::PatternSet;
use crate::pack::{At, Reader, word_of};
use crate::reads::Reads;
use crate::{Fact, NamedAuthority};

/// What packed rules end with: tells one layout from another.
pub const MARK: &[u8; 8] = b"PRTCLS\x00\x03";

/// Bytes at the end of packed rules.
const HEAD: usize = 5 * 4 + Index::HEAD + MARK.len();

/// Packed rules.
#[derive(Debug, Default)]
pub struct Rules {
    bytes: Cow<'static, [u8]>,
    organization: At,
    connectors: At,
    total: u32,
    reads: Reads,
    authorities: At,
    index: Index,
}

impl Rules {
    /// Packed rules; `None` if these bytes are none, or of another layout.
    pub fn load(bytes: Cow<'static, [u8]>) -> Option<Self> {
        let head = bytes.len().checked_sub(HEAD)?;
        let mut reader = Reader::new(&bytes[head..]);
        let [organization, connectors, total, reads, authorities] =
            core::array::from_fn(|_| reader.word());
        let index = Index::read_head(&mut reader);
        (reader.rest() == MARK).then_some(())?;
        Some(Rules {
            organization,
            connectors,
            total,
            reads: Reads::from_word(reads),
            authorities,
            index,
            bytes,
        })
    }

    /// The rules as they can be loaded.
    pub fn packed(&self) -> &[u8] {
        &self.bytes
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(&self.bytes)
    }

    /// Whether an enabled connector looks at the From header.
    pub fn reads_header_from(&self) -> bool {
        self.reads.has(Fact::HeaderFrom)
    }

    /// The facts that enabled connectors read.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// The authorities that enabled connectors name, each once.
    pub fn authorities(&self) -> Vec<NamedAuthority> {
        let mut reader = self.reader().from(self.authorities);
        let count = reader.word();
        let each = (0..count).map(|_| NamedAuthority {
            name: reader.text().into(),
            connector: reader.text().into(),
        });
        each.collect()
    }

    /// The inbound connectors that can match.
    pub fn inbound<'a>(&'a self, facts: &Facts) -> impl Iterator<Item = Connector<'a>> + use<'a> {
        let places = self.index.inbound(self.reader(), facts);
        places.into_iter().map(|at| self.at(at))
    }

    /// The outbound connectors that can claim the recipient's domain.
    pub fn outbound<'a>(&'a self, facts: &Facts) -> impl Iterator<Item = Connector<'a>> + use<'a> {
        let places = self.index.outbound(self.reader(), facts);
        places.into_iter().map(|at| self.at(at))
    }

    /// The organization's name.
    pub fn organization(&self) -> &str {
        self.reader().from(self.organization).text()
    }

    /// The domains that the organization receives mail for; empty if not told.
    pub fn accepted_domains(&self) -> PatternSet<'_> {
        let mut reader = self.reader().from(self.organization);
        reader.run();
        PatternSet::read(&mut reader)
    }

    /// How many connectors there are.
    pub fn len(&self) -> usize {
        self.total as usize
    }

    fn at(&self, at: At) -> Connector<'_> {
        Connector::read(at, self.reader().from(at))
    }

    /// The connector with a number in the document, from 0.
    pub fn connector(&self, number: usize) -> Option<Connector<'_>> {
        let table = self.reader().from(self.connectors).bytes(4 * self.len());
        Some(self.at(word_of(table, number)?))
    }

    /// The connectors in the order of the document.
    pub fn connectors(&self) -> impl Iterator<Item = Connector<'_>> {
        (0..self.len()).filter_map(|number| self.connector(number))
    }
}
