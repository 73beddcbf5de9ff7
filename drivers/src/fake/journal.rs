//! What is logged, by test.

use std::cell::RefCell;
use std::sync::Once;

pub use log::Level;

thread_local! {
    static LINES: RefCell<Vec<(Level, String)>> = const { RefCell::new(Vec::new()) };
}

struct Journal;

impl log::Log for Journal {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // A thread that ends logs no more.
        let _ = LINES.try_with(|lines| {
            lines.borrow_mut().push((record.level(), record.args().to_string()));
        });
    }

    fn flush(&self) {}
}

/// Begins to keep what this thread logs.
pub fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if log::set_logger(&Journal).is_ok() {
            log::set_max_level(log::LevelFilter::Info);
        }
    });
    LINES.with_borrow_mut(Vec::clear);
}

/// The lines of this test's log that are as severe as `level` and have `text` in
/// them.
pub fn journal(level: Level, text: &str) -> Vec<String> {
    LINES.with_borrow(|lines| {
        let wanted = lines.iter().filter(|(is, line)| *is <= level && line.contains(text));
        wanted.map(|(_, line)| line.clone()).collect()
    })
}
