//! TUN devices: what the kernel sends to one is read from a file, and the other way round.
#![allow(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use std::fs::File;
use std::io;

pub(crate) const DEVICE: &str = "/dev/net/tun";

/// `_IOW('T', 202, int)`: attach the file to a device, made if there is none of that name.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
/// IP packets without a link layer ...
const IFF_TUN: i16 = 0x0001;
/// ... and without four bytes in front of each.
const IFF_NO_PI: i16 = 0x1000;

/// `struct ifreq` of linux/if.h, as TUNSETIFF uses it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// A new device in the network namespace of the caller. It lives as long as the file, even after it
/// was moved into another namespace. Reads and writes never wait.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TUN | IFF_NO_PI,
        rest: [0; 22],
    };
    assert!(name.len() < 16, "the kernel's names end with a zero");
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(DEVICE, flags, Mode::empty())?;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` at the address that it is given and
    // keeps no pointer. That structure is 40 bytes on 64-bit Linux (asserted above), laid out as
    // here, of integers for which every bit pattern is valid; it lives and is borrowed mutably until
    // the call returns.
    unsafe { ioctl(&file, Updater::<TUNSETIFF, _>::new(&mut request)) }?;
    Ok(File::from(file))
}
