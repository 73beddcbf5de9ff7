//! Cache lines that go from one vCPU to another, by valgrind's lackey, which tells of every
//! access to memory.
//!
//! Each vCPU is taken to have a cache without end, and lines are fetched as they are between
//! processors: one that another wrote last, or that is to be written while another has it.
//! All vCPUs go on one stack here, which they would not share.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use bench::Case;
use bench::marks::{NOBODY, START};

/// Rounds, of which the second half counts.
const ROUNDS: usize = 16;
/// Bytes in a line.
const LINE: u64 = 64;
/// The stack, as far as it goes from what a function near its start has there.
const STACK: std::ops::Range<i64> = -(1 << 20)..1 << 16;

/// Where the program that is looked at has its marks, and its stack.
#[derive(Clone, Copy)]
struct Places {
    marks: u64,
    stack: u64,
}

/// How many lines a packet has go from one vCPU to another.
pub fn lines_per_packet(case: &Case) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=lackey", "--trace-mem=yes", "--log-fd=2"]);
    valgrind.arg(std::env::current_exe()?).args(["trace", &case.name(), &ROUNDS.to_string()]);
    let mut child = valgrind
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("valgrind, of the package of that name")?;
    let trace = child.stderr.take().context("no trace")?;
    let mut said = BufReader::new(child.stdout.take().context("no output")?);
    let places = OnceLock::new();
    let moved = thread::scope(|scope| {
        let moved = scope.spawn(|| moves(BufReader::with_capacity(1 << 20, trace), &places));
        // Where the marks are comes before the first of them.
        let mut line = String::new();
        said.read_line(&mut line)?;
        let mut numbers = line.split_whitespace().map(str::parse);
        let (Some(Ok(marks)), Some(Ok(stack))) = (numbers.next(), numbers.next()) else {
            bail!("{}: no marks", case.name());
        };
        // Told once.
        let _ = places.set(Places { marks, stack });
        moved.join().map_err(|_| anyhow::anyhow!("the trace's reader failed"))?
    })?;
    let mut packets = String::new();
    said.read_to_string(&mut packets)?;
    ensure!(child.wait()?.success(), "{}: valgrind failed", case.name());
    let packets: u64 = packets.trim().parse()?;
    ensure!(packets > 0, "{}: nothing was sent", case.name());
    Ok(moved as f64 / packets as f64)
}

/// Who has a line.
#[derive(Clone, Copy, Default)]
struct Line {
    /// The vCPUs that have it as it is, a bit each.
    held_by: u8,
}

/// How many lines go from one vCPU to another in a trace, from its start mark on.
fn moves(mut trace: impl BufRead, places: &OnceLock<Places>) -> Result<u64> {
    let (mut lines, mut moved) = (HashMap::<u64, Line>::new(), 0);
    let (mut vcpu, mut text) = (NOBODY, String::new());
    loop {
        text.clear();
        if trace.read_line(&mut text)? == 0 {
            return Ok(moved);
        }
        let (Some(access), Some(places)) = (Access::parse(&text), places.get()) else { continue };
        match access.address.wrapping_sub(places.marks) {
            mark if access.writes && mark <= START as u64 => match mark as usize {
                START => moved = 0,
                mark => vcpu = mark,
            },
            _ if vcpu == NOBODY || places.on_stack(access.address) => {}
            _ => {
                let last = (access.address + access.len - 1) / LINE;
                for line in access.address / LINE..=last {
                    let line = lines.entry(line).or_default();
                    moved += u64::from(line.touch(vcpu, access.writes));
                }
            }
        }
    }
}

impl Places {
    fn on_stack(self, address: u64) -> bool {
        STACK.contains(&address.wrapping_sub(self.stack).cast_signed())
    }
}

impl Line {
    /// Whether it has to come from another vCPU, or be taken from it.
    fn touch(&mut self, vcpu: usize, writes: bool) -> bool {
        let own = 1 << vcpu;
        let others = self.held_by & !own;
        let moves = others != 0 && (writes || self.held_by & own == 0);
        self.held_by = if writes { own } else { self.held_by | own };
        moves
    }
}

/// An access to memory, other than to fetch instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Access {
    writes: bool,
    address: u64,
    len: u64,
}

impl Access {
    /// A line is ` S 1ffeffe7e8,8`, with L, S or M for loads, stores and both.
    fn parse(text: &str) -> Option<Self> {
        let (kind, place) = text.strip_prefix(' ')?.split_once(' ')?;
        let (address, len) = place.trim().split_once(',')?;
        let writes = match kind {
            "L" => false,
            "S" | "M" => true,
            _ => return None,
        };
        let address = u64::from_str_radix(address, 16).ok()?;
        Some(Self { writes, address, len: len.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_trace_is_read() {
        let access = Access { writes: true, address: 0x1f_feff_e7e8, len: 8 };
        assert_eq!(Access::parse(" S 1ffeffe7e8,8\n"), Some(access));
        assert_eq!(Access::parse(" M 1ffeffe7e8,8\n"), Some(access));
        assert_eq!(Access::parse(" L 1ffeffe7e8,8\n"), Some(Access { writes: false, ..access }));
        assert_eq!(Access::parse("I  04015d40,3\n"), None);
        assert_eq!(Access::parse("==12== Lackey\n"), None);
    }

    /// Marks at 0x100, the stack at 0x1000000.
    fn moved(trace: &str) -> u64 {
        let places = OnceLock::from(Places { marks: 0x100, stack: 0x100_0000 });
        moves(trace.as_bytes(), &places).unwrap()
    }

    #[test]
    fn lines_move_where_they_are_shared() {
        let [first, second, nobody] = [" S 100,1\n", " S 101,1\n", " S 108,1\n"];
        let alone = [first, " S 5000,8\n L 5000,8\n", second, " S 6000,8\n"].concat();
        assert_eq!(moved(&alone), 0);
        // Read by the second, which fetches it once, and then written by the first, which
        // takes it away.
        let shared = [first, " S 5000,8\n", second, " L 5008,8\n L 5010,8\n"].concat();
        assert_eq!(moved(&shared), 1);
        assert_eq!(moved(&[&shared, first, " S 5000,8\n S 5000,8\n"].concat()), 2);
        let two_lines = [first, " S 503c,8\n", second, " L 503c,8\n"].concat();
        assert_eq!(moved(&two_lines), 2);
        let before = [&shared, " S 109,1\n", first, " L 5000,8\n"].concat();
        assert_eq!(moved(&before), 0, "before the start");
        let beyond = [first, " S 5000,8\n", nobody, " L 5000,8\n"].concat();
        assert_eq!(moved(&beyond), 0);
        let stack = [first, " S fff000,8\n", second, " L fff000,8\n"].concat();
        assert_eq!(moved(&stack), 0);
    }
}
