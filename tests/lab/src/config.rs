//! xl configurations: those that users copy, from xen-config/, with what the lab
//! needs to differ. xl lets a later assignment override an earlier one, so that
//! is appended and the files themselves are what is tested.

use std::fs;

use anyhow::{Context, Result};

use crate::machine::NIC_ADDRESS;
use crate::places;

/// The name of Causeway's domain.
pub const DRIVER_DOMAIN: &str = "driver-domain";

/// How Causeway is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// As a PVH kernel: no NIC, a switch among guests.
    Pvh,
    /// As the firmware of an HVM domain, with the NIC.
    Firmware,
}

/// How a Linux driver domain is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virt {
    /// Paravirtual, with the NIC behind Xen's PCI frontend.
    Pv,
    /// Hardware-virtualised, as Causeway with a NIC is.
    Hvm,
}

/// How a stock Linux guest is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKind {
    /// Paravirtual: needs no hardware virtualisation, so the emulator is sound.
    Pv,
    /// The same, whose frontend asks for four queues, more than there are processors.
    PvFourQueues,
    /// Paravirtual with much memory. Linux' frontend loses its receive buffers, 1 MiB, with
    /// each vif that is detached, whatever the backend.
    PvLarge,
    /// Hardware-virtualised: not in a long test, see the emulator's failures.
    Pvh,
}

/// Causeway's configuration, alone on the second processor: there the emulator
/// does not mix its state with another domain's.
pub fn driver_domain(door: Door) -> Result<String> {
    match door {
        Door::Pvh => override_file(
            "driver-domain-pvh.cfg",
            &[("kernel", "'/lab/causeway'"), ("cpus", "'1'"), ("on_crash", "'preserve'")],
        ),
        Door::Firmware => override_file(
            "driver-domain.cfg",
            &[
                ("firmware", "'/lab/causeway'"),
                ("pci", &format!("['{NIC_ADDRESS}']")),
                ("cpus", "'1'"),
                ("on_crash", "'preserve'"),
            ],
        ),
    }
}

/// A Linux driver domain in Causeway's place, alone on the second processor as well.
pub fn linux_driver_domain(virt: Virt) -> Result<String> {
    let text = guest(DRIVER_DOMAIN, GuestKind::Pv, &[])?;
    let text = with_settings(
        text,
        &[
            ("ramdisk", "'/lab/driver-domain-initramfs'"),
            ("memory", "256"),
            ("cpus", "'1'"),
            ("pci", &format!("['{NIC_ADDRESS}']")),
            // As Causeway has it.
            ("tsc_mode", "'native'"),
            ("channel", "[]"),
        ],
    );
    Ok(match virt {
        Virt::Pv => text,
        Virt::Hvm => with_settings(
            text,
            &[
                ("type", "'hvm'"),
                ("kernel", "'/lab/vmlinuz'"),
                ("vga", "'none'"),
                ("nographic", "1"),
                ("vnc", "0"),
                ("usb", "0"),
                ("hpet", "0"),
            ],
        ),
    })
}

/// A stock guest in a driver domain's place that has the NIC for itself.
pub fn linux_with_nic() -> Result<String> {
    let text = guest(DRIVER_DOMAIN, GuestKind::Pv, &[])?;
    Ok(with_settings(
        text,
        &[("memory", "256"), ("cpus", "'1'"), ("pci", &format!("['{NIC_ADDRESS}']"))],
    ))
}

/// A stock guest's configuration, with its agent's console.
pub fn guest(name: &str, kind: GuestKind, vifs: &[&str]) -> Result<String> {
    let (kind, words, memory) = match kind {
        GuestKind::Pv => ("'pv'", "", "128"),
        GuestKind::PvFourQueues => ("'pv'", " xen_netfront.max_queues=4", "128"),
        GuestKind::PvLarge => ("'pv'", "", "512"),
        GuestKind::Pvh => ("'pvh'", "", "128"),
    };
    let vifs = vifs.iter().map(|vif| format!("'{vif}'")).collect::<Vec<_>>().join(", ");
    override_file(
        "guest.cfg",
        &[
            ("name", &format!("'{name}'")),
            ("type", kind),
            ("kernel", "'/lab/vmlinux'"),
            ("ramdisk", "'/lab/guest-initramfs'"),
            ("extra", &format!("'console=hvc0 quiet panic=1{words}'")),
            ("memory", memory),
            ("cpus", "'0'"),
            ("on_crash", "'destroy'"),
            ("channel", "['connection=pty,name=agent']"),
            ("vif", &format!("[{vifs}]")),
        ],
    )
}

fn override_file(name: &str, settings: &[(&str, &str)]) -> Result<String> {
    let path = places::checkout().join("xen-config").join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(with_settings(text, settings))
}

fn with_settings(mut text: String, settings: &[(&str, &str)]) -> String {
    text.push_str("\n# The lab's.\n");
    for (key, value) in settings {
        text.push_str(&format!("{key} = {value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_last() {
        let text = with_settings("name = 'x'\n".into(), &[("name", "'y'"), ("cpus", "'0'")]);
        assert!(text.ends_with("name = 'y'\ncpus = '0'\n"));
        assert!(text.starts_with("name = 'x'\n"));
    }

    #[test]
    fn the_configurations_that_users_copy_are_there() {
        for door in [Door::Pvh, Door::Firmware] {
            assert!(driver_domain(door).unwrap().contains("name = \"driver-domain\""));
        }
        assert!(guest("a", GuestKind::Pv, &["backend=driver-domain"]).unwrap().contains("vif = ["));
    }
}
