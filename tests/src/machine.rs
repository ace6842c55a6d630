//! What tests share of the machine. The tests of one program run side by side, as many as there are processors: those
//! that load the machine, or measure how a loaded one behaves, say what they bear beside them, and each has ports of
//! its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// While this is held, no test runs that has asked for either.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    // A test that has failed leaves nothing behind.
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// While this is held, no test runs that has to be alone. A test asks once, before anything else.
pub fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// A port of 127.0.0.1, for a program that takes only a number. Nobody listens on it, by TCP or UDP, on any address of the
/// machine, and nobody is given it but by this.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = (0..Ports::COUNT).find_map(|_| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % Ports::COUNT;
        let port = PORTS.first + number;
        let everywhere = (Ipv4Addr::UNSPECIFIED, port);
        let free = TcpListener::bind(everywhere).is_ok() && UdpSocket::bind(everywhere).is_ok();
        free.then_some(port)
    });
    SocketAddr::from((Ipv4Addr::LOCALHOST, free.expect("a free port")))
}

/// The ports of this program.
static PORTS: LazyLock<Ports> = LazyLock::new(Ports::reserve);

struct Ports {
    first: u16,
    /// No other program of tests has these ports while this one has the name.
    _name: UnixListener,
}

impl Ports {
    const COUNT: u16 = 1_000;

    /// Linux gives ports from 32768 on to whoever asks for any, so that one of those may be taken by the time it is used.
    fn reserve() -> Ports {
        let blocks = (12_000..32_000).step_by(usize::from(Ports::COUNT));
        let mut free = blocks.filter_map(|first| {
            let name = format!("portcullis-tests-{first}");
            let address = UnixAddress::from_abstract_name(name).expect("a name");
            let _name = UnixListener::bind_addr(&address).ok()?;
            Some(Ports { first, _name })
        });
        free.next().expect("a block of ports that is free")
    }
}
