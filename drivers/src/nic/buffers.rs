//! Where received frames go: memory that is handed to a receive queue, not the
//! driver's own.

use alloc::boxed::Box;

use kernel::Pools;
use kernel::memory::{Buffer, Size};
use kernel::packet::{Fragment, Linear, Packet};

/// Where a device may write a frame, or a piece of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// The address the device uses.
    pub address: u64,
    /// How many bytes.
    pub len: u16,
}

/// Gives a receive queue its buffers. A buffer goes into the ring and comes back
/// with a frame in it, or unused.
pub trait BufferProvider {
    /// The right to one buffer.
    type Buffer;

    /// A buffer, and where in it the device writes; `None` when there is none now.
    fn provide(&mut self, pools: &mut Pools) -> Option<(Self::Buffer, Window)>;

    /// Makes a packet of the first `len` bytes of a buffer's window, which the
    /// device has written. `None` when there is no packet left; the buffer is then
    /// back already.
    fn packet(&mut self, buffer: Self::Buffer, len: u16, pools: &mut Pools) -> Option<Box<Packet>>;

    /// Adds the first `len` bytes of a buffer's window to a packet. `None` when that has no
    /// room; both are then back already.
    fn append(
        &mut self,
        packet: Box<Packet>,
        buffer: Self::Buffer,
        len: u16,
        pools: &mut Pools,
    ) -> Option<Box<Packet>>;

    /// Takes an unused buffer back.
    fn give(&mut self, buffer: Self::Buffer, pools: &mut Pools);
}

/// Large buffers of the domain's own. A device writes to all of one, so that there is no
/// headroom before the frame.
#[derive(Clone, Copy, Default, Debug)]
pub struct PoolBuffers;

impl BufferProvider for PoolBuffers {
    type Buffer = Buffer;

    fn provide(&mut self, pools: &mut Pools) -> Option<(Buffer, Window)> {
        let buffer = pools.buffers.take(Size::Large)?;
        match pools.buffers.region(&buffer, 0..Size::Large.bytes()) {
            Some(region) => {
                let window = Window { address: region.dma_address(), len: region.len() };
                Some((buffer, window))
            }
            None => {
                pools.buffers.give(buffer);
                None
            }
        }
    }

    fn packet(&mut self, buffer: Buffer, len: u16, pools: &mut Pools) -> Option<Box<Packet>> {
        let Some(mut packet) = pools.take() else {
            pools.buffers.give(buffer);
            return None;
        };
        packet.linear = Some(Linear { buffer, offset: 0, len });
        Some(packet)
    }

    fn append(
        &mut self,
        mut packet: Box<Packet>,
        buffer: Buffer,
        len: u16,
        pools: &mut Pools,
    ) -> Option<Box<Packet>> {
        match packet.fragments.push(Fragment::own(buffer, 0, len)) {
            Ok(()) => Some(packet),
            Err(fragment) => {
                pools.end(fragment);
                pools.give(packet);
                None
            }
        }
    }

    fn give(&mut self, buffer: Buffer, pools: &mut Pools) {
        pools.buffers.give(buffer);
    }
}
