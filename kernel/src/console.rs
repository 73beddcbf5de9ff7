//! The domain's voice: log lines to the PV console, without ever waiting for it.

use alloc::boxed::Box;
use core::fmt::{self, Write};

use heapless::{Deque, String};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

use xen::console::Console;
use xen::event::EventPort;
use xen::hypercall::{self, Xen};
use xen::{Hypervisor, Instant};

/// Bytes kept for a console that is slow to read.
const BACKLOG: usize = 16 << 10;
/// The longest line; longer ones are cut.
const LINE: usize = 512;

struct Sink {
    xen: Xen,
    /// What the times of log lines count from.
    started: Instant,
    console: Console,
    port: EventPort,
    /// On the heap, so that the image has no place for it.
    backlog: Box<Deque<u8, BACKLOG>>,
    /// Bytes that found the backlog full.
    lost: u64,
}

static SINK: Mutex<Option<Sink>> = Mutex::new(None);
static LOGGER: Logger = Logger;

/// Sends log lines to `console` from now on, each with the time since `started`. Allocates.
pub fn start(xen: Xen, started: Instant, console: Console, port: EventPort) {
    *SINK.lock() = Some(Sink { xen, started, console, port, backlog: Box::default(), lost: 0 });
    // Fails only if a logger was set before, and there is but this one.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
}

/// Moves on what the console had no room for. To be called on its events.
pub fn flush() {
    if let Some(sink) = SINK.lock().as_mut() {
        sink.flush();
    }
}

/// Writes text as it is, a log line's time and name left out.
pub fn print(text: fmt::Arguments<'_>) {
    if let Some(sink) = SINK.lock().as_mut() {
        // The backlog takes what it has room for, and counts the rest.
        let _ = sink.write_fmt(text);
        sink.flush();
    }
}

/// Reads what was typed.
pub fn read(into: &mut [u8]) -> usize {
    match SINK.lock().as_mut() {
        Some(sink) => {
            let len = sink.console.read(into);
            if len > 0 {
                sink.xen.notify(sink.port);
            }
            len
        }
        None => 0,
    }
}

/// Says the last words, to the console as far as it takes them and to the
/// hypervisor's log. Takes no lock that its caller could hold.
pub fn last_words(words: fmt::Arguments<'_>) {
    let mut line = Line::default();
    let _ = write!(line, "causeway: {words}");
    let line = line.end();
    hypercall::log_write(line.as_bytes());
    if let Some(mut sink) = SINK.try_lock()
        && let Some(sink) = sink.as_mut()
    {
        sink.push(line.as_bytes());
        sink.flush();
    }
}

impl Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

impl Sink {
    fn push(&mut self, text: &[u8]) {
        for &byte in text {
            if self.backlog.push_back(byte).is_err() {
                self.lost += 1;
            }
        }
    }

    fn flush(&mut self) {
        let mut written = 0;
        loop {
            let (front, _) = self.backlog.as_slices();
            let count = self.console.write(front);
            if count == 0 {
                break;
            }
            written += count;
            for _ in 0..count {
                self.backlog.pop_front();
            }
        }
        if written > 0 {
            self.xen.notify(self.port);
        }
        if self.lost > 0 && self.backlog.is_empty() {
            let mut line = Line::default();
            let _ = write!(line, "causeway: {} bytes of log were lost", self.lost);
            self.lost = 0;
            self.push(line.end().as_bytes());
        }
    }
}

/// A line that is being written. What does not fit is cut.
#[derive(Default)]
struct Line(String<LINE>);

impl Line {
    fn end(mut self) -> String<LINE> {
        if self.0.len() == LINE {
            self.0.pop();
        }
        let _ = self.0.push('\n');
        self.0
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The first that does not fit is the end of the line.
        text.chars().try_for_each(|character| self.0.push(character)).map_err(|_| fmt::Error)
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut sink = SINK.lock();
        let Some(sink) = sink.as_mut() else { return };
        let mut line = Line::default();
        let level = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug | Level::Trace => "debug: ",
        };
        let time = sink.xen.now().since(sink.started);
        let (seconds, micros) = (time.as_secs(), time.subsec_micros());
        let _ = write!(line, "causeway [{seconds}.{micros:06}] {level}{}", record.args());
        sink.push(line.end().as_bytes());
        sink.flush();
    }

    fn flush(&self) {
        flush();
    }
}
