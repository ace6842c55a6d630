//! Any line is a command or an error with a reply; what we take, another parser takes too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::command::Command;
use smtp_proto::request::receiver::RequestReceiver;

fuzz_target!(|line: &[u8]| {
    match Command::parse(line) {
        Err(error) => {
            let reply = error.reply();
            assert!(reply.is_permanent());
        }
        Ok(Command::Rcpt { to }) => {
            assert!(!to.as_str().contains(['\r', '\n', '\0']));
            // Source routes, bare Postmaster and UTF-8 are read differently elsewhere.
            if to.is_ascii() && to.domain().is_some() && !line.contains(&b'"') {
                let mut bytes = line.to_vec();
                bytes.extend_from_slice(b"\r\n");
                let mut receiver = RequestReceiver::default();
                let parsed = receiver.ingest(&mut bytes.iter());
                assert!(parsed.is_ok(), "{:?}", String::from_utf8_lossy(line));
            }
        }
        Ok(_) => {}
    }
});
