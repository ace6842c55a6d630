//! The PROXY protocol: a balancer's word for where a connection really comes from.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader, SslInfo};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest header of version 1, and what more of version 2 nobody needs.
const VERSION_1: usize = 107;
const VERSION_2: usize = 4096;
const VERSION_1_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a balancer tells of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it went to.
    pub destination: SocketAddr,
    /// What TLS has shown that ended at the balancer. Version 2 tells it, if the balancer is asked to.
    pub tls: Option<EndedTls>,
}

/// TLS that ended at a balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndedTls {
    /// Its version, such as `TLSv1.3`; empty if it is not told.
    pub version: String,
    /// The cipher suite; empty if it is not told.
    pub cipher: String,
    /// The client's certificate, if it has shown one.
    pub certificate: Option<ShownCertificate>,
}

/// What a balancer tells of a client's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownCertificate {
    /// The subject's CN; empty if it is not told.
    pub common_name: String,
    /// Whether the balancer has verified the chain.
    pub is_verified: bool,
}

/// Reads a header and not an octet more: what follows may be a TLS handshake. Gives what it tells, if the balancer does
/// not speak for itself.
///
/// # Errors
/// If there is no header, or one that is too long.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Told>> {
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
    Ok(header.proxied_address().map(|address| Told {
        source: address.source,
        destination: address.destination,
        tls: header
            .ssl()
            .filter(SslInfo::client_ssl)
            .map(|tls| ended(&tls)),
    }))
}

/// HAProxy's description of the protocol, section 2.2.5.
fn ended(tls: &SslInfo<'_>) -> EndedTls {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let shown = tls.client_cert_conn() || tls.client_cert_sess();
    EndedTls {
        version: text(tls.version()),
        cipher: text(tls.cipher()),
        certificate: shown.then(|| ShownCertificate {
            common_name: text(tls.cn()),
            is_verified: tls.verify() == 0,
        }),
    }
}

fn no_header() -> io::Error {
    io::Error::other("there is no PROXY header")
}
