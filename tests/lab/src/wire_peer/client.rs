//! A guest's TCP on the wire without a guest: what connects to it is connected to the
//! peer's server. It shows what the peer can do when nothing is emulated.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::SERVER;
use super::link::Link;
use super::relay::{self, Joined};
use crate::observe::wire::Mac;

/// The first of the client's ports.
const PORTS: u16 = 40_000;

/// Starts it on its end of a wire, with frames so long at most; one connection after the
/// other. Returns where it listens on the host.
pub fn start(wire: UnixDatagram, mac: Mac, ip: Ipv4Addr, longest: usize) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    wire.set_nonblocking(true)?;
    thread::spawn(move || {
        let start = Instant::now();
        let time = || smoltcp::time::Instant::from_micros(start.elapsed().as_micros() as i64);
        let mut link = Link::new(Arc::new(wire), None);
        link.longest = longest;
        let hardware = EthernetAddress(mac.0).into();
        let mut interface = Interface::new(Config::new(hardware), &mut link, time());
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(ip), 24)).expect("room for one address");
        });
        let mut sockets = SocketSet::new(Vec::new());
        for (port, stream) in (PORTS..).zip(listener.incoming()) {
            let mut socket = relay::socket();
            socket.connect(interface.context(), SERVER, port).expect("a socket that is closed");
            let handle = sockets.add(socket);
            let Ok(mut joined) = stream.and_then(Joined::new) else { return };
            let mut ended = false;
            while !ended && !link.ended() {
                link.flush();
                interface.poll(time(), &mut link, &mut sockets);
                let socket = sockets.get_mut::<tcp::Socket>(handle);
                if socket.state() != tcp::State::SynSent {
                    ended = joined.pump(socket).is_err()
                        || matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait);
                }
                thread::yield_now();
            }
        }
    });
    Ok(address)
}
