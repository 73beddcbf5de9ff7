//! A frontend that does as it is told: its rings, its keys, and how it comes and goes.
//! What it knows of its rings is in their pages, where anything can be written.

use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xen::SharedPage;
use xen::netif::{RxRequest, RxResponse, Status, TxFlags, TxRequest, TxResponse, TxSlot};
use xen::ring::{FrontRing, RX_RING_SIZE, Word};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::devices::{Access, Events, Grant, Grants, Page};
use super::xenbus::Xenbus;

/// How long the backend may take for anything, on a slow and busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The frontend's directory.
pub(super) const DIR: &str = "device/vif/0";

/// Slots of either ring.
const SIZE: u32 = RX_RING_SIZE;

/// Where the first slot is (ring.h).
const SLOTS: usize = 64;

/// An EtherType for experiments: who gets such a frame looks at it no further.
const ETHER_TYPE: [u8; 2] = [0x88, 0xB5];

/// A ring, and nothing that its page does not say.
pub(super) struct Ring<Request, Response> {
    pub(super) page: Page,
    shared: SharedPage,
    ring: FrontRing<Request, Response, SIZE>,
}

impl<Request, Response> Ring<Request, Response>
where
    Request: FromBytes + IntoBytes + Immutable,
    Response: FromBytes + IntoBytes + Immutable,
{
    fn new(page: Page) -> Self {
        Ring { page, shared: page.shared(), ring: FrontRing::new(page.shared()) }
    }

    /// Up to where requests are shown.
    pub(super) fn produced(&self) -> u32 {
        self.ring.word(Word::RequestProducer)
    }

    /// Up to where they are answered.
    pub(super) fn answered(&self) -> u32 {
        self.ring.word(Word::ResponseProducer)
    }

    pub(super) fn set(&self, word: Word, value: u32) {
        self.ring.set_word(word, value);
    }

    /// How many requests fit.
    pub(super) fn room(&self) -> usize {
        SIZE.saturating_sub(self.produced().wrapping_sub(self.answered())) as usize
    }

    /// Shows requests, whether they fit or not. Says whether the backend asked to be
    /// notified.
    pub(super) fn show(&self, requests: impl IntoIterator<Item = Request>) -> bool {
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
    pub(super) fn response(&self, index: u32) -> Response {
        let size = size_of::<Request>().max(size_of::<Response>());
        self.shared.read(SLOTS + (index % SIZE) as usize * size)
    }
}

/// The keys of a connection.
pub(super) struct Keys(Vec<(String, Vec<u8>)>);

impl Keys {
    /// With another value of a key.
    pub(super) fn with(mut self, key: &str, value: impl AsRef<[u8]>) -> Keys {
        self.0.retain(|(path, _)| *path != node(key));
        self.0.insert(0, (node(key), value.as_ref().to_vec()));
        self
    }
}

/// A node of the frontend's.
pub(super) fn node(key: &str) -> String {
    format!("{DIR}/{key}")
}

/// The frontend.
pub(super) struct Front {
    pub(super) store: Xenbus,
    pub(super) grants: Grants,
    pub(super) events: Events,
    /// Its backend's domain.
    pub(super) domain: u16,
    backend: String,
    /// The address it was given.
    pub(super) own: [u8; 6],
    /// The address of an honest guest.
    pub(super) victim: [u8; 6],
    pub(super) tx: Ring<TxSlot, TxResponse>,
    pub(super) rx: Ring<RxRequest, RxResponse>,
    pub(super) port: u32,
    /// Where received frames may go.
    offers: Vec<Grant>,
    /// Receive requests up to here were seen answered.
    received: u32,
    /// A frame to the victim.
    good: Page,
}

impl Front {
    /// Meets the backend, as after a restart.
    pub(super) fn meet(victim: [u8; 6]) -> Result<Front> {
        let mut store = Xenbus::open()?;
        let (grants, events) = (Grants::open()?, Events::open()?);
        let domain = store.read(&node("backend-id"))?.parse()?;
        let backend = store.read(&node("backend"))?;
        let own = mac(&store.read(&format!("{backend}/mac"))?)?;
        let page = |access| grants.page(domain, access).context("a page to grant");
        let (tx, rx) = (Ring::new(page(Access::Write)?), Ring::new(page(Access::Write)?));
        let good = page(Access::Read)?;
        good.shared().write_bytes(0, &frame(victim, own, 60));
        let offers = (0..SIZE).map(|_| grants.grant(domain, Access::Write));
        let offers = offers.collect::<Result<Vec<_>, _>>().context("pages to offer")?;
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
            offers,
            received: 0,
            good,
        };
        front.start()?;
        Ok(front)
    }

    /// Starts, or starts again.
    pub(super) fn start(&mut self) -> Result<()> {
        self.set_state("1")?;
        self.backend_is(&["2"]).map(drop)
    }

    /// Connects as an honest frontend does.
    pub(super) fn connect(&mut self) -> Result<()> {
        self.publish(&self.keys())?;
        self.backend_is(&["4"]).map(drop)
    }

    /// What an honest frontend says of itself.
    pub(super) fn keys(&self) -> Keys {
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
    pub(super) fn publish(&mut self, keys: &Keys) -> Result<()> {
        let state = node("state");
        let nodes = keys.0.iter().map(|(path, value)| (path.as_str(), value.as_slice()));
        self.store.write_all(nodes.chain([(state.as_str(), b"4".as_slice())]))
    }

    pub(super) fn set_state(&mut self, state: &str) -> Result<()> {
        self.store.write(&node("state"), state.as_bytes())
    }

    /// Waits until the backend's state is one of these.
    pub(super) fn backend_is(&mut self, states: &[&str]) -> Result<String> {
        self.backend_says("state", states)
    }

    /// Waits until the backend's key has one of these values.
    pub(super) fn backend_says(&mut self, key: &str, values: &[&str]) -> Result<String> {
        self.store.wait(&format!("{}/{key}", self.backend), values, PATIENCE)
    }

    /// What the backend has in a key now.
    pub(super) fn backend_key(&mut self, key: &str) -> Result<String> {
        self.store.read(&format!("{}/{key}", self.backend))
    }

    /// Closes from wherever it is.
    pub(super) fn close(&mut self) -> Result<()> {
        self.set_state("5")?;
        self.backend_is(&["5", "6"])?;
        self.set_state("6")?;
        self.backend_is(&["6"]).map(drop)
    }

    /// Shows slots, and notifies whether that is wanted or not.
    pub(super) fn show(&self, slots: &[TxSlot]) -> Result<()> {
        self.tx.show(slots.iter().copied());
        self.knock()
    }

    pub(super) fn knock(&self) -> Result<()> {
        Ok(self.events.notify(self.port)?)
    }

    /// Waits until something is so.
    pub(super) fn wait(&self, what: &str, done: impl Fn(&Front) -> bool) -> Result<()> {
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
    pub(super) fn settle(&self) -> Result<()> {
        self.wait("all requests answered", |front| front.tx.answered() == front.tx.produced())
    }

    /// Shows slots that are all refused (P-15).
    pub(super) fn refused(&self, slots: &[TxSlot]) -> Result<()> {
        self.answered(slots, |status| status == Status::Error as i16)
    }

    /// Shows slots whose answers are right.
    pub(super) fn answered(&self, slots: &[TxSlot], right: impl Fn(i16) -> bool) -> Result<()> {
        self.settle()?;
        let first = self.tx.produced();
        self.show(slots)?;
        self.settle()?;
        let indices = (0..slots.len() as u32).map(|n| first.wrapping_add(n));
        let statuses: Vec<i16> = indices.map(|index| self.tx.response(index).status).collect();
        match statuses.iter().all(|status| right(*status)) {
            true => Ok(()),
            false => bail!("the statuses are {statuses:?}"),
        }
    }

    /// A slot with the frame to the victim.
    pub(super) fn good(&self) -> TxSlot {
        TxRequest::new(self.good.reference, 0, TxFlags::empty(), 7, 60).into()
    }

    /// The reference of the page with the frame to the victim; the rest of it is zeros.
    pub(super) fn page(&self) -> u32 {
        self.good.reference
    }

    /// Offers all pages that are not offered.
    pub(super) fn refill(&mut self) {
        let answered = self.rx.answered();
        // An index that is not the backend's says nothing.
        if self.rx.produced().wrapping_sub(answered) <= SIZE {
            self.received = answered;
        }
        let offered = self.rx.produced().wrapping_sub(self.received).min(SIZE);
        let indices = (0..SIZE - offered).map(|n| self.rx.produced().wrapping_add(n));
        let requests: Vec<_> = indices.map(|index| self.offer(index)).collect();
        self.rx.show(requests);
    }

    /// The request that an honest frontend has at an index.
    fn offer(&self, index: u32) -> RxRequest {
        let place = index % SIZE;
        RxRequest { id: place as u16, pad: 0, gref: self.offers[place as usize].reference }
    }

    /// What is sent is taken.
    pub(super) fn takes_what_is_sent(&self) -> Result<()> {
        self.answered(&[self.good()], |status| status == Status::Okay as i16)
    }

    /// The vif is served as an honest one is: it has its carrier, and what it sends is
    /// taken.
    pub(super) fn served(&mut self) -> Result<()> {
        self.refill();
        self.knock()?;
        self.backend_says("carrier", &["1"])?;
        self.takes_what_is_sent()
    }
}

/// A frame of the shape that nobody answers.
pub(super) fn frame(to: [u8; 6], from: [u8; 6], length: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &ETHER_TYPE].concat();
    frame.resize(length, 0);
    frame
}

/// Reads an Ethernet address.
pub(super) fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().with_context(|| format!("not an address: {text}"))
}
