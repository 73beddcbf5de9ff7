//! The agent's side of the protocol: runs commands, streams what they print.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::protocol::{Exit, Frame, Kind, MAX_PAYLOAD, parse_run_request};

/// How long output may trail behind the end of its command. A daemon started in
/// the background keeps the pipes open for ever; its output is not waited for.
const OUTPUT_TRAILS: Duration = Duration::from_secs(1);

/// Commands that run, by the harness's id.
type Running = Arc<Mutex<HashMap<u32, Process>>>;

struct Process {
    stdin: Option<Sender<Vec<u8>>>,
    group: Pid,
}

/// Where frames go; several commands write.
type Output = Arc<Mutex<Box<dyn Write + Send>>>;

/// Executes commands that arrive on `port` until it is closed.
pub fn serve(port: &str) -> io::Result<()> {
    let from = OpenOptions::new().read(true).write(true).open(port)?;
    let to = from.try_clone()?;
    serve_on(from, to)
}

/// Executes commands that arrive on a stream until it ends.
pub fn serve_on(mut from: impl Read, to: impl Write + Send + 'static) -> io::Result<()> {
    let to: Output = Arc::new(Mutex::new(Box::new(to)));
    let running = Running::default();
    while let Some(frame) = Frame::read(&mut from)? {
        match frame.kind {
            Kind::Hello => send(&to, Kind::Hello, frame.id, &frame.payload),
            Kind::Run => {
                if start(&to, &running, &frame).is_err() {
                    send(&to, Kind::Exit, frame.id, &Exit::NotStarted.to_bytes());
                }
            }
            Kind::Stdin => {
                if let Some(process) = running.lock().unwrap().get_mut(&frame.id) {
                    if frame.payload.is_empty() {
                        process.stdin = None;
                    } else if let Some(stdin) = &process.stdin {
                        // A command that no longer reads has no use for it.
                        let _ = stdin.send(frame.payload);
                    }
                }
            }
            Kind::Kill => {
                if let Some(process) = running.lock().unwrap().get(&frame.id) {
                    kill(process.group);
                }
            }
            Kind::Stdout | Kind::Stderr | Kind::Exit => {}
        }
    }
    Ok(())
}

/// Joins `port` to standard input and output, until either side is closed.
pub fn relay(port: &str) -> io::Result<()> {
    let mut port_out = OpenOptions::new().read(true).write(true).open(port)?;
    let mut port_in = port_out.try_clone()?;
    thread::spawn(move || {
        let _ = copy_unbuffered(&mut io::stdin(), &mut port_out);
        // The other direction would wait for a silent guest for ever.
        std::process::exit(0);
    });
    copy_unbuffered(&mut port_in, &mut io::stdout())
}

/// Like `io::copy`, but passes on at once what it has.
fn copy_unbuffered(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; MAX_PAYLOAD];
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n])?;
        to.flush()?;
    }
}

/// A port that fails has no reader left to be told; the reading side ends then.
fn send(to: &Output, kind: Kind, id: u32, payload: &[u8]) {
    let _ = Frame::new(kind, id, payload).write(&mut *to.lock().unwrap());
}

fn kill(group: Pid) {
    // The group may be gone already.
    let _ = kill_process_group(group, Signal::KILL);
}

fn start(to: &Output, running: &Running, frame: &Frame) -> io::Result<()> {
    let (seconds, command) =
        parse_run_request(&frame.payload).ok_or(io::ErrorKind::InvalidInput)?;
    let id = frame.id;
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = Pid::from_child(&child);
    let stdin = child.stdin.take().expect("stdin is piped");
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");

    let process = Process { stdin: Some(feed(stdin)), group };
    running.lock().unwrap().insert(id, process);
    let (drained, wait_drained) = mpsc::channel();
    pump(to.clone(), Kind::Stdout, id, stdout, drained.clone());
    pump(to.clone(), Kind::Stderr, id, stderr, drained);

    let (to, running) = (to.clone(), running.clone());
    thread::spawn(move || {
        let exit = wait(&mut child, group, Duration::from_secs(seconds.into()));
        // Both pumps drop their sender at the end of their pipe.
        let _ = wait_drained.recv_timeout(OUTPUT_TRAILS);
        running.lock().unwrap().remove(&id);
        send(&to, Kind::Exit, id, &exit.to_bytes());
    });
    Ok(())
}

/// Waits for the child, and kills its group when the time is up.
fn wait(child: &mut Child, group: Pid, limit: Duration) -> Exit {
    let (ended, wait_ended) = mpsc::channel::<()>();
    let timer = thread::spawn(move || {
        let timed_out = wait_ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if timed_out {
            kill(group);
        }
        timed_out
    });
    let status = child.wait();
    drop(ended);
    let timed_out = timer.join().expect("the timer does not panic");
    match status {
        _ if timed_out => Exit::TimedOut,
        Ok(status) => exit_of(status),
        Err(_) => Exit::NotStarted,
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or_default()),
    }
}

/// A thread that writes to the command, so that one which does not read holds up
/// nobody else. Dropping the sender closes the command's standard input.
fn feed(mut stdin: ChildStdin) -> Sender<Vec<u8>> {
    let (sender, bytes) = mpsc::channel::<Vec<u8>>();
    thread::spawn(move || bytes.into_iter().try_for_each(|bytes| stdin.write_all(&bytes)));
    sender
}

/// A thread that passes on what the command prints; drops `drained` at its end.
fn pump(
    to: Output,
    kind: Kind,
    id: u32,
    mut pipe: impl Read + Send + 'static,
    drained: Sender<()>,
) {
    thread::spawn(move || {
        let mut buffer = [0; MAX_PAYLOAD];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            send(&to, kind, id, &buffer[..n]);
        }
        drop(drained);
    });
}
