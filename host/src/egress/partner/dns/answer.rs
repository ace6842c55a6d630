//! What a DNS message says of a name.

use bytes::Bytes;
use domain::base::iana::{Class, Rcode};
use domain::base::message_builder::AdditionalBuilder;
use domain::base::name::ToName;
use domain::base::{Message, MessageBuilder, ParsedName, Record, Rtype};
use domain::rdata::AllRecordData;

/// A name that is whole.
pub type Name = domain::base::Name<Bytes>;
/// A record's data.
pub type Data = AllRecordData<Bytes, ParsedName<Bytes>>;
type Entry = Record<ParsedName<Bytes>, Data>;

/// Aliases of aliases that are followed.
pub const MAX_ALIASES: usize = 11;

/// A message that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the answer cannot be read: {0}")]
pub struct Malformed(String);

/// A message, its records read.
pub struct Answered {
    message: Message<Bytes>,
    answer: Vec<Entry>,
    authority: Vec<Entry>,
}

/// What an answer says of a name: the records at the end of the aliases that lead on from it.
///
/// What the answer says of other names is passed over. Their own zones may have signed it, so it may be proven, and
/// still anybody on the way can have put it there.
pub struct Path<'a> {
    /// The records of the kind that was asked for.
    pub records: Vec<&'a Data>,
    /// Where they stand, or would.
    pub end: Name,
    /// How long that is so, in seconds.
    pub ttl: u32,
}

impl Answered {
    /// Reads a message.
    ///
    /// # Errors
    /// If a record in it is malformed.
    pub fn read(message: Message<Bytes>) -> Result<Self, Malformed> {
        let answer = entries(message.answer())?;
        let authority = entries(message.authority())?;
        Ok(Answered {
            message,
            answer,
            authority,
        })
    }

    /// The response code.
    pub fn code(&self) -> Rcode {
        self.message.header().rcode()
    }

    /// The size of the message.
    pub fn octets(&self) -> usize {
        self.message.as_slice().len()
    }

    /// Whether whoever answers has validated it (RFC 4035 §3.2.3).
    pub fn is_authentic(&self) -> bool {
        self.message.header().ad()
    }

    /// Whether it denies that there is more, as answers from the zone itself do (RFC 2308 §2).
    pub fn has_soa(&self) -> bool {
        self.authority
            .iter()
            .any(|entry| entry.rtype() == Rtype::SOA)
    }

