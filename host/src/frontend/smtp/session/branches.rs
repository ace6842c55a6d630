//! The ways that one transaction takes: a message for several partners goes to each of them at once (RFC 5321
//! §4.5.3.1.8), and a message for several mailboxes to an LMTP server that answers for each.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::egress::client::{Cause, Finished, NotBegun, Sender};
use crate::egress::next_hop::{Client, ClientName, Handover};
use crate::egress::partial::{Body, Digest, Note, State};
use crate::egress::path::{Exit, Way};
use crate::frontend::smtp::session::envelope::{NotTaken, Reason};
use crate::frontend::smtp::session::{Recipient, Session, Transaction};
use crate::frontend::smtp::spool::Spool;
use crate::smtp::address::Address;
use crate::smtp::reply::Reply;

/// How long one of several may take to let a message begin. RFC 5321 §4.5.3.2.4 has two minutes for it; others wait
/// meanwhile, and so does the client, who gave himself no more.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ways that a transaction remembers as closed.
const MOST_CLOSED: usize = 100;

/// One way of a transaction.
pub struct Branch {
    way: Arc<Way>,
    handover: Handover,
    /// The numbers of the recipients that were taken.
    recipients: Vec<usize>,
    /// How it has ended, before the message has.
    ended: Option<Reply>,
}

/// What became of a recipient, by its number.
type Outcome = (usize, Reply);

impl Session {
    /// Offers a recipient that the policy lets pass to whoever takes the mail, whose answer counts.
    pub(super) async fn offer_recipient(
        &mut self,
        recipient: Recipient,
    ) -> Result<Reply, NotTaken> {
        let reason = match &self.listener.exit {
            Exit::NextHop(_) => Reason::NextHop,
            Exit::Partners { .. } => Reason::Partner,
        };
        let not_taken = |reply| NotTaken { reply, reason };
        let known = self.transaction.as_ref();
        let mut known = known.iter().flat_map(|transaction| &transaction.recipients);
        if known.any(|known| known.digest == recipient.digest) {
            // It gets the message once, and has one outcome.
            return Ok(Reply::new(250, (2, 1, 5), "recipient ok, as before"));
        }
        let place = self.branch_of(&recipient).await?;
        let (Some(transaction), to) = (&mut self.transaction, &recipient.address) else {
            return Err(not_taken(given_up()));
        };
        let Some(branch) = transaction.branches.get_mut(place) else {
            return Err(not_taken(given_up()));
        };
        let reply = branch.handover.rcpt(to).await;
        if reply.is_positive() {
            branch.recipients.push(transaction.recipients.len());
            transaction.recipients.push(recipient);
            return Ok(reply);
        }
        if branch.recipients.is_empty() {
            // Nobody's mail goes this way so far, and nobody's may.
            let branch = transaction.branches.swap_remove(place);
            self.give_up(branch).await;
        }
        Err(not_taken(reply))
    }

    /// The branch that a recipient's mail takes, which is begun if it is not there yet.
    async fn branch_of(&mut self, recipient: &Recipient) -> Result<usize, NotTaken> {
        let reason = match &self.listener.exit {
            Exit::NextHop(_) => Reason::NextHop,
            Exit::Partners { .. } => Reason::Partner,
        };
        let Some(transaction) = &self.transaction else {
            return Err(NotTaken {
                reply: given_up(),
                reason,
            });
        };
        let key = recipient.way.key();
        let same = |branch: &Branch| branch.way.key() == key;
        let own_transaction = || {
            let text = "send again for this recipient: its mail goes another way";
            NotTaken {
                reply: Reply::new(452, (4, 5, 3), text),
                reason: Reason::OwnTransaction,
            }
        };
        if let Some(place) = transaction.branches.iter().position(same) {
            let differs = |other: &Recipient| other.lane != recipient.lane;
            if transaction.recipients.iter().any(differs) && !self.server.partial.remembers() {
                return Err(own_transaction());
            }
            return Ok(place);
        }
        let closed = transaction.closed.iter().find(|(known, _)| **known == *key);
        if let Some((_, reply)) = closed {
            return Err(NotTaken {
                reply: reply.clone(),
                reason,
            });
        }
        if !transaction.branches.is_empty() && !self.server.partial.remembers() {
            return Err(own_transaction());
        }
        let is_in_a_hurry = !transaction.branches.is_empty();
        let begun = self
            .begin(&recipient.way, &recipient.address, is_in_a_hurry)
            .await;
        let Some(transaction) = &mut self.transaction else {
            return Err(NotTaken {
                reply: given_up(),
                reason,
            });
        };
        match begun {
            Ok(handover) => {
                transaction.branches.push(Branch {
                    way: recipient.way.clone(),
                    handover,
                    recipients: Vec::new(),
                    ended: None,
                });
                Ok(transaction.branches.len() - 1)
            }
            Err(reply) => {
                if transaction.closed.len() < MOST_CLOSED {
                    transaction.closed.push((key.into(), reply.clone()));
                }
                Err(NotTaken { reply, reason })
            }
        }
    }

