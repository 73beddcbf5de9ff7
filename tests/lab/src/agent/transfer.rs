//! TCP transfers whose content is hashed at both ends.
//!
//! A client asks in one line, `put MIB` or `get MIB`. The sender of the data
//! makes it up as it goes and closes its direction; the receiver answers with the
//! SHA-256 of what arrived, which the sender compares with that of what it sent.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::bulk;
use super::noise::Noise;

/// An end that hears nothing for this long gives up.
const SILENCE: Duration = Duration::from_secs(60);

/// What the content is made from.
const SEED: u64 = 1;

const CHUNK: usize = 64 * 1024;
const CHUNKS_PER_MIB: u64 = (1 << 20) / CHUNK as u64;

/// What a transfer moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Payload in bytes.
    pub bytes: u64,
    /// From the request to the agreed hash.
    pub time: Duration,
}

impl Transferred {
    /// Payload in Mbit/s.
    pub fn mbit_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / 1e6 / self.time.as_secs_f64()
    }
}

impl fmt::Display for Transferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {} time_us {}", self.bytes, self.time.as_micros())
    }
}

impl FromStr for Transferred {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Transferred> {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["bytes", bytes, "time_us", time] => Ok(Transferred {
                bytes: bytes.parse()?,
                time: Duration::from_micros(time.parse()?),
            }),
            _ => bail!("not a report of a transfer: {text:?}"),
        }
    }
}

/// Serves every connection, for ever, each in a thread. What is only counted is asked for
/// in the same way.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, peer) = listener.accept()?;
        thread::spawn(move || {
            if let Err(error) = answer(stream) {
                eprintln!("transfer with {peer}: {error:#}");
            }
        });
    }
}

fn answer(stream: TcpStream) -> Result<()> {
    limit_silence(&stream)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    (&mut reader).take(64).read_line(&mut request)?;
    match request.trim_end().split_once(' ') {
        Some(("put", mib)) => receive(&mut reader, &stream, mib.parse::<u64>()? << 20),
        Some(("get", mib)) => send(&mut reader, &stream, mib.parse()?),
        Some(("sink", _)) => bulk::sink(&mut reader, &stream),
        Some(("source", ms)) => bulk::source(&stream, Duration::from_millis(ms.parse()?)),
        _ => bail!("asked for {request:?}"),
    }
}

/// Sends `mib` MiB to a server.
pub fn put(server: &str, mib: u64) -> Result<Transferred> {
    client(server, "put", mib, |reader, stream| send(reader, stream, mib))
}

/// Has a server send `mib` MiB.
pub fn get(server: &str, mib: u64) -> Result<Transferred> {
    client(server, "get", mib, |reader, stream| receive(reader, stream, mib << 20))
}

fn client(
    server: &str,
    what: &str,
    mib: u64,
    transfer: impl FnOnce(&mut BufReader<TcpStream>, &TcpStream) -> Result<()>,
) -> Result<Transferred> {
    let mut stream =
        TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
    limit_silence(&stream)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let start = Instant::now();
    writeln!(stream, "{what} {mib}")?;
    transfer(&mut reader, &stream)?;
    Ok(Transferred { bytes: mib << 20, time: start.elapsed() })
}

pub(super) fn limit_silence(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))
}

fn send(reader: &mut impl Read, mut stream: &TcpStream, mib: u64) -> Result<()> {
    let mut sha = Sha256::new();
    let mut noise = Noise::new(SEED);
    let mut chunk = vec![0; CHUNK];
    for _ in 0..mib * CHUNKS_PER_MIB {
        noise.fill(&mut chunk);
        sha.update(&chunk);
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut theirs = [0; 32];
    reader.read_exact(&mut theirs).context("waiting for the receiver's hash")?;
    if theirs != *sha.finalize() {
        bail!("the receiver's hash differs");
    }
    Ok(())
}

fn receive(reader: &mut impl Read, mut stream: &TcpStream, expected: u64) -> Result<()> {
    let mut sha = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut received = 0;
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                sha.update(&chunk[..n]);
                received += n as u64;
            }
            // Where there is a limit to the silence, being suspended and resumed is one.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    stream.write_all(&sha.finalize())?;
    if received != expected {
        bail!("{received} bytes arrived of {expected}");
    }
    // A sender that sees another hash closes without a word; one that agrees, too.
    Ok(stream.shutdown(Shutdown::Write)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || serve(&listener));
        address
    }

    #[test]
    fn both_ways_agree_on_the_hash() {
        let server = server();
        let put = put(&server, 3).unwrap();
        assert_eq!(put.bytes, 3 << 20);
        assert_eq!(put.to_string().parse::<Transferred>().unwrap().bytes, put.bytes);
        assert_eq!(get(&server, 2).unwrap().bytes, 2 << 20);
    }

    #[test]
    fn a_changed_byte_is_noticed_by_the_sender() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            let data = all.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            all[data + 77] ^= 1;
            stream.write_all(&Sha256::digest(&all[data..])).unwrap();
        });
        assert!(put(&address, 1).unwrap_err().to_string().contains("differs"));
        thread.join().unwrap();
    }

    #[test]
    fn missing_bytes_are_noticed_by_the_receiver() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(&[0; 100]).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        });
        assert!(get(&address, 1).unwrap_err().to_string().contains("100 bytes arrived"));
        thread.join().unwrap();
    }
}
