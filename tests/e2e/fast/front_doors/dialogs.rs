//! Golden dialogs at a front door: a new one is a file in `front-doors/`, and `UPDATE_GOLDEN=1` writes the answers.
//!
//! A file is named after its protocol. `>` is what the server sends, `<` an answer, `closed` the end of the connection.
//! `\n`, `\r`, `\0`, `\\` and `\xNN` are octets. What follows `#` is said to people.

use std::fs;
use std::path::{Path, PathBuf};

use portcullis_tests::Pki;
use portcullis_tests::front_door::Asking;

use super::daemon;

#[test]
fn each_dialog_goes_as_it_is_written() {
    let daemon = daemon(
        &Pki::new(),
        "tenant = \"contoso\"\nnginx-server = \"192.0.2.25:25\"\ncertificates-requested = true",
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("front-doors");
    let entries = fs::read_dir(&folder).expect("the dialogs");
    let mut paths: Vec<PathBuf> = entries.map(|it| it.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() > 10, "{} dialogs", paths.len());
    for path in paths {
        let written = fs::read_to_string(&path).expect("a dialog");
        let name = path.file_stem().expect("a name").to_string_lossy();
        let protocol = name.split('-').next().expect("a protocol");
        let mut asking = Asking::connect(daemon.folder());
        let lines = written
            .lines()
            .map(|line| play(&mut asking, protocol, line));
        let played: String = lines.map(|line| line + "\n").collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, played).expect("it is written");
        } else {
            assert_eq!(played, written, "{}", path.display());
        }
    }
}

/// Plays one line, and gives it as it has been.
fn play(asking: &mut Asking, protocol: &str, line: &str) -> String {
    match line.split_once(' ') {
        Some((">", text)) => asking.send(&octets(text)),
        _ if line.starts_with('<') => return format!("< {}", text(&answer(asking, protocol))),
        _ if line == "closed" => assert!(asking.is_closed(), "{line}"),
        _ => assert!(line.is_empty() || line.starts_with('#'), "{line}"),
    }
    line.to_owned()
}

/// One answer, octet by octet.
fn answer(asking: &mut Asking, protocol: &str) -> Vec<u8> {
    match protocol {
        "policy" => format!("action={}\n\n", asking.action()).into_bytes(),
        "socketmap" => asking.netstring().into_bytes(),
        "milter" => {
            let (letter, data) = asking.answer();
            [&[letter as u8][..], &data].concat()
        }
        "http" => asking.response(),
        other => panic!("no protocol {other}"),
    }
}

fn octets(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            octets.push(octet);
            continue;
        }
        octets.push(match rest.next() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [rest.next(), rest.next()].map(|it| it.expect("a digit"));
                let digits = str::from_utf8(&digits).expect("digits");
                u8::from_str_radix(digits, 16).expect("two digits")
            }
            other => panic!("no escape {other:?}"),
        });
    }
    octets
}

fn text(octets: &[u8]) -> String {
    let mut text = String::new();
    for octet in octets {
        match octet {
            b'\n' => text += "\\n",
            b'\r' => text += "\\r",
            0 => text += "\\0",
            b'\\' => text += "\\\\",
            b' '..=b'~' => text.push(char::from(*octet)),
            other => text += &format!("\\x{other:02x}"),
        }
    }
    masked(&text)
}

/// Without what is another each time: a transaction's id, and the date.
fn masked(text: &str) -> String {
    let mut masked = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        masked += before;
        masked.push('[');
        rest = match after.split_once(']') {
            Some((id, end)) if is_id(id) => {
                masked += "ID]";
                end
            }
            _ => after,
        };
    }
    masked += rest;
    match masked.split_once("date: ") {
        Some((before, after)) => {
            let (_, end) = after.split_once("\\r\\n").expect("the end of the date");
            format!("{before}date: DATE\\r\\n{end}")
        }
        None => masked,
    }
}

fn is_id(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
    text.contains('.') && text.chars().all(is_part)
}
