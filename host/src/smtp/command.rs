//! SMTP commands: RFC 5321 §4.1, STARTTLS (RFC 3207), AUTH (RFC 4954), BDAT (RFC 3030 §2), the MAIL parameters
//! SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), AUTH (RFC 4954 §5) and REQUIRETLS (RFC 8689), and those of
//! DSN (RFC 3461) for MAIL and RCPT.
//!
//! The grammar is strict. Laxer than RFC 5321 §4.1.2 are only spaces before the path of MAIL and
//! RCPT, which senders in the field write and other servers take, and spaces at the end of the
//! line (§4.1.1). How long a line may be is for its reader to enforce (§4.5.3.1.4).

use thiserror::Error;

use crate::smtp::address::{
    Address, AddressError, ReversePath, find_unquoted, is_domain, is_utf8_text,
};
use crate::smtp::notify::{self, Notify, Return};
use crate::smtp::reply::{Reply, parse_size};

const MAX_GREETING_NAME: usize = 255;

/// A well-formed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `EHLO` with the name the client gives itself, which proves nothing.
    Ehlo(String),
    /// `HELO` with the name the client gives itself, which proves nothing.
    Helo(String),
    /// `STARTTLS`.
    StartTls,
    /// `MAIL FROM:<from>`; a sender with non-ASCII characters comes with SMTPUTF8 only.
    Mail {
        /// The reverse path.
        from: ReversePath,
        /// The ESMTP parameters.
        parameters: MailParameters,
    },
    /// `RCPT TO:<to>`; the session checks whether a non-ASCII recipient may follow its MAIL.
    Rcpt {
        /// The forward path without its source route.
        to: Address,
        /// The ESMTP parameters.
        parameters: RcptParameters,
    },
    /// `AUTH`.
    Auth {
        /// The mechanism's name in upper case.
        mechanism: String,
        /// The initial response as it came, in base64.
        initial: Option<String>,
    },
    /// `DATA`.
    Data,
    /// `BDAT`: `size` octets of content follow the line.
    Bdat {
        /// How many octets follow.
        size: u64,
        /// Whether this is the last chunk of the message.
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP`; its argument has no meaning (RFC 5321 §4.1.1.9).
    Noop,
    /// `VRFY` with its argument.
    Vrfy(String),
    /// `EXPN`, which this proxy never answers.
    Expn,
    /// `HELP`.
    Help,
    /// `QUIT`.
    Quit,
}

/// The ESMTP parameters of MAIL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailParameters {
    /// The size the client declares; `u64::MAX` for a larger number.
    pub size: Option<u64>,
    /// What the content consists of.
    pub body: Body,
    /// Whether the message or its envelope has UTF-8 in it.
    pub smtputf8: bool,
    /// Whether the message may go over verified TLS only, all the way (RFC 8689 §3).
    pub require_tls: bool,
    /// Whether AUTH is there (RFC 4954 §5). Whom it names is nobody's who is not trusted for it, so it goes no further.
    pub auth: bool,
    /// How much of the message a notification brings back (RFC 3461 §4.3).
    pub ret: Option<Return>,
    /// By what the sender knows the envelope, as xtext (RFC 3461 §4.4).
    pub envelope_id: Option<String>,
}

/// The ESMTP parameters of RCPT, which are those of DSN (RFC 3461).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RcptParameters {
    /// Of what the sender wants to be told; absent if he has not said.
    pub notify: Option<Notify>,
    /// Whom the message was sent to first, as `type;xtext` (RFC 3461 §4.2).
    pub original_recipient: Option<String>,
}

/// The BODY parameter (RFC 6152 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    /// `7BIT`, or no parameter.
    #[default]
    SevenBit,
    /// `8BITMIME`.
    EightBitMime,
}

/// Why a line is not a command that can be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// No command has this name.
    #[error("command not recognized")]
    Unknown,
    /// The line has control characters or is not UTF-8.
    #[error("command line has control characters or is not UTF-8")]
    BadCharacters,
    /// The command has another form than this line.
    #[error("syntax error: {0}")]
    Syntax(&'static str),
    /// The mailbox of MAIL is malformed.
    #[error("bad sender: {0}")]
    Sender(AddressError),
    /// The mailbox of RCPT is malformed.
    #[error("bad recipient: {0}")]
    Recipient(AddressError),
    /// The sender is not ASCII and SMTPUTF8 is not given (RFC 6531 §3.4).
    #[error("a non-ASCII sender needs SMTPUTF8")]
    NonAsciiSender,
    /// The command has no such parameter.
    #[error("parameter {0} not recognized")]
    UnknownParameter(String),
    /// The parameter is known, this value of it is not offered.
    #[error("{0} not implemented")]
    NotImplemented(&'static str),
    /// The line is a malformed BDAT. How many octets follow is not known, so the session has to
    /// close the connection: it would read content as commands.
    #[error("syntax error: BDAT size [LAST]")]
    BdatSize,
}

impl CommandError {
    /// Whether a sender or a recipient is refused by it.
    pub fn is_of_envelope(&self) -> bool {
        matches!(
            self,
            Self::Sender(_) | Self::Recipient(_) | Self::NonAsciiSender
        )
    }

    /// The reply that refuses the command.
    pub fn reply(&self) -> Reply {
        let (code, enhanced) = match self {
            Self::Unknown | Self::BadCharacters => (500, (5, 5, 2)),
            Self::Syntax(_) | Self::BdatSize => (501, (5, 5, 4)),
            Self::Sender(_) => (553, (5, 1, 7)),
            Self::Recipient(_) => (553, (5, 1, 3)),
            Self::NonAsciiSender => (553, (5, 6, 7)),
            Self::UnknownParameter(_) => (555, (5, 5, 4)),
            Self::NotImplemented(_) => (504, (5, 5, 4)),
        };
        Reply::new(code, enhanced, self.to_string())
    }
}

impl Command {
    /// Parses a command line without its CRLF.
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        let (verb, argument) = split_verb(trim_end_spaces(line));
        let verb = verb.to_ascii_uppercase();
        // Before the check of the characters, so that every failure of BDAT is known as one.
        if verb.starts_with(b"BDAT") {
            return parse_bdat(&verb, argument).ok_or(CommandError::BdatSize);
        }
        let argument = argument.map(text).transpose()?;
        match (verb.as_slice(), argument) {
            (b"EHLO", name) => Ok(Self::Ehlo(greeting_name(name, "EHLO name")?)),
            (b"HELO", name) => Ok(Self::Helo(greeting_name(name, "HELO name")?)),
            (b"MAIL", argument) => parse_mail(argument.unwrap_or_default()),
            (b"RCPT", argument) => parse_rcpt(argument.unwrap_or_default()),
            (b"AUTH", argument) => parse_auth(argument.unwrap_or_default()),
            (b"STARTTLS", None) => Ok(Self::StartTls),
            (b"DATA", None) => Ok(Self::Data),
            (b"RSET", None) => Ok(Self::Rset),
            (b"QUIT", None) => Ok(Self::Quit),
            (b"STARTTLS" | b"DATA" | b"RSET" | b"QUIT", Some(_)) => {
                Err(CommandError::Syntax("no argument allowed"))
            }
            (b"NOOP", _) => Ok(Self::Noop),
            (b"HELP", _) => Ok(Self::Help),
            (b"EXPN", _) => Ok(Self::Expn),
            (b"VRFY", Some(user)) => Ok(Self::Vrfy(user.to_owned())),
            (b"VRFY", None) => Err(CommandError::Syntax("VRFY user")),
            (other, _) => text(other).and(Err(CommandError::Unknown)),
        }
    }
}

/// Receivers should tolerate spaces at the end of a line (RFC 5321 §4.1.1).
fn trim_end_spaces(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|octet| *octet != b' ');
    line.get(..end.map_or(0, |last| last + 1))
        .unwrap_or_default()
}

/// Splits at the first space; without one there is no argument.
fn split_verb(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut parts = line.splitn(2, |octet| *octet == b' ');
    (parts.next().unwrap_or_default(), parts.next())
}

fn text(octets: &[u8]) -> Result<&str, CommandError> {
    match std::str::from_utf8(octets) {
        Ok(text) if !text.contains(char::is_control) => Ok(text),
        _ => Err(CommandError::BadCharacters),
    }
}

/// The name of EHLO or HELO: one visible word, which is laxer than a domain or an address literal
/// because clients write all kinds of names (RFC 5321 §4.1.4 forbids refusing them).
fn greeting_name(name: Option<&str>, syntax: &'static str) -> Result<String, CommandError> {
    let visible = |character: char| character.is_ascii_graphic() || is_utf8_text(character);
    match name {
        Some(name)
            if !name.is_empty() && name.len() <= MAX_GREETING_NAME && name.chars().all(visible) =>
        {
            Ok(name.to_owned())
        }
        _ => Err(CommandError::Syntax(syntax)),
    }
}

/// `BDAT SP size [SP LAST]` (RFC 3030 §2); `verb` starts with `BDAT`.
fn parse_bdat(verb: &[u8], argument: Option<&[u8]>) -> Option<Command> {
    if verb != b"BDAT" {
        return None;
    }
    let argument = std::str::from_utf8(argument?).ok()?;
    let (size, last) = match argument.split_once(' ') {
        None => (argument, false),
        Some((size, keyword)) if keyword.eq_ignore_ascii_case("LAST") => (size, true),
        Some(_) => return None,
    };
    let digits = size.bytes().all(|octet| octet.is_ascii_digit());
    if !digits || size.len() > 20 {
        return None;
    }
    let size = size.parse().ok()?;
    Some(Command::Bdat { size, last })
}

/// RFC 5321 §4.1.1.2.
fn parse_mail(argument: &str) -> Result<Command, CommandError> {
    let syntax = CommandError::Syntax("MAIL FROM:<address> [parameters]");
    let (path, rest) = split_path(argument, "FROM:").ok_or(syntax.clone())?;
    let from = match mailbox(path) {
        Some("") if path.is_empty() => ReversePath::Null,
        Some(mailbox) => {
            ReversePath::Address(Address::parse(mailbox).map_err(CommandError::Sender)?)
        }
        None => return Err(syntax),
    };
    let parameters = MailParameters::parse(rest)?;
    if !from.is_ascii() && !parameters.smtputf8 {
        return Err(CommandError::NonAsciiSender);
    }
    Ok(Command::Mail { from, parameters })
}

/// RFC 5321 §4.1.1.3.
fn parse_rcpt(argument: &str) -> Result<Command, CommandError> {
    let syntax = CommandError::Syntax("RCPT TO:<address> [parameters]");
    let (path, rest) = split_path(argument, "TO:").ok_or(syntax.clone())?;
    let mailbox = mailbox(path).ok_or(syntax)?;
    let to = Address::parse_recipient(mailbox).map_err(CommandError::Recipient)?;
    let parameters = RcptParameters::parse(rest)?;
    Ok(Command::Rcpt { to, parameters })
}

/// `AUTH mechanism [initial-response]` (RFC 4954 §4), the name of RFC 4422 §3.1.
fn parse_auth(argument: &str) -> Result<Command, CommandError> {
    let syntax = CommandError::Syntax("AUTH mechanism [initial-response]");
    let (mechanism, initial) = match argument.split_once(' ') {
        Some((mechanism, initial)) => (mechanism, Some(initial.to_owned())),
        None => (argument, None),
    };
    let of_name = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    if !(1..=20).contains(&mechanism.len()) || !mechanism.bytes().all(of_name) {
        return Err(syntax);
    }
    Ok(Command::Auth {
        mechanism: mechanism.to_ascii_uppercase(),
        initial,
    })
}

/// Splits `FROM:<path> parameters` into the path without its angle brackets and what follows it.
fn split_path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let path = rest.trim_start_matches(' ').strip_prefix('<')?;
    let (path, rest) = path.split_at_checked(find_unquoted(path, &['>'])?)?;
    Some((path, rest.strip_prefix('>')?))
}

/// The path without its source route `@a,@b:`, which has to be accepted and ignored (RFC 5321
/// §4.1.1.3, appendix F.2). `None` if the route is malformed.
fn mailbox(path: &str) -> Option<&str> {
    if !path.starts_with('@') {
        return Some(path);
    }
    let (route, mailbox) = path.split_once(':')?;
    let is_hop = |hop: &str| hop.strip_prefix('@').is_some_and(is_domain);
    route.split(',').all(is_hop).then_some(mailbox)
}

/// An esmtp-param of RFC 5321 §4.1.2 whose keyword is well formed.
struct Parameter<'a> {
    keyword: &'a str,
    value: Option<&'a str>,
}

impl<'a> Parameter<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (keyword, value) = match text.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (text, None),
        };
        let is_keyword = keyword.starts_with(|first: char| first.is_ascii_alphanumeric())
            && keyword
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || character == '-');
        (is_keyword && value != Some("")).then_some(Self { keyword, value })
    }

    fn unknown(&self) -> CommandError {
        CommandError::UnknownParameter(self.keyword.to_ascii_uppercase())
    }
}

/// The parameters in `*(SP esmtp-param)`, the rest of a MAIL or RCPT after the path.
struct Parameters<'a>(&'a str);

impl<'a> Iterator for Parameters<'a> {
    type Item = Result<Parameter<'a>, CommandError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let parameter = rest.strip_prefix(' ').and_then(|rest| {
            let (text, after) = rest.split_at_checked(rest.find(' ').unwrap_or(rest.len()))?;
            self.0 = after;
            Parameter::parse(text)
        });
        Some(parameter.ok_or(CommandError::Syntax("malformed parameter")))
    }
}

/// Reads the parameters in `*(SP esmtp-param)`, each of which may be there once; `add` takes one, its keyword in upper
/// case.
fn each_parameter(
    text: &str,
    mut add: impl FnMut(&str, &Parameter<'_>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut seen = Vec::new();
    for parameter in Parameters(text) {
        let parameter = parameter?;
        let keyword = parameter.keyword.to_ascii_uppercase();
        add(&keyword, &parameter)?;
        if seen.contains(&keyword) {
            return Err(CommandError::Syntax("repeated parameter"));
        }
        seen.push(keyword);
    }
    Ok(())
}

impl MailParameters {
    fn parse(text: &str) -> Result<Self, CommandError> {
        let mut parameters = Self::default();
        each_parameter(text, |keyword, parameter| {
            parameters.add(keyword, parameter)
        })?;
        Ok(parameters)
    }

    /// Whether it has a parameter of DSN.
    pub fn uses_dsn(&self) -> bool {
        self.ret.is_some() || self.envelope_id.is_some()
    }

    fn add(&mut self, keyword: &str, parameter: &Parameter<'_>) -> Result<(), CommandError> {
        let syntax = CommandError::Syntax;
        match (keyword, parameter.value) {
            ("SIZE", value) => {
                let size = value.and_then(parse_size);
                self.size = Some(size.ok_or(syntax("SIZE=octets"))?);
            }
            ("BODY", value) => self.body = Body::parse(value.unwrap_or_default())?,
            ("SMTPUTF8", None) => self.smtputf8 = true,
            ("SMTPUTF8", Some(_)) => return Err(syntax("SMTPUTF8 has no value")),
            ("REQUIRETLS", None) => self.require_tls = true,
            ("REQUIRETLS", Some(_)) => return Err(syntax("REQUIRETLS has no value")),
            ("AUTH", value) => {
                self.auth = value.is_some_and(notify::is_xtext);
                if !self.auth {
                    return Err(syntax("AUTH=xtext, or AUTH=<>"));
                }
            }
            ("RET", value) => {
                let ret = value.and_then(Return::parse);
                self.ret = Some(ret.ok_or(syntax("RET=FULL or RET=HDRS"))?);
            }
            ("ENVID", value) => {
                let id = value.filter(|id| notify::is_envelope_id(id));
                self.envelope_id = Some(id.ok_or(syntax("ENVID=xtext"))?.to_owned());
            }
            _ => return Err(parameter.unknown()),
        }
        Ok(())
    }
}

impl RcptParameters {
    fn parse(text: &str) -> Result<Self, CommandError> {
        let mut parameters = Self::default();
        each_parameter(text, |keyword, parameter| {
            parameters.add(keyword, parameter)
        })?;
        Ok(parameters)
    }

    /// Whether it has a parameter of DSN.
    pub fn uses_dsn(&self) -> bool {
        self.notify.is_some() || self.original_recipient.is_some()
    }

    fn add(&mut self, keyword: &str, parameter: &Parameter<'_>) -> Result<(), CommandError> {
        let syntax = CommandError::Syntax;
        match (keyword, parameter.value) {
            ("NOTIFY", value) => {
                let notify = value.and_then(Notify::parse);
                let expected = "NOTIFY=NEVER, or a list of SUCCESS, FAILURE and DELAY";
                self.notify = Some(notify.ok_or(syntax(expected))?);
            }
            ("ORCPT", value) => {
                let address = value.filter(|it| notify::is_original_recipient(it));
                let expected = "ORCPT=type;xtext";
                self.original_recipient = Some(address.ok_or(syntax(expected))?.to_owned());
            }
            _ => return Err(parameter.unknown()),
        }
        Ok(())
    }
}

impl Body {
    fn parse(value: &str) -> Result<Self, CommandError> {
        match value.to_ascii_uppercase().as_str() {
            "7BIT" => Ok(Self::SevenBit),
            "8BITMIME" => Ok(Self::EightBitMime),
            // RFC 3030 §3; it is not offered.
            "BINARYMIME" => Err(CommandError::NotImplemented("BODY=BINARYMIME")),
            _ => Err(CommandError::Syntax("BODY=7BIT or BODY=8BITMIME")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reply_of(line: &[u8]) -> String {
        let mut out = Vec::new();
        let error = Command::parse(line).expect_err("must be refused");
        error.reply().write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn address(text: &str) -> Address {
        Address::parse_recipient(text).expect(text)
    }

    fn mail(from: &str, parameters: MailParameters) -> Result<Command, CommandError> {
        let from = match from {
            "" => ReversePath::Null,
            from => ReversePath::Address(address(from)),
        };
        Ok(Command::Mail { from, parameters })
    }

    #[test]
    fn parses_commands_without_paths() {
        let name = |text: &str| text.to_owned();
        let bdat = |size, last| Command::Bdat { size, last };
        for (line, expected) in [
            ("EHLO mx.example.com", Command::Ehlo(name("mx.example.com"))),
            ("ehlo [192.0.2.1]", Command::Ehlo(name("[192.0.2.1]"))),
            ("Helo bücher", Command::Helo(name("bücher"))),
            ("STARTTLS", Command::StartTls),
            ("data", Command::Data),
            ("DATA  ", Command::Data),
            ("RSET", Command::Rset),
            ("NOOP", Command::Noop),
            ("NOOP any thing", Command::Noop),
            ("VRFY jane doe", Command::Vrfy(name("jane doe"))),
            ("EXPN list", Command::Expn),
            ("HELP", Command::Help),
            ("HELP MAIL", Command::Help),
            ("qUiT", Command::Quit),
            ("BDAT 0", bdat(0, false)),
            ("bdat 86 last", bdat(86, true)),
            ("BDAT 00000000000000000007", bdat(7, false)),
            ("BDAT 18446744073709551615 ", bdat(u64::MAX, false)),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn parses_mail() {
        let none = MailParameters::default();
        let all = MailParameters {
            size: Some(1000),
            body: Body::EightBitMime,
            smtputf8: true,
            ..none.clone()
        };
        let sized = |octets| MailParameters {
            size: Some(octets),
            ..none.clone()
        };
        let asking = MailParameters {
            require_tls: true,
            auth: true,
            ret: Some(Return::Headers),
            envelope_id: Some("QQ+2B314159".into()),
            ..none.clone()
        };
        for (line, from, parameters) in [
            ("MAIL FROM:<a@b.example>", "a@b.example", none.clone()),
            ("mail from:<a@b> ", "a@b", none.clone()),
            ("MAIL FROM:  <a@b>", "a@b", none.clone()),
            ("MAIL FROM:<>", "", none.clone()),
            ("MAIL FROM:<> BODY=7bit", "", none.clone()),
            ("MAIL FROM:<@a,@b.example:c@d>", "c@d", none.clone()),
            (r#"MAIL FROM:<"a> b"@c>"#, r#""a> b"@c"#, none.clone()),
            (r#"MAIL FROM:<"a\">@"@c>"#, r#""a\">@"@c"#, none.clone()),
            (
                "MAIL FROM:<a@b> size=1000 Body=8bitmime SmtpUtf8",
                "a@b",
                all.clone(),
            ),
            (
                "MAIL FROM:<a@b> REQUIRETLS ret=hdrs ENVID=QQ+2B314159 AUTH=<>",
                "a@b",
                asking,
            ),
            (
                "MAIL FROM:<ö@b> BODY=8BITMIME SMTPUTF8 SIZE=1000",
                "ö@b",
                all,
            ),
            ("MAIL FROM:<a@b> SIZE=0", "a@b", sized(0)),
            (
                "MAIL FROM:<a@b> SIZE=18446744073709551616",
                "a@b",
                sized(u64::MAX),
            ),
        ] {
            assert_eq!(
                Command::parse(line.as_bytes()),
                mail(from, parameters),
                "{line:?}"
            );
        }
    }

    #[test]
    fn parses_rcpt() {
        for (line, to) in [
            ("RCPT TO:<a@b.example>", "a@b.example"),
            ("rcpt to: <a@b>  ", "a@b"),
            ("RCPT TO:<PostMaster>", "PostMaster"),
            ("RCPT TO:<@a:b@[192.0.2.1]>", "b@[192.0.2.1]"),
            ("RCPT TO:<ö@bücher.example>", "ö@bücher.example"),
        ] {
            let expected = Command::Rcpt {
                to: address(to),
                parameters: RcptParameters::default(),
            };
            assert_eq!(Command::parse(line.as_bytes()), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn parses_what_a_sender_wants_to_be_told() {
        let line = b"RCPT TO:<b@c> notify=success,DELAY ORCPT=rfc822;b+2Bd@c";
        let parameters = RcptParameters {
            notify: Notify::parse("SUCCESS,DELAY"),
            original_recipient: Some("rfc822;b+2Bd@c".into()),
        };
        let to = address("b@c");
        assert_eq!(Command::parse(line), Ok(Command::Rcpt { to, parameters }));
        for line in [
            "RCPT TO:<b@c> NOTIFY",
            "RCPT TO:<b@c> NOTIFY=NEVER,DELAY",
            "RCPT TO:<b@c> NOTIFY=DELAY NOTIFY=DELAY",
            "RCPT TO:<b@c> ORCPT=b@c",
            "RCPT TO:<b@c> ORCPT=rfc822;b+2gc",
            "RCPT TO:<b@c> ORCPT=rfc822;b=c",
            "MAIL FROM:<> RET=ALL",
            "MAIL FROM:<> ENVID=a+0D",
            "MAIL FROM:<> REQUIRETLS=1",
            "MAIL FROM:<> AUTH=a=b",
        ] {
            assert_eq!(
                reply_of(line.as_bytes()).get(..9),
                Some("501 5.5.4"),
                "{line}"
            );
        }
        let long = format!("MAIL FROM:<> ENVID={}", "x".repeat(101));
        assert!(Command::parse(long.as_bytes()).is_err());
        assert_eq!(reply_of(b"RCPT TO:<b@c> X=1").get(..9), Some("555 5.5.4"));
    }

    #[test]
    fn parses_auth() {
        let auth = |mechanism: &str, initial: Option<&str>| {
            Ok(Command::Auth {
                mechanism: mechanism.into(),
                initial: initial.map(Into::into),
            })
        };
        for (line, expected) in [
            ("AUTH PLAIN", auth("PLAIN", None)),
            ("auth plain AGIAeA==", auth("PLAIN", Some("AGIAeA=="))),
            ("AUTH SCRAM-SHA-256 =", auth("SCRAM-SHA-256", Some("="))),
            ("AUTH LOGIN a b", auth("LOGIN", Some("a b"))),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), expected, "{line}");
        }
        for line in ["AUTH", "AUTH ", "AUTH A.B", "AUTH ABCDEFGHIJKLMNOPQRSTU"] {
            assert_eq!(
                reply_of(line.as_bytes()).get(..9),
                Some("501 5.5.4"),
                "{line}"
            );
        }
    }

    #[test]
    fn refuses_with_the_right_reply() {
        for (line, codes) in [
            ("", "500 5.5.2"),
            (" NOOP", "500 5.5.2"),
            ("FOO", "500 5.5.2"),
            ("NOOPS", "500 5.5.2"),
            ("STARTTLS\u{0}", "500 5.5.2"),
            ("NOOP a\tb", "500 5.5.2"),
            ("NOOP a\rb", "500 5.5.2"),
            ("NOOP a\u{9b}b", "500 5.5.2"),
            ("MAIL FROM:<a\u{0}@b>", "500 5.5.2"),
            ("EHLO", "501 5.5.4"),
            ("HELO ", "501 5.5.4"),
            ("EHLO a b", "501 5.5.4"),
            ("EHLO  a", "501 5.5.4"),
            ("EHLO a\u{202e}b", "501 5.5.4"),
            ("DATA x", "501 5.5.4"),
            ("RSET x", "501 5.5.4"),
            ("QUIT x", "501 5.5.4"),
            ("STARTTLS x", "501 5.5.4"),
            ("VRFY", "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL  FROM:<a@b>", "501 5.5.4"),
            ("MAIL FROM :<a@b>", "501 5.5.4"),
            ("MAIL TO:<a@b>", "501 5.5.4"),
            ("MAIL FROM:a@b", "501 5.5.4"),
            ("MAIL FROM:<a@b", "501 5.5.4"),
            ("MAIL FROM:x<a@b>", "501 5.5.4"),
            ("MAIL FROM:<a@b>SIZE=1", "501 5.5.4"),
            ("MAIL FROM:<a@b>>", "501 5.5.4"),
            ("MAIL FROM:<a@b>  SIZE=1", "501 5.5.4"),
            (r#"MAIL FROM:<"a@b>"#, "501 5.5.4"),
            ("MAIL FROM:<@a c@d>", "501 5.5.4"),
            ("MAIL FROM:<@a,b:c@d>", "501 5.5.4"),
            ("MAIL FROM:<@a..b:c@d>", "501 5.5.4"),
            ("MAIL FROM:<@:c@d>", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE=", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE=+1", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE=100000000000000000000", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE=1 size=1", "501 5.5.4"),
            ("MAIL FROM:<a@b> BODY", "501 5.5.4"),
            ("MAIL FROM:<a@b> BODY=9BIT", "501 5.5.4"),
            ("MAIL FROM:<a@b> SMTPUTF8=1", "501 5.5.4"),
            ("MAIL FROM:<a@b> SMTPUTF8 SMTPUTF8", "501 5.5.4"),
            ("MAIL FROM:<a@b> -X=1", "501 5.5.4"),
            ("MAIL FROM:<a@b> =1", "501 5.5.4"),
            ("MAIL FROM:<a@b> X=", "501 5.5.4"),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", "504 5.5.4"),
            ("MAIL FROM:<a@b> X-AUTH=<>", "555 5.5.4"),
            ("MAIL FROM:<a@b> RETURN=FULL", "555 5.5.4"),
            ("MAIL FROM:<postmaster>", "553 5.1.7"),
            ("MAIL FROM:< >", "553 5.1.7"),
            ("MAIL FROM:< a@b>", "553 5.1.7"),
            ("MAIL FROM:<<a@b>", "553 5.1.7"),
            ("MAIL FROM:<@a:>", "553 5.1.7"),
            ("MAIL FROM:<ö@b>", "553 5.6.7"),
            ("MAIL FROM:<a@bücher.example> BODY=8BITMIME", "553 5.6.7"),
            ("RCPT TO:", "501 5.5.4"),
            ("RCPT TO:<a@b> x y=", "555 5.5.4"),
            ("RCPT TO:<a@b> SIZE=1", "555 5.5.4"),
            ("RCPT TO:<a@b>NOTIFY=NEVER", "501 5.5.4"),
            ("RCPT TO:<>", "553 5.1.3"),
            ("RCPT TO:<jane>", "553 5.1.3"),
            ("RCPT TO:<a@b@c>", "553 5.1.3"),
        ] {
            assert_eq!(&reply_of(line.as_bytes())[..9], codes, "{line:?}");
        }
        assert_eq!(&reply_of(b"MAIL FROM:<\xff@b> SMTPUTF8")[..9], "500 5.5.2");
        assert_eq!(&reply_of(b"F\xd6\xd6")[..9], "500 5.5.2");
    }

    #[test]
    fn every_malformed_bdat_is_known_as_one() {
        for line in [
            "BDAT",
            "BDAT ",
            "BDAT -1",
            "BDAT +1",
            "BDAT x",
            "BDAT  1",
            "BDAT 1 FIRST",
            "BDAT 1  LAST",
            "BDAT LAST",
            "bdat\t1",
            "BDAT 1\tLAST",
            "BDAT 1\u{0}",
            "BDAT100",
            "BDAT 18446744073709551616",
            "BDAT 000000000000000000001",
        ] {
            let parsed = Command::parse(line.as_bytes());
            assert_eq!(parsed, Err(CommandError::BdatSize), "{line:?}");
        }
        assert_eq!(Command::parse(b"BDAT 1\xff"), Err(CommandError::BdatSize));
        assert_eq!(
            reply_of(b"BDAT x"),
            "501 5.5.4 syntax error: BDAT size [LAST]\r\n"
        );
    }

    #[test]
    fn replies_name_the_problem() {
        for (line, reply) in [
            (
                "MAIL FROM:<a@b> x-auth=<>",
                "555 5.5.4 parameter X-AUTH not recognized\r\n",
            ),
            (
                "RCPT TO:<jane>",
                "553 5.1.3 bad recipient: the address has no domain\r\n",
            ),
            ("EHLO", "501 5.5.4 syntax error: EHLO name\r\n"),
        ] {
            assert_eq!(reply_of(line.as_bytes()), reply);
        }
    }

    #[test]
    fn greeting_names_end_at_255_octets() {
        let longest = "x".repeat(255);
        let parsed = Command::parse(format!("EHLO {longest}").as_bytes());
        assert_eq!(parsed, Ok(Command::Ehlo(longest.clone())));
        let parsed = Command::parse(format!("EHLO {longest}x").as_bytes());
        assert_eq!(parsed, Err(CommandError::Syntax("EHLO name")));
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_or_refused(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Err(error) = Command::parse(&line) {
                prop_assert!(error.reply().is_permanent());
            }
        }

        #[test]
        fn an_accepted_path_can_be_written_and_read_again(path in r#"[ -~ö]{0,20}"#) {
            let parse = |path: &str| Command::parse(format!("MAIL FROM:<{path}> SMTPUTF8").as_bytes());
            if let Ok(Command::Mail { from, parameters }) = parse(&path) {
                let again = parse(from.as_str());
                prop_assert_eq!(again, Ok(Command::Mail { from, parameters }));
            }
        }

        /// smtp-proto strips quotes, so only paths without them can be compared.
        #[test]
        fn agrees_with_smtp_proto(path in r"(@[a-c.]{1,4}:)?[!#-~]{1,6}@[a-c.]{1,4}[a-c]") {
            let line = format!("RCPT TO:<{path}>\r\n");
            if let Ok(Command::Rcpt { to, .. }) = Command::parse(line.trim_end().as_bytes()) {
                let other = smtp_proto::Request::parse(&mut line.as_bytes().iter());
                let Ok(smtp_proto::Request::Rcpt { to: other }) = other else {
                    panic!("smtp-proto refuses {line:?}: {other:?}");
                };
                prop_assert_eq!(other.address, to.as_str());
            }
        }
    }
}
