//! The table, the plots, and the numbers that they are made of.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use bench::{Case, Path as Way, cases, cases_of_several_vcpus};
use serde_json::Value;

use crate::callgrind::instructions_per_packet;
use crate::lines::lines_per_packet;
use crate::plot::{self, Series};

struct Measured {
    case: Case,
    instructions: f64,
    /// The median.
    nanoseconds: f64,
    /// Lines that went from one vCPU to another, where there are several.
    lines: f64,
}

/// Counts, and writes `host.tsv`, `host.md` and the plots into a directory.
pub fn write(directory: &Path) -> Result<()> {
    let target = PathBuf::from(std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into()));
    fs::create_dir_all(directory)?;
    let mut all = Vec::new();
    let cases = cases();
    for (number, case) in cases.iter().enumerate() {
        let measured = Measured {
            case: *case,
            instructions: instructions_per_packet(case, &target)?,
            nanoseconds: nanoseconds(&target.join("criterion"), case)?,
            lines: if case.vcpus > 1 { lines_per_packet(case)? } else { 0.0 },
        };
        eprintln!(
            "{} of {}: {}: {:.0} instructions, {:.0} ns, {:.2} lines",
            number + 1,
            cases.len(),
            case.name(),
            measured.instructions,
            measured.nanoseconds,
            measured.lines
        );
        all.push(measured);
    }
    fs::write(directory.join("host.tsv"), samples(&all))?;
    fs::write(directory.join("host.md"), text(&all)?)?;
    let by_batch =
        |way| series(&all, |case| (case.path == way && case.len == 60).then_some(case.batch), few);
    let ways = [Way::Guests, Way::Flood, Way::ToWire, Way::FromWire];
    let batches: Vec<Series> = ways.map(|way| (way.name().to_string(), by_batch(way))).into();
    plot::lines(
        &directory.join("host-batch.svg"),
        "Causeway's own instructions, frames of 60 bytes",
        ["packets at once", "instructions a packet"],
        &batches,
    )?;
    let growth = [
        ("two of so many guests talk", by_size(&all, Way::Guests, |case| case.vifs)),
        ("all guests talk in turn", by_size(&all, Way::Pairs, |case| case.vifs)),
        ("to so many stations", by_size(&all, Way::ToWire, |case| case.stations)),
    ];
    let growth: Vec<Series> =
        growth.into_iter().map(|(name, points)| (name.to_string(), points)).collect();
    plot::lines(
        &directory.join("host-growth.svg"),
        "Growth: Causeway's own instructions, eight frames of 60 bytes at once",
        ["vifs, or stations", "instructions a packet"],
        &growth,
    )
}

/// Neither vifs nor stations beside those that it takes.
fn few(case: &Case) -> bool {
    case.stations == 1 && case.vifs < 10 && case.vcpus == 1
}

fn by_size(all: &[Measured], way: Way, size: impl Fn(&Case) -> usize) -> Vec<(f64, f64)> {
    let fits =
        |case: &Case| case.path == way && case.len == 60 && case.batch == 8 && case.vcpus == 1;
    series(all, |case| (fits(case) && size(case) > 1).then(|| size(case)), |_| true)
}

fn series(
    all: &[Measured],
    place: impl Fn(&Case) -> Option<usize>,
    wanted: impl Fn(&Case) -> bool,
) -> Vec<(f64, f64)> {
    let wanted = all.iter().filter(|one| wanted(&one.case));
    wanted.filter_map(|one| Some((place(&one.case)? as f64, one.instructions))).collect()
}

/// What `cargo bench` found.
fn nanoseconds(criterion: &Path, case: &Case) -> Result<f64> {
    let path = criterion.join(case.name()).join("new/estimates.json");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{}: run `cargo bench -p bench` before", path.display()))?;
    let estimates: Value = serde_json::from_str(&text)?;
    estimates["median"]["point_estimate"].as_f64().context("an estimate without a median")
}

