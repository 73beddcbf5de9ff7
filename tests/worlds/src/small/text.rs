//! States told apart by their text.

use std::fmt;
use std::hash::Hasher;

/// Hashes the text of a value, but for the fields that decide nothing.
pub(super) struct TextHasher<'a, H> {
    hasher: &'a mut H,
    /// How deep in a field that is left out, once it has begun.
    left_out: Option<usize>,
}

/// What is counted is only shown. Which way pages reach a device is forced, so what it
/// would cost does not matter.
const LEFT_OUT: [&str; 2] = ["counters", "choice"];

impl<'a, H: Hasher> TextHasher<'a, H> {
    pub(super) fn new(hasher: &'a mut H) -> Self {
        Self { hasher, left_out: None }
    }
}

impl<H: Hasher> fmt::Write for TextHasher<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(depth) = &mut self.left_out else {
            // A field's name comes by itself.
            match LEFT_OUT.contains(&text) {
                true => self.left_out = Some(0),
                false => self.hasher.write(text.as_bytes()),
            }
            return Ok(());
        };
        for byte in text.bytes() {
            match byte {
                b'{' => *depth += 1,
                b'}' if *depth == 1 => {
                    self.left_out = None;
                    break;
                }
                b'}' => *depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::hash::DefaultHasher;

    use super::*;

    #[derive(Clone, Copy, Default, Debug)]
    #[expect(dead_code, reason = "only shown")]
    struct Counted {
        some: u32,
        nested: Inner,
    }

    #[derive(Clone, Copy, Default, Debug)]
    #[expect(dead_code, reason = "only shown")]
    struct Inner {
        free: [u32; 2],
    }

    #[derive(Clone, Copy, Default, Debug)]
    #[expect(dead_code, reason = "only shown")]
    struct State {
        before: u32,
        counters: Counted,
        after: Inner,
    }

    fn hash(state: State) -> u64 {
        let mut hasher = DefaultHasher::new();
        write!(TextHasher::new(&mut hasher), "{state:?}").expect("it takes all");
        hasher.finish()
    }

    #[test]
    fn counters_are_left_out_and_nothing_else() {
        let same = State::default();
        let counted = Counted { some: 7, nested: Inner { free: [1, 2] } };
        assert_eq!(hash(same), hash(State { counters: counted, ..same }));
        assert_ne!(hash(same), hash(State { before: 1, ..same }));
        assert_ne!(hash(same), hash(State { after: Inner { free: [0, 1] }, ..same }));
    }
}
