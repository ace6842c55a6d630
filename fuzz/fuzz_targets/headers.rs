//! Any header has addresses or an error; each address is one that could stand in an envelope.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::address::Address;
use portcullis_fuzz::header::{from_addresses, received_count};

fuzz_target!(|header: &[u8]| {
    received_count(header);
    if let Ok(addresses) = from_addresses(header) {
        assert!(!addresses.is_empty());
        for address in addresses {
            let parsed = Address::parse(&address).expect("an address");
            assert!(parsed.domain().is_some());
        }
    }
});
