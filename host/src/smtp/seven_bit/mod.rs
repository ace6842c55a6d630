//! Messages with eight bits for servers that take seven (RFC 6152 §3): each part that needs it becomes quoted-printable
//! or base64 (RFC 2045 §6), all others stay as they are to the octet.
//!
//! A message is looked at as a whole before any of it is sent ([`Survey`]): what is signed cannot be changed, and what
//! has seven bits already need not be. Then it is converted line by line ([`Converter`]).

mod content_type;
mod convert;
mod lines;
mod obstacle;
mod structure;
mod survey;

pub use convert::Converter;
pub use obstacle::Obstacle;
pub use survey::{Findings, Survey};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The message as it is sent to a server that takes seven bits, in chunks.
    fn converted_in(message: &[u8], chunk: usize) -> Result<Vec<u8>, Obstacle> {
        let mut survey = Survey::new();
        message.chunks(chunk).for_each(|part| survey.push(part));
        let findings = survey.finish();
        if let Some(obstacle) = findings.obstacle() {
            return Err(obstacle);
        }
        if !findings.needs_conversion() {
            return Ok(message.to_vec());
        }
        let mut converter = Converter::new(findings.into());
        let mut out = Vec::new();
        message
            .chunks(chunk)
            .for_each(|part| converter.push(part, &mut out));
        converter.finish(&mut out);
        Ok(out)
    }

    fn converted(message: &str) -> Result<String, Obstacle> {
        let message = message.replace('\n', "\r\n");
        let whole = converted_in(message.as_bytes(), usize::MAX)?;
        for chunk in [1, 2, 7, 30] {
            let cut = converted_in(message.as_bytes(), chunk).expect("it can be converted");
            assert!(cut == whole, "chunks of {chunk}");
        }
        let text = String::from_utf8(whole).expect("UTF-8");
        Ok(text.replace("\r\n", "\n"))
    }

    #[track_caller]
    fn becomes(message: &str, expected: &str) {
        match converted(message) {
            Ok(found) => assert_eq!(found, expected),
            Err(obstacle) => panic!("{obstacle}"),
        }
    }

    #[test]
    fn a_text_becomes_quoted_printable() {
        becomes(
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\nSubject: x\n\nGrüße = \nb\n",
            "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nSubject: x\nContent-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe =3D=20\nb\n",
        );
    }

    #[test]
    fn a_message_that_says_nothing_of_itself_is_labelled() {
        becomes(
            "Subject: x\n\ncaf\u{e9}\n",
            "Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset=unknown-8bit\nContent-Transfer-Encoding: quoted-printable\n\ncaf=C3=A9\n",
        );
    }

    #[test]
    fn what_has_seven_bits_stays_as_it_is() {
        for message in [
            "DKIM-Signature: v=1\nContent-Transfer-Encoding: 8bit\n\nplain\n",
            "Subject: \u{fc}\n\nplain\n",
            "Content-Type: multipart/signed; boundary=x\n\n--x\n\na\n--x--\n",
            "no header",
            "",
        ] {
            becomes(message, message);
        }
    }

    #[test]
    fn only_the_parts_that_need_it_are_converted() {
        let content = |umlaut: &str, encoding: &str, of_it: &str, label: &str, image: &str| {
            format!(
                "MIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=\"a b\"\n{label}\nfiller\n--a b\nContent-Type: text/plain\n\nplain =\n--a b\nContent-Type: text/html; charset=utf-8\n{encoding}\n{umlaut}\n--a b\nContent-Type: application/octet-stream\n{of_it}\n{image}\n--a b--\nend\n"
            )
        };
        becomes(
            &content(
                "\u{fc}",
                "content-transfer-encoding: 8BIT\n",
                "",
                "Content-Transfer-Encoding: 8bit\n",
                "\u{fc}",
            ),
            &content(
                "=C3=BC",
                "Content-Transfer-Encoding: quoted-printable\n",
                "Content-Transfer-Encoding: base64\n",
                "Content-Transfer-Encoding: 7bit\n",
                "w7w=",
            ),
        );
    }

    #[test]
    fn what_is_signed_is_not_changed() {
        let text = "MIME-Version: 1.0\nContent-Type: text/plain\n\n\u{fc}\n";
        assert_eq!(
            converted(&format!("DKIM-Signature: v=1\n{text}")),
            Err(Obstacle::Dkim)
        );
        assert_eq!(
            converted(&format!("Received: x\nDomainKey-Signature: a\n{text}")),
            Err(Obstacle::Dkim)
        );
        let epilogue = "Content-Type: multipart/signed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\n--i\n\nx\n--i--\n\u{fc}\n--o--\n";
        assert_eq!(converted(epilogue), Err(Obstacle::Signed));
        assert_eq!(
            converted(&format!("Arc-Message-Signature: i=1\n{text}")),
            Err(Obstacle::Dkim)
        );
        let signed = |kind: &str| {
            format!(
                "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/signed; boundary=i;\n protocol=\"application/{kind}\"\n\n--i\n\n\u{fc}\n--i--\n--o--\n"
            )
        };
        assert_eq!(converted(&signed("pgp-signature")), Err(Obstacle::Pgp));
        assert_eq!(converted(&signed("pkcs7-signature")), Err(Obstacle::Smime));
        assert_eq!(converted(&signed("x-other")), Err(Obstacle::Signed));
        assert_eq!(
            converted("\n-----BEGIN PGP SIGNED MESSAGE-----\n\n\u{fc}\n"),
            Err(Obstacle::Pgp)
        );
        // Beside it all may be changed.
        let beside = "Content-Type: multipart/mixed; boundary=o\n\n--o\n\n\u{fc}\n--o\nContent-Type: multipart/signed; boundary=i\n\n--i\n\na\n--i--\n--o--\n";
        assert!(converted(beside).unwrap().contains("=C3=BC"));
    }

    #[test]
    fn messages_within_messages_are_gone_into() {
        becomes(
            "MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=o\n\n--o\n\nSubject: inner\nDKIM-Signature: v=1\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n\u{fc}\n--o--\n",
            "MIME-Version: 1.0\nContent-Type: multipart/digest; boundary=o\n\n--o\n\nSubject: inner\nDKIM-Signature: v=1\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n=C3=BC\n--o--\n",
        );
    }

    #[test]
    fn what_is_broken_is_said() {
        for (message, obstacle) in [
            (
                "Content-Type: multipart/mixed\n\n\u{fc}\n",
                Obstacle::Malformed("a multipart without a boundary of its own has eight bits"),
            ),
            (
                "Content-Transfer-Encoding: base64\n\n\u{fc}\n",
                Obstacle::Malformed("a part that is said to be encoded has eight bits"),
            ),
            (
                "Content-Type: text/plain\nContent-Type: text/html\n\n\u{fc}\n",
                Obstacle::Malformed("a part says twice what it is"),
            ),
        ] {
            assert_eq!(converted(message), Err(obstacle), "{message}");
        }
        for message in [
            "Content-Type: multipart/mixed; boundary=o\n\nf\u{fc}ller\n",
            "Content-Type: multipart/mixed; boundary=o\n\nf\u{fc}ller\n--o--\n",
            "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/mixed; boundary=i\n\nf\u{fc}ller\n--o--\n",
        ] {
            let obstacle = Obstacle::Malformed("a multipart with eight bits has no parts");
            assert_eq!(converted(message), Err(obstacle), "{message}");
        }
        // A body may begin without the empty line before it.
        becomes(
            "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: text/plain\nf\u{fc}r\n--o--\n",
            "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: text/plain\nContent-Transfer-Encoding: quoted-printable\n\nf=C3=BCr\n--o--\n",
        );
        // What no reader sees has no bits to lose.
        becomes(
            "Content-Type: multipart/mixed; boundary=o\n\nf\u{fc}ller\n--o\n\nx\n--o--\n\u{fc}\n",
            "Content-Type: multipart/mixed; boundary=o\n\nf??ller\n--o\n\nx\n--o--\n??\n",
        );
    }

    #[test]
    fn parts_a_thousand_deep_are_too_deep() {
        let mut message = String::new();
        for number in 0..1000 {
            message.push_str(&format!(
                "Content-Type: multipart/mixed; boundary=b{number}\n\n--b{number}\n"
            ));
        }
        message.push_str("\n\u{fc}\n");
        let deep = Obstacle::Malformed("its parts are nested too deep");
        assert_eq!(converted(&message), Err(deep));
        let deep = "Content-Type: message/rfc822\n\n".repeat(1000);
        assert!(converted(&format!("{deep}\n\u{fc}\n")).is_ok());
    }

    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(vec![
            "Content-Type: multipart/mixed; boundary=a\r\n",
            "Content-Type: multipart/signed; boundary=\"b\"\r\n",
            "Content-Type: message/rfc822\r\n",
            "Content-Type: image/png\r\n",
            "Content-Type: text/plain;\r\n charset=utf-8\r\n",
            "Content-Transfer-Encoding: 8bit\r\n",
            "Content-Transfer-Encoding: base64\r\n",
            "DKIM-Signature: x\r\n",
            "\r\n",
            "--a\r\n",
            "--a--\r\n",
            "--b\r\n",
            "--b--",
            "plain text = \r\n",
            "\u{fc}\u{f6}\r\n",
            "\u{fc}",
            ": \r\n",
        ]);
        prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn what_comes_of_a_message_has_seven_bits_in_its_bodies(
            message in any_message(),
            chunk in 1_usize..40,
        ) {
            if let Ok(out) = converted_in(&message, chunk) {
                let whole = converted_in(&message, usize::MAX);
                prop_assert_eq!(Ok(&out), whole.as_ref());
                let mut survey = Survey::new();
                survey.push(&out);
                prop_assert!(!survey.finish().needs_conversion());
                let lines = |octets: &[u8]| octets.split(|it| *it == b'\n').map(<[u8]>::len).max();
                prop_assert!(lines(&out) <= lines(&message).max(Some(100)));
            }
        }

        #[test]
        fn any_octets_are_a_message(
            message in prop::collection::vec(any::<u8>(), 0..300),
            chunk in 1_usize..40,
        ) {
            let _ = converted_in(&message, chunk);
        }
    }
}
