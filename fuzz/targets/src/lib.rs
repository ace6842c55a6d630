//! What the fuzzer feeds, and what must hold then. A function a target: it panics where something does
//! not hold.
//!
//! `fuzz/fuzz_targets` hands them what libFuzzer invents; the test of this package hands them the seeds,
//! with a stable compiler and in seconds.

mod certificates;
mod configuration;
mod contexts;
mod dns;
mod filters;
mod fleet;
mod front_doors;
mod imports;
mod instances;
mod modules;
mod mta_sts;
mod packed;
mod proxy_protocol;
mod rules;
mod sasl;
mod session;
mod seven_bit;
mod statements;
mod wire;

pub use certificates::certificates;
pub use configuration::configuration;
pub use contexts::contexts;
pub use dns::dns;
pub use filters::filters;
pub use fleet::fleet;
pub use front_doors::front_doors;
pub use imports::imports;
pub use instances::{Evaluator, instances};
pub use modules::modules;
pub use mta_sts::mta_sts;
pub use packed::packed;
pub use proxy_protocol::proxy_protocol;
pub use rules::rules;
pub use sasl::sasl;
pub use session::session;
pub use seven_bit::seven_bit;
pub use statements::statements;
pub use wire::{commands, data, headers, replies};

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 22] = [
    ("certificates", certificates),
    ("commands", commands),
    ("configuration", configuration),
    ("contexts", contexts),
    ("data", data),
    ("dns", dns),
    ("filters", filters),
    ("fleet", fleet),
    ("front_doors", front_doors),
    ("headers", headers),
    ("imports", imports),
    ("instances", instances),
    ("modules", modules),
    ("mta_sts", mta_sts),
    ("packed", packed),
    ("proxy_protocol", proxy_protocol),
    ("replies", replies),
    ("rules", rules),
    ("sasl", sasl),
    ("session", session),
    ("seven_bit", seven_bit),
    ("statements", statements),
];

/// What the input is made of; nothing, if there is too little of it.
fn read<'a, T: arbitrary::Arbitrary<'a>>(input: &'a [u8]) -> Option<T> {
    T::arbitrary_take_rest(arbitrary::Unstructured::new(input)).ok()
}

/// One thread is enough, and makes it repeatable.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
