//! Who means harm: garbage, smuggled messages, and clients that want all there is.

mod exhaustion;
mod front_doors;
mod garbage;
mod smuggling;
