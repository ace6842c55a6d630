//! The paths of one transaction: a message for several partners goes to each of them at once (RFC 5321
//! §4.5.3.1.8), and a message for several mailboxes to an LMTP server that answers for each.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::egress::client::{self, Cause, Finished, MailError, Sender};
use crate::egress::next_hop::{Client, ClientName, Delivery};
use crate::egress::partial::{Body, Digest, Note, State};
use crate::egress::path::{Egress, EgressPath};
use crate::frontend::smtp::receiver::MessageReceiver;
use crate::frontend::smtp::session::envelope::{Reason, Rejection};
use crate::frontend::smtp::session::notify::Relayed;
use crate::frontend::smtp::session::{Recipient, Session, Transaction};
use crate::frontend::smtp::spool::Spool;
use crate::observe::redact;
use crate::smtp::command;
use crate::smtp::reply::Reply;
use crate::smtp::seven_bit::{Converter, Findings, Obstacle, Survey};

/// How long one of several may take to let a message begin. RFC 5321 §4.5.3.2.4 has two minutes for it; others wait
/// meanwhile, and so does the client, who gave himself no more.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Paths that a transaction remembers as failed.
const MAX_FAILED_PATHS: usize = 100;

/// One path of a transaction.
pub struct Branch {
    path: Arc<EgressPath>,
    delivery: Delivery,
    /// The numbers of its recipients.
    recipients: Vec<usize>,
    /// How it has ended, before the message has.
    ended: Option<Reply>,
    /// What makes seven bits of the message, if its server takes no more.
    converter: Option<Box<Converter>>,
}

/// What became of a recipient, by its number.
type Outcome = (usize, Reply);

impl Session {
    /// Offers a recipient that the policy lets pass to the server that gets its mail, whose answer counts.
    pub(super) async fn offer_recipient(
        &mut self,
        transaction: &mut Transaction,
        recipient: Recipient,
    ) -> Result<Reply, Rejection> {
        let mut known = transaction.recipients.iter();
        if known.any(|known| known.digest == recipient.digest) {
            // It gets the message once, and has one outcome.
            return Ok(Reply::new(250, (2, 1, 5), "recipient ok, as before"));
        }
        let (index, mut branch) = self.branch_of(transaction, &recipient).await?;
        let is_inbound = matches!(self.listener.egress, Egress::NextHop { .. });
        let wants_notification = recipient.parameters.notify.is_some_and(|it| it.success);
        let reply = match is_inbound && wants_notification && !branch.delivery.extensions().dsn {
            // It did when this session began; in the next one DSN is not offered, and the client's own server notifies.
            true => Reply::new(
                451,
                (4, 3, 0),
                "the next hop sends no notifications now, try again",
            ),
            false => branch.delivery.rcpt(recipient.named()).await,
        };
        if reply.is_positive() {
            branch.recipients.push(transaction.recipients.len());
            transaction.recipients.push(recipient);
        }
        if branch.recipients.is_empty() {
            // Nobody's mail takes this path so far, and nobody's may.
            self.abort(branch).await;
        } else {
            transaction.branches.insert(index, branch);
        }
        match reply.is_positive() {
            true => Ok(reply),
            false => Err(self.not_accepted(reply)),
        }
    }

    /// The server that gets the mail has not accepted it.
    fn not_accepted(&self, reply: Reply) -> Rejection {
        let reason = match &self.listener.egress {
            Egress::NextHop { .. } => Reason::NextHop,
            Egress::Partners { .. } => Reason::Partner,
        };
        Rejection { reply, reason }
    }

    /// The branch that a recipient's mail takes, out of the transaction or new, and its index there.
    async fn branch_of(
        &mut self,
        transaction: &mut Transaction,
        recipient: &Recipient,
    ) -> Result<(usize, Branch), Rejection> {
        let key = recipient.path.key();
        let same = |branch: &Branch| branch.path.key() == key;
        if let Some(index) = transaction.branches.iter().position(same) {
            let differs = |other: &Recipient| other.egress != recipient.egress;
            if transaction.recipients.iter().any(differs) && !self.server.partial.remembers() {
                return Err(another_path());
            }
            return Ok((index, transaction.branches.remove(index)));
        }
        let mut failed = transaction.failed_paths.iter();
        if let Some((_, reply)) = failed.find(|(known, _)| **known == *key) {
            return Err(self.not_accepted(reply.clone()));
        }
        let is_in_a_hurry = !transaction.branches.is_empty();
        if is_in_a_hurry && !self.server.partial.remembers() {
            return Err(another_path());
        }
        let path = recipient.path.clone();
        let sender = transaction.sender(recipient);
        match self.begin(sender, &path, is_in_a_hurry).await {
            Ok(delivery) => {
                let branch = Branch {
                    path,
                    delivery,
                    recipients: Vec::new(),
                    ended: None,
                    converter: None,
                };
                Ok((transaction.branches.len(), branch))
            }
            Err(reply) => {
                if transaction.failed_paths.len() < MAX_FAILED_PATHS {
                    transaction.failed_paths.push((key.into(), reply.clone()));
                }
                Err(self.not_accepted(reply))
            }
        }
    }

