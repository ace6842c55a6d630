//! What a running Portcullis tells of itself.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The time for which policies have been asked so far, in seconds. One that was built before this was counted tells
/// nothing.
pub async fn evaluation_seconds(metrics: SocketAddr) -> Result<Option<f64>> {
    let mut stream = TcpStream::connect(metrics).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    let sum = |line: &str| {
        line.strip_prefix("portcullis_evaluation_seconds_sum ")?
            .parse()
            .ok()
    };
    page.lines().next().context("no answer about numbers")?;
    Ok(page.lines().find_map(sum))
}
