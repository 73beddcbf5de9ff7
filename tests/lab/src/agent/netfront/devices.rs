//! Pages that this guest grants and event channels that it has, by Linux's devices for
//! programs. All of the agent that is not safe by itself is here.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::ptr::{self, NonNull};

use rustix::ioctl::{self, Direction, Ioctl, IoctlOutput, Opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use xen::{PAGE_SIZE, SharedPage};

/// What a device is asked: its argument, as the kernel's headers have it.
trait Request {
    /// The device's letter.
    const GROUP: u8;
    /// The request's number.
    const NUMBER: u8;
}

/// A request on its way.
struct Call<'a, T>(&'a mut T);

// SAFETY: the opcode tells the kernel the size of the argument, all of which it may read
// and write: the requests below are plain integers.
unsafe impl<T: Request> Ioctl for Call<'_, T> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        ioctl::opcode::from_components(Direction::None, T::GROUP, T::NUMBER, size_of::<T>())
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(output)
    }
}

fn call<T: Request>(device: &File, request: &mut T) -> io::Result<i32> {
    // SAFETY: these requests reach no memory but their argument.
    Ok(unsafe { ioctl::ioctl(device, Call(request)) }?)
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// `struct ioctl_gntalloc_alloc_gref` for one page.
#[repr(C)]
struct Allocate {
    domain: u16,
    flags: u16,
    count: u32,
    index: u64,
    reference: u32,
}

impl Request for Allocate {
    const GROUP: u8 = b'G';
    const NUMBER: u8 = 5;
}

/// `struct ioctl_gntalloc_dealloc_gref`.
#[repr(C)]
struct Free {
    index: u64,
    count: u32,
}

impl Request for Free {
    const GROUP: u8 = b'G';
    const NUMBER: u8 = 6;
}

/// What another domain may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::agent) enum Access {
    /// Look at it.
    Read,
    /// Change it as well.
    Write,
}

/// A page granted.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct Grant {
    /// What the other domain calls it by.
    pub(in crate::agent) reference: u32,
    index: u64,
}

/// A granted page that this program sees, for as long as it runs.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct Page {
    /// What the other domain calls it by.
    pub(in crate::agent) reference: u32,
    base: NonNull<u8>,
}

impl Page {
    /// Access to its bytes.
    pub(in crate::agent) fn shared(&self) -> SharedPage {
        // SAFETY: `base` is a page that `Grants::page` mapped and nobody unmaps; there
        // are no references into it.
        unsafe { SharedPage::new(self.base) }
    }
}

/// The device for grants. What was granted ends with the program.
pub(in crate::agent) struct Grants(File);

impl Grants {
    pub(in crate::agent) fn open() -> io::Result<Grants> {
        open("/dev/xen/gntalloc").map(Grants)
    }

    /// Grants a new page, of zeros, to a domain.
    pub(in crate::agent) fn grant(&self, to: u16, access: Access) -> io::Result<Grant> {
        let flags = u16::from(access == Access::Write);
        let mut request = Allocate { domain: to, flags, count: 1, index: 0, reference: 0 };
        call(&self.0, &mut request)?;
        Ok(Grant { reference: request.reference, index: request.index })
    }

    /// Takes a page back that this program does not see.
    pub(in crate::agent) fn free(&self, grant: Grant) -> io::Result<()> {
        call(&self.0, &mut Free { index: grant.index, count: 1 }).map(drop)
    }

    /// Grants a new page that this program sees as well.
    pub(in crate::agent) fn page(&self, to: u16, access: Access) -> io::Result<Page> {
        let Grant { reference, index } = self.grant(to, access)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, wherever there is room.
        let base = unsafe {
            mmap(ptr::null_mut(), PAGE_SIZE, protection, MapFlags::SHARED, &self.0, index)
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Page { reference, base })
    }
}

/// `struct ioctl_evtchn_bind_unbound_port`.
#[repr(C)]
struct BindUnbound {
    domain: u32,
}

impl Request for BindUnbound {
    const GROUP: u8 = b'E';
    const NUMBER: u8 = 2;
}

/// `struct ioctl_evtchn_unbind`.
#[repr(C)]
struct Unbind {
    port: u32,
}

impl Request for Unbind {
    const GROUP: u8 = b'E';
    const NUMBER: u8 = 3;
}

/// `struct ioctl_evtchn_notify`.
#[repr(C)]
struct Notify {
    port: u32,
}

impl Request for Notify {
    const GROUP: u8 = b'E';
    const NUMBER: u8 = 4;
}

/// The device for event channels. They are closed with the program.
pub(in crate::agent) struct Events(File);

impl Events {
    pub(in crate::agent) fn open() -> io::Result<Events> {
        open("/dev/xen/evtchn").map(Events)
    }

    /// A port that this domain may bind.
    pub(in crate::agent) fn offer(&self, to: u16) -> io::Result<u32> {
        let port = call(&self.0, &mut BindUnbound { domain: to.into() })?;
        u32::try_from(port).map_err(io::Error::other)
    }

    pub(in crate::agent) fn notify(&self, port: u32) -> io::Result<()> {
        call(&self.0, &mut Notify { port }).map(drop)
    }

    pub(in crate::agent) fn close(&self, port: u32) -> io::Result<()> {
        call(&self.0, &mut Unbind { port }).map(drop)
    }
}
