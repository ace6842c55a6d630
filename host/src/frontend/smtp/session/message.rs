//! DATA and BDAT: the message, from the client to whoever takes it.

use bytes::Buf;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::egress::next_hop::ClientName;
use crate::egress::partial::Digest;
use crate::frontend::header::FromField;
use crate::frontend::smtp::receiver::{MessageReceiver, Progress};
use crate::frontend::smtp::session::{End, Next, Recipient, Session, State, Transaction};
use crate::smtp::data::DataDecoder;
use crate::smtp::header;
use crate::smtp::received::Trace;
use crate::smtp::reply::Reply;
use portcullis::Direction;

/// Octets of a header that a notification has, which is kept meanwhile.
const NOTIFIED_HEADER: usize = 16 << 10;

impl Session {
    pub(super) async fn data(&mut self) -> Next {
        let mut transaction = match std::mem::replace(&mut self.state, State::Idle) {
            State::Envelope(transaction) if !transaction.recipients.is_empty() => transaction,
            other => {
                let reply = match &other {
                    State::Idle => Reply::new(503, (5, 5, 1), "send MAIL and RCPT first"),
                    State::Envelope(_) => Reply::new(554, (5, 5, 1), "no valid recipients"),
                    State::Chunks(..) => {
                        let text = "a message that began with BDAT ends with BDAT (RFC 3030)";
                        Reply::new(503, (5, 5, 1), text)
                    }
                };
                self.state = other;
                return reply.into();
            }
        };
        self.connection
            .queue(&Reply::plain(354, "end with <CRLF>.<CRLF>"));
        let line_limit = self.settings.limits.text_line;
        let mut receiver = self.new_receiver();
        let mut decoder = DataDecoder::with_line_limit(line_limit);
        if self.normalizes() {
            decoder = decoder.normalizing();
        }
        let mut content = Vec::new();
        loop {
            if self.connection.input.is_empty()
                && let Err(end) = self.more(receiver.deadline).await
            {
                return self.abandon(transaction, end).await;
            }
            let progress = decoder.decode(&self.connection.input, &mut content);
            self.connection.input.advance(progress.consumed);
            if let Some(error) = decoder.error() {
                receiver.refuse(error.reply());
            }
            self.pass_on(&mut transaction, &mut receiver, &content)
                .await;
            content.clear();
            if progress.finished {
                return self.finish(transaction, receiver).await.into();
            }
        }
    }

    /// For a message that begins now.
    fn new_receiver(&self) -> MessageReceiver {
        let line_limit = self.settings.limits.text_line;
        let time = self.settings.timeouts.message;
        let held = self.server.headers.none(self.client.ip());
        let mut receiver = MessageReceiver::new(self.message_size(), line_limit, time, held);
        if self.normalizes() {
            receiver.lines = receiver.lines.normalizing();
        }
        receiver
    }

    pub(super) async fn bdat(&mut self, size: u64, last: bool) -> Next {
        let time = self.settings.timeouts.message;
        let (mut transaction, mut receiver) = match std::mem::replace(&mut self.state, State::Idle)
        {
            State::Chunks(transaction, receiver) => (transaction, receiver),
            State::Envelope(transaction) if !transaction.recipients.is_empty() => {
                (transaction, Box::new(self.new_receiver()))
            }
            other => {
                self.state = other;
                // The octets come whether they are welcome or not, and none of them is a command.
                return match self.chunk(None, size, Instant::now() + time).await {
                    Ok(()) => Reply::new(503, (5, 5, 1), "send MAIL and RCPT first").into(),
                    Err(end) => {
                        self.reset().await;
                        unfinished(end)
                    }
                };
            }
        };
        let deadline = receiver.deadline;
        let message = Some((&mut *transaction, &mut *receiver));
        if let Err(end) = self.chunk(message, size, deadline).await {
            return self.abandon(transaction, end).await;
        }
        if last {
            if let Err(error) = receiver.lines.finish() {
                receiver.refuse(error.reply());
            }
            return self.finish(transaction, *receiver).await.into();
        }
        let reply = match receiver.refused() {
            Some(refused) => refused.clone(),
            None => Reply::new(250, (2, 0, 0), format!("{size} octets received")),
        };
        self.state = State::Chunks(transaction, receiver);
        reply.into()
    }

