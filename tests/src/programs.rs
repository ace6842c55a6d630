//! Programs of others. `make setup-tests` installs or unpacks all that the tests want: where one is missing, the tests
//! that want it fail and say so.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::Instant;

use crate::daemon::{TIMEOUT, binary};

/// What to do with a program that cannot be run.
pub fn missing<T>(name: &str) -> impl FnOnce(io::Error) -> T {
    move |error| panic!("{name} is missing ({error}): run `make setup-tests`")
}

/// A program that has been installed.
pub fn installed(name: &str, path: &str) -> PathBuf {
    let path = PathBuf::from(path);
    assert!(path.exists(), "{name} is missing: run `make setup-tests`");
    path
}

/// A program that has only been unpacked, because its package does not go together with another one that is installed.
pub fn unpacked(name: &str, path: &str) -> PathBuf {
    let target = binary().ancestors().nth(2).expect("a target folder");
    let folders = [
        target,
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
    ];
    let mut paths = folders.iter().map(|folder| folder.join("tools").join(path));
    let found = paths.find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: run `make setup-tests`"))
}

/// The library that has a program see another time.
pub fn faketime() -> String {
    let folders = std::fs::read_dir("/usr/lib").expect("a folder");
    let paths = folders.map(|entry| entry.expect("an entry").path());
    let libraries = paths.map(|path| path.join("faketime/libfaketimeMT.so.1"));
    let mut present = libraries.filter(|path| path.exists());
    let library = present.next();
    let library = library.expect("libfaketime is missing: run `make setup-tests`");
    library.to_str().expect("a path").to_owned()
}

/// Waits until a server that was started listens. It does not if it has ended, or takes too long.
pub fn listens(child: &mut Child, address: SocketAddr) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    while TcpStream::connect(address).is_err() {
        let has_ended = child.try_wait().expect("a child").is_some();
        if has_ended || Instant::now() >= deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Before a file system is mounted, in this test or for a server that it starts.
pub fn assert_may_mount() {
    static MAY: OnceLock<bool> = OnceLock::new();
    let may = MAY.get_or_init(|| {
        let tried = Command::new("unshare").args(["--mount", "true"]).status();
        tried.unwrap_or_else(missing("unshare")).success()
    });
    assert!(
        *may,
        "the right to mount is missing: run the tests as root, and in a container with CAP_SYS_ADMIN"
    );
}
