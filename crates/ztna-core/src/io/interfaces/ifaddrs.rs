//! `getifaddrs`: what every system tells.

use std::ffi::CStr;
use std::net::IpAddr;

/// One address of one interface.
pub(super) struct Listed {
    pub flags: libc::c_uint,
    pub address: IpAddr,
    #[cfg_attr(target_os = "linux", allow(dead_code, reason = "there netlink tells it, and more"))]
    pub more: More,
}

#[cfg_attr(target_os = "linux", allow(dead_code, reason = "there netlink tells it, and more"))]
pub(super) struct More {
    pub name: String,
    pub index: u32,
    pub prefix_len: u8,
    pub scope_id: u32,
}

/// Errors: the system's.
pub(super) fn list() -> std::io::Result<Vec<Listed>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the result; it is freed below exactly when the call succeeded.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: `next` is a non-null element of the list that getifaddrs made and that is not freed yet.
        let entry = unsafe { &*next };
        // SAFETY: `entry` is an element of that list.
        found.extend(unsafe { listed(entry) });
        next = entry.ifa_next;
    }
    // SAFETY: `list` came from getifaddrs and nothing borrows it any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// # Safety
/// `entry` must be an element of a list that getifaddrs made and that is not freed yet.
unsafe fn listed(entry: &libc::ifaddrs) -> Option<Listed> {
    if entry.ifa_addr.is_null() || entry.ifa_name.is_null() {
        return None;
    }
    // SAFETY: getifaddrs gives socket addresses that are as long as their family says, and names that end in a zero byte.
    unsafe {
        let (address, scope_id) = ip_of(entry.ifa_addr)?;
        let mask = if entry.ifa_netmask.is_null() { None } else { ip_of(entry.ifa_netmask) };
        let prefix_len = match (mask.map(|(mask, _)| mask), address) {
            (Some(IpAddr::V4(mask)), IpAddr::V4(_)) => u32::from(mask).count_ones() as u8,
            (Some(IpAddr::V6(mask)), IpAddr::V6(_)) => u128::from(mask).count_ones() as u8,
            (_, IpAddr::V4(_)) => 32,
            (_, IpAddr::V6(_)) => 128,
        };
        let name = CStr::from_ptr(entry.ifa_name).to_string_lossy().into_owned();
        let index = libc::if_nametoindex(entry.ifa_name);
        Some(Listed { flags: entry.ifa_flags, address, more: More { name, index, prefix_len, scope_id } })
    }
}

/// The address and its zone (RFC 4007), 0 for none.
///
/// # Safety
/// `address` must point to a whole socket address of the family that it names.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<(IpAddr, u32)> {
    // SAFETY: by the caller's promise; the wider reads happen only for the family that is that wide.
    unsafe {
        match i32::from((*address).sa_family) {
            libc::AF_INET => {
                let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some((IpAddr::V4(u32::from_be(v4.sin_addr.s_addr).into()), 0))
            }
            libc::AF_INET6 => {
                let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some((IpAddr::V6(v6.sin6_addr.s6_addr.into()), v6.sin6_scope_id))
            }
            _ => None,
        }
    }
}
