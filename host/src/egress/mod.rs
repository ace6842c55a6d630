//! Where mail goes: the next hop, or partners' servers.

pub(crate) mod client;
pub(crate) mod dial;
pub(crate) mod next_hop;
pub(crate) mod partial;
pub mod partner;
pub(crate) mod path;
pub(crate) mod pool;
pub(crate) mod relay_clients;
