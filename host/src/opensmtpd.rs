//! OpenSMTPD's filters (smtpd-filters(7)): its lines, what they tell of a session, and a recipient as a request of policy
//! delegation.

use std::collections::HashMap;
use std::net::SocketAddr;

/// Sessions that are remembered. Of those before, nothing is known any more.
const MOST_SESSIONS: usize = 100_000;

/// What the filter wants to hear of.
pub const REGISTRATION: &str = "register|report|smtp-in|link-connect
register|report|smtp-in|link-identify
register|report|smtp-in|link-tls
register|report|smtp-in|link-auth
register|report|smtp-in|link-disconnect
register|report|smtp-in|tx-begin
register|report|smtp-in|tx-mail
register|filter|smtp-in|rcpt-to
register|ready
";

/// What is known of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// The client's address; `None` if it has none.
    client: Option<SocketAddr>,
    helo: Option<String>,
    /// The version and the cipher.
    tls: Option<(String, String)>,
    is_authenticated: bool,
    message: Option<String>,
    sender: Option<String>,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// The filter says what it wants to hear of.
    Registration,
    /// An answer about a recipient.
    Recipient(Question),
}

/// A recipient that is to be decided about.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    session: String,
    token: String,
    /// Whether the answer names the token first, as before version 0.5 of the protocol.
    token_first: bool,
    /// The request of policy delegation; `None` if mail of the organization's own users needs none.
    pub request: Option<String>,
}

/// The sessions of an smtpd.
#[derive(Default)]
pub struct Sessions(HashMap<String, Session>);

impl Sessions {
    /// Reads a line.
    ///
    /// # Errors
    /// If it is none of the protocol.
    pub fn read(&mut self, line: &str) -> Result<Asked, String> {
        if line == "config|ready" {
            return Ok(Asked::Registration);
        }
        let mut fields = line.splitn(7, '|');
        let mut next = || fields.next().unwrap_or_default();
        let (stream, version, _time) = (next(), next(), next());
        let (_subsystem, event, session, rest) = (next(), next(), next(), next());
        match stream {
            "config" => Ok(Asked::Nothing),
            "report" => {
                self.note(version, event, session, rest);
                Ok(Asked::Nothing)
            }
            "filter" if event == "rcpt-to" => self.ask(version, session, rest),
            _ => Err(format!("{line:?} is no line of smtpd-filters(7)")),
        }
    }

    fn note(&mut self, version: &str, event: &str, id: &str, rest: &str) {
        if event == "link-disconnect" {
            self.0.remove(id);
            return;
        }
        if event == "link-connect" && self.0.len() >= MOST_SESSIONS {
            self.0.clear();
        }
        let session = match event {
            "link-connect" => self.0.entry(id.to_owned()).or_default(),
            _ => match self.0.get_mut(id) {
                Some(session) => session,
                None => return,
            },
        };
        let fields: Vec<&str> = rest.split('|').collect();
        match (event, &fields[..]) {
            ("link-connect", [_, _, source, ..]) => session.client = source.parse().ok(),
            ("link-identify", [_, .., name]) => session.helo = Some((*name).to_owned()),
            ("link-tls", [tls, ..]) => {
                let mut parts = tls.split(':');
                let mut part = || parts.next().unwrap_or_default().to_owned();
                session.tls = Some((part(), part()));
            }
            // The name of the user is the client's own word, and may be "pass". The result comes behind it before version
            // 0.7.
            ("link-auth", [result, ..]) if version == "0.7" => {
                session.is_authenticated |= *result == "pass";
            }
            ("link-auth", [.., result]) if is_old(version) => {
                session.is_authenticated |= *result == "pass";
            }
            ("tx-begin", [message, ..]) => session.message = Some((*message).to_owned()),
            ("tx-mail", [_, "ok" | "permfail" | "tempfail", ..]) => {
                let address = rest.splitn(3, '|').nth(2);
                session.sender = address.map(str::to_owned);
            }
            ("tx-mail", [_, address, ..]) => session.sender = Some((*address).to_owned()),
            _ => {}
        }
    }