fn samples(all: &[Measured]) -> String {
    let mut text = String::from(
        "path\tlen\tbatch\tvifs\tstations\tvcpus\tqueues\tinstructions\tnanoseconds\tlines\n",
    );
    for Measured { case, instructions, nanoseconds, lines } in all {
        let Case { path, len, batch, vifs, stations, vcpus, queues } = case;
        let name = path.name();
        text += &format!(
            "{name}\t{len}\t{batch}\t{vifs}\t{stations}\t{vcpus}\t{queues}\t\
             {instructions:.1}\t{nanoseconds:.1}\t{lines:.2}\n"
        );
    }
    text
}

fn text(all: &[Measured]) -> Result<String> {
    let mut text = String::from(
        "# What a packet costs in Causeway itself\n\n\
         `make bench` wrote this. The real data path, with the driver of the NIC, on a\n\
         hypervisor and a device in software, neither of which is counted among the\n\
         instructions (callgrind). Nanoseconds are medians (criterion) without the\n\
         hypervisor's, but with the device's.\n\n",
    );
    for line in provenance()? {
        writeln!(text, "- {line}")?;
    }
    text += "\n| path | bytes | at once | vifs | stations | instructions a packet | ns a packet |\n\
             |---|--:|--:|--:|--:|--:|--:|\n";
    for Measured { case, instructions, nanoseconds, .. } in all {
        let Case { path, len, batch, vifs, stations, vcpus, .. } = case;
        if *vcpus > 1 {
            continue;
        }
        let name = path.name();
        writeln!(
            text,
            "| {name} | {len} | {batch} | {vifs} | {stations} | {instructions:.0} | {nanoseconds:.0} |"
        )?;
    }
    text += "\nOf 1000 vifs against 10, and of 1000 stations:\n\n\
             | | instructions | target (aim) |\n|---|--:|---|\n";
    for (name, way, size) in [
        ("two guests talk, the others are silent", Way::Guests, vifs as fn(&Case) -> usize),
        ("all guests talk in turn", Way::Pairs, vifs),
        ("a guest sends to all stations in turn", Way::ToWire, stations),
    ] {
        let points = by_size(all, way, size);
        let at = |size| points.iter().find(|point| point.0 == size).map(|point| point.1);
        let ratio = at(1000.0).zip(at(10.0)).map(|(many, few)| many / few);
        let ratio = ratio.context("a size is missing")?;
        writeln!(text, "| {name} | {ratio:.3}× | ≤ 1.2× (1.05×) |")?;
    }
    text += "\nOf several vCPUs, in passes of eight packets; nanoseconds are a packet's on one of \
             them.\n\
             Lines are those of the cache that go from one vCPU to another, of what the domain \
             itself\nreads and writes (lackey).\n\n\
             | | bytes | vCPUs | instructions a packet | ns a packet | lines a packet |\n\
             |---|--:|--:|--:|--:|--:|\n";
    for case in cases_of_several_vcpus() {
        let measured = all.iter().find(|measured| measured.case == case);
        let Measured { instructions, nanoseconds, lines, .. } =
            measured.with_context(|| format!("{} is missing", case.name()))?;
        let what = match (case.path, case.vcpus, case.queues) {
            (Way::ToWire, ..) => "to the wire, whose NIC another vCPU has",
            (Way::FromWire, ..) => "from there",
            (_, 1, _) => "guest to guest, on one vCPU",
            (_, _, 1) => "guest to guest, each on another vCPU",
            _ => "guest to guest, a queue on each vCPU",
        };
        writeln!(
            text,
            "| {what} | {} | {} | {instructions:.0} | {nanoseconds:.0} | {lines:.2} |",
            case.len, case.vcpus
        )?;
    }
    text += "\n![by batch](host-batch.svg)\n\n![growth](host-growth.svg)\n";
    Ok(text)
}

fn vifs(case: &Case) -> usize {
    case.vifs
}

fn stations(case: &Case) -> usize {
    case.stations
}

/// When, with what and on what.
fn provenance() -> Result<[String; 4]> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok([
        said_by("date", "--iso-8601")?,
        said_by("rustc", "--version")?,
        said_by("valgrind", "--version")?,
        cpu.map_or("an unknown processor", |(_, name)| name).into(),
    ])
}

fn said_by(program: &str, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output().context(program.to_string())?;
    Ok(String::from_utf8(output.stdout)?.trim().into())
}
