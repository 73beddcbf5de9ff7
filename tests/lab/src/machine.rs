//! One emulated machine with Xen on it.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::client::Agent;
use crate::log::Log;
use crate::setup::Parts;
use crate::wire_peer::Wire;

/// How long the agent in dom0 may take to answer.
const DOM0_STARTS: Duration = Duration::from_secs(120);

/// A processor that Xen can use HVM on without the host having any; the two
/// removed features are emulated in a way that Xen or its guests trip over.
const CPU: &str = "EPYC,+svm,+npt,-monitor,-rdtscp";

/// Remapping of DMA and interrupts, so that Xen passes a device to an HVM domain.
const IOMMU: &str = "intel-iommu,intremap=on,device-iotlb=off,caching-mode=off";

/// `no-sharept`: this IOMMU cannot walk this processor's nested page tables.
/// `eager-fpu`: lazily switched registers leak between domains in this emulator.
const XEN_LINE: &str = "com1=115200,8n1 console=com1 loglvl=all guest_loglvl=all \
    dom0_mem=1024M,max:1024M dom0_max_vcpus=1 dom0_vcpus_pin sched=credit \
    iommu=verbose,no-sharept spec-ctrl=no,eager-fpu xpti=no";

const DOM0_LINE: &str = "console=hvc0 quiet";

/// Where the NIC that is passed through is, in dom0's spelling.
pub const NIC_ADDRESS: &str = "00:05.0";

/// Its Ethernet address.
pub const NIC_MAC: &str = "52:54:00:ca:05:e3";

/// A model of NIC that QEMU emulates and a domain can be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nic {
    /// Intel 82574L.
    #[default]
    E1000e,
    /// Intel 82576.
    Igb,
}

impl Nic {
    fn device(self) -> &'static str {
        match self {
            Nic::E1000e => "e1000e",
            Nic::Igb => "igb",
        }
    }
}

/// The capture of the NIC's wire, in the run's directory, for people.
const WIRE_CAPTURE: &str = "wire.pcap";

/// How much of each frame is captured: headers, and enough to know the rest by.
const CAPTURED: usize = 256;

/// What a machine is made with.
pub struct Machine<'a> {
    /// The parts of the set-up.
    pub parts: &'a Parts,
    /// dom0's second disk, mounted at `/lab`.
    pub jobs_disk: &'a Path,
    /// The directory of the run: logs, sockets, captures.
    pub run: &'a Path,
    /// The NIC's model.
    pub nic: Nic,
    /// Whether its wire is captured.
    pub capture: bool,
}

/// A running machine. Dropping it ends the emulator.
pub struct Running {
    emulator: Emulator,
    /// Xen's and dom0's console.
    pub serial: Log,
    /// dom0.
    pub dom0: Agent,
}

