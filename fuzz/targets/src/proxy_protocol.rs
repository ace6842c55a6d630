use portcullis_server::smtp::proxy_protocol;

/// Any octets are a header or an error, and of what follows a header nothing is read.
pub fn proxy_protocol(input: &[u8]) {
    let mut rest = input;
    let header = crate::runtime().block_on(proxy_protocol::read(&mut rest));
    if header.is_ok() {
        let header = &input[..input.len() - rest.len()];
        let version_1 = header.ends_with(b"\r\n") && header.starts_with(b"PROXY ");
        assert!(version_1 || header.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
    }
}
