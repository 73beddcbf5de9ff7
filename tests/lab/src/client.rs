//! The harness's side of the protocol: runs commands where an agent serves.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::agent::protocol::{Exit, Frame, Kind, MAX_PAYLOAD, run_request};
use crate::log::Log;

/// How much longer than the agent the harness waits for the end of a command:
/// the answer itself takes its time on a slow machine.
const GRACE: Duration = Duration::from_secs(10);

/// How often a greeting is repeated until the other end answers.
const GREETING_INTERVAL: Duration = Duration::from_millis(500);

/// A place where commands can be run. Clones share the connection.
#[derive(Clone)]
pub struct Agent {
    name: Arc<str>,
    connection: Arc<Connection>,
    transcript: Log,
}

struct Connection {
    writer: Mutex<Box<dyn Write + Send>>,
    next: AtomicU32,
    /// Who waits for frames of which id; `None` once the stream has ended.
    waiting: Mutex<Option<HashMap<u32, Sender<Frame>>>>,
}

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A command that runs. Dropping it kills the command.
pub struct Running {
    agent: Agent,
    command: String,
    id: u32,
    frames: Receiver<Frame>,
    /// Standard output that nobody has asked for yet.
    unread: Vec<u8>,
    until: Instant,
    ended: bool,
}

impl Agent {
    /// Connects to the agent at the other end of a stream, waiting at most
    /// `limit` until it answers. What is run and printed goes to `transcript`.
    pub fn connect(
        name: &str,
        mut reader: impl Read + Send + 'static,
        writer: impl Write + Send + 'static,
        transcript: Log,
        limit: Duration,
    ) -> Result<Agent> {
        let connection = Arc::new(Connection {
            writer: Mutex::new(Box::new(writer)),
            next: AtomicU32::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
        });
        let dispatcher = connection.clone();
        thread::spawn(move || {
            while let Ok(Some(frame)) = Frame::read(&mut reader) {
                dispatcher.dispatch(frame);
            }
            // Whoever waits sees its sender dropped.
            *dispatcher.waiting.lock().unwrap() = None;
        });
        let agent = Agent { name: name.into(), connection, transcript };
        agent.greet(limit).with_context(|| format!("no agent answers in {name}"))?;
        Ok(agent)
    }

    fn greet(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        let (id, frames) = self.connection.register()?;
        while Instant::now() < until {
            self.connection.send(Frame::new(Kind::Hello, id, []))?;
            match frames.recv_timeout(GREETING_INTERVAL) {
                Ok(_) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the stream ended"),
            }
        }
        bail!("no answer in {limit:?}")
    }

    /// The name of the domain.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell command to its end; fails unless it exits with status 0.
    /// Returns its standard output without the last newline.
    pub fn run(&self, command: &str, seconds: u32) -> Result<String> {
        let output = self.output(command, seconds)?;
        if !output.exit.success() {
            let said = output.stdout + &output.stderr;
            bail!("{}: `{command}`: {:?}\n{}", self.name, output.exit, last_lines(&said));
        }
        Ok(output.stdout.trim_end_matches('\n').to_owned())
    }

    /// Runs a shell command to its end, however it ends.
    pub fn output(&self, command: &str, seconds: u32) -> Result<Output> {
        self.start(command, seconds)?.wait()
    }

    /// Starts a shell command that is killed after `seconds`.
    pub fn start(&self, command: &str, seconds: u32) -> Result<Running> {
        let (id, frames) = self.connection.register()?;
        self.note(&format!("# {command}"));
        self.connection.send(Frame::new(Kind::Run, id, run_request(seconds, command)))?;
        let until = Instant::now() + Duration::from_secs(seconds.into()) + GRACE;
        Ok(Running {
            agent: self.clone(),
            command: command.into(),
            id,
            frames,
            unread: Vec::new(),
            until,
            ended: false,
        })
    }

    fn note(&self, what: &str) {
        let time = self.transcript.age().as_secs_f32();
        self.transcript.append(format!("[{time:8.2}] {}{what}\n", self.name).as_bytes());
    }

    /// Writes a file.
    pub fn put(&self, path: &str, content: &[u8]) -> Result<()> {
        let running = self.start(&format!("cat > '{path}'"), 60)?;
        running.write(content)?;
        running.close_stdin()?;
        let output = running.wait()?;
        if !output.exit.success() {
            bail!("{}: writing {path}: {}", self.name, output.stderr);
        }
        Ok(())
    }
}

/// The end of what a command said; the transcript has all of it.
fn last_lines(text: &str) -> &str {
    const LINES: usize = 15;
    let start = text.trim_end().rmatch_indices('\n').nth(LINES - 1);
    start.map_or(text, |(at, _)| &text[at + 1..])
}

