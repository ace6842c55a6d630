//! Entries of a fleet's store, and their keys.

use portcullis_server::fleet::{Entry, Key};

/// Whatever is read is written so that it reads the same.
pub fn fleet(input: &[u8]) {
    if let Ok(entry) = Entry::read(input) {
        // With the Base64 of others it may have become too long.
        if let Ok(again) = Entry::read(&entry.to_json()) {
            assert_eq!(again, entry);
        }
        // Whether it names a tenant or not.
        let _ = entry.tenant();
    }
    if let Some(key) = std::str::from_utf8(input).ok().and_then(Key::read) {
        assert_eq!(Key::read(&key.to_string()), Some(key));
    }
}
