//! docs/SECURITY.md names tests that exist, and all of the attack list; and so does the
//! README for each feature.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Where tests are that the document may name.
const SOURCES: [&str; 4] = ["tests/worlds", "drivers", "kernel", "tests/lab"];
/// How many ids of each kind the list has.
const ATTACKS: [(&str, usize); 2] = [("f", 13), ("s", 19)];

/// All Rust sources at or below a place.
fn sources(place: &Path, found: &mut Vec<String>) {
    if place.is_dir() {
        let entries = fs::read_dir(place).expect("a directory");
        entries.for_each(|entry| sources(&entry.expect("an entry").path(), found));
    } else if place.extension().is_some_and(|extension| extension == "rs") {
        found.push(fs::read_to_string(place).expect("a source file"));
    }
}

fn sources_of(places: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    places.iter().for_each(|place| sources(&Path::new(ROOT).join(place), &mut found));
    found
}

/// The names of all tests.
fn tests(places: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources_of(places) {
        let lines: Vec<_> = source.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[test]") {
            let name = pair[1].strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            names.extend(name.map(str::to_string));
        }
    }
    names
}

/// What the document calls by the name of a test: words in code of several parts.
fn mentioned() -> BTreeSet<String> {
    let document =
        fs::read_to_string(Path::new(ROOT).join("docs/SECURITY.md")).expect("it is there");
    let code = document.split('`').skip(1).step_by(2);
    let is_test = |word: &&str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        word.bytes().all(plain) && word.matches('_').count() > 1
    };
    code.filter(is_test).map(str::to_string).collect()
}

/// The ids that a test's name begins with.
fn ids(name: &str) -> Vec<(String, usize)> {
    let words: Vec<_> = name.split('_').collect();
    let pairs = words.chunks(2).map_while(|pair| match pair {
        [kind @ ("f" | "s"), number] if number.len() == 2 => {
            Some((kind.to_string(), number.parse().ok()?))
        }
        _ => None,
    });
    pairs.collect()
}

#[test]
fn the_document_names_tests_that_exist() {
    let tests = tests(&SOURCES);
    let missing: Vec<_> = mentioned().into_iter().filter(|name| !tests.contains(name)).collect();
    assert!(missing.is_empty(), "docs/SECURITY.md names tests that are none: {missing:#?}");
}

#[test]
fn every_attack_is_tested_and_in_the_document() {
    let mentioned = mentioned();
    let of_the_list = |name: &String| !ids(name).is_empty();
    let tests: BTreeSet<_> = tests(&SOURCES).into_iter().filter(of_the_list).collect();
    let untold: Vec<_> = tests.difference(&mentioned).collect();
    assert!(untold.is_empty(), "not in docs/SECURITY.md: {untold:#?}");
    let tested: BTreeSet<_> = tests.iter().flat_map(|name| ids(name)).collect();
    let list = ATTACKS.iter().flat_map(|(kind, last)| (1..=*last).map(|n| (kind.to_string(), n)));
    let untested: Vec<_> = list.filter(|id| !tested.contains(id)).collect();
    assert!(untested.is_empty(), "no test of {untested:?}");
}

/// S-19 (XSA-505): event channels are closed one by one, and never all at once while any is
/// in use.
#[test]
fn s_19_no_event_channel_is_reset() {
    let calls = sources_of(&["kernel/xen/src", "kernel/src", "drivers/src", "boot/src"]);
    let bindings = |source: &&String| source.contains("pub const EVTCHNOP_");
    let resets =
        calls.iter().filter(|source| !bindings(source)).any(|it| it.contains("EVTCHNOP_reset"));
    assert!(!resets && calls.iter().any(|source| source.contains("EVTCHNOP_close")));
}

/// The rows of the README's table of features: the feature, and what tests it.
fn features() -> Vec<(String, String)> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("it is there");
    let table = readme.split_once("| feature |").expect("a table of features").1;
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[1].to_string(), cells[4].to_string())).collect()
}

#[test]
fn every_feature_is_tested() {
    let tests = tests(&SOURCES);
    let lab = sources_of(&["tests/lab/src/scenarios/mod.rs"]).concat();
    let features = features();
    assert!(features.len() > 20, "{features:?}");
    for (feature, by) in features {
        let names: Vec<_> = by.split(", ").collect();
        assert!(!names.is_empty(), "{feature}");
        for name in names {
            let (in_lab, name) = match name.strip_prefix("lab ") {
                Some(name) => (true, name.trim_matches('`')),
                None => (false, name.trim_matches('`')),
            };
            let known = match in_lab {
                true => lab.contains(&format!("scenario(\"{name}\"")),
                false => tests.contains(name),
            };
            assert!(known, "{feature}: {name} is no test");
        }
    }
}