    /// What a name leads to.
    pub fn path(&self, asked: &Name, kind: Rtype) -> Path<'_> {
        let mut end = asked.clone();
        let mut ttl = u32::MAX;
        for _ in 0..MAX_ALIASES {
            match self.next(&end).filter(|_| kind != Rtype::CNAME) {
                Some((next, time)) => {
                    end = next;
                    ttl = ttl.min(time);
                }
                None => break,
            }
        }
        let own = |entry: &&Entry| entry.rtype() == kind && entry.owner() == &end;
        let entries: Vec<&Entry> = self.answer.iter().filter(own).collect();
        let times = entries.iter().map(|entry| entry.ttl().as_secs());
        Path {
            ttl: times.min().map_or(ttl, |time| time.min(ttl)),
            records: entries.into_iter().map(Record::data).collect(),
            end,
        }
    }

    /// Whether a name lies below a DNAME, where no name has records of its own (RFC 6672 §2.3).
    pub fn is_renamed(&self, name: &Name) -> bool {
        let is_above = |entry: &Entry| entry.owner() != name && name.ends_with(entry.owner());
        self.answer
            .iter()
            .any(|entry| is_dname(entry) && is_above(entry))
    }

    /// Where a name leads on to. A DNAME goes before the alias that was made from it, which nobody signs (RFC 6672
    /// §5.3.1).
    pub fn next(&self, at: &Name) -> Option<(Name, u32)> {
        let entry = |entry: &Entry| match entry.data() {
            AllRecordData::Dname(dname) => {
                let owner: Name = entry.owner().to_name();
                let below = at.ends_with(&owner) && *at != owner;
                let head = below.then(|| at.clone().strip_suffix(&owner).ok())??;
                let name = head.chain(dname.dname()).ok()?.to_name();
                Some((name, entry.ttl().as_secs()))
            }
            _ => None,
        };
        let alias = |entry: &Entry| match entry.data() {
            AllRecordData::Cname(cname) if entry.owner() == at => {
                Some((cname.cname().to_name(), entry.ttl().as_secs()))
            }
            _ => None,
        };
        let mut answer = self.answer.iter();
        answer
            .find_map(entry)
            .or_else(|| self.answer.iter().find_map(alias))
    }

    /// The message without signatures of zones that a record does not lie in, and without name servers.
    ///
    /// The validator judges a record by the zone that its signature claims to be of: a signature "by" any unsigned
    /// zone would make a forged record pass for one that is not signed.
    pub fn guarded(&self) -> Result<Message<Bytes>, Malformed> {
        let is_kept = |entry: &&Entry| match entry.data() {
            AllRecordData::Rrsig(signature) => {
                entry.owner().ends_with(signature.signer_name())
                    && signature.type_covered() != Rtype::NS
            }
            AllRecordData::Ns(_) => false,
            _ => true,
        };
        let answer = self.answer.iter().filter(is_kept);
        let authority = self.authority.iter().filter(is_kept);
        let question = self.message.sole_question().map_err(malformed)?;
        let mut out = MessageBuilder::new_vec();
        *out.header_mut() = self.message.header();
        let mut out = out.question();
        out.push(question).map_err(malformed)?;
        let mut out = out.answer();
        for entry in answer {
            out.push(entry).map_err(malformed)?;
        }
        let mut out = out.authority();
        for entry in authority {
            out.push(entry).map_err(malformed)?;
        }
        finished(out.additional())
    }

    /// The alias at a name as an answer of its own, with all denials.
    pub fn link(&self, at: &Name) -> Result<Message<Bytes>, Malformed> {
        let is_part =
            |entry: &&Entry| entry.owner() == at || is_dname(entry) && at.ends_with(entry.owner());
        let mut out = MessageBuilder::new_vec().question();
        out.push((at, Rtype::CNAME)).map_err(malformed)?;
        let mut out = out.answer();
        for entry in self.answer.iter().filter(is_part) {
            out.push(entry).map_err(malformed)?;
        }
        let mut out = out.authority();
        for entry in &self.authority {
            out.push(entry).map_err(malformed)?;
        }
        finished(out.additional())
    }
}

fn is_dname(entry: &Entry) -> bool {
    match entry.data() {
        AllRecordData::Dname(_) => true,
        AllRecordData::Rrsig(signature) => signature.type_covered() == Rtype::DNAME,
        _ => false,
    }
}

type Section<'a> =
    Result<domain::base::message::RecordSection<'a, Bytes>, domain::base::wire::ParseError>;

fn entries(section: Section<'_>) -> Result<Vec<Entry>, Malformed> {
    let mut entries = Vec::new();
    for record in section.map_err(malformed)? {
        let record = record.map_err(malformed)?;
        // Of another class nothing is signed and nothing was asked, so it is nowhere: neither judged nor read.
        if record.class() == Class::IN {
            entries.push(record.into_any_record::<Data>().map_err(malformed)?);
        }
    }
    Ok(entries)
}

/// A message that was put together.
pub fn finished(message: AdditionalBuilder<Vec<u8>>) -> Result<Message<Bytes>, Malformed> {
    let octets = message.into_message().into_octets();
    Message::from_octets(Bytes::from(octets)).map_err(malformed)
}

/// What is wrong with a message.
pub fn malformed(error: impl std::fmt::Display) -> Malformed {
    Malformed(error.to_string())
}
