//! What Xen's console tells.

/// The emulator's own failure: a hypervisor's saved state where a guest's should
/// be. Xen reports a triple fault of a guest whose code segment and instruction
/// pointer are Xen's. A guest that faults by itself shows its own.
pub fn is_emulator_failure(log: &str) -> bool {
    let lines: Vec<&str> = log.lines().collect();
    lines.iter().enumerate().any(|(at, line)| {
        let dump = &lines[at..lines.len().min(at + 8)];
        line.contains("Triple fault")
            && dump.iter().any(|line| line.contains("RIP:") && line.contains("e008:[<ffff82d0"))
            && dump.iter().any(|line| line.contains("CONTEXT: hvm guest"))
    })
}

/// Lines by which Xen reports that a device or a domain did what it must not, or
/// that Xen itself is at its end.
pub fn complaints(log: &str) -> Vec<&str> {
    let iommu_fault = |line: &str| line.contains("[VT-D]") && line.contains("] fault ");
    let fatal = |line: &str| {
        ["Xen BUG", "Assertion", "Panic on CPU"].iter().any(|sign| line.contains(sign))
    };
    log.lines().filter(|line| iommu_fault(line) || fatal(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYPERVISOR_STATE: &str = "\
(XEN) d4v0 Triple fault - invoking HVM shutdown action 1
(XEN) *** Dumping Dom4 vcpu#0 state: ***
(XEN) ----[ Xen-4.20.4-pre  x86_64  debug=n  Not tainted ]----
(XEN) CPU:    0
(XEN) RIP:    e008:[<ffff82d040301234>]
(XEN) RFLAGS: 0000000000010002   CONTEXT: hvm guest (d4v0)
";

    #[test]
    fn only_a_hypervisors_state_in_a_guest_is_the_emulators_failure() {
        assert!(is_emulator_failure(&format!("(XEN) before\n{HYPERVISOR_STATE}(XEN) after\n")));
        let own =
            HYPERVISOR_STATE.replace("e008:[<ffff82d040301234>]", "0008:[<0000000000201234>]");
        assert!(!is_emulator_failure(&own));
        let user = HYPERVISOR_STATE.replace("e008:", "0033:");
        assert!(!is_emulator_failure(&user));
        assert!(!is_emulator_failure("(XEN) RIP:    e008:[<ffff82d040301234>]\n"));
    }

    #[test]
    fn faults_of_the_iommu_are_complaints() {
        let fault = "(XEN) [VT-D]DMAR:[DMA Read] Request device [0000:00:05.0] fault addr 0";
        let set_up = "(XEN) [VT-D]iommu_enable_translation: iommu->reg = ffff82c000209000";
        assert_eq!(complaints(&format!("{set_up}\n{fault}\n")), [fault]);
    }
}
