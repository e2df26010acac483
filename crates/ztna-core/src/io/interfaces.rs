//! The host's addresses, and word of their changes.

use std::net::IpAddr;
use std::time::Duration;

use super::host::Host;
use crate::interface::Interface;

/// Changes come in swarms (an interface, its addresses, its routes): one word for all that come within this time.
#[cfg(target_os = "linux")]
pub(super) const SWARM: Duration = Duration::from_millis(100);
/// How often the addresses are compared where the system sends no word.
#[cfg(not(target_os = "linux"))]
pub(super) const SWARM: Duration = Duration::from_secs(2);

#[cfg(any(not(target_os = "linux"), test))]
mod by_name;
mod ifaddrs;
#[cfg(target_os = "linux")]
mod netlink;
#[cfg(target_os = "linux")]
mod route;

#[cfg(target_os = "linux")]
pub(super) use route::gateway;

/// Every address of every interface that is up and running, loopback included, by index and address. Errors: the system won't tell.
pub fn interfaces() -> std::io::Result<Vec<Interface>> {
    #[cfg(target_os = "linux")]
    let mut found = netlink::interfaces()?;
    #[cfg(not(target_os = "linux"))]
    let mut found: Vec<Interface> = ifaddrs::list()?.into_iter().filter_map(by_name::interface).collect();
    found.sort();
    Ok(found)
}

/// Addresses of all interfaces that are up, loopback included, sorted, each once. Empty where the system won't tell.
pub fn addresses() -> Vec<IpAddr> {
    let listed = ifaddrs::list().unwrap_or_default();
    let up = listed.iter().filter(|l| l.flags & libc::IFF_UP as libc::c_uint != 0);
    let mut found: Vec<IpAddr> = up.map(|l| l.address).collect();
    found.sort();
    found.dedup();
    found
}

/// Hears of changes.
#[cfg(target_os = "linux")]
pub(super) struct Monitor {
    socket: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Monitor {
    pub fn new(host: &Host) -> std::io::Result<Self> {
        match host {
            Host::System => Self::netlink(),
            Host::Virtual(host) => Ok(Monitor { socket: host.changes()? }),
        }
    }

    fn netlink() -> std::io::Result<Self> {
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
    host: Host,
    last: Vec<IpAddr>,
}

#[cfg(not(target_os = "linux"))]
impl Monitor {
    pub fn new(host: &Host) -> std::io::Result<Self> {
        let mut monitor = Monitor { host: host.clone(), last: Vec::new() };
        monitor.last = monitor.addresses();
        Ok(monitor)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        match &self.host {
            Host::System => addresses(),
            Host::Virtual(host) => host.interfaces().unwrap_or_default().iter().map(|i| i.address).collect(),
        }
    }

    /// `true`: the addresses differ from the last look.
    pub fn drain(&mut self) -> bool {
        let now = self.addresses();
        let changed = now != self.last;
        self.last = now;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::InterfaceKind;

    #[test]
    fn the_loopback_address_is_among_the_hosts() {
        assert!(addresses().contains(&IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn the_loopback_interface_is_among_the_hosts_and_known_as_such() {
        let all = interfaces().unwrap();
        let lo = all.iter().find(|i| i.address == IpAddr::from([127, 0, 0, 1])).unwrap();
        assert_eq!((lo.kind, lo.prefix_len, lo.scope_id), (InterfaceKind::Loopback, 8, 0));
        assert!(lo.index > 0);
    }
}
