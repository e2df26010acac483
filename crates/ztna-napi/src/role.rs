//! `NativeRole`: what the SDK's classes stand on. Control calls only; bulk crosses as descriptors and rings.

use std::collections::btree_map::Entry;
use std::os::fd::IntoRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use napi::bindgen_prelude::{Function, Object};
use napi::{Env, Result};
use napi_derive::napi;
use serde_json::json;
use ztna_core::Role;
use ztna_core::agent::Agent;
use ztna_core::connector::Connector;
use ztna_core::error::Error;
use ztna_core::id::FlowId;
use ztna_core::io::{
    Destination, Driver, ForwardId, ForwardSpec, Handle, Listen, LocalAddress, NodeDatagram, NodeStream,
};
use ztna_core::node::listing::MOST_LISTED;
use ztna_core::role::Open;
use ztna_core::trust::{Protocol, Snapshot};

use crate::datagram::NativeDatagram;
use crate::dto;
use crate::events::{Bridge, lock};
use crate::options::{self, ConnectOptions, Files, ForwardOptions, RoleOptions, ServeOptions};
use crate::promise::{Promise, promise};
use crate::running::{self, Running, Started};

/// How long a local forward's flow may take to open, by default: as long as a `connect()` of the SDK, the handshake time of the
/// protocol.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

#[napi(object)]
pub struct NativeFlow {
    pub fd: i32,
    pub flow: i64,
    pub info_json: String,
}

#[napi]
pub struct NativeRole {
    role: Role,
    options: RoleOptions,
    bridge: Arc<Bridge>,
    started: Mutex<Option<Started>>,
}

fn parse<'a, T: serde::Deserialize<'a>>(json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| dto::bad_json(&e))
}

fn closed() -> napi::Error {
    dto::throw(&Error::Closed("the role is not running".into()))
}

fn no_flows() -> napi::Error {
    dto::throw(&Error::config("role", "a relay has no flows of its own"))
}

fn ok<T>(r: std::result::Result<T, Error>) -> Result<T> {
    r.map_err(|e| dto::throw(&e))
}

#[napi]
impl NativeRole {
    #[napi(catch_unwind, constructor)]
    pub fn new(role: String, options_json: String, on_event: Function<'_, String, ()>) -> Result<Self> {
        Ok(NativeRole {
            role: ok(role.parse().map_err(|_| Error::config("role", "it is none of agent, connector and relay")))?,
            options: parse(&options_json)?,
            bridge: Bridge::new(&on_event)?,
            started: Mutex::new(None),
        })
    }

