//! What each task asks of the store.

use alloc::format;
use alloc::string::{String, ToString};

use xen::store::{Busy, RequestId, Store, Transaction};

use super::{Context, Task, Vif, Watch, dir, token};
use crate::netback::Carrier;
use crate::netback::keys::{
    CONFIG_KEYS, FEATURES, FRONTEND_KEYS, LOOK_KEYS, OPTION_KEYS, queue_keys,
};
use crate::netback::state::Ours;

impl Vif {
    /// Makes the task's request; without one, goes on to the next task.
    pub(super) fn ask(
        &mut self,
        store: &mut Store,
        context: &Context<'_>,
    ) -> Result<Option<RequestId>, Busy> {
        if store.room() == 0 {
            return Err(Busy);
        }
        let dir = self.dir();
        let in_dir = |key: &&str| format!("{dir}/{key}");
        let id = match self.task {
            Task::Meet => store.directory(&dir)?,
            Task::Configure => store.read_many(CONFIG_KEYS.iter().map(in_dir).collect())?,
            Task::Watch => store.watch(&self.watched(), &token(self.id))?,
            Task::Look => {
                self.marked = false;
                let ours = LOOK_KEYS.iter().map(in_dir);
                let theirs = self.frontend_key("state");
                let options = OPTION_KEYS.iter().filter(|_| self.connected);
                let options = options.map(|key| self.frontend_key(key));
                store.read_many(ours.chain([theirs]).chain(options).collect())?
            }
            Task::SetMtu => match self.config.as_ref().and_then(|config| config.mtu) {
                Some(mtu) => store.write(&self.frontend_key("mtu"), mtu.to_string().as_bytes())?,
                None => {
                    self.task = Task::Publish(Ours::InitWait);
                    return Ok(None);
                }
            },
            Task::ReadRings => {
                let keys = FRONTEND_KEYS.iter().map(|key| self.frontend_key(key));
                store.read_many(keys.collect())?
            }
            Task::ReadQueues(queues) => {
                let keys = queue_keys(queues).iter().map(|key| self.frontend_key(key));
                store.read_many(keys.collect())?
            }
            Task::Publish(to) => store.transaction(self.publication(to))?,
            Task::Report => {
                let id = store.transaction(self.report())?;
                self.carrier_changed = false;
                id
            }
            Task::Remove => store.transaction(
                Transaction::new()
                    .expect(&in_dir(&"state"), b"6")
                    .expect(&in_dir(&"online"), b"0")
                    .remove(&dir),
            )?,
            Task::Clean { .. } if self.has_error_node => {
                store.remove(context.error_root.ok_or(Busy)?)?
            }
            Task::Clean { keep } => {
                self.task = if keep { Task::Rest } else { Task::Unwatch };
                return Ok(None);
            }
            Task::Unwatch if self.watch == Watch::Set => {
                store.unwatch(&self.watched(), &token(self.id))?
            }
            Task::Unwatch | Task::Rest | Task::Disconnect { .. } | Task::Gone => {
                self.task = Task::Gone;
                return Ok(None);
            }
        };
        Ok(Some(id))
    }

    /// What publishing a state takes, all or nothing.
    fn publication(&mut self, to: Ours) -> Transaction {
        let key = |name: &str| format!("{}/{name}", self.dir());
        let mut transaction = Transaction::new().expect(&key("state"), &self.seen);
        match to {
            Ours::InitWait => {
                for (name, value) in FEATURES {
                    transaction = transaction.write(&key(name), value.as_bytes());
                }
            }
            Ours::Connected => {
                transaction = transaction.write(&key("hotplug-status"), b"connected");
                if self.has_error_node {
                    transaction = transaction.remove(&key("hotplug-error"));
                }
            }
            Ours::Closing => {
                if let Some(error) = &self.error {
                    transaction = transaction
                        .write(&format!("{}/error", self.error_dir()), error.as_bytes())
                        .write(&key("hotplug-error"), error.as_bytes())
                        .write(&key("hotplug-status"), b"error");
                } else if matches!(self.ours, Ours::Connected | Ours::Reconfigured) {
                    transaction = transaction.remove(&key("hotplug-status"));
                }
            }
            Ours::Initialising | Ours::Reconfigured | Ours::Closed => {}
        }
        let number = to.number().to_string();
        if self.seen != number.as_bytes() {
            transaction = transaction.write(&key("state"), number.as_bytes());
        }
        self.has_error_node |= to == Ours::Closing && self.error.is_some();
        transaction
    }

    /// What tells the guest of its carrier, and the toolstack why there is none: the
    /// vif stays as it is.
    fn report(&mut self) -> Transaction {
        let carrier = if self.carrier == Carrier::Up { b"1" } else { b"0" };
        let connected = if self.ours == Ours::Reconfigured { b"8" } else { b"4" };
        let transaction = Transaction::new()
            .expect(&format!("{}/state", self.dir()), connected)
            .write(&format!("{}/carrier", self.dir()), carrier);
        match &self.carrier {
            Carrier::Up | Carrier::Stalled => transaction,
            Carrier::Broken(fault) => {
                self.has_error_node = true;
                transaction.write(&format!("{}/error", self.error_dir()), fault.as_bytes())
            }
        }
    }

    fn dir(&self) -> String {
        dir(self.id)
    }

    fn error_dir(&self) -> String {
        format!("error/{}", self.dir())
    }

    /// What is watched of the frontend's: all of its directory.
    fn watched(&self) -> String {
        self.frontend_dir.clone().unwrap_or_else(|| self.frontend_key("state"))
    }

    /// A key of the frontend's. Without a directory of its own, one that is not there.
    fn frontend_key(&self, key: &str) -> String {
        match &self.frontend_dir {
            Some(dir) => format!("{dir}/{key}"),
            None => format!("{}/no-frontend", self.dir()),
        }
    }
}
