//! A network between two programs that can be cut: what is sent meanwhile waits, as TCP sends it again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// The network. Dropping it heals it.
pub struct Partition {
    /// Where the other side is found.
    pub address: SocketAddr,
    cut: Arc<(Mutex<bool>, Condvar)>,
}

impl Partition {
    /// Leads to a program.
    pub fn before(program: SocketAddr) -> Partition {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let cut = Arc::<(Mutex<bool>, Condvar)>::default();
        let state = cut.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(program) else {
                    continue;
                };
                let pairs = [(&client, &server), (&server, &client)];
                for (from, to) in pairs {
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (from, to) = (from.expect("a stream"), to.expect("a stream"));
                    let state = state.clone();
                    thread::spawn(move || pass(from, to, &state));
                }
            }
        });
        Partition { address, cut }
    }

    fn set(&self, is_cut: bool) {
        let (state, changed) = &*self.cut;
        *state.lock().unwrap() = is_cut;
        changed.notify_all();
    }

    /// From now on nothing comes through.
    pub fn cut(&self) {
        self.set(true);
    }

    /// All comes through again.
    pub fn heal(&self) {
        self.set(false);
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.heal();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, (state, changed): &(Mutex<bool>, Condvar)) {
    let mut octets = [0; 16 << 10];
    // Either side may be gone.
    while let Ok(count) = from.read(&mut octets) {
        let is_cut = state.lock().unwrap();
        drop(changed.wait_while(is_cut, |is_cut| *is_cut).unwrap());
        if count == 0 || to.write_all(&octets[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
