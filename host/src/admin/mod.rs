//! What operators ask of a running server, by HTTP.

pub mod http;
