//! The agent: what the harness runs inside dom0 and the guests.

use std::fmt::Display;
use std::fs;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::agent::bulk::{self, Way};
use lab::agent::trace::Trace;
use lab::agent::transfer::Transferred;
use lab::agent::{flood, hostile, multicast, node, pktgen, round_trip, serve, stream, transfer};

const USAGE: &str = "usage: lab-agent COMMAND
  serve PORT                     run the harness's commands
  relay PORT                     join a guest's port, seen from dom0, to standard input and output
  transfer-serve ADDRESS:PORT    answer transfers
  transfer-put ADDRESS:PORT MIB  send to a server, compare hashes
  transfer-get ADDRESS:PORT MIB  have a server send
  bulk-send ADDRESS:PORT STREAMS MS
                                 send zeros to a server that counts them
  bulk-receive ADDRESS:PORT STREAMS MS
                                 have a server send them
  round-trip-serve PORT          answer bytes
  round-trip ADDRESS:PORT MS     send bytes, one at a time, and time the answers
  flood-count PORT INTERFACE     count the packets of a flood to an unread port
  node-wait PATH [VALUE]         tell when XenStore has a node, or this value in it
  trace-count FILE               count the ways into Xen in a file of xentrace's
  stream-send ADDRESS:PORT MS BYTES
                                 a numbered datagram every MS, until standard input ends
  stream-receive PORT            count them
  pktgen-receive PORT SHORTEST LONGEST COUNT
                                 check what Linux's packet generator sends in bursts of
                                 COUNT, by frame sizes
  multicast-send ADDRESS         datagrams to two groups, then to this address of everybody
  multicast-member PEER          serve vif 0 as a frontend that wants groups, as standard input
                                 says; PEER is another guest's address
  hostile ATTACK VICTIM          make an attack on the backend of vif 0, close the vif when
                                 standard input ends; VICTIM is another guest's address";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", port] => serve::serve(port).with_context(|| format!("serving {port}")),
        ["relay", port] => serve::relay(port).with_context(|| format!("relaying {port}")),
        ["transfer-serve", address] => {
            let listener = TcpListener::bind(address)?;
            println!("listening");
            Ok(transfer::serve(&listener)?)
        }
        ["transfer-put", server, mib] => show(transfer::put(server, mib.parse()?)?),
        ["transfer-get", server, mib] => show(transfer::get(server, mib.parse()?)?),
        ["bulk-send", server, streams, ms] => show(bulk(server, Way::Out, streams, ms)?),
        ["bulk-receive", server, streams, ms] => show(bulk(server, Way::In, streams, ms)?),
        ["round-trip-serve", port] => round_trip::serve(port.parse()?),
        ["round-trip", server, ms] => {
            show(round_trip::ask(server, Duration::from_millis(ms.parse()?))?)
        }
        ["flood-count", port, interface] => show(flood::count(port.parse()?, interface)?),
        ["node-wait", path] => show(node::wait(path, None)?),
        ["node-wait", path, value] => show(node::wait(path, Some(value))?),
        ["trace-count", file] => show(Trace::of(&fs::read(file).context("a trace")?)?),
        ["stream-send", receiver, ms, bytes] => {
            let interval = Duration::from_millis(ms.parse()?);
            show(stream::send(receiver, interval, bytes.parse()?)?)
        }
        ["stream-receive", port] => show(stream::receive(port.parse()?)?),
        ["pktgen-receive", port, shortest, longest, count] => {
            let frames = shortest.parse()?..=longest.parse()?;
            pktgen::receive(port.parse()?, frames, count.parse()?, |report| println!("{report}"))
        }
        ["multicast-send", everybody] => multicast::send(everybody.parse()?),
        ["multicast-member", peer] => multicast::member(peer),
        ["hostile", attack, victim] => {
            hostile::run(attack, victim).with_context(|| format!("the attack {attack}"))
        }
        _ => bail!("{USAGE}"),
    }
}

fn bulk(server: &str, way: Way, streams: &str, ms: &str) -> Result<Transferred> {
    bulk::run(server, way, streams.parse()?, Duration::from_millis(ms.parse()?))
}

/// In the form that the harness reads.
fn show(report: impl Display) -> Result<()> {
    println!("{report}");
    Ok(())
}
