//! A network frontend of user space that does as it is told, on a guest's kernel that
//! leaves its vif alone: its rings, its keys, and how it comes and goes.
//! What it knows of its rings is in their pages, where anything can be written.

pub(in crate::agent) mod devices;
pub(in crate::agent) mod xenbus;

use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xen::netif::{
    ExtraFlags, RxFlags, RxRequest, RxResponse, Status, TxFlags, TxRequest, TxResponse, TxSlot,
};
use xen::ring::{FrontRing, RX_RING_SIZE, Word};
use xen::{PAGE_SIZE, SharedPage};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use devices::{Access, Events, Grants, Page};
use xenbus::Xenbus;

/// How long the backend may take for anything, on a slow and busy machine.
pub(in crate::agent) const PATIENCE: Duration = Duration::from_secs(30);

/// The frontend's directory.
pub(in crate::agent) const DIR: &str = "device/vif/0";

/// Slots of the rings of packets.
const SIZE: u32 = RX_RING_SIZE;

/// Pages offered to receive in, each again and again: what comes is a trickle, and a page is
/// dear to grant and map.
const OFFERS: u32 = 64;

/// Keys that only some frontends have, and the directories of queues that are several.
const OPTIONAL: [&str; 6] = [
    "queue-0",
    "queue-1",
    "ctrl-ring-ref",
    "event-channel-ctrl",
    "xdp-headroom",
    MULTICAST_CONTROL,
];

/// Set, it has the backend send multicast of the groups alone that the frontend names.
pub(in crate::agent) const MULTICAST_CONTROL: &str = "request-multicast-control";

/// Where the first slot is (ring.h).
const SLOTS: usize = 64;

/// An EtherType for experiments: who gets such a frame looks at it no further.
const ETHER_TYPE: [u8; 2] = [0x88, 0xB5];

/// A ring, and nothing that its page does not say.
pub(in crate::agent) struct Ring<Request, Response, const SIZE: u32 = RX_RING_SIZE> {
    pub(in crate::agent) page: Page,
    shared: SharedPage,
    ring: FrontRing<Request, Response, SIZE>,
}

impl<Request, Response, const SIZE: u32> Ring<Request, Response, SIZE>
where
    Request: FromBytes + IntoBytes + Immutable,
    Response: FromBytes + IntoBytes + Immutable,
{
    pub(in crate::agent) fn new(page: Page) -> Self {
        Ring { page, shared: page.shared(), ring: FrontRing::new(page.shared()) }
    }

    /// Up to where requests are shown.
    pub(in crate::agent) fn produced(&self) -> u32 {
        self.ring.word(Word::RequestProducer)
    }

    /// Up to where they are answered.
    pub(in crate::agent) fn answered(&self) -> u32 {
        self.ring.word(Word::ResponseProducer)
    }

    pub(in crate::agent) fn set(&self, word: Word, value: u32) {
        self.ring.set_word(word, value);
    }

    /// How many requests fit.
    pub(in crate::agent) fn room(&self) -> usize {
        SIZE.saturating_sub(self.produced().wrapping_sub(self.answered())) as usize
    }

    /// Shows requests, whether they fit or not. Says whether the backend asked to be
    /// notified.
    pub(in crate::agent) fn show(&self, requests: impl IntoIterator<Item = Request>) -> bool {
        let old = self.produced();
        let mut new = old;
        for request in requests {
            self.ring.write(new, &request);
            new = new.wrapping_add(1);
        }
        self.set(Word::RequestProducer, new);
        fence(Ordering::SeqCst);
        new.wrapping_sub(self.ring.word(Word::RequestEvent)) < new.wrapping_sub(old)
    }

    /// What stands in a slot, once it is answered.
    pub(in crate::agent) fn response(&self, index: u32) -> Response {
        let size = size_of::<Request>().max(size_of::<Response>());
        self.shared.read(SLOTS + (index % SIZE) as usize * size)
    }
}

