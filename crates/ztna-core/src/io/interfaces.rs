//! The host's addresses, and word of their changes.

use std::net::IpAddr;
use std::time::Duration;

/// Changes come in swarms (an interface, its addresses, its routes): one word for all that come within this time.
#[cfg(target_os = "linux")]
pub(super) const SWARM: Duration = Duration::from_millis(100);
/// How often the addresses are compared where the system sends no word.
#[cfg(not(target_os = "linux"))]
pub(super) const SWARM: Duration = Duration::from_secs(2);

/// Addresses of all interfaces that are up, loopback included, sorted, each once. Empty where the system won't tell.
pub fn addresses() -> Vec<IpAddr> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the result; it is freed below exactly when the call succeeded.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: `next` is a non-null element of the list that getifaddrs made and that is not freed yet.
        let entry = unsafe { &*next };
        if entry.ifa_flags & libc::IFF_UP as libc::c_uint != 0 && !entry.ifa_addr.is_null() {
            // SAFETY: `ifa_addr` is non-null and points to a socket address of the family that it names, which `ip_of` reads.
            found.extend(unsafe { ip_of(entry.ifa_addr) });
        }
        next = entry.ifa_next;
    }
    // SAFETY: `list` came from getifaddrs and nothing borrows it any more.
    unsafe { libc::freeifaddrs(list) };
    found.sort();
    found.dedup();
    found
}

/// # Safety
/// `address` must point to a whole socket address of the family that it names.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: by the caller's promise; the wider reads happen only for the family that is that wide.
    unsafe {
        match i32::from((*address).sa_family) {
            libc::AF_INET => {
                let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(IpAddr::V4(u32::from_be(v4.sin_addr.s_addr).into()))
            }
            libc::AF_INET6 => {
                let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(IpAddr::V6(v6.sin6_addr.s6_addr.into()))
            }
            _ => None,
        }
    }
}

/// Hears of changes.
#[cfg(target_os = "linux")]
pub(super) struct Monitor {
    socket: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Monitor {
    pub fn new() -> std::io::Result<Self> {
        use rustix::net::netlink::SocketAddrNetlink;
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
        // rtnetlink(7): RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE.
        const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 of this family is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Monitor { socket })
    }

    pub fn fd(&self) -> &std::os::fd::OwnedFd {
        &self.socket
    }

    /// Takes what has come. `true`: something changed.
    pub fn drain(&mut self) -> bool {
        let mut scratch = [0u8; 8_192];
        let mut changed = false;
        loop {
            match super::sys::read(&self.socket, &mut scratch) {
                Ok(0) => return changed,
                Ok(_) => changed = true,
                // More changes than the kernel could hold: changes all the same.
                Err(rustix::io::Errno::NOBUFS) => changed = true,
                Err(_) => return changed,
            }
        }
    }
}

/// Compares.
#[cfg(not(target_os = "linux"))]
pub(super) struct Monitor {
    last: Vec<IpAddr>,
}

#[cfg(not(target_os = "linux"))]
impl Monitor {
    pub fn new() -> std::io::Result<Self> {
        Ok(Monitor { last: addresses() })
    }

    /// `true`: the addresses differ from the last look.
    pub fn drain(&mut self) -> bool {
        let now = addresses();
        let changed = now != self.last;
        self.last = now;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_among_the_hosts() {
        assert!(addresses().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
