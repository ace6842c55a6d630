//! Faults and load of every kind; the environment says for how long.

mod faults;
mod fleet;
mod fleet_faults;
mod page;
mod soak;
mod upgrades;
