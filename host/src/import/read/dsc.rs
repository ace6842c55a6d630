//! Configurations of Microsoft365DSC: `EXOInboundConnector 'x' { Name = "…"; SenderDomains = @("…") … }`.

use crate::import::record::{ReadError, Record};
use serde_json::{Map, Value};

const BLOCKS: [(&str, &str); 3] = [
    ("EXOInboundConnector", "InboundConnector"),
    ("EXOOutboundConnector", "OutboundConnector"),
    ("EXOAcceptedDomain", "AcceptedDomain"),
];

/// Whether a text is such a configuration.
pub fn is_dsc(text: &str) -> bool {
    {
        let text = text.to_ascii_lowercase();
        let has = |(block, _): &(&str, _)| text.contains(&block.to_ascii_lowercase());
        BLOCKS.iter().any(has)
    }
}

/// A piece of the text.
#[derive(Debug, PartialEq)]
enum Token {
    /// A word, a number or a variable.
    Word(String),
    Text(String),
    Sign(char),
    /// The end of a line, which ends an assignment.
    Line,
}

/// Reads the connectors of a configuration. What else is in it is no concern of an import.
pub fn read(text: &str) -> Result<Vec<Record>, ReadError> {
    let tokens = tokens(text)?;
    let mut records = Vec::new();
    let mut at = 0;
    while let Some((token, line)) = tokens.get(at) {
        at += 1;
        let Token::Word(word) = token else {
            continue;
        };
        let Some((_, kind)) = BLOCKS
            .iter()
            .find(|(block, _)| block.eq_ignore_ascii_case(word))
        else {
            continue;
        };
        // Its name stands before the brace, and perhaps on another line.
        let is_brace = |(token, _): &(Token, usize)| *token == Token::Sign('{');
        let behind = tokens.get(at..).unwrap_or_default();
        let Some(ahead) = behind.iter().position(is_brace) else {
            return Err(damaged(*line, "a block does not begin"));
        };
        let before = behind.get(..ahead).unwrap_or_default();
        let names = before.iter().filter(|(token, _)| *token != Token::Line);
        if names.count() != 1 {
            return Err(damaged(
                *line,
                "between the block's kind and its brace its name is to stand, and nothing else",
            ));
        }
        at += ahead + 1;
        let mut fields = Map::new();
        loop {
            match tokens.get(at).map(|(token, _)| token) {
                None => return Err(damaged(*line, "a block does not end")),
                Some(Token::Sign('}')) => break,
                Some(Token::Word(name))
                    if tokens
                        .get(at + 1)
                        .is_some_and(|(token, _)| *token == Token::Sign('=')) =>
                {
                    at += 2;
                    let line = tokens.get(at).map_or(*line, |(_, line)| *line);
                    let computed = || damaged(line, "this value is computed, and not written down");
                    let value = match (value(&tokens, &mut at), is_access(name)) {
                        // How Exchange is reached is no fact of a connector.
                        (_, true) => continue,
                        (Some(value), false) => value,
                        (None, false) => return Err(computed()),
                    };
                    let is_twice = fields
                        .keys()
                        .any(|own: &String| own.eq_ignore_ascii_case(name));
                    if is_twice {
                        return Err(damaged(line, "this field is there already"));
                    }
                    fields.insert(name.clone(), value);
                }
                Some(_) => at += 1,
            }
        }
        let is_absent = fields
            .get("Ensure")
            .and_then(Value::as_str)
            .is_some_and(|ensure| ensure.eq_ignore_ascii_case("Absent"));
        if let (false, Some(name)) = (fields.contains_key("Name"), fields.get("Identity").cloned())
        {
            fields.insert("Name".into(), name);
        }
        if !is_absent {
            records.push(Record {
                kind: Some((*kind).into()),
                fields,
            });
        }
    }
    match records.is_empty() {
        true => Err(ReadError::Foreign("there is no connector in it".into())),
        false => Ok(records),
    }
}

/// Whether a field is about how Exchange is reached.
fn is_access(name: &str) -> bool {
    const FIELDS: [&str; 9] = [
        "Credential",
        "ApplicationId",
        "ApplicationSecret",
        "TenantId",
        "CertificateThumbprint",
        "CertificatePath",
        "CertificatePassword",
        "ManagedIdentity",
        "AccessTokens",
    ];
    FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name))
}

fn damaged(line: usize, reason: &str) -> ReadError {
    ReadError::Damaged {
        line,
        column: 1,
        reason: reason.into(),
    }
}

fn value(tokens: &[(Token, usize)], at: &mut usize) -> Option<Value> {
    while tokens
        .get(*at)
        .is_some_and(|(token, _)| *token == Token::Line)
    {
        *at += 1;
    }
    let (token, _) = tokens.get(*at)?;
    *at += 1;
    match token {
        Token::Text(text) => Some(Value::from(text.as_str())),
        Token::Word(word) => match word.to_ascii_lowercase().as_str() {
            "$true" => Some(true.into()),
            "$false" => Some(false.into()),
            "$null" => Some(Value::Null),
            variable if variable.starts_with('$') => None,
            _ => Some(Value::from(word.as_str())),
        },
        Token::Sign('@') => {
            let (Token::Sign('('), _) = tokens.get(*at)? else {
                return None;
            };
            *at += 1;
            let mut list = Vec::new();
            loop {
                let (token, _) = tokens.get(*at)?;
                *at += 1;
                match token {
                    Token::Text(text) => list.push(Value::from(text.as_str())),
                    Token::Sign(')') => return Some(Value::Array(list)),
                    Token::Sign(',') | Token::Line => {}
                    _ => return None,
                }
            }
        }
        _ => None,
    }
}

fn tokens(text: &str) -> Result<Vec<(Token, usize)>, ReadError> {
    let mut tokens = Vec::new();
    let mut is_remark = false;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            if is_remark {
                let Some((_, behind)) = rest.split_once("#>") else {
                    break;
                };
                is_remark = false;
                rest = behind;
                continue;
            }
            if let Some(behind) = rest.strip_prefix("<#") {
                is_remark = true;
                rest = behind;
                continue;
            }
            rest = match first {
                '#' => break,
                '"' | '\'' => {
                    let inside = &rest[1..];
                    let end = inside
                        .find(first)
                        .ok_or_else(|| damaged(number, "a text does not end on its line"))?;
                    let quoted = &inside[..end];
                    if first == '"' && quoted.contains(['$', '`']) {
                        return Err(damaged(
                            number,
                            "this text is computed, and not written down",
                        ));
                    }
                    tokens.push((Token::Text(quoted.into()), number));
                    &inside[end + 1..]
                }
                c if c.is_alphanumeric() || c == '$' || c == '_' => {
                    let is_word = |c: char| c.is_alphanumeric() || "$_-.:".contains(c);
                    let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                    tokens.push((Token::Word(rest[..end].into()), number));
                    &rest[end..]
                }
                c => {
                    if !c.is_whitespace() {
                        tokens.push((Token::Sign(c), number));
                    }
                    &rest[c.len_utf8()..]
                }
            };
        }
        tokens.push((Token::Line, number));
    }
    Ok(tokens)
}
