//! Other mail servers as a front door sees them: what they send, octet by octet.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::daemon::TIMEOUT;

/// A front door for these protocols (TOML), at the socket `ask` of the daemon's folder.
pub fn table(lines: &str) -> String {
    format!("[[frontend]]\naddress = \"./ask\"\n{lines}\n")
}

/// The end of a server at a front door.
pub struct Asking(UnixStream);

impl Asking {
    /// Connects to the front door of a daemon's folder.
    pub fn connect(folder: &Path) -> Asking {
        let stream = UnixStream::connect(folder.join("ask")).expect("a front door");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        stream.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
        Asking(stream)
    }

    /// Sends octets.
    pub fn send(&mut self, octets: &[u8]) {
        self.0.write_all(octets).expect("it is read");
    }

    /// Whether the front door has closed, without a word.
    pub fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Asks a map by socketmap, and gives the answer.
    pub fn map(&mut self, name: &str, key: &str) -> String {
        let request = format!("{name} {key}");
        self.send(format!("{}:{request},", request.len()).as_bytes());
        self.netstring()
    }

    /// The next netstring.
    pub fn netstring(&mut self) -> String {
        let mut length = Vec::new();
        let mut octet = [0];
        loop {
            self.0.read_exact(&mut octet).expect("an answer");
            match octet[0] {
                b':' => break,
                digit => length.push(digit),
            }
        }
        let length = String::from_utf8(length).expect("digits");
        let mut data = vec![0; length.parse::<usize>().expect("a length") + 1];
        self.0.read_exact(&mut data).expect("an answer");
        assert_eq!(data.pop(), Some(b','));
        String::from_utf8(data).expect("UTF-8")
    }

    /// Asks as Postfix does, and gives the action.
    pub fn policy(&mut self, attributes: &[(&str, &str)]) -> String {
        let mut request = String::from("request=smtpd_access_policy\n");
        for (name, value) in attributes {
            request += &format!("{name}={value}\n");
        }
        self.send(format!("{request}\n").as_bytes());
        self.action()
    }

    /// The next action.
    pub fn action(&mut self) -> String {
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n\n") {
            let mut octet = [0];
            self.0.read_exact(&mut octet).expect("an answer");
            answer.push(octet[0]);
        }
        let answer = String::from_utf8(answer).expect("UTF-8");
        let action = answer.strip_prefix("action=").expect("an action");
        action.trim_end().to_owned()
    }

    /// The next response of HTTP, its head and its body.
    pub fn response(&mut self) -> Vec<u8> {
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            let mut octet = [0];
            self.0.read_exact(&mut octet).expect("a response");
            response.push(octet[0]);
        }
        let head = String::from_utf8_lossy(&response).to_ascii_lowercase();
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length:"));
        let length = length.map_or(0, |text| text.trim().parse().expect("a length"));
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a whole response");
        response.extend(body);
        response
    }

    /// Sends a packet of a milter.
    pub fn packet(&mut self, letter: u8, data: &[u8]) {
        let length = data.len() as u32 + 1;
        self.send(&[&length.to_be_bytes(), &[letter][..], data].concat());
    }

    /// The next packet: its letter and its data.
    pub fn answer(&mut self) -> (char, Vec<u8>) {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("a packet");
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut packet).expect("a whole packet");
        (char::from(packet[0]), packet.split_off(1))
    }

    /// Negotiates as Postfix 3.7 does, and gives the steps that were agreed on.
    pub fn negotiate(&mut self) -> u32 {
        let words = [6u32, 0x1ff, 0x1f_ffff].map(u32::to_be_bytes);
        self.packet(b'O', &words.concat());
        let (letter, data) = self.answer();
        assert_eq!(letter, 'O');
        u32::from_be_bytes(data[8..12].try_into().expect("three words"))
    }

    /// Tells of a client and of its HELO, with these macros.
    pub fn client(&mut self, address: &str, port: u16, macros: &[(&str, &str)]) {
        self.packet(b'D', b"C{daemon_addr}\x00192.0.2.25\0{daemon_port}\x0025\0");
        let family = if address.contains(':') { b'6' } else { b'4' };
        let mut data = b"client.example\0".to_vec();
        data.push(family);
        data.extend_from_slice(&port.to_be_bytes());
        data.extend_from_slice(address.as_bytes());
        data.push(0);
        self.packet(b'C', &data);
        assert_eq!(self.reply(), None);
        self.helo(macros);
    }

    /// Tells of HELO, with these macros.
    pub fn helo(&mut self, macros: &[(&str, &str)]) {
        let mut data = b"H".to_vec();
        for (name, value) in macros {
            data.extend_from_slice(format!("{{{name}}}\0{value}\0").as_bytes());
        }
        self.packet(b'D', &data);
        self.packet(b'H', b"client.example\0");
    }

    /// Tells of a sender.
    pub fn mail(&mut self, from: &str) {
        self.packet(b'M', format!("<{from}>\0").as_bytes());
    }

    /// Asks about a recipient; the reply, if it is refused.
    pub fn rcpt(&mut self, to: &str) -> Option<String> {
        self.packet(b'R', format!("<{to}>\0").as_bytes());
        self.reply()
    }

    /// Tells of header fields and asks about them; the reply, if the message is refused.
    pub fn header(&mut self, fields: &[(&str, &str)]) -> Option<String> {
        for (name, value) in fields {
            self.packet(b'L', format!("{name}\0{value}\0").as_bytes());
        }
        self.packet(b'N', b"");
        self.reply()
    }

    /// The next answer: a reply, or that it goes on.
    pub fn reply(&mut self) -> Option<String> {
        match self.answer() {
            ('c', _) => None,
            ('y', data) => {
                let text = String::from_utf8(data).expect("UTF-8");
                let text = text.strip_suffix('\0').expect("an end");
                Some(text.replace("%%", "%"))
            }
            other => panic!("an answer of another kind: {other:?}"),
        }
    }
}