    /// Begins a transaction with whoever takes the mail, for this recipient first.
    async fn begin(
        &mut self,
        way: &Way,
        to: &Address,
        is_in_a_hurry: bool,
    ) -> Result<Handover, Reply> {
        let name = self.client_name().await;
        let Some(transaction) = &self.transaction else {
            return Err(given_up());
        };
        let sender = Sender {
            from: &transaction.from,
            parameters: &transaction.parameters,
            first: to,
        };
        if let Some(mut handover) = self.kept.take()
            && handover.is_usable()
        {
            match handover.mail(sender).await {
                Ok(()) => return Ok(handover),
                Err(NotBegun::Refused(reply)) => {
                    self.kept = Some(handover);
                    return Err(reply);
                }
                // A server may close what is idle, which costs nothing: no mail was on it.
                Err(NotBegun::Lost(failure)) => {
                    let failure = failure.to_string();
                    tracing::debug!(
                        "an idle connection was closed: {}",
                        crate::observe::redact::words(&failure)
                    );
                }
            }
        }
        let client = Client {
            address: self.client,
            local: self.local,
            helo: self.context.helo_name().unwrap_or_default().to_owned(),
            esmtp: self.esmtp,
            name,
        };
        let exit = &self.listener.exit;
        exit.begin(way, &client, sender, is_in_a_hurry).await
    }

    /// What the client's address is called, once that is known.
    pub(super) async fn client_name(&mut self) -> ClientName {
        if let Some(looking) = self.looking_up.take() {
            self.client_name = looking.await.unwrap_or(ClientName::Unknown);
        }
        self.client_name.clone()
    }

    /// Gives all branches up, here and where they have begun.
    pub(super) async fn give_all_up(&mut self) {
        let branches = self.transaction.as_mut().map(|transaction| {
            transaction.recipients.clear();
            std::mem::take(&mut transaction.branches)
        });
        for branch in branches.unwrap_or_default() {
            self.give_up(branch).await;
        }
    }

    async fn give_up(&mut self, mut branch: Branch) {
        branch.handover.reset().await;
        self.let_go(branch.handover);
    }

    /// After a transaction: a connection that is not this client's alone goes to whoever needs it next.
    fn let_go(&mut self, handover: Handover) {
        if let Some(own) = handover.let_go() {
            self.kept = Some(own);
        }
    }

    /// Begins the message everywhere. Where a recipient may have it already, it is kept until it is whole.
    ///
    /// # Errors
    /// What the client is told if it cannot be kept.
    pub(super) async fn begin_message(&mut self, message: Option<Digest>) -> Result<(), Reply> {
        let Some(transaction) = &mut self.transaction else {
            return Ok(());
        };
        let partial = &self.server.partial;
        transaction.message = message;
        transaction.body = message
            .filter(|_| !partial.is_forgetful())
            .map(|_| Body::new());
        let may_have_it = |recipient: &Recipient| {
            message.is_some_and(|message| partial.may_have(message, recipient.digest))
        };
        if transaction.recipients.iter().any(may_have_it) {
            let file = partial.spool().map_err(|error| no_room(&error))?;
            transaction.held = Some(Spool::new(file));
            return Ok(());
        }
        let recipients = transaction.recipients.len();
        self.begin_for_all_but(&vec![false; recipients]).await;
        Ok(())
    }

    /// Hands over a message that was kept, to those who do not have it.
    ///
    /// # Errors
    /// What the client is told if it cannot be read again.
    pub(super) async fn release(&mut self, mut held: Spool) -> Result<(), Reply> {
        held.rewind().await.map_err(|error| no_room(&error))?;
        let Some(transaction) = &self.transaction else {
            return Ok(());
        };
        let (message, body) = (transaction.message, &transaction.body);
        let known = message.zip(body.as_ref().map(Body::digest));
        let has_it = |recipient: &Recipient| {
            let partial = &self.server.partial;
            known.is_some_and(|(message, body)| partial.has(message, recipient.digest, body))
        };
        let have: Vec<bool> = transaction.recipients.iter().map(has_it).collect();
        if let Some(transaction) = &mut self.transaction {
            let has_it = |number: usize| have.get(number).copied().unwrap_or(false);
            let outcomes = &mut transaction.outcomes;
            outcomes.retain(|(number, _)| !has_it(*number));
            let had_it = Reply::new(250, (2, 0, 0), "delivered before");
            let numbers = (0..have.len()).filter(|number| has_it(*number));
            outcomes.extend(numbers.map(|number| (number, had_it.clone())));
        }
        self.begin_for_all_but(&have).await;
        loop {
            let content = held.read().await.map_err(|error| no_room(&error))?;
            if content.is_empty() {
                return Ok(());
            }
            self.write_to_all(content).await;
        }
    }

