//! libxl's part: what `xl network-attach`, `network-detach` and `destroy` do to the
//! store, with the waits and the order that libxl has (NETBACK-SPEC L-1 to L-5).

use core::time::Duration;

use super::actor::Steps;
use super::{Permissions, Xenstored, home};
use crate::{DomainId, Instant};

/// How long libxl waits for each step (`LIBXL_DESTROY_TIMEOUT`).
const PATIENCE: Duration = Duration::from_secs(10);

/// A vif, and where it is in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct VifPaths {
    /// The guest.
    pub frontend: DomainId,
    /// The driver domain.
    pub backend: DomainId,
    /// The device's number in the guest.
    pub devid: u32,
}

impl VifPaths {
    /// The driver domain's directory.
    pub fn backend_dir(&self) -> String {
        format!("{}/backend/vif/{}/{}", home(self.backend), self.frontend.0, self.devid)
    }

    /// The guest's directory.
    pub fn frontend_dir(&self) -> String {
        format!("{}/device/vif/{}", home(self.frontend), self.devid)
    }

    /// The toolstack's own copy.
    pub fn libxl_dir(&self) -> String {
        format!("/libxl/{}/device/vif/{}", self.frontend.0, self.devid)
    }
}

/// libxl's synchronous parts.
pub struct Toolstack;

impl Toolstack {
    /// Writes a new vif's directories in one transaction (L-1). `extra` replaces or
    /// adds keys in the driver domain's directory.
    ///
    /// # Errors
    /// `EEXIST` where `/libxl` still has the device.
    pub fn attach(
        store: &mut Xenstored,
        vif: &VifPaths,
        extra: &[(&str, &str)],
    ) -> Result<(), &'static str> {
        let (front, back, libxl) = (vif.frontend_dir(), vif.backend_dir(), vif.libxl_dir());
        let frontend_owns = Permissions::owned(vif.frontend).readable_by(vif.backend);
        let backend_owns = Permissions::owned(vif.backend).readable_by(vif.frontend);
        let mac = format!("00:16:3e:00:{:02x}:{:02x}", vif.frontend.0 & 0xff, vif.devid & 0xff);
        let (devid, domid) = (vif.devid.to_string(), vif.frontend.0.to_string());
        let backend_id = vif.backend.0.to_string();
        let mut keys = vec![
            ("frontend-id", domid.as_str()),
            ("online", "1"),
            ("state", "1"),
            ("script", "/etc/xen/scripts/vif-bridge"),
            ("mac", &mac),
            ("bridge", "xenbr0"),
            ("handle", &devid),
            ("type", "vif"),
            ("hotplug-status", ""),
        ];
        for (name, value) in extra {
            keys.retain(|(known, _)| known != name);
            keys.push((name, value));
        }
        let front_keys = [
            ("backend-id", backend_id.as_str()),
            ("state", "1"),
            ("handle", &devid),
            ("mac", &mac),
            ("trusted", "1"),
        ];
        store.act(DomainId::ZERO).transaction(|steps| {
            if steps.read(&libxl).is_ok() {
                return Err("EEXIST");
            }
            steps.write(&format!("{libxl}/frontend"), &front)?;
            steps.write(&format!("{libxl}/backend"), &back)?;
            steps.remove_if_there(&front)?;
            steps.make(&front, "", &frontend_owns)?;
            steps.write(&format!("{front}/backend"), &back)?;
            for (name, value) in front_keys {
                steps.make(&format!("{front}/{name}"), value, &frontend_owns)?;
            }
            steps.make(&format!("{front}/mtu"), "1500", &backend_owns)?;
            steps.remove_if_there(&back)?;
            steps.make(&back, "", &backend_owns)?;
            steps.write(&format!("{back}/frontend"), &front)?;
            for (name, value) in &keys {
                steps.write(&format!("{back}/{name}"), value)?;
            }
            Ok(())
        })
    }

    /// Whether the wait that ends an attach is over (L-2).
    pub fn attached(store: &mut Xenstored, vif: &VifPaths) -> bool {
        let state = format!("{}/state", vif.backend_dir());
        store.act(DomainId::ZERO).read(&state).as_deref() == Ok("2")
    }
}

