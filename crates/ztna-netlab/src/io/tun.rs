//! A TUN device with its addresses, removed by the kernel when it is dropped.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use super::{check, netns};
use crate::args::{Address, End};
use crate::{Error, Result};

/// Packets the kernel may queue towards us: at 10 Gbit/s of 1400-byte packets 10,000 are 11 ms of our being away.
const TX_QUEUE_LEN: libc::c_int = 10_000;

/// One end of the wire.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Creates the interface of `end` in its namespace, with its addresses, up.
    pub fn create(end: &End, mtu: u16) -> Result<Self> {
        netns::inside(&end.netns, || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
                .open("/dev/net/tun")
                .map_err(|error| Error::io("/dev/net/tun", error))?;
            let mut request = named(&end.interface);
            request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
            ioctl(&file, "create TUN interface", libc::TUNSETIFF as libc::c_ulong, &mut request)?;
            let v4 = socket(libc::AF_INET)?;
            let mut request = named(&end.interface);
            request.ifr_ifru.ifru_mtu = mtu.into();
            ioctl(&v4, "set interface MTU", libc::SIOCSIFMTU as libc::c_ulong, &mut request)?;
            let mut request = named(&end.interface);
            request.ifr_ifru.ifru_metric = TX_QUEUE_LEN;
            ioctl(&v4, "set interface queue length", libc::SIOCSIFTXQLEN as libc::c_ulong, &mut request)?;
            for (index, Address { ip, prefix }) in end.addresses.iter().enumerate() {
                match ip {
                    IpAddr::V4(ip) => set_v4(&v4, &label(end, index), *ip, *prefix)?,
                    IpAddr::V6(ip) => set_v6(&end.interface, *ip, *prefix)?,
                }
            }
            let mut request = named(&end.interface);
            request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
            ioctl(&v4, "bring interface up", libc::SIOCSIFFLAGS as libc::c_ulong, &mut request)?;
            end.addresses.iter().try_for_each(|address| wait_usable(address.ip))?;
            Ok(Self { file })
        })
    }

    /// The next packet that the namespace sends, or `None` when there is none now.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        match (&self.file).read(buffer) {
            Ok(len) => Ok(buffer.get(..len)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(Error::io("read from TUN", error)),
        }
    }

    /// Hands a packet to the namespace. False when the kernel refused it (a full backlog, or no valid packet).
    pub fn send(&self, packet: &[u8]) -> bool {
        (&self.file).write(packet).is_ok()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// `struct in6_ifreq` of linux/ipv6.h.
#[repr(C)]
struct In6Request {
    address: [u8; 16],
    prefix: u32,
    index: libc::c_int,
}

/// An interface has one IPv4 address for each of its labels (`eth0`, `eth0:1`, …).
fn label(end: &End, index: usize) -> String {
    let before = end.addresses.iter().take(index).filter(|address| address.ip.is_ipv4()).count();
    if before == 0 { end.interface.clone() } else { format!("{}:{before}", end.interface) }
}

fn set_v4(socket: &OwnedFd, interface: &str, ip: Ipv4Addr, prefix: u8) -> Result<()> {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    let mut request = named(interface);
    request.ifr_ifru.ifru_addr = inet(ip);
    ioctl(socket, &format!("set address {ip}"), libc::SIOCSIFADDR as libc::c_ulong, &mut request)?;
    let mut request = named(interface);
    request.ifr_ifru.ifru_netmask = inet(Ipv4Addr::from(mask));
    ioctl(socket, &format!("set prefix of {ip}"), libc::SIOCSIFNETMASK as libc::c_ulong, &mut request)
}

fn set_v6(interface: &str, ip: Ipv6Addr, prefix: u8) -> Result<()> {
    // Duplicate detection would keep the address tentative for a second or two; nobody else is on this wire.
    let probes = format!("/proc/sys/net/ipv6/conf/{interface}/dad_transmits");
    std::fs::write(&probes, "0").map_err(|error| Error::io(probes, error))?;
    let v6 = socket(libc::AF_INET6)?;
    let name = CString::new(interface).map_err(|error| Error::io("interface name", error.into()))?;
    // SAFETY: the name is a valid C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let mut request = In6Request { address: ip.octets(), prefix: prefix.into(), index: index as libc::c_int };
    ioctl(&v6, &format!("set address {ip}"), libc::SIOCSIFADDR as libc::c_ulong, &mut request)
}

/// An IPv6 address is tentative until the kernel's own worker has looked at it, even without duplicate detection.
fn wait_usable(ip: IpAddr) -> Result<()> {
    let give_up = Instant::now() + Duration::from_secs(3);
    loop {
        match UdpSocket::bind((ip, 0)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > give_up => return Err(Error::io(format!("wait for address {ip}"), error)),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn inet(ip: Ipv4Addr) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain data of 16 bytes, and every bit pattern is a valid `sockaddr`.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
}

/// A request for `interface`, cut to IFNAMSIZ; `args` has checked that a name is shorter.
fn named(interface: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is plain data for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *slot = byte as libc::c_char;
    }
    request
}

fn socket(family: libc::c_int) -> Result<OwnedFd> {
    // SAFETY: no pointers; the returned descriptor is new and ours.
    unsafe {
        let fd = check("socket", libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn ioctl<T>(fd: &impl AsRawFd, what: &str, request: libc::c_ulong, argument: &mut T) -> Result<()> {
    // SAFETY: every caller passes the structure that its request number is defined with.
    check(what, unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) }).map(drop)
}