/// The keys of a connection.
pub(in crate::agent) struct Keys(Vec<(String, Vec<u8>)>);

impl Keys {
    /// With another value of a key.
    pub(in crate::agent) fn with(mut self, key: &str, value: impl AsRef<[u8]>) -> Keys {
        self.0.retain(|(path, _)| *path != node(key));
        self.0.insert(0, (node(key), value.as_ref().to_vec()));
        self
    }

    /// Without a key.
    pub(in crate::agent) fn without(mut self, key: &str) -> Keys {
        self.0.retain(|(path, _)| *path != node(key));
        self
    }
}

/// A node of the frontend's.
pub(in crate::agent) fn node(key: &str) -> String {
    format!("{DIR}/{key}")
}

/// What came in one page: a packet, if it is not longer than an Ethernet's.
pub(in crate::agent) struct Received {
    /// Where in the page it begins.
    pub(in crate::agent) offset: u16,
    pub(in crate::agent) bytes: Vec<u8>,
}

/// The frontend.
pub(in crate::agent) struct Front {
    pub(in crate::agent) store: Xenbus,
    pub(in crate::agent) grants: Grants,
    pub(in crate::agent) events: Events,
    /// Its backend's domain.
    pub(in crate::agent) domain: u16,
    backend: String,
    /// The address it was given.
    pub(in crate::agent) own: [u8; 6],
    /// The address of an honest guest.
    pub(in crate::agent) victim: [u8; 6],
    pub(in crate::agent) tx: Ring<TxSlot, TxResponse>,
    pub(in crate::agent) rx: Ring<RxRequest, RxResponse>,
    pub(in crate::agent) port: u32,
    /// Those of further rings.
    pub(in crate::agent) further_ports: Vec<u32>,
    /// Where received frames may go.
    offers: Vec<Page>,
    /// Receive requests up to here were seen answered.
    received: u32,
    /// A frame to the victim.
    good: Page,
}

impl Front {
    /// Meets the backend, as after a restart.
    pub(in crate::agent) fn meet(victim: [u8; 6]) -> Result<Front> {
        let mut store = Xenbus::open()?;
        // What an earlier one wanted is not what this one does.
        let keys = store.list(DIR)?;
        let left = OPTIONAL.into_iter().filter(|key| keys.iter().any(|there| there == key));
        left.map(node).try_for_each(|path| store.remove(&path))?;
        let (grants, events) = (Grants::open()?, Events::open()?);
        let domain = store.read(&node("backend-id"))?.parse()?;
        let backend = store.read(&node("backend"))?;
        let own = mac(&store.read(&format!("{backend}/mac"))?)?;
        let page = |access| grants.page(domain, access).context("a page to grant");
        let (tx, rx) = (Ring::new(page(Access::Write)?), Ring::new(page(Access::Write)?));
        let good = page(Access::Read)?;
        good.shared().write_bytes(0, &frame(victim, own, 60));
        let offers = (0..OFFERS).map(|_| page(Access::Write)).collect::<Result<Vec<_>, _>>()?;
        let port = events.offer(domain)?;
        let mut front = Front {
            store,
            grants,
            events,
            domain,
            backend,
            own,
            victim,
            tx,
            rx,
            port,
            further_ports: Vec::new(),
            offers,
            received: 0,
            good,
        };
        front.start()?;
        Ok(front)
    }

    /// Starts, or starts again.
    pub(in crate::agent) fn start(&mut self) -> Result<()> {
        self.set_state("1")?;
        self.backend_is(&["2"]).map(drop)
    }

    /// Connects as an honest frontend does.
    pub(in crate::agent) fn connect(&mut self) -> Result<()> {
        self.connect_with(&self.keys())
    }

    /// Connects with these keys.
    pub(in crate::agent) fn connect_with(&mut self, keys: &Keys) -> Result<()> {
        self.publish(keys)?;
        self.backend_is(&["4"]).map(drop)
    }