    #[napi(catch_unwind, ts_return_type = "Promise<string>")]
    pub fn start<'e>(&self, env: &'e Env) -> Result<Object<'e>> {
        promise(env, |promise: Promise<String>| promise.settle(self.begin()))
    }

    fn begin(&self) -> std::result::Result<String, Error> {
        if lock(&self.started).is_some() {
            return Err(Error::Closed("a role starts once".into()));
        }
        let bridge = self.bridge.clone();
        let adopt: running::Adopt = Arc::new(move |snapshot| bridge.adopt(snapshot));
        let bridge = self.bridge.clone();
        let tell: running::Tell = Box::new(move |error| bridge.not_reloaded(error));
        self.bridge.forget_snapshot();
        let started = running::start(self.role, &self.options, &adopt, tell, |index| self.bridge.observer(index))?;
        self.bridge.begin(started.running.loops(), started.folder.clone());
        let own = started.snapshot.identity();
        let text = json!({ "identity": dto::peer(own, &started.snapshot), "listen": started.listen }).to_string();
        for e in &started.warnings {
            self.bridge.emit(&json!({ "event": "warning", "error": dto::error(e) }));
        }
        *lock(&self.started) = Some(started);
        Ok(text)
    }

    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn close<'e>(&self, env: &'e Env, drain_ms: u32) -> Result<Object<'e>> {
        promise(env, |promise: Promise<()>| {
            let started = lock(&self.started);
            match started.as_ref().filter(|_| !self.bridge.has_ended()) {
                Some(s) => {
                    lock(&self.bridge.closing).push(promise);
                    s.running.shut_down(Duration::from_millis(drain_ms.into()));
                    if self.bridge.has_ended() {
                        // It ended in between: nobody else settles what was just pushed.
                        self.bridge.settle_closing();
                    }
                }
                None => promise.settle(Ok(())),
            }
        })
    }

    #[napi(catch_unwind)]
    pub fn status(&self) -> Result<String> {
        let started = lock(&self.started);
        let s = started.as_ref().filter(|_| !self.bridge.has_ended()).ok_or_else(closed)?;
        let mut value = match &s.running {
            Running::Agent(h) => ok(h.call(|d| dto::node_status(d.machine().node())))?,
            Running::Connector(h) => ok(h.call(|d| dto::node_status(d.machine().node())))?,
            Running::Relay { shared, .. } => {
                let (status, stats) = (shared.status(), shared.stats());
                let connectors: Vec<_> = status
                    .connectors
                    .iter()
                    .map(|c| json!({ "name": c.name, "since": ztna_core::metrics::epoch_ms(c.since), "sessions": c.sessions }))
                    .collect();
                let sessions: Vec<_> = shared
                    .sessions()
                    .iter()
                    .map(|s| json!({ "id": s.id.to_string(), "agent": s.agent, "connector": s.connector, "rxBytes": s.rx_bytes, "txBytes": s.tx_bytes }))
                    .collect();
                let events = ("events", self.bridge.lost.total());
                let drops: serde_json::Map<String, serde_json::Value> =
                    stats.drops.iter().chain([&events]).map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
                json!({
                    "name": status.name, "state": status.state.as_str(), "listen": s.listen, "connectors": connectors,
                    "agents": status.agents, "sessions": status.sessions, "sessionList": sessions,
                    "stats": { "connections": stats.connections, "connectors": stats.connectors, "sessions": stats.sessions, "bytes": stats.bytes, "drops": drops },
                })
            }
        };
        if let (Some(since), Some(status)) =
            (s.folder.as_ref().and_then(|f| f.unreadable_since(Instant::now())), value.as_object_mut())
        {
            status.insert("folderUnreadableSince".into(), json!(ztna_core::metrics::epoch_ms(since)));
        }
        Ok(value.to_string())
    }

    /// The flows of an agent or a connector: `{ flows, more }`, where `more` counts those that are left out. A relay sees none.
    #[napi(catch_unwind)]
    pub fn flows(&self) -> Result<String> {
        // Only the list is made on the packet loop; the text is not.
        let listed = self.with_running(|running| match running {
            Running::Agent(h) => ok(h.call(|d| d.machine().node().list_flows(MOST_LISTED))),
            Running::Connector(h) => ok(h.call(|d| d.machine().node().list_flows(MOST_LISTED))),
            Running::Relay { .. } => Ok((Vec::new(), 0)),
        })?;
        Ok(dto::flows(listed).to_string())
    }

    #[napi(catch_unwind)]
    pub fn metrics(&self) -> Result<String> {
        let events = ("events", self.bridge.lost.total());
        self.with_running(|running| match running {
            Running::Agent(h) => ok(h.call(move |d| {
                let local = [("local", d.local_drops()), ("descriptors", d.descriptor_drops()), events];
                let now = d.now();
                ztna_core::metrics::node(d.machine().node(), now, &local)
            })),
            Running::Connector(h) => ok(h.call(move |d| {
                let local = [("local", d.local_drops()), ("descriptors", d.descriptor_drops()), events];
                let now = d.now();
                ztna_core::metrics::node(d.machine().node(), now, &local)
            })),
            Running::Relay { shared, .. } => Ok(shared.metrics_text(SystemTime::now(), &[events])),
        })
    }

    /// The event `turned` follows once every loop has taken a turn. Nothing follows while one hangs.
    #[napi(catch_unwind)]
    pub fn turn(&self) -> Result<()> {
        let bridge = self.bridge.clone();
        self.with_running(|running| {
            running.turn(move || {
                bridge.emit(&json!({ "event": "turned" }));
            });
            Ok(())
        })
    }

    /// Errors: [`Error::Closed`] where nothing runs.
    fn with_running<T>(&self, work: impl FnOnce(&Running) -> Result<T>) -> Result<T> {
        let started = lock(&self.started);
        let running = started.as_ref().filter(|_| !self.bridge.has_ended()).ok_or_else(closed)?;
        work(&running.running)
    }

    #[napi(catch_unwind, ts_return_type = "Promise<string>")]
    pub fn reload<'e>(&self, env: &'e Env) -> Result<Object<'e>> {
        promise(env, |promise: Promise<String>| {
            let started = lock(&self.started);
            match started.as_ref().map(|s| &s.folder) {
                Some(Some(folder)) => folder.reload(move |reloaded| {
                    promise.settle(reloaded.map(|r| json!({ "version": r.version, "changed": r.changed }).to_string()));
                }),
                Some(None) => {
                    promise.settle(Err(Error::config("network", "it is held in memory: use update()")));
                }
                None => promise.settle(Err(Error::Closed("the role is not running".into()))),
            }
        })
    }

    fn check_role(&self, snapshot: &Snapshot) -> std::result::Result<(), Error> {
        let id = &snapshot.identity().id;
        if id.role() == self.role {
            return Ok(());
        }
        Err(Error::Identity(format!("`{id}` is not the identity of a role `{}`", self.role)))
    }

    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn update<'e>(&self, env: &'e Env, files_json: String) -> Result<Object<'e>> {
        let files: Files = parse(&files_json)?;
        promise(env, |promise: Promise<()>| promise.settle(self.take_files(files)))
    }

    fn take_files(&self, files: Files) -> std::result::Result<(), Error> {
        let snapshot = running::from_memory(files)?;
        let started = lock(&self.started);
        let s = started
            .as_ref()
            .filter(|_| !self.bridge.has_ended())
            .ok_or_else(|| Error::Closed("the role is not running".into()))?;
        self.check_role(&snapshot)?;
        self.bridge.adopt(snapshot.clone())?;
        s.running.apply(&snapshot);
        Ok(())
    }

    // ---- agent

    fn agent(&self) -> Result<Handle<Agent>> {
        self.with_running(|running| match running {
            Running::Agent(h) => Ok(h.clone()),
            Running::Connector(_) | Running::Relay { .. } => {
                Err(dto::throw(&Error::config("role", "only an agent can do this")))
            }
        })
    }

    /// A promise that `work` settles on the agent's loop. A loop that has ended drops it, which settles it too.
    fn post<'e, T: napi::bindgen_prelude::ToNapiValue + Send + 'static>(
        &self,
        env: &'e Env,
        work: impl FnOnce(&mut Driver<Agent>, Promise<T>) + Send + 'static,
    ) -> Result<Object<'e>> {
        let agent = self.agent()?;
        promise(env, |promise| {
            agent.post(Box::new(move |d| work(d, promise)));
        })
    }

    #[napi(catch_unwind, ts_return_type = "Promise<NativeFlow>")]
    pub fn connect<'e>(&self, env: &'e Env, op: i64, json: String) -> Result<Object<'e>> {
        let open = ok(parse::<ConnectOptions>(&json)?.open(Protocol::Tcp))?;
        let bridge = self.bridge.clone();
        self.post(env, move |d, promise: Promise<NativeFlow>| {
            let reply = move |result: std::result::Result<NodeStream, Error>| {
                let opened = result.and_then(|s| {
                    let snapshot = bridge.snapshot().ok_or(Error::Aborted)?;
                    let info_json = dto::flow(&s.info, s.flow.0, &snapshot).to_string();
                    Ok((s, info_json))
                });
                promise.settle_with(opened, |(s, info_json)| NativeFlow {
                    fd: s.fd.into_raw_fd(),
                    flow: s.flow.0 as i64,
                    info_json,
                });
            };
            d.open_stream(op as u64, open, Box::new(reply));
        })
    }

    #[napi(catch_unwind, ts_return_type = "Promise<NativeDatagram>")]
    pub fn datagram<'e>(&self, env: &'e Env, op: i64, json: String) -> Result<Object<'e>> {
        let open = ok(parse::<ConnectOptions>(&json)?.open(Protocol::Udp))?;
        let bridge = self.bridge.clone();
        self.post(env, move |d, promise: Promise<NativeDatagram>| {
            let reply = move |result: std::result::Result<NodeDatagram, Error>| {
                let made =
                    result.and_then(|dg| Ok(NativeDatagram::new(dg, &*bridge.snapshot().ok_or(Error::Aborted)?)));
                promise.settle(made);
            };
            d.open_datagram(op as u64, open, Box::new(reply));
        })
    }

    #[napi(catch_unwind)]
    pub fn cancel(&self, op: i64) -> Result<()> {
        self.agent()?.post(Box::new(move |d| d.cancel(op as u64)));
        Ok(())
    }

    #[napi(catch_unwind, ts_return_type = "Promise<string>")]
    pub fn ping<'e>(&self, env: &'e Env, op: i64, json: String) -> Result<Object<'e>> {
        let o: ConnectOptions = parse(&json)?;
        self.ask(env, op, move |d| d.ping(op as u64, &o.service, options::timeout(o.timeout_ms)))
    }

    #[napi(catch_unwind, ts_return_type = "Promise<string>")]
    pub fn explain<'e>(&self, env: &'e Env, op: i64, json: String) -> Result<Object<'e>> {
        let open: Open = ok(parse::<ConnectOptions>(&json)?.open(Protocol::Tcp))?;
        self.ask(env, op, move |d| d.explain(op as u64, open))
    }

    #[napi(catch_unwind, ts_return_type = "Promise<string>")]
    pub fn check<'e>(&self, env: &'e Env, op: i64, json: String) -> Result<Object<'e>> {
        let open: Open = ok(parse::<ConnectOptions>(&json)?.open(Protocol::Tcp))?;
        self.ask(env, op, move |d| d.check(op as u64, open))
    }

    fn ask<'e>(
        &self,
        env: &'e Env,
        op: i64,
        work: impl FnOnce(&mut Driver<Agent>) + Send + 'static,
    ) -> Result<Object<'e>> {
        let bridge = self.bridge.clone();
        self.post(env, move |d, promise: Promise<String>| {
            let refused = match lock(&bridge.answers).entry(op as u64) {
                Entry::Occupied(_) => Some(promise),
                Entry::Vacant(free) => {
                    free.insert(promise);
                    None
                }
            };
            match refused {
                Some(promise) => promise.settle(Err(Error::config("op", format!("operation {op} is in use")))),
                None => work(d),
            }
        })
    }

    #[napi(catch_unwind, ts_return_type = "Promise<string>")]
    pub fn forward<'e>(&self, env: &'e Env, json: String) -> Result<Object<'e>> {
        let zone = self.bridge.snapshot().map(|s| s.network.zone.clone()).unwrap_or_default();
        let spec = ok(forward_spec(parse(&json)?, zone))?;
        ok(self.known_service(&spec.to))?;
        self.post(env, move |d, promise: Promise<String>| {
            let result = d.forward(spec).map(|(id, at)| {
                let address = match at {
                    LocalAddress::Inet(a) => json!({ "address": a.ip(), "port": a.port(), "family": if a.is_ipv4() { "IPv4" } else { "IPv6" } }),
                    LocalAddress::Unix(p) => json!(p.display().to_string()),
                };
                json!({ "id": id.0, "address": address }).to_string()
            });
            promise.settle(result);
        })
    }

    /// A local port that could never lead anywhere is a mistake in its name or port.
    fn known_service(&self, to: &Destination) -> std::result::Result<(), Error> {
        let (Destination::Service { service, protocol, port }, Some(snapshot)) = (to, self.bridge.snapshot()) else {
            return Ok(());
        };
        if let Some(service) = snapshot.network.service(service) {
            return service.resolve_port(*protocol, *port).map(drop).map_err(|why| Error::config("forward", why));
        }
        let known: Vec<&str> = snapshot.network.services.keys().map(String::as_str).collect();
        let name = service.escape_debug();
        Err(Error::config("forward", format!("no service `{name}` in this network; known: {}", known.join(", "))))
    }

    #[napi(catch_unwind)]
    pub fn forward_connections(&self, id: i64) -> Result<u32> {
        let agent = self.agent()?;
        Ok(agent.call(move |d| d.forward_connections(ForwardId(id as u64))).unwrap_or(0) as u32)
    }

    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn forward_close<'e>(&self, env: &'e Env, id: i64) -> Result<Object<'e>> {
        promise(env, |promise: Promise<()>| match self.agent() {
            Ok(agent) if agent.is_running() => {
                agent.post(Box::new(move |d| {
                    d.forward_close(ForwardId(id as u64));
                    promise.settle(Ok(()));
                }));
            }
            Ok(_) | Err(_) => promise.settle(Ok(())),
        })
    }

    // ---- connector

    fn connector(&self) -> Result<Handle<Connector>> {
        self.with_running(|running| match running {
            Running::Connector(h) => Ok(h.clone()),
            Running::Agent(_) | Running::Relay { .. } => {
                Err(dto::throw(&Error::config("role", "only a connector can do this")))
            }
        })
    }

    #[napi(catch_unwind, ts_return_type = "Promise<number>")]
    pub fn serve<'e>(&self, env: &'e Env, json: String) -> Result<Object<'e>> {
        let o: ServeOptions = parse(&json)?;
        let connector = self.connector()?;
        promise(env, |promise: Promise<i64>| {
            let id = o.into_serve().and_then(|serve| connector.call(move |d| d.machine().serve(serve))?);
            promise.settle(id.map(|id| id as i64));
        })
    }

    #[napi(catch_unwind)]
    pub fn serve_connections(&self, id: i64) -> Result<u32> {
        let connector = self.connector()?;
        Ok(connector.call(move |d| d.machine().serve_connections(id as u64)).unwrap_or(0) as u32)
    }

    #[napi(catch_unwind, ts_return_type = "Promise<void>")]
    pub fn unserve<'e>(&self, env: &'e Env, id: i64, drain_ms: u32) -> Result<Object<'e>> {
        promise(env, |promise: Promise<()>| match self.connector() {
            Ok(h) if h.is_running() => {
                unserve(&h, id as u64, Instant::now() + Duration::from_millis(drain_ms.into()), promise);
            }
            Ok(_) | Err(_) => promise.settle(Ok(())),
        })
    }

    #[napi(catch_unwind)]
    pub fn take_datagram(&self, flow: i64) -> Result<NativeDatagram> {
        self.connector()?;
        let gone = || dto::throw(&Error::Closed(format!("flow {flow} has ended, or was taken, or never was")));
        let datagram = lock(&self.bridge.datagrams).remove(&(flow as u64)).ok_or_else(gone)?;
        let snapshot = self.bridge.snapshot().ok_or_else(closed)?;
        Ok(NativeDatagram::new(datagram, &snapshot))
    }

    #[napi(catch_unwind)]
    pub fn authorize_reply(&self, flow: i64, allow: bool) -> Result<()> {
        self.connector()?.post(Box::new(move |d| d.authorize_reply(FlowId(flow as u64), allow)));
        Ok(())
    }

    // ---- both ends of flows

    #[napi(catch_unwind)]
    pub fn flow_reset(&self, flow: i64) -> Result<()> {
        let flow = FlowId(flow as u64);
        self.with_running(|running| {
            match running {
                Running::Agent(h) => h.post(Box::new(move |d| d.flow_reset(flow))),
                Running::Connector(h) => h.post(Box::new(move |d| d.flow_reset(flow))),
                Running::Relay { .. } => return Err(no_flows()),
            };
            Ok(())
        })
    }

    #[napi(catch_unwind)]
    pub fn flow_done(&self, flow: i64) -> Result<()> {
        let flow = FlowId(flow as u64);
        self.with_running(|running| {
            match running {
                Running::Agent(h) => h.post(Box::new(move |d| d.flow_done(flow))),
                Running::Connector(h) => h.post(Box::new(move |d| d.flow_done(flow))),
                Running::Relay { .. } => return Err(no_flows()),
            };
            Ok(())
        })
    }

    // ---- relay

    #[napi(catch_unwind)]
    pub fn kick(&self, session: String) -> Result<()> {
        self.with_running(|running| match running {
            Running::Relay { shared, .. } => {
                let id = session
                    .parse()
                    .map_err(|_| dto::throw(&Error::config("session", "it is no number of a session")))?;
                shared.kick(id);
                Ok(())
            }
            Running::Agent(_) | Running::Connector(_) => {
                Err(dto::throw(&Error::config("role", "only a relay can do this")))
            }
        })
    }
}