    fn ask(&self, version: &str, id: &str, rest: &str) -> Result<Asked, String> {
        let Some((token, recipient)) = rest.split_once('|') else {
            return Err("a question without a recipient".into());
        };
        let session = self.0.get(id).cloned().unwrap_or_default();
        let is_known = self.0.contains_key(id);
        Ok(Asked::Recipient(Question {
            session: id.to_owned(),
            token: token.to_owned(),
            token_first: matches!(version, "0.1" | "0.2" | "0.3" | "0.4"),
            request: (!session.is_authenticated).then(|| session.request(is_known, recipient)),
        }))
    }
}

/// Whether a version of the protocol is one before 0.7.
fn is_old(version: &str) -> bool {
    matches!(version, "0.1" | "0.2" | "0.3" | "0.4" | "0.5" | "0.6")
}

impl Session {
    /// What OpenSMTPD does not tell is not in it, and so is unknown.
    fn request(&self, is_known: bool, recipient: &str) -> String {
        let recipient = recipient.strip_prefix('<').unwrap_or(recipient);
        let recipient = recipient
            .split_once('>')
            .map_or(recipient, |(path, _)| path);
        let mut request =
            format!("request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient={recipient}\n");
        let mut add = |name: &str, value: &str| request += &format!("{name}={value}\n");
        match &self.sender {
            Some(sender) => add("sender", sender),
            // No address of anybody, so that nobody decides on a guess.
            None => add("sender", "@"),
        }
        if let Some(message) = &self.message {
            add("instance", message);
        }
        if let Some(client) = self.client {
            add("client_address", &client.ip().to_string());
            add("client_port", &client.port().to_string());
        }
        if let Some(helo) = &self.helo {
            add("helo_name", helo);
        }
        match &self.tls {
            Some((version, cipher)) => {
                add("encryption_protocol", version);
                add("encryption_cipher", cipher);
            }
            None if is_known => add("encryption_protocol", ""),
            None => {}
        }
        request + "\n"
    }
}

