//! What is found of a host's interfaces.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test says what it expects, and is its own host"
)]

#[path = "io_support/namespace.rs"]
mod namespace;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use namespace::{in_a_namespace, ip};
use ztna_core::interface::{Interface, InterfaceKind};
use ztna_core::io::interfaces;

#[test]
fn each_kind_of_interface_is_told_apart() {
    in_a_namespace(|| {
        ip(&["link", "add", "nowhere0", "type", "ifb"]);
        ip(&["link", "add", "guests0", "type", "bridge"]);
        ip(&["link", "add", "port0", "type", "veth", "peer", "name", "inside0"]);
        ip(&["link", "set", "port0", "master", "guests0"]);
        let _tun = tun("vpn0");
        let expected = [
            ("nowhere0", "192.0.2.1/26", InterfaceKind::Virtual),
            ("guests0", "198.51.100.1/25", InterfaceKind::Virtual),
            ("port0", "198.51.100.2/25", InterfaceKind::Virtual),
            ("inside0", "203.0.113.1/30", InterfaceKind::Ordinary),
            ("vpn0", "192.0.2.129/32", InterfaceKind::Tunnel),
        ];
        for (name, address, _) in expected {
            ip(&["address", "add", address, "dev", name]);
            ip(&["link", "set", name, "up"]);
        }
        for (name, address, kind) in expected {
            let (address, prefix_len) = address.split_once('/').unwrap();
            let found = eventually(|i| i.address == address.parse::<std::net::IpAddr>().unwrap());
            assert_eq!((&*found.name, found.prefix_len.to_string(), found.kind), (name, prefix_len.to_owned(), kind));
        }
        assert_eq!(eventually(|i| i.name == "lo").kind, InterfaceKind::Loopback);
    });
}

#[test]
fn an_ipv6_address_comes_with_its_zone_and_its_flags_and_not_before_it_may_be_used() {
    in_a_namespace(|| {
        ip(&["link", "add", "left0", "type", "veth", "peer", "name", "right0"]);
        ip(&["address", "add", "2001:db8::1/64", "dev", "left0", "nodad"]);
        ip(&["address", "add", "2001:db8::2/64", "dev", "left0", "nodad", "preferred_lft", "0"]);
        ip(&["link", "set", "left0", "up"]);
        ip(&["link", "set", "right0", "up"]);
        ip(&["address", "add", "2001:db8::3/64", "dev", "left0"]);
        // Duplicate address detection takes a second.
        assert!(!interfaces().unwrap().iter().any(|i| i.address.to_string() == "2001:db8::3"));
        let named = |address: &'static str| eventually(move |i| i.address.to_string() == address);
        let (first, old) = (named("2001:db8::1"), named("2001:db8::2"));
        assert_eq!((first.scope_id, first.deprecated, first.temporary, first.prefix_len), (0, false, false, 64));
        assert_eq!((old.deprecated, old.index), (true, first.index));
        let link_local = eventually(|i| i.name == "left0" && i.address.to_string().starts_with("fe80:"));
        assert_eq!(link_local.scope_id, link_local.index);
        named("2001:db8::3");
    });
}

#[test]
fn an_interface_that_is_down_or_without_its_cable_is_left_out() {
    in_a_namespace(|| {
        ip(&["link", "add", "left0", "type", "veth", "peer", "name", "right0"]);
        ip(&["address", "add", "192.0.2.1/24", "dev", "left0"]);
        let there = || interfaces().unwrap().iter().any(|i| i.name == "left0");
        assert!(!there());
        ip(&["link", "set", "left0", "up"]);
        assert!(!there(), "its peer is down");
        ip(&["link", "set", "right0", "up"]);
        eventually(|i| i.name == "left0");
        ip(&["link", "set", "left0", "down"]);
        assert!(!there());
    });
}

fn eventually(wanted: impl Fn(&Interface) -> bool) -> Interface {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let all = interfaces().unwrap();
        if let Some(found) = all.iter().find(|i| wanted(i)) {
            return found.clone();
        }
        assert!(Instant::now() < until, "{all:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A TUN device, running while the file is open.
fn tun(name: &str) -> File {
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // struct ifreq: the name in 16 bytes, then the flags.
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&((libc::IFF_TUN | libc::IFF_NO_PI) as u16).to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one struct ifreq, 40 bytes, which `request` is.
    #[allow(unsafe_code, reason = "the standard library knows no TUN devices")]
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    file
}