impl Connection {
    fn register(&self) -> Result<(u32, Receiver<Frame>)> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, frames) = mpsc::channel();
        let mut waiting = self.waiting.lock().unwrap();
        waiting.as_mut().ok_or_else(|| anyhow!("the connection has ended"))?.insert(id, sender);
        Ok((id, frames))
    }

    fn dispatch(&self, frame: Frame) {
        let mut waiting = self.waiting.lock().unwrap();
        let Some(waiting) = waiting.as_mut() else { return };
        let (id, last) = (frame.id, frame.kind == Kind::Exit);
        // Nobody waits for late output of a dropped command.
        let heard = waiting.get(&id).is_some_and(|sender| sender.send(frame).is_ok());
        if last || !heard {
            waiting.remove(&id);
        }
    }

    fn send(&self, frame: Frame) -> io::Result<()> {
        frame.write(&mut *self.writer.lock().unwrap())
    }
}

impl Running {
    /// Sends bytes to the command's standard input.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(MAX_PAYLOAD) {
            self.agent.connection.send(Frame::new(Kind::Stdin, self.id, chunk))?;
        }
        Ok(())
    }

    /// Ends the command's standard input.
    pub fn close_stdin(&self) -> Result<()> {
        Ok(self.agent.connection.send(Frame::new(Kind::Stdin, self.id, []))?)
    }

    /// Kills the command; [`Running::wait`] still tells how it ended.
    pub fn kill(&self) -> Result<()> {
        Ok(self.agent.connection.send(Frame::new(Kind::Kill, self.id, []))?)
    }

    /// Kills the command, and waits until it is gone with all that it had open.
    pub fn stop(self) -> Result<()> {
        self.kill()?;
        self.wait().map(drop)
    }

    /// Waits until it ends. Its output is what [`Running::wait_line`] left.
    pub fn wait(mut self) -> Result<Output> {
        let mut stderr = Vec::new();
        loop {
            let frame = self.next()?;
            match frame.kind {
                Kind::Stdout => self.unread.extend(frame.payload),
                Kind::Stderr => stderr.extend(frame.payload),
                Kind::Exit => {
                    let exit = Exit::from_bytes(&frame.payload).context("a malformed exit")?;
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    return Ok(Output { exit, stdout: text(&self.unread), stderr: text(&stderr) });
                }
                _ => {}
            }
        }
    }

    /// Waits until it prints a line with `word` on its standard output.
    pub fn wait_line(&mut self, word: &str) -> Result<String> {
        loop {
            while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if line.contains(word) {
                    return Ok(line.trim_end().to_owned());
                }
            }
            let frame = self.next()?;
            match frame.kind {
                Kind::Stdout => self.unread.extend(frame.payload),
                Kind::Exit => bail!("`{}` ended before it printed {word}", self.command),
                _ => {}
            }
        }
    }

    /// The next frame of this command, in time.
    fn next(&mut self) -> Result<Frame> {
        let left = self.until.saturating_duration_since(Instant::now());
        let frame = self.frames.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow!("no answer in time"),
            RecvTimeoutError::Disconnected => anyhow!("the connection ended"),
        });
        let frame = frame.with_context(|| format!("{}: `{}`", self.agent.name, self.command))?;
        match frame.kind {
            Kind::Stdout | Kind::Stderr => self.agent.transcript.append(&frame.payload),
            Kind::Exit => {
                self.ended = true;
                self.agent.note(&format!(" ended: {}", self.command));
            }
            _ => {}
        }
        Ok(frame)
    }

    /// Splits a command that carries a stream of bytes both ways, without end,
    /// into its reader and its writer.
    pub fn into_stream(mut self) -> (StreamReader, StreamWriter) {
        self.ended = true;
        let writer = StreamWriter { agent: self.agent.clone(), id: self.id };
        let (_, closed) = mpsc::channel();
        let frames = std::mem::replace(&mut self.frames, closed);
        (StreamReader { frames, left: io::Cursor::default() }, writer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            // It may be gone, or the whole machine.
            let _ = self.kill();
        }
    }
}

/// Reads a command's standard output.
pub struct StreamReader {
    frames: Receiver<Frame>,
    left: io::Cursor<Vec<u8>>,
}

/// Writes to a command's standard input. Dropping it kills the command.
pub struct StreamWriter {
    agent: Agent,
    id: u32,
}

