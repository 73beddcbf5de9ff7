//! The report: every row's medians with their spread, ratios beside their targets.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::plot;
use super::rows::{ROWS, Row, Target};
use super::samples::Samples;
use super::sides::Side;

/// The files in a report's directory.
pub(super) const SAMPLES: &str = "lab.tsv";
const TABLE: &str = "lab.md";

/// How it was measured.
const ABOUT: &str = include_str!("../../files/bench.md");

const ABOUT_WIRE: &str = "\
The peer is a program on the host. It is not what limits: alone, with a client of its
own kind on the same host, it moves many times as much; while it serves a guest, its
process, with all else that the harness does, has time left; and a guest that owns the
NIC gets more through than any driver domain.
";

/// The plots: their files, titles and rows.
const PLOTS: &[(&str, &str, &[&str])] = &[
    ("lab-tcp.svg", "TCP throughput (more is better)", &["tcp1", "tcp8", "out", "in"]),
    ("lab-udp.svg", "UDP packets received (more is better)", &["udp64", "udp1400"]),
    ("lab-rr.svg", "Round trip (less is better)", &["rr-median", "rr-p99"]),
    ("lab-cpu.svg", "Driver domain's CPU (less is better)", &["tcp1-cpu", "out-cpu", "in-cpu"]),
    ("lab-start.svg", "Start (less is better)", &["entry", "vif"]),
];

/// Makes the report of the samples in a directory.
pub fn redraw(dir: &Path) -> Result<()> {
    let samples = Samples::read(&dir.join(SAMPLES))?;
    let plots: String =
        PLOTS.iter().map(|(file, title, _)| format!("![{title}]({file})\n\n")).collect();
    let text = [
        ABOUT,
        "## Results\n",
        &table(&samples)?,
        &plots,
        "## The wire's peer\n",
        ABOUT_WIRE,
        &wire(&samples)?,
        "## This run\n",
        &notes(&samples)?,
    ]
    .join("\n");
    let path = dir.join(TABLE);
    fs::write(&path, &text).with_context(|| format!("writing {}", path.display()))?;
    for (file, title, keys) in PLOTS {
        let groups: Vec<_> = ROWS
            .iter()
            .filter(|row| keys.contains(&row.key))
            .map(|row| (row, figures(&samples, row).into()))
            .collect();
        plot::bars(&dir.join(file), title, &Side::COMPARED.map(Side::name), &groups)?;
    }
    println!("{text}");
    Ok(())
}

/// A median and how far its samples lie apart.
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    count: usize,
}

impl Figure {
    fn of(mut values: Vec<f64>) -> Option<Figure> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Figure { median, least, most, count: values.len() })
    }

    fn text(&self) -> String {
        let median = number(self.median);
        match self.count {
            1 => median,
            _ => format!("{median} ({}–{})", number(self.least), number(self.most)),
        }
    }
}

/// Of the sides in their order.
fn figures(samples: &Samples, row: &Row) -> [Option<Figure>; 3] {
    Side::COMPARED.map(|side| Figure::of(samples.of(side, row.key)))
}

fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value if value < 0.1 => format!("{value:.4}"),
        value if value < 1.0 => format!("{value:.3}"),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn table(samples: &Samples) -> Result<String> {
    let mut text = String::new();
    let sides = Side::COMPARED;
    writeln!(
        text,
        "| | unit | {} | Causeway / Linux, both HVM | target (aim) | |",
        sides.map(Side::name).join(" | ")
    )?;
    writeln!(text, "|---|---|--:|--:|--:|--:|---|---|")?;
    for row in ROWS {
        let figures = figures(samples, row);
        let texts =
            figures.each_ref().map(|figure| figure.as_ref().map_or("–".into(), Figure::text));
        let [causeway, linux, _] = figures.map(|figure| figure.map(|figure| figure.median));
        let ratio = causeway.zip(linux).map(|(causeway, linux)| causeway / linux);
        let ratio = ratio.filter(|ratio| ratio.is_finite());
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            row.name,
            row.unit,
            texts.join(" | "),
            ratio.map_or("–".into(), |ratio| format!("{}×", number(ratio))),
            target(row),
            verdict(row, causeway, ratio)
        )?;
    }
    Ok(text)
}

