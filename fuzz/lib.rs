//! The wire-format modules of the host, by themselves: without wasmtime they build in seconds, and
//! the time goes into fuzzing.

#[path = "../host/src/smtp/address.rs"]
pub mod address;
#[path = "../host/src/smtp/command.rs"]
pub mod command;
#[path = "../host/src/smtp/data.rs"]
pub mod data;
#[path = "../host/src/smtp/header.rs"]
pub mod header;
#[path = "../host/src/smtp/reply.rs"]
pub mod reply;
