//! How the harness talks to an agent, over any byte stream.
//!
//! A stream is a virtio-serial port (dom0) or a PV console carried by one
//! (guests), so bytes of somebody else may precede the first frame: every frame
//! starts with a magic, and a reader skips what comes before it. Many commands
//! run at once, each under an id of the harness's choosing.

use std::io::{self, Read, Write};

/// First bytes of every frame.
const MAGIC: [u8; 4] = [0xCA, 0x05, 0xE3, 0xA1];

/// Magic, kind, id, length.
const HEADER: usize = 4 + 1 + 4 + 4;

/// The most a frame carries: a corrupt length must not reserve memory.
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// What a frame is about; the payload follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Either way: the harness sends a nonce, the agent returns it.
    Hello = 1,
    /// Harness: run the payload as a shell command; see [`run_request`].
    Run = 2,
    /// Harness: bytes for the command's standard input; none means its end.
    Stdin = 3,
    /// Harness: kill the command and all of its process group.
    Kill = 4,
    /// Agent: the command wrote to standard output.
    Stdout = 5,
    /// Agent: the command wrote to standard error.
    Stderr = 6,
    /// Agent: the command ended; the payload is an [`Exit`].
    Exit = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::*;
        [Hello, Run, Stdin, Kill, Stdout, Stderr, Exit].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is about.
    pub kind: Kind,
    /// Which command it belongs to.
    pub id: u32,
    /// Its content, at most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame of `kind` for command `id`.
    pub fn new(kind: Kind, id: u32, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { kind, id, payload: payload.into() }
    }

    /// Writes the frame with a single `write_all`, so that frames of several
    /// threads that share a locked writer never mix.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        assert!(self.payload.len() <= MAX_PAYLOAD, "a frame of {} bytes", self.payload.len());
        let mut bytes = Vec::with_capacity(HEADER + self.payload.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.push(self.kind as u8);
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads the next frame, skipping whatever is not one. `None` at the end of
    /// the stream.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
        loop {
            if !skip_to_magic(from)? {
                return Ok(None);
            }
            let mut rest = [0; HEADER - MAGIC.len()];
            from.read_exact(&mut rest)?;
            let [kind, i0, i1, i2, i3, l0, l1, l2, l3] = rest;
            let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            if let Some(kind) = Kind::from_byte(kind)
                && len <= MAX_PAYLOAD
            {
                let mut payload = vec![0; len];
                from.read_exact(&mut payload)?;
                let id = u32::from_le_bytes([i0, i1, i2, i3]);
                return Ok(Some(Frame { kind, id, payload }));
            }
        }
    }
}

/// Consumes up to and including the next magic; false at the end of the stream.
fn skip_to_magic(from: &mut impl Read) -> io::Result<bool> {
    let mut seen = [0; MAGIC.len()];
    let mut byte = [0];
    while seen != MAGIC {
        if from.read(&mut byte)? == 0 {
            return Ok(false);
        }
        seen.rotate_left(1);
        seen[MAGIC.len() - 1] = byte[0];
    }
    Ok(true)
}

/// The payload of [`Kind::Run`]: seconds until the command is killed, then the
/// command itself.
pub fn run_request(seconds: u32, command: &str) -> Vec<u8> {
    let mut payload = seconds.to_le_bytes().to_vec();
    payload.extend_from_slice(command.as_bytes());
    payload
}

/// The inverse of [`run_request`].
pub fn parse_run_request(payload: &[u8]) -> Option<(u32, &str)> {
    let (seconds, command) = payload.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*seconds), std::str::from_utf8(command).ok()?))
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It outlived its time limit and was killed.
    TimedOut,
    /// It could not be started.
    NotStarted,
}

impl Exit {
    /// The payload of [`Kind::Exit`].
    pub fn to_bytes(self) -> [u8; 5] {
        let (tag, value) = match self {
            Exit::Code(code) => (0, code),
            Exit::Signal(signal) => (1, signal),
            Exit::TimedOut => (2, 0),
            Exit::NotStarted => (3, 0),
        };
        let [a, b, c, d] = value.to_le_bytes();
        [tag, a, b, c, d]
    }

    /// The inverse of [`Exit::to_bytes`].
    pub fn from_bytes(payload: &[u8]) -> Option<Exit> {
        let (tag, value) = payload.split_first()?;
        let value = i32::from_le_bytes(value.try_into().ok()?);
        match tag {
            0 => Some(Exit::Code(value)),
            1 => Some(Exit::Signal(value)),
            2 => Some(Exit::TimedOut),
            3 => Some(Exit::NotStarted),
            _ => None,
        }
    }

    /// Whether it exited with status 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(frames: &[Frame]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes).unwrap());
        bytes
    }

    #[test]
    fn frames_survive_the_stream() {
        let frames = [
            Frame::new(Kind::Run, 7, run_request(30, "echo hi")),
            Frame::new(Kind::Stdin, 7, []),
            Frame::new(Kind::Exit, u32::MAX, Exit::Signal(9).to_bytes()),
        ];
        let bytes = bytes_of(&frames);
        let mut from = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut from).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
    }

    #[test]
    fn noise_before_and_between_frames_is_skipped() {
        let frame = Frame::new(Kind::Stdout, 1, *b"data");
        let mut bytes = b"[    1.0] kernel says\r\n\xCA\x05".to_vec();
        bytes.extend(bytes_of(std::slice::from_ref(&frame)));
        bytes.extend(b"login: ");
        bytes.extend(bytes_of(std::slice::from_ref(&frame)));
        let mut from = bytes.as_slice();
        assert_eq!(Frame::read(&mut from).unwrap().as_ref(), Some(&frame));
        assert_eq!(Frame::read(&mut from).unwrap().as_ref(), Some(&frame));
    }

    #[test]
    fn a_bad_kind_or_length_is_noise() {
        let good = Frame::new(Kind::Hello, 2, *b"n");
        for (at, value) in [(4, 99), (11, 0xFF)] {
            let mut bytes = bytes_of(&[Frame::new(Kind::Stdout, 1, *b"x")]);
            bytes[at] = value;
            bytes.extend(bytes_of(std::slice::from_ref(&good)));
            assert_eq!(Frame::read(&mut bytes.as_slice()).unwrap().as_ref(), Some(&good));
        }
    }

    #[test]
    fn a_cut_frame_is_an_error_not_an_end() {
        let bytes = bytes_of(&[Frame::new(Kind::Stdout, 1, *b"data")]);
        assert!(Frame::read(&mut &bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn payloads_parse_back() {
        assert_eq!(parse_run_request(&run_request(9, "a b")), Some((9, "a b")));
        assert_eq!(parse_run_request(b"abc"), None);
        for exit in [Exit::Code(-3), Exit::Signal(9), Exit::TimedOut, Exit::NotStarted] {
            assert_eq!(Exit::from_bytes(&exit.to_bytes()), Some(exit));
        }
        assert_eq!(Exit::from_bytes(&[9, 0, 0, 0, 0]), None);
    }
}
