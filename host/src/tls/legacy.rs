//! Cipher suites that are no good ones any more, for peers that have no better ones and are listed: those without
//! forward secrecy, and those with CBC. TLS 1.2 is the least all the same (RFC 8996), and there is no RC4, no 3DES and
//! no export.

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode,
    SslVerifyMode, SslVersion,
};
use openssl::x509::X509;

use super::files::Pair;

/// The good ones first.
const SUITES: &str = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:ECDHE+AES:DHE+AES:RSA+AESGCM:RSA+AES:\
    !aNULL:!eNULL:!PSK:!SRP:!DSS:@SECLEVEL=1";

/// For a client that shows this certificate to servers that ask.
///
/// # Errors
/// If OpenSSL does not take it.
pub fn client(identity: Option<&Pair>) -> Result<SslContext, ErrorStack> {
    let mut builder = builder(SslMethod::tls_client())?;
    // What a certificate is worth is judged after the handshake, as with all others.
    builder.set_verify(SslVerifyMode::NONE);
    if let Some(pair) = identity {
        show(&mut builder, pair)?;
    }
    Ok(builder.build())
}

/// For a server with these certificates. The first one with an RSA key is shown, whatever name is asked for, because
/// the old suites are for that; without one, the first.
///
/// # Errors
/// If OpenSSL does not take them.
pub fn server<'a>(pairs: impl Iterator<Item = &'a Pair> + Clone) -> Result<SslContext, ErrorStack> {
    let mut builder = builder(SslMethod::tls_server())?;
    builder.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
    // Any certificate of a client completes the handshake, and none does as well.
    builder.set_verify_callback(SslVerifyMode::PEER, |_, _| true);
    let is_rsa = |pair: &&Pair| {
        PKey::private_key_from_der(pair.key.secret_der()).is_ok_and(|key| key.rsa().is_ok())
    };
    if let Some(pair) = pairs.clone().find(is_rsa).or_else(|| pairs.clone().next()) {
        show(&mut builder, pair)?;
    }
    Ok(builder.build())
}

fn builder(method: SslMethod) -> Result<SslContextBuilder, ErrorStack> {
    let mut builder = SslContext::builder(method)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_cipher_list(SUITES)?;
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_options(
        SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION,
    );
    builder.set_num_tickets(0)?;
    builder.set_mode(SslMode::ACCEPT_MOVING_WRITE_BUFFER | SslMode::RELEASE_BUFFERS);
    Ok(builder)
}

fn show(builder: &mut SslContextBuilder, pair: &Pair) -> Result<(), ErrorStack> {
    for (number, certificate) in pair.chain.iter().enumerate() {
        let certificate = X509::from_der(certificate)?;
        match number {
            0 => builder.set_certificate(&certificate)?,
            _ => builder.add_extra_chain_cert(certificate)?,
        }
    }
    builder.set_private_key(&*PKey::private_key_from_der(pair.key.secret_der())?)
}