    /// Begins a transaction with the server that gets the mail.
    async fn begin(
        &mut self,
        sender: Sender<'_>,
        path: &EgressPath,
        is_in_a_hurry: bool,
    ) -> Result<Delivery, Reply> {
        let name = self.client_name().await;
        if let Some(mut delivery) = self.take_kept(path) {
            match delivery.mail(sender).await {
                Ok(()) => return Ok(delivery),
                Err(MailError::Refused(reply)) => {
                    self.kept.push((path.key().into(), delivery));
                    return Err(reply);
                }
                // A server may close what is idle, which costs nothing: no mail was on it.
                Err(MailError::Lost(failure)) => {
                    let failure = failure.to_string();
                    tracing::debug!(
                        "an idle connection was closed: {}",
                        redact::redact(&failure)
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
        path.begin(&client, sender, is_in_a_hurry).await
    }

    /// A connection that is this client's alone, by the same path, if there is one.
    fn take_kept(&mut self, path: &EgressPath) -> Option<Delivery> {
        let same = |(key, _): &(String, Delivery)| key == path.key();
        let number = self.kept.iter().position(same)?;
        let (_, delivery) = self.kept.swap_remove(number);
        delivery.is_usable().then_some(delivery)
    }

    /// What the client's address is called, once that is known.
    pub(super) async fn client_name(&mut self) -> ClientName {
        if let Some(looking) = self.looking_up.take() {
            self.client_name = looking.await.unwrap_or(ClientName::Unknown);
        }
        self.client_name.clone()
    }

    /// Gives up a branch before its message is delivered.
    pub(super) async fn abort(&mut self, mut branch: Branch) {
        branch.delivery.reset().await;
        self.release(&branch.path, branch.delivery);
    }

    /// After a transaction: a connection that is not this client's alone goes to whoever needs it next.
    fn release(&mut self, path: &EgressPath, delivery: Delivery) {
        if let Some(own) = delivery.release() {
            self.kept.push((path.key().into(), own));
        }
    }

    /// Begins the message everywhere. If a recipient may have it already, or a server takes seven bits where there may be
    /// eight, it is spooled until it is complete.
    ///
    /// # Errors
    /// What the client is told if it cannot be spooled.
    pub(super) async fn begin_message(
        &mut self,
        transaction: &mut Transaction,
        message: Option<Digest>,
    ) -> Result<(), Reply> {
        let partial = &self.server.partial;
        transaction.message = message;
        transaction.body = message
            .filter(|_| !partial.is_forgetful())
            .map(|_| Body::new());
        let may_have_it = |recipient: &Recipient| {
            message.is_some_and(|message| partial.may_have(message, recipient.digest))
        };
        let is_held = transaction.recipients.iter().any(may_have_it);
        if is_held || transaction.may_need_seven_bits() {
            // Whichever server a connection that is made anew leads to.
            let may_have_eight = transaction.parameters.body == command::Body::EightBitMime;
            transaction.survey = may_have_eight.then(Survey::new);
            let file = partial.spool().map_err(|error| no_room(&error))?;
            transaction.held = Some(Spool::new(file));
            return Ok(());
        }
        let nobody = vec![false; transaction.recipients.len()];
        self.begin_for_all_but(transaction, &nobody).await;
        transaction.end_where_seven_bits_are_needed();
        Ok(())
    }

    /// Sends a message that was spooled, if this one was, to those who do not have it.
    ///
    /// # Errors
    /// What the client is told if it cannot be read again.
    pub(super) async fn send_spooled(
        &mut self,
        transaction: &mut Transaction,
    ) -> Result<(), Reply> {
        let Some(mut held) = transaction.held.take() else {
            return Ok(());
        };
        held.rewind().await.map_err(|error| no_room(&error))?;
        let body = transaction.body.as_ref().map(Body::digest);
        let known = transaction.message.zip(body);
        let has_it = |recipient: &Recipient| {
            let partial = &self.server.partial;
            known.is_some_and(|(message, body)| partial.has(message, recipient.digest, body))
        };
        let have: Vec<bool> = transaction.recipients.iter().map(has_it).collect();
        let has_it = |number: usize| have.get(number).copied().unwrap_or(false);
        transaction.outcomes.retain(|(number, _)| !has_it(*number));
        let had_it = Reply::new(250, (2, 0, 0), "delivered before");
        let numbers = (0..have.len()).filter(|number| has_it(*number));
        let outcomes = numbers.map(|number| (number, had_it.clone()));
        transaction.outcomes.extend(outcomes);
        self.begin_for_all_but(transaction, &have).await;
        if let Some(survey) = transaction.survey.take() {
            let is_inbound = matches!(self.listener.egress, Egress::NextHop { .. });
            transaction.convert_where_needed(survey.finish(), is_inbound);
        }
        loop {
            let content = held.read().await.map_err(|error| no_room(&error))?;
            if content.is_empty() {
                return Ok(());
            }
            transaction.write_to_all(content).await;
        }
    }

    /// Begins the message for the recipients that do not have it.
    async fn begin_for_all_but(&mut self, transaction: &mut Transaction, have: &[bool]) {
        let branches = std::mem::take(&mut transaction.branches);
        let mut kept = Vec::new();
        for mut branch in branches {
            let all = branch.recipients.len();
            branch
                .recipients
                .retain(|number| !have.get(*number).copied().unwrap_or(false));
            match branch.recipients.len() {
                0 => self.abort(branch).await,
                left if left < all => {
                    kept.extend(Box::pin(self.begin_anew(transaction, branch)).await);
                }
                _ => kept.push(branch),
            }
        }
        // A server that does not answer delays the others.
        let limit = (kept.len() > 1).then_some(BEGIN_TIMEOUT);
        let begun = kept.iter_mut().map(|branch| branch.begin_message(limit));
        let begun = join_all(begun).await;
        let mut branches = Vec::new();
        for (branch, is_lost) in kept.into_iter().zip(begun) {
            if !is_lost {
                branches.push(branch);
                continue;
            }
            // The connection was idle while others were being made, and nothing was sent on it.
            let numbers = branch.recipients.clone();
            let anew = Box::pin(self.begin_anew(transaction, branch));
            match timeout(BEGIN_TIMEOUT, anew).await {
                Err(_) => transaction.end_for(numbers, &given_up()),
                Ok(None) => {}
                Ok(Some(mut anew)) => {
                    anew.begin_message(limit).await;
                    branches.push(anew);
                }
            }
        }
        transaction.branches = branches;
    }

    /// Begins a branch anew for those recipients that are left of it. If that cannot be done, they have ended.
    async fn begin_anew(
        &mut self,
        transaction: &mut Transaction,
        branch: Branch,
    ) -> Option<Branch> {
        let Branch {
            path,
            mut delivery,
            recipients,
            ..
        } = branch;
        delivery.reset().await;
        self.release(&path, delivery);
        let recipient = |number: &usize| transaction.recipients.get(*number).cloned();
        let named: Vec<Recipient> = recipients.iter().filter_map(recipient).collect();
        let first = named.first()?;
        let failed = match self.begin(transaction.sender(first), &path, true).await {
            Err(reply) => reply,
            Ok(mut delivery) => match add_all(&mut delivery, &named).await {
                Ok(()) => {
                    return Some(Branch {
                        path,
                        delivery,
                        recipients,
                        ended: None,
                        converter: None,
                    });
                }
                Err(reply) => {
                    delivery.reset().await;
                    self.release(&path, delivery);
                    reply
                }
            },
        };
        transaction.end_for(recipients, &failed);
        None
    }

    /// Ends the message everywhere, and gives what the client is told.
    pub(super) async fn finish_all(&mut self, transaction: &mut Transaction) -> Reply {
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
        self.log_branches(transaction, &branches, &outcomes);
        let relayed = relayed_without_dsn(&mut branches, transaction, &outcomes);
        for branch in branches {
            match branch.ended {
                // It may have been in the middle of a transaction.
                Some(_) => self.abort(branch).await,
                None => self.release(&branch.path, branch.delivery),
            }
        }
        if !relayed.is_empty() {
            Box::pin(self.tell_of_relaying(transaction, &relayed)).await;
        }
        self.combine_outcomes(transaction, outcomes).await
    }

    /// Logs a line for each recipient of each branch, if there are several.
    fn log_branches(&self, transaction: &Transaction, branches: &[Branch], outcomes: &[Outcome]) {
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
                let told = |text| redact::mailboxes_in(client, envelope, text).into_owned();
                tracing::info!(
                    code = reply.code(),
                    hop = branch.delivery.peer(),
                    to = &*redact::mailbox(to),
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
    async fn combine_outcomes(
        &mut self,
        transaction: &mut Transaction,
        outcomes: Vec<Outcome>,
    ) -> Reply {
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
                true => combine_replies(&all),
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
            return combine_replies(&all);
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

/// Those who have the message, whose sender wants to hear of it, and whose server will not tell him (RFC 3461 §5.2.2).
fn relayed_without_dsn(
    branches: &mut [Branch],
    transaction: &Transaction,
    outcomes: &[Outcome],
) -> Vec<Relayed> {
    let mut relayed = Vec::new();
    for branch in branches {
        if branch.delivery.extensions().dsn {
            continue;
        }
        let has_it = |number: &&usize| {
            let mut outcomes = outcomes.iter().filter(|(of, _)| of == *number);
            outcomes.any(|(_, reply)| reply.is_positive())
        };
        for number in branch.recipients.iter().filter(has_it) {
            let recipient = transaction.recipients.get(*number);
            let wants = |it: &&Recipient| it.parameters.notify.is_some_and(|it| it.success);
            relayed.extend(recipient.filter(wants).map(|recipient| Relayed {
                recipient: recipient.clone(),
                server: branch.delivery.peer(),
            }));
        }
    }
    relayed
}

/// Names the recipients of a transaction that has begun; all of them were taken a moment ago. If one is not taken now,
/// all end as it does.
async fn add_all(delivery: &mut Delivery, recipients: &[Recipient]) -> Result<(), Reply> {
    for recipient in recipients {
        let reply = delivery.rcpt(recipient.named()).await;
        if reply.is_permanent() && recipients.len() > 1 {
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
fn combine_replies(all: &[(&Recipient, Reply)]) -> Reply {
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

/// The disk does not take, or give back, a message that has to be spooled.
fn no_room(error: &std::io::Error) -> Reply {
    let text = "the message cannot be kept now, try again later";
    Reply::new(452, (4, 3, 1), text).because(error.to_string())
}

/// A server takes seven bits, and the message cannot be made to have no more. A client that has believed in the offer of
/// a next hop comes again, and finds the offer gone: its own server knows what to do then.
fn cannot_convert(why: &Obstacle, is_inbound: bool) -> Reply {
    let text =
        format!("the next server takes no 8-bit messages, and this one stays as it is: {why}");
    match is_inbound {
        true => Reply::new(451, (4, 6, 3), text),
        false => Reply::new(554, (5, 6, 3), text),
    }
}

fn another_path() -> Rejection {
    let text = "send again for this recipient: its mail goes another way";
    Rejection {
        reply: Reply::new(452, (4, 5, 3), text),
        reason: Reason::OwnTransaction,
    }
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
    async fn begin_message(&mut self, limit: Option<Duration>) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let Err(not_begun) = self.delivery.data(limit).await else {
            return false;
        };
        self.ended = Some(not_begun.reply());
        match not_begun {
            MailError::Refused(_) => false,
            // Who did not answer is not asked again while others wait.
            MailError::Lost(failure) => !matches!(failure.cause, Cause::TimedOut),
        }
    }

    async fn write(&mut self, content: &[u8]) {
        if self.ended.is_some() {
            return;
        }
        let written = match &mut self.converter {
            None => self.delivery.write(content).await,
            Some(converter) => {
                let mut converted = Vec::new();
                converter.push(content, &mut converted);
                self.delivery.write(&converted).await
            }
        };
        if let Err(reply) = written {
            self.ended = Some(reply);
        }
    }

    /// Writes what a conversion has held back.
    async fn write_rest(&mut self) {
        if let Some(mut converter) = self.converter.take()
            && self.ended.is_none()
        {
            let mut rest = Vec::new();
            converter.finish(&mut rest);
            self.write(&rest).await;
        }
    }

    /// Whether its server takes seven bits only.
    fn takes_seven_bits(&mut self) -> bool {
        !self.delivery.extensions().eight_bit_mime
    }

    async fn finish(&mut self, note: &(dyn Fn(usize, &Reply) + Sync)) -> Vec<Outcome> {
        self.write_rest().await;
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
        let finished = self.delivery.finish(&mut note_one).await;
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
    /// As a server is told it.
    pub(super) fn named(&self) -> client::Recipient<'_> {
        client::Recipient {
            to: &self.address,
            parameters: &self.parameters,
        }
    }

    fn note(&self, message: Digest, body: Option<Digest>, state: State) -> Note {
        Note {
            message,
            recipient: self.digest,
            egress: self.egress,
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
            .any(|pair| pair[0].egress != pair[1].egress)
    }

    /// Its sender, as a server is told it together with the first recipient.
    fn sender<'a>(&'a self, first: &'a Recipient) -> Sender<'a> {
        Sender {
            from: &self.from,
            parameters: &self.parameters,
            first: first.named(),
        }
    }

    /// Whether the message may have eight bits, and a server takes seven.
    fn may_need_seven_bits(&mut self) -> bool {
        self.parameters.body == command::Body::EightBitMime
            && self.branches.iter_mut().any(Branch::takes_seven_bits)
    }

    /// A connection that was made anew has led to a server that takes seven bits, where the one before took eight.
    fn end_where_seven_bits_are_needed(&mut self) {
        if self.parameters.body != command::Body::EightBitMime {
            return;
        }
        for branch in &mut self.branches {
            if branch.ended.is_none() && branch.takes_seven_bits() {
                let text = "the server takes no 8-bit messages now, try again";
                branch.ended = Some(Reply::new(451, (4, 6, 3), text));
            }
        }
    }

    /// What was found in the message decides what those servers get that take seven bits: the message as it is, if it has
    /// no more; a converted one; or none (RFC 6152 §3).
    fn convert_where_needed(&mut self, findings: Findings, is_inbound: bool) {
        if !findings.needs_conversion() {
            return;
        }
        let obstacle = findings.obstacle();
        let findings = Arc::new(findings);
        for branch in &mut self.branches {
            if branch.ended.is_some() || !branch.takes_seven_bits() {
                continue;
            }
            match obstacle {
                None => branch.converter = Some(Box::new(Converter::new(findings.clone()))),
                Some(obstacle) => branch.ended = Some(cannot_convert(&obstacle, is_inbound)),
            }
        }
    }

    /// Where its mail goes, for the log.
    pub(super) fn peers(&self) -> String {
        let peers = self.branches.iter().map(|branch| branch.delivery.peer());
        peers.collect::<Vec<String>>().join(", ")
    }

    /// These recipients have ended, before the message has.
    fn end_for(&mut self, recipients: Vec<usize>, reply: &Reply) {
        let outcomes = recipients.into_iter().map(|number| (number, reply.clone()));
        self.outcomes.extend(outcomes);
    }

    /// Adds a recipient that may have the message, though its server does not accept it now: if it has, that is its
    /// outcome.
    pub(super) fn add_without_branch(&mut self, recipient: Recipient, reply: Reply) -> Reply {
        self.outcomes.push((self.recipients.len(), reply));
        self.recipients.push(recipient);
        Reply::new(250, (2, 1, 5), "recipient ok")
    }

    /// Sends a part of the message, or spools it, unless the message is refused.
    pub(super) async fn write(&mut self, receiver: &mut MessageReceiver, content: &[u8]) {
        if content.is_empty() || receiver.refused().is_some() {
            return;
        }
        match &mut self.held {
            Some(held) => {
                if let Some(survey) = &mut self.survey {
                    survey.push(content);
                }
                if let Err(error) = held.write(content).await {
                    receiver.refuse(no_room(&error));
                }
            }
            None => self.write_to_all(content).await,
        }
    }

    /// Sends a part of the message; a branch that fails has ended.
    async fn write_to_all(&mut self, content: &[u8]) {
        match &mut self.branches[..] {
            [only] => only.write(content).await,
            branches => {
                join_all(branches.iter_mut().map(|branch| branch.write(content))).await;
            }
        }
    }

    /// Ends the sessions with all who take its mail.
    pub(super) async fn quit(&mut self) {
        join_all(
            self.branches
                .iter_mut()
                .map(|branch| branch.delivery.quit()),
        )
        .await;
    }
}
