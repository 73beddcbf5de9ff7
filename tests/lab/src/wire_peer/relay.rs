//! A TCP connection of the peer's stack, joined to one with a server on the host:
//! what the server speaks is served on the wire.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustix::event::PollFlags;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Duration;

/// What a connection holds in each direction.
const BUFFER: usize = 256 * 1024;

/// A partner that does not answer for this long is gone. It may be paused.
const PATIENCE: Duration = Duration::from_secs(150);

/// How often a silent partner is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A socket of the stack's that one connection at a time uses.
pub(super) fn socket() -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_timeout(Some(PATIENCE));
    socket.set_keep_alive(Some(KEEP_ALIVE));
    socket
}

/// Joins a socket's connections to the server's, one after the other.
#[derive(Default)]
pub(super) struct Relay {
    joined: Option<Joined>,
}

/// A connection's two halves.
pub(super) struct Joined {
    stream: Arc<TcpStream>,
    inwards_ended: bool,
    outwards_ended: bool,
}

impl Relay {
    /// Moves what can be moved. An idle socket listens on `port`.
    pub(super) fn pump(&mut self, socket: &mut Socket, port: u16, server: SocketAddr) {
        if socket.state() == State::Closed {
            self.joined = None;
            socket.listen(port).expect("a closed socket and a port that is not zero");
        }
        if self.joined.is_none() && matches!(socket.state(), State::Established | State::CloseWait)
        {
            let stream = TcpStream::connect(server).and_then(Joined::new);
            self.joined = stream.inspect_err(|_| socket.abort()).ok();
        }
        if let Some(joined) = &mut self.joined
            && joined.pump(socket).is_err()
        {
            socket.abort();
            self.joined = None;
        }
    }

    /// The server's end, if there is one, and what would help.
    pub(super) fn waits_for(&self, socket: &Socket) -> Option<(Arc<TcpStream>, PollFlags)> {
        let joined = self.joined.as_ref()?;
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, socket.can_send() && !joined.outwards_ended);
        flags.set(PollFlags::OUT, socket.can_recv());
        (!flags.is_empty()).then(|| (joined.stream.clone(), flags))
    }
}

impl Joined {
    /// The host's half; the other one is the socket's.
    pub(super) fn new(stream: TcpStream) -> io::Result<Joined> {
        stream.set_nonblocking(true)?;
        Ok(Joined { stream: Arc::new(stream), inwards_ended: false, outwards_ended: false })
    }

    /// Moves what can be moved.
    pub(super) fn pump(&mut self, socket: &mut Socket) -> io::Result<()> {
        let mut stream = &*self.stream;
        while socket.can_recv() {
            let write = |bytes: &mut [u8]| {
                let result = stream.write(bytes);
                (*result.as_ref().unwrap_or(&0), result)
            };
            match socket.recv(write).map_err(io::Error::other)? {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                result => result.map(drop)?,
            }
        }
        if !socket.may_recv() && !self.inwards_ended {
            self.inwards_ended = true;
            stream.shutdown(Shutdown::Write)?;
        }
        while socket.can_send() && !self.outwards_ended {
            let read = |room: &mut [u8]| {
                let result = stream.read(room);
                (*result.as_ref().unwrap_or(&0), result)
            };
            match socket.send(read).map_err(io::Error::other)? {
                Ok(0) => {
                    self.outwards_ended = true;
                    socket.close();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                result => result.map(drop)?,
            }
        }
        Ok(())
    }
}
