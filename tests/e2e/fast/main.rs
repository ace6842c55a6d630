//! What Portcullis does, piece by piece.

mod audit;
mod authorities;
mod certificates;
mod cli;
mod corpus;
mod dane_and_mta_sts;
mod dialogs;
mod dnssec;
mod durability;
mod editing;
mod examples;
mod fan_out;
mod importing;
mod levels;
mod limits;
mod log;
mod model;
mod modules;
mod next_hops;
mod outbound;
mod pins;
mod reload;
mod schema;
mod source_routes;
mod unknown_facts;
mod validate;