    /// Begins the message for the recipients that do not have it.
    async fn begin_for_all_but(&mut self, have: &[bool]) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        let branches = std::mem::take(&mut transaction.branches);
        let mut kept = Vec::new();
        for mut branch in branches {
            let all = branch.recipients.len();
            branch
                .recipients
                .retain(|number| !have.get(*number).copied().unwrap_or(false));
            match branch.recipients.len() {
                0 => self.give_up(branch).await,
                left if left < all => kept.extend(self.begin_anew(branch).await),
                _ => kept.push(branch),
            }
        }
        // Who does not answer holds the others up.
        let patience = (kept.len() > 1).then_some(PATIENCE);
        let begun = kept.iter_mut().map(|branch| branch.begin_message(patience));
        let begun = join_all(begun).await;
        let mut branches = Vec::new();
        for (branch, is_lost) in kept.into_iter().zip(begun) {
            if !is_lost {
                branches.push(branch);
                continue;
            }
            // It stood while others were being reached, and nothing was sent on it.
            let numbers = branch.recipients.clone();
            let anew = timeout(PATIENCE, self.begin_anew(branch)).await;
            if anew.is_err() {
                self.end_for(numbers, &given_up());
            }
            if let Ok(Some(mut anew)) = anew {
                anew.begin_message(patience).await;
                branches.push(anew);
            }
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.branches = branches;
        }
    }

    /// Begins a branch anew for those recipients that are left of it. Where that cannot be done they have ended.
    async fn begin_anew(&mut self, branch: Branch) -> Option<Branch> {
        let Branch {
            way,
            mut handover,
            recipients,
            ..
        } = branch;
        handover.reset().await;
        self.let_go(handover);
        let address = |number: &usize| {
            let recipient = self.transaction.as_ref()?.recipients.get(*number)?;
            Some(recipient.address.clone())
        };
        let addresses: Vec<Address> = recipients.iter().filter_map(address).collect();
        let begun = match addresses.first() {
            Some(first) => self.begin(&way, first, true).await,
            None => Err(given_up()),
        };
        let failed = match begun {
            Err(reply) => reply,
            Ok(mut handover) => match take_all(&mut handover, &addresses).await {
                Ok(()) => {
                    return Some(Branch {
                        way,
                        handover,
                        recipients,
                        ended: None,
                    });
                }
                Err(reply) => {
                    handover.reset().await;
                    self.let_go(handover);
                    reply
                }
            },
        };
        self.end_for(recipients, &failed);
        None
    }

    /// These recipients have ended, before the message has.
    fn end_for(&mut self, recipients: Vec<usize>, reply: &Reply) {
        if let Some(transaction) = &mut self.transaction {
            let outcomes = recipients.into_iter().map(|number| (number, reply.clone()));
            transaction.outcomes.extend(outcomes);
        }
    }

    /// Takes a recipient that may have the message, though its server does not take it now: if it has, that is what
    /// became of it.
    pub(super) fn take_without_branch(&mut self, recipient: Recipient, reply: Reply) -> Reply {
        if let Some(transaction) = &mut self.transaction {
            let number = transaction.recipients.len();
            transaction.recipients.push(recipient);
            transaction.outcomes.push((number, reply));
        }
        Reply::new(250, (2, 1, 5), "recipient ok")
    }

    /// Hands over a part of the message; whoever cannot take it has ended.
    pub(super) async fn write_to_all(&mut self, content: &[u8]) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        match &mut transaction.branches[..] {
            [only] => only.write(content).await,
            branches => {
                join_all(branches.iter_mut().map(|branch| branch.write(content))).await;
            }
        }
    }

    /// Ends the message everywhere, and gives what the client is told.
    pub(super) async fn finish_all(&mut self) -> Reply {
        let Some(transaction) = &mut self.transaction else {
            return given_up();
        };
        let mut branches = std::mem::take(&mut transaction.branches);
        let message = transaction.message;
        let recipients = &transaction.recipients;
        let can_differ = transaction.outcomes_can_differ();
        let body = transaction.body.as_ref().map(Body::digest);
        let partial = &self.server.partial;
        // What is delivered is known from now on, whatever becomes of the others or of us.
        let note = |number: usize, reply: &Reply| {
            if let (Some(message), Some(recipient), true) =
                (message, recipients.get(number), can_differ)
                && reply.is_positive()
            {
                partial.note_delivery(recipient.note(message, body, State::Delivered));
            }
        };
        let finishing = branches.iter_mut().map(|branch| branch.finish(&note));
        let mut outcomes: Vec<Outcome> = join_all(finishing).await.into_iter().flatten().collect();
        outcomes.append(&mut transaction.outcomes);
        self.log_branches(&branches, &outcomes);
        for branch in branches {
            match branch.ended {
                // It may have been in the middle of a transaction.
                Some(_) => self.give_up(branch).await,
                None => self.let_go(branch.handover),
            }
        }
        self.settle(outcomes).await
    }

    /// A line for each way, where there are several.
    fn log_branches(&self, branches: &[Branch], outcomes: &[Outcome]) {
        let Some(transaction) = &self.transaction else {
            return;
        };
        let differ = outcomes.windows(2).any(|pair| pair[0].1 != pair[1].1);
        if branches.len() < 2 && !differ {
            return;
        }
        for branch in branches {
            for (number, reply) in outcomes {
                let recipient = transaction.recipients.get(*number);
                let Some(recipient) = recipient.filter(|_| branch.recipients.contains(number))
                else {
                    continue;
                };
                let to = recipient.address.as_str();
                let envelope = [transaction.from.as_str(), to];
                let client = self.client.ip();
                let told =
                    |text| crate::observe::redact::words_about(client, envelope, text).into_owned();
                tracing::info!(
                    code = reply.code(),
                    hop = branch.handover.place(),
                    to = &*crate::observe::redact::mailbox(to),
                    reply = told(reply.text()),
                    cause = told(reply.cause().unwrap_or_default()),
                    session = self.id,
                    transaction = transaction.id,
                    "recipient"
                );
            }
        }
    }

    /// One reply for all recipients. Where they have ended differently the client comes again, and hears of each by
    /// itself.
    async fn settle(&mut self, outcomes: Vec<Outcome>) -> Reply {
        let Some(transaction) = &self.transaction else {
            return given_up();
        };
        let partial = &self.server.partial;
        let recipients = transaction.recipients.iter().enumerate();
        let known = |number: usize| outcomes.iter().find(|(of, _)| *of == number);
        let body = transaction.body.as_ref().map(Body::digest);
        let all: Vec<(&Recipient, Reply)> = recipients
            .map(|(number, recipient)| {
                let reply = known(number).map(|(_, reply)| reply.clone());
                // Of whom nothing is known nobody may say that it has the message.
                (recipient, reply.unwrap_or_else(given_up))
            })
            .collect();
        let class = |reply: &Reply| (reply.is_positive(), reply.is_permanent());
        let first = all.first().map(|(_, reply)| class(reply));
        let agree = all.iter().all(|(_, reply)| Some(class(reply)) == first);
        let Some(message) = transaction.message else {
            return match agree {
                true => joint(&all),
                // Nothing tells this message from others: who has it may get it twice.
                false => Reply::new(451, (4, 5, 0), "not delivered to all, send again"),
            };
        };
        let note =
            |recipient: &Recipient, state| partial.note(recipient.note(message, body, state));
        // Who did not answer may have kept those from the message who would have taken it.
        let has_stalled = transaction.outcomes_can_differ()
            && all.iter().any(|(_, reply)| reply.cause().is_some());
        if agree {
            let state = match first {
                Some((true, _)) => State::Told,
                Some((_, true)) => State::Over,
                _ => State::Open,
            };
            // If others of the message wait for their turn, these have had theirs.
            if partial.is_known(message) || state == State::Open && has_stalled {
                all.iter().for_each(|(recipient, _)| note(recipient, state));
            }
            return joint(&all);
        }
        for (recipient, reply) in &all {
            let state = match reply.is_positive() {
                true => State::Delivered,
                false => State::Open,
            };
            note(recipient, state);
        }
        if let Err(error) = partial.sync().await {
            // It is known as long as this process lives.
            tracing::error!(%error, "what was delivered is not on the disk");
        }
        let delivered = all.iter().filter(|(_, reply)| reply.is_positive()).count();
        let failed = all.iter().find(|(_, reply)| !reply.is_positive());
        let reason = failed.map_or_else(String::new, |(recipient, reply)| {
            format!(
                "; <{}>: {} {}",
                recipient.address,
                reply.code(),
                reply.one_line()
            )
        });
        let text = format!(
            "delivered to {delivered} of {} recipients; send again for all, each is told what became of it{reason}",
            all.len()
        );
        Reply::new(451, (4, 5, 0), text)
    }
}

