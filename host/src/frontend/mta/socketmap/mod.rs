//! Postfix's socketmap: `tls` and `tlsrpt` for `smtp_tls_policy_maps`, `route` for `transport_maps`.

mod maps;
pub mod netstring;

use std::sync::Arc;

use self::maps::{Answer, Maps};
use super::door::{ConversationError, Frontend, Patience};
use crate::observe::redact;
use crate::smtp::connection::Connection;

/// Answers until the server ends the conversation. Postfix takes an end in between for a failure, so it has the first
/// word about that.
///
/// # Errors
/// If it ends otherwise.
pub async fn serve(
    frontend: &Arc<Frontend>,
    connection: &mut Connection,
    session: &str,
) -> Result<(), ConversationError> {
    let mut maps = Maps::new(frontend, session);
    let mut patience = Patience::default();
    loop {
        let parsed = netstring::parse(&connection.input).map_err(ConversationError::malformed)?;
        let request =
            parsed.map(|(data, length)| (String::from_utf8_lossy(data).into_owned(), length));
        match request {
            Some((request, length)) => {
                patience.is_whole();
                let _ = connection.input.split_to(length);
                let answer = maps.answer(&request).await;
                tracing::debug!(
                    session,
                    request = &*redact::redact(&request),
                    ?answer,
                    "a map is asked"
                );
                write(&answer, connection.output());
            }
            None if !patience.more(connection).await? => return Ok(()),
            None => {}
        }
    }
}

/// The longest answer: as much as Postfix reads.
const MAX_ANSWER: usize = 100_000;

fn write(answer: &Answer, output: &mut Vec<u8>) {
    let text = match answer {
        Answer::Found(value) if value.len() + 3 > MAX_ANSWER => {
            "PERM the answer is too long".to_owned()
        }
        Answer::Found(value) => format!("OK {value}"),
        // Postfix wants the blank.
        Answer::NotFound => "NOTFOUND ".to_owned(),
        Answer::Temporary(why) => format!("TEMP {}", portcullis::one_line(why)),
        Answer::Permanent(why) => format!("PERM {}", portcullis::one_line(why)),
    };
    netstring::write(&text, output);
}
