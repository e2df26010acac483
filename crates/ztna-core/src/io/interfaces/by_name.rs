//! What an interface is, where the system tells no more than its flags and its name.

#[cfg(not(target_os = "linux"))]
use super::ifaddrs::Listed;
#[cfg(not(target_os = "linux"))]
use crate::interface::Interface;
use crate::interface::InterfaceKind;

/// Beginnings of the names that macOS, the BSDs and VPN programs give.
const TUNNELS: &[&str] = &["utun", "tun", "tap", "wg", "ipsec", "ppp", "gif", "gre", "stf", "zt"];
const VIRTUAL: &[&str] = &["bridge", "vmnet", "vboxnet", "docker", "veth", "vnic", "epair", "awdl", "llw", "anpi"];

/// `None`: it is not up and running.
#[cfg(not(target_os = "linux"))]
pub(super) fn interface(listed: Listed) -> Option<Interface> {
    let wanted = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_uint;
    let m = listed.more;
    (listed.flags & wanted == wanted).then(|| Interface {
        index: m.index,
        kind: kind_of(listed.flags, &m.name),
        name: m.name,
        address: listed.address,
        prefix_len: m.prefix_len,
        scope_id: m.scope_id,
        temporary: false,
        deprecated: false,
    })
}

pub(super) fn kind_of(flags: libc::c_uint, name: &str) -> InterfaceKind {
    let has = |flag: libc::c_int| flags & flag as libc::c_uint != 0;
    let named = |list: &[&str]| list.iter().any(|start| name.starts_with(start));
    if has(libc::IFF_LOOPBACK) {
        InterfaceKind::Loopback
    } else if has(libc::IFF_POINTOPOINT) || named(TUNNELS) {
        InterfaceKind::Tunnel
    } else if named(VIRTUAL) {
        InterfaceKind::Virtual
    } else {
        InterfaceKind::Ordinary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_names_tell_what_an_interface_is() {
        let kind = |flags: libc::c_int, name| kind_of(flags as libc::c_uint, name);
        assert_eq!(kind(libc::IFF_LOOPBACK, "lo0"), InterfaceKind::Loopback);
        assert_eq!(kind(0, "en0"), InterfaceKind::Ordinary);
        assert_eq!(kind(libc::IFF_POINTOPOINT, "en0"), InterfaceKind::Tunnel);
        assert_eq!(kind(0, "utun3"), InterfaceKind::Tunnel);
        assert_eq!(kind(0, "bridge100"), InterfaceKind::Virtual);
    }
}
