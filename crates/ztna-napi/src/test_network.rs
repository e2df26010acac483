//! Networks that a program plays for its own tests: `NativeTestNetwork`, and the hosts of one for roles.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use napi::Result;
use napi_derive::napi;
use serde_json::json;
use ztna_core::error::Error;
use ztna_core::interface::{Interface, InterfaceKind};
use ztna_core::io::{Host, Received, VirtualHost, VirtualPort};
use ztna_netlab::homes::{Change, Spec};
use ztna_netlab::io::live::{LiveHost, LiveNetwork, LivePort};

use crate::dto;
use crate::events::lock;
use crate::options::TestPlace;

/// Those that run, by the number that roles name them with.
static RUNNING: Mutex<BTreeMap<u32, LiveNetwork>> = Mutex::new(BTreeMap::new());

/// No number is used twice: a role that starts again must not find another network than its own.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The host that a role is to run on. Errors: `Config` where there is no such network, or node, any more.
pub fn host(place: &TestPlace) -> ztna_core::error::Result<Host> {
    let running = lock(&RUNNING);
    let network = running.get(&place.network).ok_or_else(closed)?;
    Ok(Host::Virtual(Arc::new(OnTestNetwork(network.host(&place.node).map_err(|e| refused(&e))?))))
}

#[napi]
pub struct NativeTestNetwork {
    id: u32,
}

#[napi]
impl NativeTestNetwork {
    #[napi(catch_unwind, constructor)]
    pub fn new(spec_json: String) -> Result<Self> {
        let spec: Spec = serde_json::from_str(&spec_json).map_err(|e| dto::bad_json(&e))?;
        let network = LiveNetwork::start(&spec).map_err(|e| dto::throw(&refused(&e)))?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        lock(&RUNNING).insert(id, network);
        Ok(Self { id })
    }

    #[napi(catch_unwind, getter)]
    pub fn id(&self) -> u32 {
        self.id
    }

    #[napi(catch_unwind)]
    pub fn addresses(&self, name: String) -> Result<String> {
        let host = self.with(|network| network.host(&name).map_err(|e| refused(&e)))?;
        let addresses = host.addresses().map_err(|_| dto::throw(&closed()))?;
        Ok(json!(addresses).to_string())
    }

    #[napi(catch_unwind)]
    pub fn change(&self, change_json: String) -> Result<()> {
        let change: Change = serde_json::from_str(&change_json).map_err(|e| dto::bad_json(&e))?;
        self.with(|network| network.change(&change).map_err(|e| refused(&e)))
    }

    #[napi(catch_unwind)]
    pub fn close(&self) {
        // Not under the lock: it waits for a thread.
        let network = lock(&RUNNING).remove(&self.id);
        drop(network);
    }

    fn with<T>(&self, f: impl FnOnce(&LiveNetwork) -> ztna_core::error::Result<T>) -> Result<T> {
        let running = lock(&RUNNING);
        let network = running.get(&self.id).ok_or_else(|| dto::throw(&closed()))?;
        f(network).map_err(|e| dto::throw(&e))
    }
}

impl Drop for NativeTestNetwork {
    fn drop(&mut self) {
        self.close();
    }
}

fn closed() -> Error {
    Error::Closed("the test network has closed".into())
}

fn refused(error: &ztna_netlab::Error) -> Error {
    Error::config("test network", error.to_string())
}

struct OnTestNetwork(LiveHost);

impl VirtualHost for OnTestNetwork {
    fn bind(&self, address: SocketAddr) -> io::Result<Box<dyn VirtualPort>> {
        Ok(Box::new(Port(self.0.bind(address)?)))
    }

    fn interfaces(&self) -> io::Result<Vec<Interface>> {
        let addresses = self.0.addresses()?.into_iter();
        let interface = |address: IpAddr| Interface {
            index: 1,
            name: "test0".into(),
            address,
            prefix_len: if address.is_ipv4() { 24 } else { 64 },
            scope_id: 0,
            kind: InterfaceKind::Ordinary,
            temporary: false,
            deprecated: false,
        };
        Ok(addresses.map(interface).collect())
    }

    fn changes(&self) -> io::Result<OwnedFd> {
        Ok(self.0.changes()?.into())
    }
}

struct Port(LivePort);

impl VirtualPort for Port {
    fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    fn send(&mut self, from: Option<IpAddr>, to: SocketAddr, segment: usize, burst: &[u8]) -> u64 {
        // After its end a network carries nothing: lost, as on a dead line.
        self.0.send(from, to, segment, burst).unwrap_or(0)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let burst = self.0.receive(buffer)?;
        Ok(Received { len: burst.len, stride: burst.stride, from: burst.from, to: burst.to })
    }
}

impl AsRawFd for Port {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
