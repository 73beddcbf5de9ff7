//! What runs inside dom0 and the guests: commands for the harness, and traffic
//! with a content that the other end can check, or with none that anybody wants.

pub mod bulk;
pub mod flood;
pub mod hostile;
pub mod multicast;
mod netfront;
pub mod node;
pub mod noise;
pub mod pktgen;
pub mod protocol;
pub mod round_trip;
pub mod serve;
pub mod stream;
pub mod trace;
pub mod transfer;

use std::net::UdpSocket;

use anyhow::{Context, Result};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

/// Bytes of memory that may wait for a process, so that a guest that gets no time to run
/// loses nothing which reached it.
const RECEIVE_BUFFER: usize = 16 << 20;

/// A socket on `port` that keeps what arrives until it is asked for.
fn listen(port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).context("a receive buffer")?;
    println!("listening");
    Ok(socket)
}
