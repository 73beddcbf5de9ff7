//! Every figure that was measured, and the file that keeps them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::sides::Side;

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    /// Of which round, from 1.
    pub(super) round: u32,
    /// Of whom.
    pub(super) side: Side,
    /// Of what; see [`super::rows`], or a detail that the report does not show.
    pub(super) key: String,
    pub(super) value: f64,
}

/// All figures of a run, and what is told about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples {
    /// Lines about the run: versions, commands, boots that were lost.
    pub(super) notes: Vec<(String, String)>,
    pub(super) samples: Vec<Sample>,
}

impl Samples {
    pub(super) fn note(&mut self, name: &str, text: &str) {
        self.notes.push((name.into(), text.replace(['\t', '\n'], " ")));
    }

    /// The figures of one kind, in the order of the rounds.
    pub(super) fn of(&self, side: Side, key: &str) -> Vec<f64> {
        let of = |sample: &&Sample| sample.side == side && sample.key == key;
        self.samples.iter().filter(of).map(|sample| sample.value).collect()
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = String::new();
        for (name, note) in &self.notes {
            writeln!(text, "#\t{name}\t{note}")?;
        }
        writeln!(text, "round\tside\tkey\tvalue")?;
        for Sample { round, side, key, value } in &self.samples {
            writeln!(text, "{round}\t{}\t{key}\t{value}", side.key())?;
        }
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    pub(super) fn read(path: &Path) -> Result<Samples> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let mut samples = Samples::default();
        for line in text.lines() {
            match line.split('\t').collect::<Vec<_>>().as_slice() {
                ["#", name, note] => samples.note(name, note),
                ["round", ..] => {}
                [round, side, key, value] => samples.samples.push(Sample {
                    round: round.parse()?,
                    side: Side::of_key(side).with_context(|| format!("no side is {side}"))?,
                    key: (*key).into(),
                    value: value.parse()?,
                }),
                _ => anyhow::bail!("{}: {line}", path.display()),
            }
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_as_they_were_written() {
        let mut samples = Samples::default();
        samples.note("date", "a day\tin a year");
        for (round, side) in [(1, Side::Causeway), (1, Side::LinuxPv), (2, Side::Causeway)] {
            let value = f64::from(round) * 1.25;
            samples.samples.push(Sample { round, side, key: "tcp1".into(), value });
        }
        let path = std::env::temp_dir().join(format!("lab-samples-{}", std::process::id()));
        samples.write(&path).unwrap();
        assert_eq!(Samples::read(&path).unwrap(), samples);
        assert_eq!(samples.of(Side::Causeway, "tcp1"), [1.25, 2.5]);
        fs::remove_file(path).unwrap();
    }
}
