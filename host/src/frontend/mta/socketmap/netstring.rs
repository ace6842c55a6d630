//! Netstrings, as Postfix's socketmap has them (`socketmap_table(5)`): `LENGTH:DATA,`.

/// The longest request: the longest that Postfix sends from 3.12 on.
const MAX_REQUEST: usize = 10_000;
/// Digits of its length.
const MAX_DIGITS: usize = 5;

/// The data of the netstring that the input begins with, and how long that is in all; `None` if it is not whole.
///
/// # Errors
/// What is wrong with it.
pub fn parse(input: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    let digits = input.iter().take_while(|octet| octet.is_ascii_digit());
    let digits = digits.take(MAX_DIGITS + 1).count();
    let (length, rest) = input.split_at(digits);
    let is_whole = match rest.first() {
        Some(b':') => true,
        None if digits <= MAX_DIGITS => false,
        _ => return Err("a request begins with no length".into()),
    };
    let number = std::str::from_utf8(length).ok();
    let number = number.and_then(|text| text.parse::<usize>().ok());
    let length = match number.filter(|number| *number <= MAX_REQUEST) {
        Some(number) => number,
        None if digits == 0 && !is_whole => return Ok(None),
        None => {
            return Err(format!(
                "a request has more than {MAX_REQUEST} octets, or none"
            ));
        }
    };
    if !is_whole {
        return Ok(None);
    }
    let data = &rest[1..];
    match (data.get(..length), data.get(length)) {
        (Some(data), Some(b',')) => Ok(Some((data, digits + 1 + length + 1))),
        (_, Some(_)) => Err("a request does not end where its length says".into()),
        (_, None) => Ok(None),
    }
}

/// Writes one.
pub fn write(data: &str, output: &mut Vec<u8>) {
    output.extend_from_slice(format!("{}:{data},", data.len()).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netstrings_are_read_one_after_another() {
        assert_eq!(parse(b"7:tls x.y,3:"), Ok(Some((&b"tls x.y"[..], 10))));
        assert_eq!(parse(b"0:,"), Ok(Some((&b""[..], 3))));
        for part in [&b""[..], b"1", b"10000", b"12:", b"3:ab", b"3:abc"] {
            assert_eq!(parse(part), Ok(None), "{part:?}");
        }
        for wrong in [
            &b":a,"[..],
            b"x",
            b"10001:",
            b"123456",
            b"1x:",
            b"1:ab",
            b"99999",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_read_or_refused(input in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            if let Ok(Some((data, length))) = parse(&input) {
                proptest::prop_assert!(data.len() < length && length <= input.len());
            }
        }

        #[test]
        fn what_is_written_is_read(data in "\\PC{0,200}") {
            let mut written = Vec::new();
            write(&data, &mut written);
            proptest::prop_assert_eq!(parse(&written), Ok(Some((data.as_bytes(), written.len()))));
        }
    }
}
