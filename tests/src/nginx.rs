//! An nginx of the test's own that proxies mail.
//!
//! Its Debian package would start a server for the web, so `scripts/setup.sh tests` only unpacks it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::programs::{listens, missing, unpacked};

/// A running nginx.
pub struct Nginx {
    child: Child,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Nginx {
    /// Starts one with this block `mail` (nginx.conf), which listens at that address.
    pub fn start(mail: &str, address: SocketAddr) -> Nginx {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = unpacked("nginx", "nginx/usr/sbin/nginx");
        let module = unpacked("nginx", "nginx/usr/lib/nginx/modules/ngx_mail_module.so");
        let module = module.canonicalize().expect("a module");
        let settings = format!(
            "load_module {};\ndaemon off;\nuser root;\npid {folder}/pid;\nerror_log {folder}/log info;\nevents {{}}\n{mail}",
            module.display(),
            folder = folder.path().display(),
        );
        let path = folder.path().join("nginx.conf");
        fs::write(&path, settings).expect("a file");
        let child = Command::new(program)
            .arg("-c")
            .arg(&path)
            .arg("-e")
            .arg(folder.path().join("log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr")).expect("a file"))
            .spawn()
            .unwrap_or_else(missing("nginx"));
        let mut nginx = Nginx {
            child,
            folder,
            address,
        };
        let listens = listens(&mut nginx.child, nginx.address);
        assert!(listens, "nginx does not listen: {}", nginx.log());
        nginx
    }

    /// What it has said.
    pub fn log(&self) -> String {
        let read = |name: &str| {
            let path = Path::new(self.folder.path()).join(name);
            fs::read_to_string(path).unwrap_or_default()
        };
        read("stderr") + &read("log")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its worker ends when its master is told to.
        let _ = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        let _ = self.child.wait();
    }
}
