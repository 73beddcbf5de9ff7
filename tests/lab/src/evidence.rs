//! What is kept of a run that failed, for a person to read.

use std::fs;

use crate::lab::Lab;

/// What dom0 is asked for, by the name of the file that keeps it.
const QUESTIONS: [(&str, &str); 7] = [
    ("counters.txt", COUNTERS),
    ("xl-list.txt", "xl list -l; xl list"),
    ("xl-dmesg.txt", "xl debug-keys g; xl debug-keys e; xl dmesg"),
    ("xenstore-ls.txt", "xenstore-ls -fp"),
    ("dom0-dmesg.txt", "dmesg"),
    ("dom0-processes.txt", "ps axfw; free -m"),
    ("toolstack.txt", "tail -n 200 /var/log/xen/*.log"),
];

/// Enter on Causeway's console asks it for its counters; they are in the console's
/// log once it has written them all.
const COUNTERS: &str = "log=/var/log/xen/console/guest-driver-domain.log; \
    echo > $(xenstore-read /local/domain/$(xl domid driver-domain)/console/tty) && \
    timeout 5 sh -c \"until tail -n 1 $log | grep -q heap; do sleep 0.1; done\"; tail -n 40 $log";

/// Asks dom0 for what is not yet in the run's directory, beside the consoles, the
/// capture of the wire and the commands that ran. Best effort: the machine may be
/// in any state.
pub fn collect(lab: &Lab) {
    for (file, question) in QUESTIONS {
        let answer = match lab.dom0().output(question, 30) {
            Ok(output) => output.stdout + &output.stderr,
            Err(error) => format!("not known: {error:#}\n"),
        };
        // There is nowhere else to write it.
        let _ = fs::write(lab.run_dir().join(file), answer);
    }
}
