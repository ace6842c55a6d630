//! Entries of a fleet's store, their keys, and the index of a store of files.

use portcullis_server::fleet::{Entry, Index, Key, SHARDS, read_shard, shard_to_json};

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
    if let Ok(index) = Index::read(input) {
        assert_eq!(Index::read(&index.to_json()), Ok(index));
    }
    let number = usize::from(input.first().copied().unwrap_or_default()) % SHARDS;
    for number in [number, 0] {
        if let Ok(entries) = read_shard(input, number) {
            let json = shard_to_json(entries.iter().map(|(key, object)| (key, object)));
            assert_eq!(read_shard(&json, number), Ok(entries));
        }
    }
    if let Some(key) = std::str::from_utf8(input).ok().and_then(Key::read) {
        assert_eq!(Key::read(&key.to_string()), Some(key));
    }
}
