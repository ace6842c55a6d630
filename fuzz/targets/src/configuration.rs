use std::path::Path;

use portcullis_server::config::Config;

/// Any text is a configuration or an error at a place in the text.
pub fn configuration(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Err(problem) = Config::parse(text, Path::new("/etc/portcullis")) {
        assert!(!problem.message.is_empty());
        let line = text.split('\n').nth(problem.line - 1);
        assert!(
            line.is_some_and(|line| line.contains(&*problem.excerpt)),
            "{problem:?}"
        );
    }
}