/// How it is known that the peer on the wire holds up nobody.
fn wire(samples: &Samples) -> Result<String> {
    let mut text = String::new();
    writeln!(text, "| on the wire, Mbit/s | out | in | peer's processor busy, % out | % in |")?;
    writeln!(text, "|---|--:|--:|--:|--:|")?;
    for side in Side::ALL {
        let figures = ["out", "in", "out-peer-busy", "in-peer-busy"]
            .map(|key| Figure::of(samples.of(side, key)).map_or("–".into(), |f| f.text()));
        writeln!(text, "| {} | {} |", side.name(), figures.join(" | "))?;
    }
    Ok(text)
}

/// Versions, date and commands, and which boots were lost.
fn notes(samples: &Samples) -> Result<String> {
    let mut text = String::new();
    for (name, note) in &samples.notes {
        writeln!(text, "- {name}: {note}")?;
    }
    Ok(text)
}

fn target(row: &Row) -> String {
    match row.target {
        Target::Times(least, aim) => format!("≥ {least}× ({aim}×)"),
        Target::AtMostTimes(most, aim) => format!("≤ {most}× ({aim}×)"),
        Target::AtMost(most, aim) => format!("≤ {most} {unit} ({aim})", unit = row.unit),
        Target::None => String::new(),
    }
}

fn verdict(row: &Row, causeway: Option<f64>, ratio: Option<f64>) -> &'static str {
    let (met, aim) = match row.target {
        Target::None => return "",
        Target::Times(least, aim) => (ratio.map(|r| r >= least), ratio.map(|r| r >= aim)),
        Target::AtMostTimes(most, aim) => (ratio.map(|r| r <= most), ratio.map(|r| r <= aim)),
        Target::AtMost(most, aim) => (causeway.map(|c| c <= most), causeway.map(|c| c <= aim)),
    };
    match (met, aim) {
        (None, _) => "not measured",
        (_, Some(true)) => "met, and the aim",
        (Some(true), _) => "met",
        _ => "**not met**",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::samples::Sample;

    #[test]
    fn the_middle_is_told_with_its_spread() {
        assert_eq!(Figure::of(vec![30.0, 10.0, 20.0]).unwrap().text(), "20.0 (10.0–30.0)");
        assert_eq!(Figure::of(vec![1.0, 2.0]).unwrap().text(), "1.50 (1.00–2.00)");
        assert_eq!(Figure::of(vec![256.0]).unwrap().text(), "256");
        assert!(Figure::of(Vec::new()).is_none());
    }

    #[test]
    fn targets_are_met_or_not() {
        let row = |target| Row { key: "k", short: "s", name: "n", unit: "u", target };
        let times = row(Target::Times(2.0, 4.0));
        assert_eq!(verdict(&times, Some(1.0), Some(1.9)), "**not met**");
        assert_eq!(verdict(&times, Some(1.0), Some(2.0)), "met");
        assert_eq!(verdict(&times, Some(1.0), Some(4.0)), "met, and the aim");
        assert_eq!(verdict(&times, None, None), "not measured");
        let less = row(Target::AtMostTimes(0.5, 0.2));
        assert_eq!(verdict(&less, Some(1.0), Some(0.6)), "**not met**");
        assert_eq!(verdict(&less, Some(1.0), Some(0.2)), "met, and the aim");
        let most = row(Target::AtMost(16.0, 12.0));
        assert_eq!(verdict(&most, Some(16.0), Some(9.0)), "met");
    }

    #[test]
    fn a_row_shows_all_sides_and_the_ratio() {
        let mut samples = Samples::default();
        for (side, value) in [(Side::Causeway, 300.0), (Side::LinuxHvm, 100.0)] {
            samples.samples.push(Sample { round: 1, side, key: "tcp1".into(), value });
        }
        let text = table(&samples).unwrap();
        let line = "| guest to guest, TCP, one stream | Mbit/s | 300 | 100 | – | 3.00× | ≥ 2× (4×) | met |";
        assert!(text.contains(line), "{text}");
    }
}
