//! Where mail goes: the next hop, or partners' servers.

pub(crate) mod client;
pub(crate) mod credentials;
pub(crate) mod dial;
pub(crate) mod next_hop;
pub(crate) mod next_hops;
pub(crate) mod partial;
pub mod partner;
pub(crate) mod path;
pub(crate) mod pool;
pub(crate) mod proof;
pub(crate) mod relay_clients;
pub(crate) mod users;