impl Machine<'_> {
    /// Starts the machine and waits for the agent in dom0. Beside it returns the other
    /// ends of the NIC's wire.
    pub fn start(&self) -> Result<(Running, Wire)> {
        let serial = Log::create(&self.run.join("xen.log"))?;
        let transcript = Log::create(&self.run.join("commands.log"))?;
        let (ours, theirs) = UnixStream::pair()?;
        let (nic, nics_end) = UnixDatagram::pair()?;
        let (gateway, gateways_end) = UnixDatagram::pair()?;
        for end in [&nics_end, &gateways_end] {
            fcntl_setfd(end, FdFlags::empty())?;
        }
        let mut command = self.command(nics_end.as_raw_fd(), gateways_end.as_raw_fd());
        fs::write(self.run.join("qemu.cmd"), format!("{command:?}\n"))?;
        let mut emulator = command
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(File::create(self.run.join("qemu.err"))?)
            .spawn()
            .context("starting the emulator")?;
        let mut console = emulator.stdout.take().expect("stdout is piped");
        // Closes our copies of the emulator's ends of the sockets, so that its death
        // is seen on ours.
        drop((command, nics_end, gateways_end));

        let log = serial.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = console.read(&mut buffer) {
                log.append(&buffer[..n]);
            }
            log.end();
        });
        let emulator = Emulator::limited(emulator, &serial, DOM0_STARTS * 2);
        let dom0 = Agent::connect("dom0", ours.try_clone()?, ours, transcript, DOM0_STARTS)
            .with_context(|| fs::read_to_string(self.run.join("qemu.err")).unwrap_or_default())
            .context("the machine does not start")?;
        Ok((Running { emulator, serial, dom0 }, Wire { nic, gateway: Some(gateway) }))
    }

    fn command(&self, wire: RawFd, gateway: RawFd) -> Command {
        let parts = self.parts;
        // The emulator must not outlive the harness, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-machine", "q35,kernel-irqchip=off", "-accel", "tcg,thread=multi"]);
        command.args(["-cpu", CPU, "-smp", "2", "-m", "4096", "-device", IOMMU]);
        command.arg("-kernel").arg(&parts.xen).args(["-append", XEN_LINE]);
        command.arg("-initrd").arg(format!(
            "{} {DOM0_LINE} xen-pciback.hide=({NIC_ADDRESS}),{}",
            parts.kernel.display(),
            parts.dom0_initramfs.display()
        ));
        for (slot, disk) in [(3, parts.dom0_disk.as_path()), (4, self.jobs_disk)] {
            let file = disk.display();
            command.arg("-drive");
            command.arg(format!("id=d{slot},if=none,format=raw,snapshot=on,file={file}"));
            command.args(["-device", &format!("virtio-blk-pci,drive=d{slot},addr={slot}")]);
        }
        self.network(&mut command, wire, gateway);
        // The agent's port is the emulator's standard input, a socket.
        command.args(["-chardev", "socket,id=agent,fd=0", "-device", "virtio-serial-pci,addr=6"]);
        command.args(["-device", "virtserialport,chardev=agent,name=agent"]);
        command.args(["-chardev", "file,id=serial,path=/dev/stdout", "-serial", "chardev:serial"]);
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        command
    }

    /// The NIC's wire ends in a socket that the emulator inherits, and so does the
    /// user-mode network's, which answers but leads nowhere.
    fn network(&self, command: &mut Command, wire: RawFd, gateway: RawFd) {
        let socket = |id, fd| format!("dgram,id={id},local.type=fd,local.str={fd}");
        for netdev in [
            &socket("wire", wire),
            &socket("beyond", gateway),
            "user,id=user,ipv6=off,restrict=on",
            "hubport,id=to-user,hubid=0,netdev=user",
            "hubport,id=to-peer,hubid=0,netdev=beyond",
        ] {
            command.args(["-netdev", netdev]);
        }
        let nic = format!("{},netdev=wire,addr=5,mac={NIC_MAC}", self.nic.device());
        command.args(["-device", &nic]);
        if self.capture {
            let file = self.run.join(WIRE_CAPTURE);
            let dump = format!("filter-dump,id=capture,netdev=wire,maxlen={CAPTURED}");
            command.args(["-object", &format!("{dump},file={}", file.display())]);
        }
    }
}

impl Running {
    /// From now on the machine has this long to live.
    pub fn set_limit(&self, limit: Duration) {
        *self.emulator.until.lock().unwrap() = Instant::now() + limit;
    }
}

/// The emulator's process, which ends when its time is up, or when dropped.
struct Emulator {
    child: Arc<Mutex<Child>>,
    until: Arc<Mutex<Instant>>,
}

impl Emulator {
    fn limited(child: Child, serial: &Log, limit: Duration) -> Emulator {
        let emulator = Emulator {
            child: Arc::new(Mutex::new(child)),
            until: Arc::new(Mutex::new(Instant::now() + limit)),
        };
        let (child, until, serial) =
            (emulator.child.clone(), emulator.until.clone(), serial.clone());
        thread::spawn(move || {
            loop {
                let left = until.lock().unwrap().saturating_duration_since(Instant::now());
                if left.is_zero() {
                    eprintln!("lab: the machine's time is up");
                    let _ = child.lock().unwrap().kill();
                    return;
                }
                if serial.wait_end(left) {
                    return;
                }
            }
        });
        emulator
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap();
        // It may have ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}
