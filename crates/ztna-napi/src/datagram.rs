//! A UDP flow in JavaScript's hands: two bounded rings and a doorbell.

use napi::Result;
use napi::bindgen_prelude::{Function, Uint8Array};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi_derive::napi;
use ztna_core::error::Error;
use ztna_core::io::NodeDatagram;
use ztna_core::trust::Snapshot;

use crate::dto;

#[napi]
pub struct NativeDatagram {
    inner: NodeDatagram,
    info: String,
}

impl NativeDatagram {
    pub fn new(inner: NodeDatagram, snapshot: &Snapshot) -> Self {
        let info = dto::flow(&inner.info, inner.flow.0, snapshot).to_string();
        NativeDatagram { inner, info }
    }
}

#[napi]
impl NativeDatagram {
    #[napi(catch_unwind, getter)]
    pub fn flow(&self) -> i64 {
        self.inner.flow.0 as i64
    }

    #[napi(catch_unwind, getter)]
    pub fn info_json(&self) -> String {
        self.info.clone()
    }

    #[napi(catch_unwind, getter)]
    pub fn max_datagram_size(&self) -> u32 {
        self.inner.max_size() as u32
    }

    #[napi(catch_unwind, getter)]
    pub fn closed(&self) -> bool {
        self.inner.is_closed()
    }

    #[napi(catch_unwind)]
    pub fn send(&self, buffers: Vec<Uint8Array>) -> Result<u32> {
        if self.inner.is_closed() {
            return Err(dto::throw(&Error::Closed("the flow has ended".into())));
        }
        Ok(self.inner.send(buffers.iter().map(|b| &b[..])) as u32)
    }

    #[napi(catch_unwind)]
    pub fn recv(&self, mut into: Uint8Array) -> u32 {
        // SAFETY: the call is synchronous, so JavaScript does not touch the array while it is being filled.
        #[allow(unsafe_code, reason = "napi has no other way to write into a Uint8Array")]
        let out = unsafe { into.as_mut() };
        self.inner.recv_into(out) as u32
    }

    #[napi(catch_unwind)]
    pub fn dropped(&self) -> i64 {
        self.inner.dropped() as i64
    }

    #[napi(catch_unwind)]
    pub fn close(&self) {
        self.inner.close();
    }

    #[napi(catch_unwind)]
    pub fn on_readable(&self, callback: Function<'_, (), ()>) -> Result<()> {
        let bell = callback
            .build_threadsafe_function::<()>()
            .callee_handled::<false>()
            .weak::<true>()
            .max_queue_size::<16>()
            .build()?;
        self.inner.on_readable(Box::new(move || {
            // A full queue means that a bell is already on its way.
            bell.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }));
        Ok(())
    }
}
