//! A node of the world that a test plays itself.

use std::any::Any;

use ztna_core::role::Machine;

/// A machine of the test's own, found again by its type.
pub trait Played: Machine + Any {
    fn machine(&mut self) -> &mut dyn Machine;
}

impl<M: Machine + Any> Played for M {
    fn machine(&mut self) -> &mut dyn Machine {
        self
    }
}
