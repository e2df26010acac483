//! Network namespaces for tests that change addresses and links. They need root.
#![cfg(target_os = "linux")]
#![allow(dead_code, reason = "each test file uses its part")]

/// Runs `test` in a network namespace of its own, with loopback up: it goes away with the thread. Needs root.
pub fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let body = move || {
        // SAFETY: moves this thread, which has no sockets yet, into a new network namespace; nothing is passed.
        #[allow(unsafe_code, reason = "the standard library knows no namespaces")]
        let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(entered, 0, "a network namespace needs root: {}", std::io::Error::last_os_error());
        ip(&["link", "set", "lo", "up"]);
        test();
    };
    std::thread::spawn(body).join().unwrap();
}

pub fn ip(arguments: &[&str]) {
    assert!(std::process::Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}
