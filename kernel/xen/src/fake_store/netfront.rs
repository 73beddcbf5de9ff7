//! A guest's network driver, as far as the store sees it.

use super::{VifPaths, Xenstored};

/// A frontend: connects when the backend waits for it, closes when the backend
/// does. It acts with its own domain's rights.
pub struct Netfront {
    /// Its vif.
    pub vif: VifPaths,
    /// What it writes to its directory before it connects.
    pub keys: Vec<(String, String)>,
    /// Whether it answers the backend's closing.
    pub closes: bool,
}

impl Netfront {
    /// A guest that connects with one queue, as Linux does.
    pub fn new(vif: VifPaths) -> Self {
        let keys = [
            ("tx-ring-ref", "8"),
            ("rx-ring-ref", "9"),
            ("event-channel", "5"),
            ("request-rx-copy", "1"),
            ("feature-rx-notify", "1"),
            ("feature-sg", "1"),
            ("feature-gso-tcpv4", "1"),
            ("feature-gso-tcpv6", "1"),
            ("feature-ipv6-csum-offload", "1"),
        ];
        let keys = keys.map(|(name, value)| (name.to_string(), value.to_string())).to_vec();
        Self { vif, keys, closes: true }
    }

    /// Replaces or adds a key.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.keys.retain(|(known, _)| known != name);
        self.keys.push((name.to_string(), value.to_string()));
        self
    }

    /// Leaves a key away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.keys.retain(|(known, _)| known != name);
        self
    }

    /// Looks at the backend's state and answers it; returns whether it did.
    pub fn poll(&self, store: &mut Xenstored) -> bool {
        let back = format!("{}/state", self.vif.backend_dir());
        let theirs = store.act(self.vif.frontend).read(&back).unwrap_or_default();
        let ours = self.state(store);
        match (ours.as_deref(), theirs.as_str()) {
            (Some("1"), "2") => self.connect(store),
            // In 1 it waits for whatever was before to be over.
            (Some("2" | "3" | "4" | "5" | "7" | "8"), "5" | "6") if self.closes => {
                self.set_state(store, "6");
            }
            _ => return false,
        }
        true
    }

    /// Its own state.
    pub fn state(&self, store: &mut Xenstored) -> Option<String> {
        let path = format!("{}/state", self.vif.frontend_dir());
        store.act(self.vif.frontend).read(&path).ok()
    }

    /// Writes its keys and goes to Connected.
    pub fn connect(&self, store: &mut Xenstored) {
        let dir = self.vif.frontend_dir();
        for (name, value) in &self.keys {
            let _ = store.act(self.vif.frontend).write(&format!("{dir}/{name}"), value);
        }
        self.set_state(store, "4");
    }

    /// Writes its own state, unless its directory is gone.
    pub fn set_state(&self, store: &mut Xenstored, state: &str) {
        if self.state(store).is_some() {
            let path = format!("{}/state", self.vif.frontend_dir());
            let _ = store.act(self.vif.frontend).write(&path, state);
        }
    }

    /// As a guest that crashed and starts again on the same device.
    pub fn reboot(&self, store: &mut Xenstored) {
        self.set_state(store, "1");
    }
}
