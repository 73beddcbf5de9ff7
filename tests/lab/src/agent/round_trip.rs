//! Requests and responses of one byte over TCP, one at a time, each timed.

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::transfer::limit_silence;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrips {
    /// Pairs of request and response.
    pub count: u64,
    /// How long they took together.
    pub time: Duration,
    /// Half of them took at most this long.
    pub median: Duration,
    /// All but one of a hundred took at most this long.
    pub p99: Duration,
}

impl fmt::Display for RoundTrips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |time: Duration| time.as_micros();
        write!(
            f,
            "count {} time_us {} median_us {} p99_us {}",
            self.count,
            us(self.time),
            us(self.median),
            us(self.p99)
        )
    }
}

impl FromStr for RoundTrips {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<RoundTrips> {
        let us = |text: &str| Ok::<_, anyhow::Error>(Duration::from_micros(text.parse()?));
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["count", count, "time_us", time, "median_us", median, "p99_us", p99] => {
                Ok(RoundTrips {
                    count: count.parse()?,
                    time: us(time)?,
                    median: us(median)?,
                    p99: us(p99)?,
                })
            }
            _ => bail!("not a report of round trips: {text:?}"),
        }
    }
}

impl RoundTrips {
    fn of(mut times: Vec<Duration>, time: Duration) -> Result<RoundTrips> {
        times.sort_unstable();
        let last = times.len().checked_sub(1).context("not one round trip")?;
        let at = |percent: usize| times[last * percent / 100];
        Ok(RoundTrips { count: times.len() as u64, time, median: at(50), p99: at(99) })
    }
}

/// Answers one client to its end.
pub fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening");
    let (mut stream, _) = listener.accept()?;
    prepare(&stream)?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

/// Asks a server for some time.
pub fn ask(server: &str, limit: Duration) -> Result<RoundTrips> {
    let mut stream =
        TcpStream::connect(server).with_context(|| format!("connecting to {server}"))?;
    prepare(&stream)?;
    let (mut byte, mut times) = ([1], Vec::new());
    let start = Instant::now();
    let mut before = start;
    while before - start < limit {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        let now = Instant::now();
        times.push(now - before);
        before = now;
    }
    RoundTrips::of(times, before - start)
}

fn prepare(stream: &TcpStream) -> Result<()> {
    limit_silence(stream)?;
    Ok(stream.set_nodelay(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_end_are_told_apart() {
        let times = (1..=201).rev().map(Duration::from_micros).collect();
        let found = RoundTrips::of(times, Duration::from_secs(1)).unwrap();
        let us = Duration::from_micros;
        assert_eq!((found.count, found.median, found.p99), (201, us(101), us(199)));
        assert_eq!(found.to_string().parse::<RoundTrips>().unwrap(), found);
        assert!(RoundTrips::of(Vec::new(), us(1)).is_err());
        assert!("count 1".parse::<RoundTrips>().is_err());
    }
}
