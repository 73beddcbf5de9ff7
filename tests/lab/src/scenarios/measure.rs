//! Measures between two places, from what common tools print.

use std::fmt::Display;

use anyhow::{Context, Result, bail};

use crate::agent::transfer::Transferred;
use crate::client::Agent;

/// The port of the transfers between guests.
const TRANSFER_PORT: u16 = 7000;

/// Pings and returns the mean round trip in milliseconds; no reply may be lost.
pub(super) fn ping(from: &Agent, to: impl Display, count: u32) -> Result<f64> {
    // The first one waits for the address to be resolved.
    from.run(&format!("ping -c 3 -W 5 {to}"), 30)?;
    let text = from.run(&format!("ping -A -q -c {count} -W 5 {to}"), 60)?;
    if !text.contains(" 0% packet loss") {
        bail!("{} to {to}: {text}", from.name());
    }
    mean_round_trip(&text).with_context(|| format!("ping printed {text}"))
}

fn mean_round_trip(text: &str) -> Option<f64> {
    let (_, times) = text.split_once("min/avg/max")?.1.split_once(" = ")?;
    times.split('/').nth(1)?.parse().ok()
}

/// What iperf3's receiver counted.
pub(super) struct Throughput {
    pub(super) mbit_per_second: f64,
    /// Percent; of UDP only.
    pub(super) lost: Option<f64>,
}

/// Runs iperf3 for some seconds from one guest to another.
pub(super) fn iperf(
    from: &Agent,
    to: &Agent,
    ip: impl Display,
    options: &str,
) -> Result<Throughput> {
    const SECONDS: u32 = 5;
    let mut server = to.start("iperf3 -s -1 --forceflush", SECONDS + 60)?;
    server.wait_line("Server listening")?;
    let command = format!("iperf3 -c {ip} -t {SECONDS} -f m {options}");
    let text = from.run(&command, SECONDS + 40)?;
    receiver_line(&text).with_context(|| format!("iperf3 printed {text}"))
}

fn receiver_line(text: &str) -> Option<Throughput> {
    // Of several streams the last one is their sum.
    let line = text.lines().rfind(|line| line.ends_with("receiver"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "Mbits/sec")?;
    let lost = words.iter().find_map(|w| w.strip_prefix('(')?.strip_suffix("%)")?.parse().ok());
    Some(Throughput { mbit_per_second: words.get(at.checked_sub(1)?)?.parse().ok()?, lost })
}

/// A hashed transfer to a server; `what` is `put` or `get`.
pub(super) fn transfer(
    from: &Agent,
    what: &str,
    server: impl Display,
    mib: u64,
) -> Result<Transferred> {
    from.run(&format!("lab-agent transfer-{what} {server} {mib}"), patience(mib))?.parse()
}

/// How many seconds a transfer may take: at a tenth of the least that was ever seen, on a
/// machine that had other things to do.
const fn patience(mib: u64) -> u32 {
    120 + mib as u32 * 8
}

/// A hashed transfer from one guest to another.
pub(super) fn transfer_between(
    from: &Agent,
    to: &Agent,
    ip: impl Display,
    mib: u64,
) -> Result<Transferred> {
    let address = format!("{ip}:{TRANSFER_PORT}");
    let command = format!("exec lab-agent transfer-serve {address}");
    let mut server = to.start(&command, 60 + patience(mib))?;
    server.wait_line("listening")?;
    let transferred = transfer(from, "put", &address, mib)?;
    // The next one listens on the same port.
    server.stop()?;
    Ok(transferred)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pings_are_read() {
        let busybox = "3 packets\nround-trip min/avg/max = 4.482/9.317/19.402 ms\n";
        let iputils = "rtt min/avg/max/mdev = 0.033/0.045/0.060/0.011 ms, ipg/ewma 1/2 ms\n";
        assert_eq!(mean_round_trip(busybox), Some(9.317));
        assert_eq!(mean_round_trip(iputils), Some(0.045));
        assert_eq!(mean_round_trip("0 received"), None);
    }

    #[test]
    fn iperfs_receiver_counts() {
        let tcp = "[  5]   0.00-5.01   sec   108 MBytes   181 Mbits/sec    0             sender\n\
                   [  5]   0.00-5.02   sec   105 MBytes   176 Mbits/sec                  receiver\n";
        let found = receiver_line(tcp).unwrap();
        assert_eq!((found.mbit_per_second, found.lost), (176.0, None));
        let udp = "[  5]   0.00-5.00   sec  5.9 MBytes  9.87 Mbits/sec  0.1 ms  3/4426 (0.068%)  receiver\n";
        let found = receiver_line(udp).unwrap();
        assert_eq!((found.mbit_per_second, found.lost), (9.87, Some(0.068)));
        assert!(receiver_line("iperf3: error").is_none());
    }
}
