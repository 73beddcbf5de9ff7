//! TCP streams of zeros whose bytes are counted, not looked at: what costs time is
//! their way.
//!
//! They begin like a transfer, with a line: `sink` takes bytes to their end and
//! answers how many there were, `source MS` sends for some time.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::transfer::{Transferred, limit_silence};

const CHUNK: usize = 128 * 1024;

/// Which way the bytes go, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The client sends.
    Out,
    /// The server sends.
    In,
}

/// Has bytes pass between this and a server for some time, over several connections.
pub fn run(server: &str, way: Way, streams: usize, time: Duration) -> Result<Transferred> {
    let connections = (0..streams)
        .map(|_| {
            let stream =
                TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
            limit_silence(&stream)?;
            Ok(stream)
        })
        .collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let threads: Vec<_> = connections
        .into_iter()
        .map(|stream| {
            thread::spawn(move || match way {
                Way::Out => send(&stream, time),
                Way::In => receive(&stream, time),
            })
        })
        .collect();
    let mut bytes = 0;
    for thread in threads {
        bytes += thread.join().expect("a stream does not panic")?;
    }
    Ok(Transferred { bytes, time: start.elapsed() })
}

/// Takes what comes to its end and answers how much it was.
pub(super) fn sink(reader: &mut impl Read, mut stream: &TcpStream) -> Result<()> {
    Ok(stream.write_all(&drain(reader)?.to_le_bytes())?)
}

/// Sends for some time.
pub(super) fn source(mut stream: &TcpStream, time: Duration) -> Result<()> {
    let (chunk, start) = (vec![0; CHUNK], Instant::now());
    while start.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn send(mut stream: &TcpStream, time: Duration) -> Result<u64> {
    stream.write_all(b"sink 0\n")?;
    source(stream, time)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).context("waiting for the receiver's count")?;
    Ok(u64::from_le_bytes(count))
}

fn receive(mut stream: &TcpStream, time: Duration) -> Result<u64> {
    writeln!(stream, "source {}", time.as_millis())?;
    drain(&mut stream)
}

fn drain(reader: &mut impl Read) -> Result<u64> {
    let (mut chunk, mut total) = (vec![0; CHUNK], 0);
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(total),
            n => total += n as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn both_ways_count_what_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        thread::spawn(move || super::super::transfer::serve(&listener));
        for (way, streams) in [(Way::Out, 1), (Way::Out, 3), (Way::In, 2)] {
            let moved = run(&server, way, streams, Duration::from_millis(20)).unwrap();
            assert!(moved.bytes >= (streams * CHUNK) as u64, "{way:?}: {moved}");
            assert_eq!(moved.bytes % CHUNK as u64, 0, "whole chunks were sent");
        }
    }
}