    /// What an honest frontend says of itself.
    pub(in crate::agent) fn keys(&self) -> Keys {
        let numbers = [
            ("tx-ring-ref", self.tx.page.reference),
            ("rx-ring-ref", self.rx.page.reference),
            ("event-channel", self.port),
            ("multi-queue-num-queues", 1),
            ("request-rx-copy", 1),
            ("feature-rx-notify", 1),
            ("feature-sg", 1),
            ("feature-no-csum-offload", 0),
            ("feature-ipv6-csum-offload", 1),
        ];
        Keys(numbers.map(|(key, number)| (node(key), number.to_string().into_bytes())).into())
    }

    /// Writes the keys, and that they are there.
    pub(in crate::agent) fn publish(&mut self, keys: &Keys) -> Result<()> {
        let state = node("state");
        let nodes = keys.0.iter().map(|(path, value)| (path.as_str(), value.as_slice()));
        self.store.write_all(nodes.chain([(state.as_str(), b"4".as_slice())]))
    }

    pub(in crate::agent) fn set_state(&mut self, state: &str) -> Result<()> {
        self.store.write(&node("state"), state.as_bytes())
    }

    /// Waits until the backend's state is one of these.
    pub(in crate::agent) fn backend_is(&mut self, states: &[&str]) -> Result<String> {
        self.backend_says("state", states)
    }

    /// Waits until the backend's key has one of these values.
    pub(in crate::agent) fn backend_says(&mut self, key: &str, values: &[&str]) -> Result<String> {
        self.store
            .wait(&format!("{}/{key}", self.backend), PATIENCE, |value| values.contains(&value))
    }

    /// What the backend has in a key now.
    pub(in crate::agent) fn backend_key(&mut self, key: &str) -> Result<String> {
        self.store.read(&format!("{}/{key}", self.backend))
    }

    /// Closes from wherever it is.
    pub(in crate::agent) fn close(&mut self) -> Result<()> {
        self.set_state("5")?;
        self.backend_is(&["5", "6"])?;
        self.set_state("6")?;
        self.backend_is(&["6"]).map(drop)
    }

    /// Shows slots, and notifies whether that is wanted or not.
    pub(in crate::agent) fn show(&self, slots: &[TxSlot]) -> Result<()> {
        self.tx.show(slots.iter().copied());
        self.knock()
    }

    pub(in crate::agent) fn knock(&self) -> Result<()> {
        let mut ports = [self.port].into_iter().chain(self.further_ports.iter().copied());
        Ok(ports.try_for_each(|port| self.events.notify(port))?)
    }