impl Drop for NativeRole {
    fn drop(&mut self) {
        if let Some(s) = lock(&self.started).as_ref() {
            s.running.shut_down(Duration::ZERO);
        }
    }
}

/// Lets the serve's flows end until then, and cuts what is left.
fn unserve(h: &Handle<Connector>, id: u64, until: Instant, promise: Promise<()>) {
    let mut promise = Some(promise);
    h.post(Box::new(move |d| {
        let waiter = move |d: &mut Driver<Connector>, over: bool| {
            let done = d.machine().unserve(id) == 0 || over;
            if done && let Some(promise) = promise.take() {
                d.machine().cut_serve(id);
                promise.settle(Ok(()));
            }
            done
        };
        d.wait_for(until, Box::new(waiter));
    }));
}

fn forward_spec(o: ForwardOptions, zone: String) -> std::result::Result<ForwardSpec, Error> {
    let open = ConnectOptions {
        service: String::new(),
        port: None,
        protocol: None,
        path: o.path.clone(),
        timeout_ms: 0,
        traceparent: None,
    };
    let path = open.open(Protocol::Tcp)?.path;
    let timeout = o.timeout_ms.map_or(FORWARD_TIMEOUT, options::timeout);
    let host = |h: Option<String>| h.unwrap_or_else(|| "127.0.0.1".into());
    if let Some(s) = o.socks5 {
        let credentials = match (s.username, s.password) {
            (Some(u), Some(p)) => Some((u, ztna_core::wire::password::Password::new(p))),
            (None, None) => None,
            _ => return Err(Error::config("socks5", "give both username and password, or neither")),
        };
        let listen = Listen::Address { host: host(s.host), port: s.port.unwrap_or(1080) };
        return Ok(ForwardSpec { listen, to: Destination::Socks5 { zone, credentials }, path, timeout });
    }
    let service = o.service.ok_or_else(|| Error::config("forward", "name a service, or socks5"))?;
    let protocol = o.protocol.as_deref().map_or(Ok(Protocol::Tcp), options::protocol)?;
    let listen = match o.listen {
        Some(l) => match l.unix {
            Some(path) => Listen::Unix(path.into()),
            None => Listen::Address { host: host(l.host), port: l.port.unwrap_or(0) },
        },
        None => Listen::Address { host: host(None), port: 0 },
    };
    Ok(ForwardSpec { listen, to: Destination::Service { service, port: o.port, protocol }, path, timeout })
}
