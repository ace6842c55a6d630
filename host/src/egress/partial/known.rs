//! What is known of messages, in memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// How long a message is known. Queues give up after five days (RFC 5321 §4.5.4.1).
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long its recipients come one group after the other since it was heard of last: longer than any queue waits
/// between two attempts, and not so long that one that is never sent again costs its sender a transaction for each
/// recipient for days.
const IN_TURN: Duration = Duration::from_secs(12 * 60 * 60);
/// Recipients of messages that are known at a time; the oldest messages give way.
const MAX_RECIPIENTS: usize = 200_000;
/// Bodies of messages with one header that a recipient is known to have.
const MAX_BODIES: usize = 8;

/// What became of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has the message, and the client does not know yet.
    Delivered,
    /// It does not have the message.
    Open,
    /// It has the message, and the client was told.
    Told,
    /// It does not have the message, and the client was told so for good.
    Over,
}

/// Recipients of a message that end together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Those that have the message.
    Delivered,
    /// Those of one egress.
    Egress(Digest),
}

/// An event, as the journal has it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970.
    pub at: u64,
    pub message: Digest,
    pub recipient: Digest,
    /// `lane` before it had this name.
    #[serde(alias = "lane")]
    pub egress: Digest,
    /// The body that the recipient has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Digest>,
    pub state: State,
}

/// All that is known.
#[derive(Default)]
pub struct Known {
    messages: HashMap<Digest, Message>,
    /// The messages by those recipients that wait to be told.
    waiting: HashMap<Digest, Vec<Digest>>,
    /// The messages by age.
    by_age: VecDeque<(u64, Digest)>,
    /// How many recipients all messages have.
    recipients: usize,
    /// Events so far.
    events: u64,
}

/// A message, and what became of its recipients.
#[derive(Default)]
pub struct Message {
    recipients: HashMap<Digest, Recipient>,
    /// Who has asked since a transaction began last, and was told to come again.
    pub put_off: HashSet<Digest>,
    /// When it was heard of last.
    last: u64,
}

/// What became of a recipient.
pub struct Recipient {
    egress: Digest,
    /// The bodies that it has, of messages with this header.
    pub bodies: Vec<Digest>,
    pub state: State,
    /// The number of the event that has told so: while it is open, when it was tried last.
    event: u64,
}

impl Message {
    /// The recipients that it ends together with, if it waits to be told.
    pub fn group_of(&self, recipient: &Digest) -> Option<Group> {
        let recipient = self.recipients.get(recipient)?;
        match recipient.state {
            State::Delivered => Some(Group::Delivered),
            State::Open => Some(Group::Egress(recipient.egress)),
            State::Told | State::Over => None,
        }
    }

    /// The group whose turn it is: those that have the message, then the egress that was tried longest ago.
    pub fn next(&self) -> Option<Group> {
        let mut tried = HashMap::new();
        for recipient in self.recipients.values() {
            match recipient.state {
                State::Delivered => return Some(Group::Delivered),
                State::Open => {
                    let last: &mut u64 = tried.entry(recipient.egress).or_default();
                    *last = recipient.event.max(*last);
                }
                State::Told | State::Over => {}
            }
        }
        let (egress, _) = tried.into_iter().min_by_key(|(_, event)| *event)?;
        Some(Group::Egress(egress))
    }
}

impl Known {
    /// The message for which a recipient has to wait, if it is one that still comes.
    pub fn awaited(&self, recipient: Digest, now: u64) -> Option<Digest> {
        let digest = *self.waiting.get(&recipient)?.first()?;
        let message = self.messages.get(&digest)?;
        (now <= message.last.saturating_add(IN_TURN.as_secs())).then_some(digest)
    }

    /// What became of a recipient of a message.
    pub fn recipient(&self, message: Digest, recipient: Digest) -> Option<&Recipient> {
        self.messages.get(&message)?.recipients.get(&recipient)
    }

    /// A message.
    pub fn message(&mut self, message: Digest) -> Option<&mut Message> {
        self.messages.get_mut(&message)
    }

    /// Whether anything is known of a message.
    pub fn has(&self, message: Digest) -> bool {
        self.messages.contains_key(&message)
    }

    /// Whether nothing is known of any message.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many recipients all messages have.
    pub fn recipients(&self) -> usize {
        self.recipients
    }

    /// What became of a recipient of each message of which it waits to be told.
    pub fn waiting(&self, recipient: Digest) -> impl Iterator<Item = &Recipient> {
        let messages = self.waiting.get(&recipient).into_iter().flatten();
        messages.filter_map(move |message| self.recipient(*message, recipient))
    }