    /// Reads the `size` octets of a chunk: into a message, or to throw them away.
    async fn chunk(
        &mut self,
        mut message: Option<(&mut Transaction, &mut MessageReceiver)>,
        size: u64,
        deadline: Instant,
    ) -> Result<(), End> {
        let mut missing = size;
        while missing > 0 {
            if self.connection.input.is_empty() {
                self.more(deadline).await?;
            }
            let available = self.connection.input.len();
            let available = available.min(usize::try_from(missing).unwrap_or(available));
            let content = self.connection.input.split_to(available);
            missing -= available as u64;
            if let Some((transaction, receiver)) = &mut message {
                match receiver.lines.check(&content) {
                    Ok(clean) => self.pass_on(transaction, receiver, &clean).await,
                    Err(error) => {
                        receiver.refuse(error.reply());
                        self.pass_on(transaction, receiver, &content).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for more of a message.
    async fn more(&mut self, deadline: Instant) -> Result<(), End> {
        let deadline = deadline.min(Instant::now() + self.settings.timeouts.data_block);
        match self.timer.until(deadline, self.connection.fill()).await {
            Some(Ok(0) | Err(_)) => Err(End::Gone),
            Some(Ok(_)) => Ok(()),
            None => Err(End::Closed),
        }
    }

    /// The client did not end its message: nobody may keep any of it.
    async fn abandon(&mut self, transaction: Box<Transaction>, end: End) -> Next {
        self.give_up(transaction).await;
        unfinished(end)
    }

    /// Hands over what has come of a message.
    async fn pass_on(
        &mut self,
        transaction: &mut Transaction,
        receiver: &mut MessageReceiver,
        content: &[u8],
    ) {
        let body = match receiver.take(content) {
            Progress::Wait => return,
            Progress::Body(body) => body,
            Progress::Header(body) => {
                self.pass_header_on(transaction, receiver).await;
                body
            }
        };
        if let Some(known) = &mut transaction.body {
            known.update(body);
        }
        transaction.write(receiver, body).await;
    }

    /// Decides on the header, and hands it over with our own trace in front.
    async fn pass_header_on(
        &mut self,
        transaction: &mut Transaction,
        receiver: &mut MessageReceiver,
    ) {
        let fields = receiver.take_header();
        if header::received_count(&fields) > self.settings.limits.hops {
            // RFC 5321 §6.3.
            receiver.refuse(Reply::new(
                554,
                (5, 4, 6),
                "too many Received fields: the message is in a loop",
            ));
            return;
        }
        if let Err(reply) = self.decide_on_header(transaction, &fields).await {
            receiver.refuse(reply);
            return;
        }
        let message = self.message_digest(transaction, &fields);
        if let Err(reply) = self.begin_message(transaction, message).await {
            receiver.refuse(reply);
            return;
        }
        let notifies = |it: &Recipient| it.parameters.notify.is_some_and(|it| it.success);
        if self.context.direction() == Direction::Outbound
            && transaction.recipients.iter().any(notifies)
        {
            let shown = fields.len().min(NOTIFIED_HEADER);
            transaction.header = fields.get(..shown).map(<[u8]>::to_vec);
        }
        self.client_name().await;
        let mut content = self.trace(transaction).into_bytes();
        content.extend_from_slice(&fields);
        transaction.write(receiver, &content).await;
    }

    /// By what a message is known whose recipients may end differently, or have done so before.
    fn message_digest(&self, transaction: &Transaction, header: &[u8]) -> Option<Digest> {
        let may_differ = transaction.recipients.len() > 1
            || transaction.turn.is_some()
            || !self.server.partial.is_empty();
        may_differ.then(|| Digest::of_message(transaction.from.as_str(), header))
    }

    /// Asks those policies again that read the From header.
    async fn decide_on_header(
        &mut self,
        transaction: &mut Transaction,
        fields: &[u8],
    ) -> Result<(), Reply> {
        if self.context.direction() == Direction::Outbound {
            return Ok(());
        }
        // Those who share a transaction are decided on together.
        let mut recipients = transaction.recipients.iter();
        let Some(recipient) = recipients.find(|recipient| recipient.tenant.reads_header()) else {
            return Ok(());
        };
        let id = &transaction.id;
        let from = FromField::read(fields).map_err(|reply| reply.with_id(id))?;
        self.context.set_header_from(from.fact());
        self.context.set_rcpt_to(recipient.address.as_str());
        let decision = self.ask(&recipient.tenant, id).await;
        from.refusal(&decision, id).map_or(Ok(()), Err)
    }

    fn trace(&self, transaction: &Transaction) -> String {
        let recipient = match &transaction.recipients[..] {
            [only] => Some(only.address.as_str()),
            _ => None,
        };
        let trace = Trace {
            client: self.client.ip(),
            name: match &self.client_name {
                ClientName::Confirmed(name) => Some(name),
                _ => None,
            },
            helo: self.context.helo_name().unwrap_or_default(),
            esmtp: self.esmtp,
            tls: self.context.session_tls(),
            is_authenticated: self.user.is_some(),
            smtputf8: transaction.parameters.smtputf8,
            hostname: &self.server.hostname,
            id: &transaction.id,
            recipient,
        };
        trace.field(OffsetDateTime::now_utc())
    }

    /// The end of the message: only the next hop's word makes it ours to confirm.
    async fn finish(
        &mut self,
        mut transaction: Box<Transaction>,
        mut receiver: MessageReceiver,
    ) -> Reply {
        if !receiver.is_decided() && receiver.refused().is_none() {
            // A message without a body.
            self.pass_header_on(&mut transaction, &mut receiver).await;
        }
        let peers = transaction.peers();
        let reply = match receiver.refused() {
            Some(refused) => refused.clone(),
            None => match self.send_spooled(&mut transaction).await {
                Ok(()) => self.finish_all(&mut transaction).await,
                Err(reply) => reply,
            },
        };
        let recipients = transaction.recipients.iter();
        let recipients = recipients.map(|recipient| recipient.address.as_str());
        let envelope: Vec<&str> = [transaction.from.as_str()]
            .into_iter()
            .chain(recipients)
            .collect();
        let client = self.client.ip();
        let told = |text| {
            crate::observe::redact::mailboxes_in(client, envelope.iter().copied(), text)
                .into_owned()
        };
        tracing::info!(
            code = reply.code(),
            size = receiver.size(),
            recipients = transaction.recipients.len(),
            hop = peers,
            client = %crate::observe::redact::client(self.client.ip()),
            session = self.id,
            transaction = transaction.id,
            reply = told(reply.text()),
            cause = told(reply.cause().unwrap_or_default()),
            "message"
        );
        self.server.asking.metrics.message(reply.code());
        if reply.is_positive() {
            self.commands = 0;
        }
        let reply = reply.with_id(&transaction.id);
        self.give_up(transaction).await;
        reply
    }
}

fn unfinished(end: End) -> Next {
    match end {
        End::Closed => super::out_of_time("the message did not end in time, closing"),
        _ => Next::Lost(end),
    }
}
