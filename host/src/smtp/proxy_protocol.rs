//! The PROXY protocol: a balancer's word for where a connection really comes from.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest header of version 1, and what more of version 2 nobody needs.
const VERSION_1: usize = 107;
const VERSION_2: usize = 4096;
const VERSION_1_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads a header and not an octet more: what follows may be a TLS handshake. Gives source and
/// destination, if the balancer does not speak for itself.
///
/// # Errors
/// If there is no header, or one that is too long.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let mut header = vec![0; SIGNATURE.len() + 1];
    stream.read_exact(&mut header).await?;
    if header.starts_with(SIGNATURE) {
        header.resize(16, 0);
        stream.read_exact(&mut header[13..]).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > VERSION_2 {
            return Err(io::Error::other("the PROXY header is too long"));
        }
        header.resize(16 + length, 0);
        stream.read_exact(&mut header[16..]).await?;
    } else if !header.starts_with(VERSION_1_START) {
        return Err(no_header());
    } else {
        while header.last() != Some(&b'\n') {
            if header.len() >= VERSION_1 {
                return Err(no_header());
            }
            header.push(stream.read_u8().await?);
        }
    }
    let (header, _) =
        ProxyHeader::parse(&header, ParseConfig::default()).map_err(io::Error::other)?;
    Ok(header
        .proxied_address()
        .map(|address| (address.source, address.destination)))
}

fn no_header() -> io::Error {
    io::Error::other("there is no PROXY header")
}
