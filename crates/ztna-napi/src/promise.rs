//! Promises of JavaScript that are always settled: one that never is keeps its process alive for ever.

use napi::bindgen_prelude::{JsObjectValue, Object, ToNapiValue};
use napi::{Env, JsDeferred};
use ztna_core::error::{Error, Result};

use crate::dto;

/// Runs in JavaScript's thread, so that what is made there is made only where somebody can take it.
type Make<T> = Box<dyn FnOnce(Env) -> napi::Result<T> + Send>;

/// What settles a promise, once, from any thread. Dropped without that, as by a loop that has ended, it rejects with
/// [`Error::Closed`].
pub struct Promise<T: ToNapiValue + Send + 'static>(Option<JsDeferred<T, Make<T>>>);

/// Hands a new promise to `work` and gives JavaScript the other end. `work` has no other way to fail than by it: a call that throws
/// after it made a promise leaves a rejection that nobody can handle.
pub fn promise<'e, T: ToNapiValue + Send + 'static>(
    env: &'e Env,
    work: impl FnOnce(Promise<T>),
) -> napi::Result<Object<'e>> {
    let (deferred, object) = env.create_deferred()?;
    work(Promise(Some(deferred)));
    Ok(object)
}

impl<T: ToNapiValue + Send + 'static> Promise<T> {
    pub fn settle(self, result: Result<T>) {
        self.settle_with(result, |value| value);
    }

    /// As [`settle`](Self::settle) with what `make` turns the value into. Where JavaScript has ended the value is dropped instead:
    /// what it owns is not lost.
    pub fn settle_with<V: Send + 'static>(mut self, result: Result<V>, make: impl FnOnce(V) -> T + Send + 'static) {
        let Some(deferred) = self.0.take() else { return };
        match result {
            Ok(value) => deferred.resolve(Box::new(move |env| {
                if is_alive(&env) { Ok(make(value)) } else { Err(dto::throw(&Error::Aborted)) }
            })),
            Err(e) => deferred.reject(dto::throw(&e)),
        }
    }
}

impl<T: ToNapiValue + Send + 'static> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(deferred) = self.0.take() {
            deferred.reject(dto::throw(&Error::Closed("the role has ended".into())));
        }
    }
}

/// Whether JavaScript still runs where this is called, on its thread. A thread that is being terminated calls us, and can be called no
/// more: what it should own then would have no owner.
pub fn is_alive(env: &Env) -> bool {
    // Any call that may run JavaScript tells.
    Object::new(env).and_then(|mut probe| probe.set_named_property("alive", true)).is_ok()
}
