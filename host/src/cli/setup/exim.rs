//! The Exim that is installed, as far as it tells of itself.

use std::fmt::Write;
use std::process::Command;

use crate::cli::paint::printable;

/// Its names: Debian's comes first.
const PROGRAMS: [&str; 2] = ["exim4", "exim"];
/// Settings that the lines to add are about.
const SETTINGS: [&str; 3] = ["tls_try_verify_hosts", "acl_smtp_rcpt", "acl_smtp_data"];

/// Its version, and the settings that matter as they are.
pub fn found() -> String {
    let programs = PROGRAMS
        .into_iter()
        .find_map(|program| Some((program, said(program, &["-bV"])?)));
    let Some((program, version)) = programs else {
        return "Exim does not tell its version here (exim -bV). The lines are for 4.96 and later.\n\n".into();
    };
    let first = version.lines().next().unwrap_or_default();
    let mut text = format!("{}\n", printable(first));
    // Writing to a string cannot fail.
    if version.contains("OpenSSL") {
        let _ = writeln!(
            text,
            "It is built with OpenSSL: it can ask about mail from partners, and not about mail to them."
        );
    }
    for setting in SETTINGS {
        if let Some(now) = said(program, &["-bP", setting]) {
            let _ = writeln!(text, "# now: {}", printable(now.trim()));
        }
    }
    text.push('\n');
    text
}

/// What the program says, if it is there and ends well.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let is_fine = output.status.success();
    is_fine.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