/// Names the recipients of a transaction that has begun; all of them were taken a moment ago. If one is not taken now,
/// all end as it does.
async fn take_all(handover: &mut Handover, addresses: &[Address]) -> Result<(), Reply> {
    for address in addresses {
        let reply = handover.rcpt(address).await;
        if reply.is_permanent() && addresses.len() > 1 {
            // It is one recipient's, and would be the end of all.
            return Err(Reply::new(451, (4, 5, 0), reply.one_line()));
        }
        if !reply.is_positive() {
            return Err(reply);
        }
    }
    Ok(())
}

/// The one reply of outcomes that agree: that of all, if it is the same, else all of them.
fn joint(all: &[(&Recipient, Reply)]) -> Reply {
    let Some((_, first)) = all.first() else {
        return given_up();
    };
    if all.iter().all(|(_, reply)| reply == first) {
        return first.clone();
    }
    let mut texts: Vec<String> = Vec::new();
    for (recipient, reply) in all {
        let text = match reply.is_positive() {
            true => reply.one_line(),
            false => format!(
                "<{}>: {} {}",
                recipient.address,
                reply.code(),
                reply.one_line()
            ),
        };
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let enhanced = first
        .enhanced()
        .unwrap_or_else(|| ((first.code() / 100) as u8, 0, 0).into());
    Reply::new(first.code(), enhanced, texts.join("; "))
}

/// The disk does not take, or give back, a message that has to be kept.
pub(super) fn no_room(error: &std::io::Error) -> Reply {
    let text = "the message cannot be kept now, try again later";
    Reply::new(452, (4, 3, 1), text).because(error.to_string())
}

fn given_up() -> Reply {
    Reply::new(
        451,
        (4, 3, 0),
        "the transaction was given up, try again later",
    )
}

impl Branch {
    /// Begins the message. Tells whether the connection was lost before, so that another one may serve.
    async fn begin_message(&mut self, patience: Option<Duration>) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let Err(not_begun) = self.handover.data(patience).await else {
            return false;
        };
        self.ended = Some(not_begun.reply());
        match not_begun {
            NotBegun::Refused(_) => false,
            // Who did not answer is not asked again while others wait.
            NotBegun::Lost(failure) => !matches!(failure.cause, Cause::TimedOut),
        }
    }

    async fn write(&mut self, content: &[u8]) {
        if self.ended.is_none()
            && let Err(reply) = self.handover.write(content).await
        {
            self.ended = Some(reply);
        }
    }

    async fn finish(&mut self, note: &(dyn Fn(usize, &Reply) + Sync)) -> Vec<Outcome> {
        if let Some(reply) = &self.ended {
            return self
                .recipients
                .iter()
                .map(|number| (*number, reply.clone()))
                .collect();
        }
        let numbers = &self.recipients;
        let mut note_one = |place: usize, reply: &Reply| {
            if let Some(number) = numbers.get(place) {
                note(*number, reply);
            }
        };
        let finished = self.handover.finish(&mut note_one).await;
        let numbered = self.recipients.iter().enumerate();
        let outcomes: Vec<Outcome> = numbered
            .map(|(place, number)| (*number, finished.of(place)))
            .collect();
        if let Finished::All(_) = finished {
            outcomes
                .iter()
                .for_each(|(number, reply)| note(*number, reply));
        }
        outcomes
    }
}

impl Recipient {
    fn note(&self, message: Digest, body: Option<Digest>, state: State) -> Note {
        Note {
            message,
            recipient: self.digest,
            lane: self.lane,
            body,
            state,
        }
    }
}

impl Transaction {
    /// Whether one of its recipients may have the message, and another one not.
    fn outcomes_can_differ(&self) -> bool {
        self.recipients
            .windows(2)
            .any(|pair| pair[0].lane != pair[1].lane)
    }

    /// Where its mail goes, for the log.
    pub(super) fn places(&self) -> String {
        let places: Vec<String> = self
            .branches
            .iter()
            .map(|branch| branch.handover.place())
            .collect();
        places.join(", ")
    }

    /// Ends the sessions with all who take its mail.
    pub(super) async fn quit(&mut self) {
        join_all(
            self.branches
                .iter_mut()
                .map(|branch| branch.handover.quit()),
        )
        .await;
    }
}
