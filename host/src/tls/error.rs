//! Why TLS cannot be set up.

use std::path::PathBuf;

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The TLS provider lacks what is needed.
    #[error("TLS cannot be used: {0}")]
    Provider(rustls::Error),
    /// OpenSSL lacks what is needed for old cipher suites, or does not take a certificate.
    #[error("TLS cannot be used: {0}")]
    Legacy(openssl::error::ErrorStack),
    /// The certificate and the key cannot be used.
    #[error("{}: the certificate cannot be used: {source}", path.display())]
    Config {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}