impl StreamWriter {
    /// Ends the command's standard input.
    pub fn close(&mut self) -> io::Result<()> {
        self.agent.connection.send(Frame::new(Kind::Stdin, self.id, []))
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        // It may be gone, or the whole machine.
        let _ = self.agent.connection.send(Frame::new(Kind::Kill, self.id, []));
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.left.read(buffer)?;
            if n > 0 {
                return Ok(n);
            }
            match self.frames.recv() {
                Ok(Frame { kind: Kind::Stdout, payload, .. }) => {
                    self.left = io::Cursor::new(payload)
                }
                Ok(Frame { kind: Kind::Exit, .. }) | Err(_) => return Ok(0),
                Ok(_) => {}
            }
        }
    }
}

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        self.agent.connection.send(Frame::new(Kind::Stdin, self.id, chunk))?;
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::serve;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    /// An agent that serves in this process.
    fn agent(name: &str) -> Agent {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let to = theirs.try_clone().unwrap();
        thread::spawn(move || serve::serve_on(theirs, to));
        let path = std::env::temp_dir().join(format!("lab-client-{}-{name}", std::process::id()));
        let transcript = Log::create(&path).unwrap();
        let reader = ours.try_clone().unwrap();
        Agent::connect(name, reader, ours, transcript, Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn commands_run_and_tell_how_they_ended() {
        let agent = agent("run");
        assert_eq!(agent.run("echo one; echo two", 20).unwrap(), "one\ntwo");
        let output = agent.output("echo out; echo err >&2; exit 3", 20).unwrap();
        assert_eq!((output.exit, output.stdout.as_str()), (Exit::Code(3), "out\n"));
        assert_eq!(output.stderr, "err\n");
        let error = agent.run("echo why; false", 20).unwrap_err().to_string();
        assert!(error.contains("why") && error.contains("Code(1)"), "{error}");
    }

    #[test]
    fn a_command_is_killed_when_its_time_is_up_with_all_its_children() {
        let agent = agent("time");
        let output = agent.output("sleep 1000 & sleep 1000; echo never", 1).unwrap();
        assert_eq!((output.exit, output.stdout.as_str()), (Exit::TimedOut, ""));
    }

    #[test]
    fn input_reaches_a_command_and_a_daemon_does_not_hold_it_up() {
        let agent = agent("input");
        let big = vec![b'x'; 3 * MAX_PAYLOAD + 5];
        let running = agent.start("sleep 1000 & wc -c; kill $!", 20).unwrap();
        running.write(&big).unwrap();
        running.close_stdin().unwrap();
        assert_eq!(running.wait().unwrap().stdout.trim(), big.len().to_string());
        assert_eq!(agent.run("sleep 5 & echo started", 20).unwrap(), "started");
    }

    #[test]
    fn lines_are_waited_for_and_the_rest_is_kept() {
        let agent = agent("lines");
        let mut running = agent.start("echo a; echo ready; echo b; read x; echo $x", 20).unwrap();
        assert_eq!(running.wait_line("ready").unwrap(), "ready");
        running.write(b"c\n").unwrap();
        assert_eq!(running.wait().unwrap().stdout, "b\nc\n");
        assert!(agent.start("true", 20).unwrap().wait_line("never").is_err());
    }

    #[test]
    fn commands_run_side_by_side_and_die_when_dropped() {
        let agent = agent("side");
        let first = agent.start("read x; echo first $x", 20).unwrap();
        let dropped = agent.start("exec sleep 1000", 1000).unwrap();
        assert_eq!(agent.run("echo second", 20).unwrap(), "second");
        first.write(b"go\n").unwrap();
        assert_eq!(first.wait().unwrap().stdout, "first go\n");
        drop(dropped);
        assert_eq!(agent.run("echo still there", 20).unwrap(), "still there");
    }

    #[test]
    fn a_stream_through_a_command_carries_an_agent() {
        let agent = agent("outer");
        let stream = agent.start("exec cat", 20).unwrap();
        let (mut reader, mut writer) = stream.into_stream();
        writer.write_all(b"there and back").unwrap();
        let mut back = [0; 14];
        reader.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"there and back");
        writer.close().unwrap();
        assert_eq!(reader.read(&mut back).unwrap(), 0);
    }

    #[test]
    fn the_end_of_the_stream_ends_all_waits() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let agent = thread::spawn(move || {
            let transcript = Log::create(Path::new("/dev/null")).unwrap();
            let reader = ours.try_clone().unwrap();
            Agent::connect("gone", reader, ours, transcript, Duration::from_secs(20)).unwrap()
        });
        let hello = Frame::read(&mut theirs).unwrap().unwrap();
        hello.write(&mut theirs).unwrap();
        let agent = agent.join().unwrap();
        let running = agent.start("anything", 1000).unwrap();
        drop(theirs);
        assert!(running.wait().unwrap_err().to_string().contains("anything"));
        assert!(agent.run("more", 1000).is_err());
    }

    #[test]
    fn only_the_last_lines_are_told() {
        let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
        assert!(last_lines(&text).starts_with("line 25\n"));
        assert_eq!(last_lines("a\nb\n"), "a\nb\n");
    }
}