    /// Waits until something is so.
    pub(in crate::agent) fn wait(&self, what: &str, done: impl Fn(&Front) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !done(self) {
            if Instant::now() > until {
                bail!("not in {PATIENCE:?}: {what}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits until all requests are answered.
    pub(in crate::agent) fn settle(&self) -> Result<()> {
        self.wait("all requests answered", |front| front.tx.answered() == front.tx.produced())
    }

    /// Shows slots that are all refused (P-15).
    pub(in crate::agent) fn refused(&self, slots: &[TxSlot]) -> Result<()> {
        self.answered(slots, |status| status == Status::Error as i16)
    }

    /// Shows slots whose answers are right.
    pub(in crate::agent) fn answered(
        &self,
        slots: &[TxSlot],
        right: impl Fn(i16) -> bool,
    ) -> Result<()> {
        let statuses = self.statuses(slots)?;
        match statuses.iter().all(|status| right(*status)) {
            true => Ok(()),
            false => bail!("the statuses are {statuses:?}"),
        }
    }

    /// Shows slots that are answered like this: extra info, where there is some, by NULL.
    pub(in crate::agent) fn answered_by(&self, slots: &[TxSlot], wanted: &[Status]) -> Result<()> {
        let statuses = self.statuses(slots)?;
        if !statuses.iter().copied().eq(wanted.iter().map(|status| *status as i16)) {
            bail!("the statuses are {statuses:?} where they should be {wanted:?}");
        }
        Ok(())
    }

    /// Shows slots and returns how they are answered.
    fn statuses(&self, slots: &[TxSlot]) -> Result<Vec<i16>> {
        self.settle()?;
        let first = self.tx.produced();
        self.show(slots)?;
        self.settle()?;
        let indices = (0..slots.len() as u32).map(|n| first.wrapping_add(n));
        Ok(indices.map(|index| self.tx.response(index).status).collect())
    }

    /// A slot with the frame to the victim.
    pub(in crate::agent) fn good(&self) -> TxSlot {
        TxRequest::new(self.good.reference, 0, TxFlags::empty(), 7, 60).into()
    }

    /// The reference of the page with the frame to the victim; the rest of it is zeros.
    pub(in crate::agent) fn page(&self) -> u32 {
        self.good.reference
    }

    /// Takes what came since this was called last, and offers all pages again.
    pub(in crate::agent) fn receive(&mut self) -> Result<Vec<Received>> {
        let answered = self.rx.answered();
        let mut received = Vec::new();
        // An index that is not the backend's says nothing.
        if self.rx.produced().wrapping_sub(answered) <= SIZE {
            received = self.taken(answered)?;
            self.received = answered;
        }
        let offered = self.rx.produced().wrapping_sub(self.received).min(OFFERS);
        let indices = (0..OFFERS - offered).map(|n| self.rx.produced().wrapping_add(n));
        let requests: Vec<_> = indices.map(|index| self.offer(index)).collect();
        if self.rx.show(requests) {
            self.knock()?;
        }
        Ok(received)
    }

    /// What is in the pages up to an index.
    fn taken(&self, end: u32) -> Result<Vec<Received>> {
        let mut is_extra = false;
        let mut received = Vec::new();
        for n in 0..end.wrapping_sub(self.received).min(SIZE) {
            let response = self.rx.response(self.received.wrapping_add(n));
            if is_extra {
                is_extra = response.extra().flags().contains(ExtraFlags::MORE);
                continue;
            }
            is_extra = response.flags().contains(RxFlags::EXTRA_INFO);
            let RxResponse { id, offset, status, .. } = response;
            let mut bytes = vec![0; status.max(0) as usize];
            let page = self.offers.get(usize::from(id)).with_context(|| format!("id {id}"))?;
            if usize::from(offset) + bytes.len() > PAGE_SIZE {
                bail!("a response beyond its page: {response:?}");
            }
            page.shared().read_bytes(offset.into(), &mut bytes);
            received.push(Received { offset, bytes });
        }
        Ok(received)
    }

    /// The request that an honest frontend has at an index.
    fn offer(&self, index: u32) -> RxRequest {
        let place = index % OFFERS;
        RxRequest { id: place as u16, pad: 0, gref: self.offers[place as usize].reference }
    }

    /// What is sent is taken.
    pub(in crate::agent) fn takes_what_is_sent(&self) -> Result<()> {
        self.answered(&[self.good()], |status| status == Status::Okay as i16)
    }

    /// The vif is served as an honest one is: it has its carrier, and what it sends is
    /// taken.
    pub(in crate::agent) fn served(&mut self) -> Result<()> {
        self.receive()?;
        self.knock()?;
        self.backend_says("carrier", &["1"])?;
        self.takes_what_is_sent()
    }
}

/// A frame of the shape that nobody answers.
pub(in crate::agent) fn frame(to: [u8; 6], from: [u8; 6], length: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &ETHER_TYPE].concat();
    frame.resize(length, 0);
    frame
}

/// Reads an Ethernet address.
pub(in crate::agent) fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().with_context(|| format!("not an address: {text}"))
}
