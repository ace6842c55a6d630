//! Beside mail servers and clients of others, by the settings that the manual gives for them.

mod admin_api;
mod auth;
mod bindings;
mod c_interface;
mod clients;
mod components;
mod eight_bit;
mod embedding;
mod exim_outbound;
mod fan_out;
mod fleet;
mod fleet_files;
mod front_doors;
mod haproxy;
mod haraka;
mod nginx;
mod notifications;
mod old_senders;
mod opensmtpd;
mod postfix;
mod postfix_docs;
mod postfix_outbound;
mod python_policy;
mod source_routes;
mod templates;
mod tls_reports;