/// How a detach failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DetachError {
    /// The directory was gone before libxl had read state 6 from it (`ERROR_INVAL`).
    Vanished,
    /// The backend did not close, or did not delete its directory, in time.
    TimedOut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    UntilClosed,
    UntilRemoved,
}

/// A removal under way: `network-detach` (L-3) or a destroy's share of it (L-4).
pub struct Detach {
    vif: VifPaths,
    forced: bool,
    phase: Phase,
    since: Instant,
    /// Whether it took force.
    pub escalated: bool,
}

impl Detach {
    /// As `xl network-detach` begins.
    pub fn start(store: &mut Xenstored, vif: VifPaths, now: Instant) -> Self {
        Self::begin(store, vif, false, now)
    }

    /// As `xl destroy` begins: the guest's directory goes at once.
    pub fn force(store: &mut Xenstored, vif: VifPaths, now: Instant) -> Self {
        Self::begin(store, vif, true, now)
    }

    fn begin(store: &mut Xenstored, vif: VifPaths, forced: bool, now: Instant) -> Self {
        let mut detach =
            Self { vif, forced, phase: Phase::UntilClosed, since: now, escalated: false };
        detach.request(store);
        detach
    }

    /// Goes on as far as the store lets it; the outcome once there is one.
    pub fn poll(&mut self, store: &mut Xenstored, now: Instant) -> Option<Result<(), DetachError>> {
        let expired = now.since(self.since) >= PATIENCE;
        let back = self.vif.backend_dir();
        if self.phase == Phase::UntilClosed {
            match store.act(DomainId::ZERO).read(&format!("{back}/state")).as_deref() {
                Err(_) => return Some(self.finish(store, Err(DetachError::Vanished))),
                Ok("6") => {
                    self.phase = Phase::UntilRemoved;
                    self.since = now;
                }
                Ok(_) if !expired => return None,
                Ok(_) if self.forced => {
                    return Some(self.finish(store, Err(DetachError::TimedOut)));
                }
                Ok(_) => {
                    self.forced = true;
                    self.escalated = true;
                    self.since = now;
                    self.request(store);
                    return None;
                }
            }
        }
        if store.act(DomainId::ZERO).read(&back).is_err() {
            return Some(self.finish(store, Ok(())));
        }
        expired.then(|| self.finish(store, Err(DetachError::TimedOut)))
    }

    fn request(&mut self, store: &mut Xenstored) {
        let (back, front) = (self.vif.backend_dir(), self.vif.frontend_dir());
        let forced = self.forced;
        let asked = store.act(DomainId::ZERO).transaction(|steps| {
            if forced {
                steps.clean_up(&front)?;
            }
            let state = steps.read(&format!("{back}/state"))?;
            steps.write(&format!("{back}/online"), "0")?;
            if state != b"6" {
                steps.write(&format!("{back}/state"), "5")?;
            }
            Ok(())
        });
        // Without a backend there is nothing to wait for.
        if asked.is_err() {
            self.phase = Phase::UntilRemoved;
        }
    }

    fn finish(
        &self,
        store: &mut Xenstored,
        outcome: Result<(), DetachError>,
    ) -> Result<(), DetachError> {
        if outcome.is_ok() || self.forced {
            let vif = self.vif;
            let _ = store.act(DomainId::ZERO).transaction(|steps| {
                steps.clean_up(&vif.frontend_dir())?;
                steps.clean_up(&vif.libxl_dir())?;
                steps.clean_up(&vif.backend_dir())
            });
        }
        outcome
    }
}

impl Steps<'_> {
    fn remove_if_there(&mut self, path: &str) -> Result<(), &'static str> {
        match self.remove(path) {
            Err("ENOENT") => Ok(()),
            other => other,
        }
    }

    /// Removes a node, then its parents as long as they are empty.
    fn clean_up(&mut self, path: &str) -> Result<(), &'static str> {
        if self.remove(path).is_err() {
            return Ok(());
        }
        let mut path = path;
        while let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty()) {
            path = above;
            let empty = self.read(path)?.is_empty() && self.directory(path)?.is_empty();
            if !empty {
                break;
            }
            self.remove(path)?;
        }
        Ok(())
    }
}
