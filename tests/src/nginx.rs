//! An nginx of the test's own that proxies mail, or serves files.
//!
//! Its Debian package would start a server for the web, so `scripts/setup.sh tests` only unpacks it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::machine::free_address;
use crate::pki::Identity;
use crate::programs::{listens, missing, unpacked};

/// A running nginx.
pub struct Nginx {
    child: Child,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Nginx {
    /// Starts one that serves the files of a folder by HTTPS, to whoever has this name and password.
    pub fn files(served: &Path, identity: &Identity, (user, password): (&str, &str)) -> Nginx {
        let address = free_address();
        let folder = tempfile::tempdir().expect("a temporary folder");
        identity.write(folder.path(), "web");
        let users = format!("{user}:{{PLAIN}}{password}\n");
        fs::write(folder.path().join("users"), users).expect("a file");
        let own = folder.path().display();
        let http = format!(
            "http {{
                client_body_temp_path {own}/t1; proxy_temp_path {own}/t2; fastcgi_temp_path {own}/t3;
                uwsgi_temp_path {own}/t4; scgi_temp_path {own}/t5;
                log_format short '$request_method $uri $status';
                access_log {own}/access short;
                server {{
                    listen {address} ssl;
                    ssl_certificate {own}/web.pem;
                    ssl_certificate_key {own}/web.key;
                    auth_basic files;
                    auth_basic_user_file {own}/users;
                    root {};
                }}
            }}",
            served.display()
        );
        Nginx::start_in(folder, &http, address)
    }

    /// What it was asked for: method, path and status.
    pub fn requests(&self) -> Vec<String> {
        let path = Path::new(self.folder.path()).join("access");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Starts one with this block `mail` (nginx.conf), which listens at that address.
    pub fn start(mail: &str, address: SocketAddr) -> Nginx {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Nginx::start_in(folder, mail, address)
    }

    fn start_in(folder: TempDir, block: &str, address: SocketAddr) -> Nginx {
        let program = unpacked("nginx", "nginx/usr/sbin/nginx");
        let module = unpacked("nginx", "nginx/usr/lib/nginx/modules/ngx_mail_module.so");
        let module = module.canonicalize().expect("a module");
        let settings = format!(
            "load_module {};\ndaemon off;\nuser root;\npid {folder}/pid;\nerror_log {folder}/log info;\nevents {{}}\n{block}",
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