impl Question {
    /// The line that answers, by an action of policy delegation; without one, the mail is deferred.
    pub fn answer(&self, action: Option<&str>) -> String {
        let response = match action {
            Some(action) if action == "DUNNO" || action.starts_with("WARN ") => "proceed".into(),
            Some(reply) if reply.starts_with(['4', '5']) => format!("reject|{reply}"),
            _ => "reject|451 4.3.0 the policy cannot be asked, try again later".to_owned(),
        };
        let Question { session, token, .. } = self;
        match self.token_first {
            true => format!("filter-result|{token}|{session}|{response}\n"),
            false => format!("filter-result|{session}|{token}|{response}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(sessions: &mut Sessions, line: &str) -> Question {
        match sessions.read(line) {
            Ok(Asked::Recipient(question)) => question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_session_is_told_as_a_request() {
        let mut sessions = Sessions::default();
        assert_eq!(
            sessions.read("config|smtpd-version|7.8.0"),
            Ok(Asked::Nothing)
        );
        assert_eq!(sessions.read("config|ready"), Ok(Asked::Registration));
        for line in [
            "report|0.7|1.2|smtp-in|link-connect|7f|mx.bank.test|pass|203.0.113.7:4000|192.0.2.1:25",
            "report|0.7|1.2|smtp-in|link-identify|7f|EHLO|mx.bank.test",
            "report|0.7|1.2|smtp-in|link-tls|7f|TLSv1.3:TLS_AES_256_GCM_SHA384:256",
            "report|0.7|1.2|smtp-in|tx-begin|7f|abcd",
            "report|0.7|1.2|smtp-in|tx-mail|7f|abcd|ok|a|b@bank.test",
        ] {
            assert_eq!(sessions.read(line), Ok(Asked::Nothing), "{line}");
        }
        let asked = question(
            &mut sessions,
            "filter|0.7|1.2|smtp-in|rcpt-to|7f|99|<c|d@contoso.com>",
        );
        assert_eq!(
            asked.request.as_deref(),
            Some(
                "request=smtpd_access_policy\nprotocol_state=RCPT\nrecipient=c|d@contoso.com\nsender=a|b@bank.test\n\
                 instance=abcd\nclient_address=203.0.113.7\nclient_port=4000\nhelo_name=mx.bank.test\n\
                 encryption_protocol=TLSv1.3\nencryption_cipher=TLS_AES_256_GCM_SHA384\n\n"
            )
        );
        assert_eq!(asked.answer(Some("DUNNO")), "filter-result|7f|99|proceed\n");
        assert_eq!(
            asked.answer(Some("WARN x")),
            "filter-result|7f|99|proceed\n"
        );
        assert_eq!(
            asked.answer(Some("550 5.7.1 no")),
            "filter-result|7f|99|reject|550 5.7.1 no\n"
        );
        for trouble in [None, Some("OK"), Some("")] {
            let answer = asked.answer(trouble);
            assert!(
                answer.starts_with("filter-result|7f|99|reject|451 4.3.0 "),
                "{answer}"
            );
        }
    }

    #[test]
    fn what_is_not_told_is_not_made_up() {
        let mut sessions = Sessions::default();
        let asked = question(
            &mut sessions,
            "filter|0.4|1.2|smtp-in|rcpt-to|7f|99|c@contoso.com",
        );
        let request = asked.request.as_deref().expect("a request");
        assert!(
            !request.contains("encryption") && !request.contains("client"),
            "{request}"
        );
        assert_eq!(asked.answer(Some("DUNNO")), "filter-result|99|7f|proceed\n");
        sessions.note(
            "0.6",
            "link-connect",
            "7f",
            "x|pass|unix:/run/smtpd.sock|unix:/run/smtpd.sock",
        );
        sessions.note("0.6", "tx-mail", "7f", "abcd||ok");
        let asked = question(
            &mut sessions,
            "filter|0.6|1.2|smtp-in|rcpt-to|7f|99|c@contoso.com",
        );
        let request = asked.request.expect("a request");
        assert!(request.contains("\nencryption_protocol=\n"), "{request}");
        assert!(
            request.contains("\nsender=\n") && !request.contains("client"),
            "{request}"
        );
        // Users of one's own.
        for (version, told) in [
            ("0.7", "fail|pass"),
            ("0.7", "fail|a|pass"),
            ("0.6", "pass|fail"),
            ("0.8", "pass|pass"),
        ] {
            sessions.note(version, "link-auth", "7f", told);
        }
        assert!(!sessions.0["7f"].is_authenticated);
        sessions.note("0.6", "link-auth", "7f", "a|bob|pass");
        assert!(std::mem::take(
            &mut sessions
                .0
                .get_mut("7f")
                .expect("a session")
                .is_authenticated
        ));
        sessions.note("0.7", "link-auth", "7f", "pass|bob");
        let asked = question(
            &mut sessions,
            "filter|0.6|1.2|smtp-in|rcpt-to|7f|99|c@contoso.com",
        );
        assert_eq!(asked.request, None);
        sessions.note("0.6", "link-disconnect", "7f", "");
        assert!(sessions.0.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_or_refused(lines in proptest::collection::vec("\\PC{0,80}", 0..10)) {
            let mut sessions = Sessions::default();
            for line in lines {
                for line in [line.clone(), format!("report|0.7|1|smtp-in|{line}"), format!("filter|0.7|1|smtp-in|rcpt-to|{line}")] {
                    if let Ok(Asked::Recipient(question)) = sessions.read(&line) {
                        proptest::prop_assert_eq!(question.answer(None).lines().count(), 1);
                    }
                }
            }
        }
    }
}