    /// The events that tell what is known now.
    pub fn events(&self) -> Vec<Event> {
        let mut events = Vec::with_capacity(self.recipients);
        for (at, message) in &self.by_age {
            let Some(known) = self.messages.get(message) else {
                continue;
            };
            let mut recipients: Vec<_> = known.recipients.iter().collect();
            recipients.sort_by_key(|(_, recipient)| recipient.event);
            let mut at = *at;
            for (recipient, of) in recipients {
                let event = |at, body, state| Event {
                    at,
                    message: *message,
                    recipient: *recipient,
                    egress: of.egress,
                    body,
                    state,
                };
                // It is as old as its first event, and was heard of last at the others.
                let bodies = of.bodies.iter();
                events.extend(bodies.map(|body| event(at, Some(*body), State::Delivered)));
                events.push(event(at, None, of.state));
                at = known.last;
            }
            if let Some(last) = events.last_mut().filter(|last| last.message == *message) {
                last.at = known.last;
            }
        }
        events
    }

    /// Takes an event over. The recipient waits to be told, once its transaction `has_ended`.
    pub fn take(&mut self, event: Event, has_ended: bool) {
        let Event {
            at,
            message: digest,
            recipient,
            egress,
            body,
            state,
        } = event;
        let by_age = &mut self.by_age;
        let message = self.messages.entry(digest).or_insert_with(|| {
            by_age.push_back((at, digest));
            Message::default()
        });
        message.last = message.last.max(at);
        self.events += 1;
        let known = message.recipients.entry(recipient).or_insert_with(|| {
            self.recipients += 1;
            Recipient {
                egress,
                bodies: Vec::new(),
                state,
                event: 0,
            }
        });
        (known.egress, known.state, known.event) = (egress, state, self.events);
        if let (Some(body), State::Delivered | State::Told) = (body, state)
            && !known.bodies.contains(&body)
        {
            let surplus = (known.bodies.len() + 1).saturating_sub(MAX_BODIES);
            known.bodies.drain(..surplus);
            known.bodies.push(body);
        }
        let waiting = self.waiting.entry(recipient).or_default();
        waiting.retain(|known| *known != digest);
        if has_ended && matches!(state, State::Delivered | State::Open) {
            // One that was given up somewhere holds up none that came after it.
            waiting.insert(0, digest);
        }
        if waiting.is_empty() {
            self.waiting.remove(&recipient);
        }
        // What one of several messages with this header has come to says nothing of the others.
        let is_final = |known: &Recipient| {
            matches!(known.state, State::Told | State::Over) && known.bodies.len() <= 1
        };
        if message.recipients.values().all(is_final) {
            // Whoever comes with it now sends it anew.
            self.forget(digest);
        }
    }

    fn forget(&mut self, digest: Digest) {
        let place = self.by_age.iter().rposition(|(_, known)| *known == digest);
        if let Some(place) = place {
            self.by_age.remove(place);
        }
        self.remove(digest);
    }

    fn remove(&mut self, digest: Digest) {
        let Some(message) = self.messages.remove(&digest) else {
            return;
        };
        self.recipients -= message.recipients.len();
        for recipient in message.recipients.keys() {
            if let Some(waiting) = self.waiting.get_mut(recipient) {
                waiting.retain(|known| *known != digest);
                if waiting.is_empty() {
                    self.waiting.remove(recipient);
                }
            }
        }
    }

    /// Forgets messages that are old, and the oldest where there are too many.
    pub fn forget_old(&mut self, now: u64) {
        while let Some((at, digest)) = self.by_age.front().copied() {
            let is_old = at.saturating_add(KEPT.as_secs()) < now;
            if !is_old && self.recipients <= MAX_RECIPIENTS {
                return;
            }
            self.by_age.pop_front();
            self.remove(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipient(name: &str) -> Digest {
        Digest::of_recipient("a@own.test", name)
    }

    fn message() -> Digest {
        Digest::of_message("a@own.test", b"Subject: x\r\n\r\n")
    }

    fn event(at: u64, message: Digest, name: &str, state: State) -> Event {
        Event {
            at,
            message,
            recipient: recipient(name),
            egress: Digest::of_egress(name),
            body: None,
            state,
        }
    }

    #[test]
    fn a_message_that_never_comes_again_orders_others_for_some_hours_only() {
        let mut known = Known::default();
        for (name, state) in [("a", State::Delivered), ("b", State::Open)] {
            known.take(event(1000, message(), name, state), true);
        }
        let later = |hours: u64| 1000 + hours * 60 * 60;
        assert_eq!(known.awaited(recipient("a"), later(11)), Some(message()));
        assert_eq!(known.awaited(recipient("a"), later(13)), None);
        assert!(known.recipient(message(), recipient("a")).is_some());
    }

    #[test]
    fn what_is_old_or_too_much_is_forgotten() {
        let mut known = Known::default();
        for number in 0..MAX_RECIPIENTS as u64 + 10 {
            let message = Digest::of_message("", &number.to_be_bytes());
            let event = event(number, message, &number.to_string(), State::Delivered);
            known.take(event, true);
        }
        known.forget_old(0);
        assert_eq!(known.messages.len(), MAX_RECIPIENTS);
        known.forget_old(KEPT.as_secs() + MAX_RECIPIENTS as u64);
        assert_eq!(known.messages.len(), 10);
        assert_eq!(known.by_age.len(), 10);
        assert_eq!(known.waiting.len(), 10);
    }
}
