//! Who leaves a flow one kind of path only.

use crate::trust::PathClass;

/// A flow that may take one kind of path, and no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    pub only: PathClass,
    pub by: DemandedBy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DemandedBy {
    /// Whoever opened the flow.
    Caller,
    /// The connector's policy; the `@id` of the one that settled it, where the connector has said.
    Policy(Option<String>),
}

impl Demand {
    /// The caller's wish; `only` as its [`PathPolicy`](crate::role::PathPolicy) leaves it.
    pub fn of_caller(only: Option<PathClass>) -> Option<Demand> {
        Some(Demand { only: only?, by: DemandedBy::Caller })
    }

    /// `` policy `db-direct` permits it on a direct path only ``.
    pub fn describe(&self) -> String {
        let path = kind(self.only);
        match &self.by {
            DemandedBy::Caller => format!("the caller asked for a {path} path only"),
            DemandedBy::Policy(policy) => permits(policy.as_deref(), self.only),
        }
    }

    pub fn policy(&self) -> Option<&str> {
        match &self.by {
            DemandedBy::Policy(policy) => policy.as_deref(),
            DemandedBy::Caller => None,
        }
    }
}

impl DemandedBy {
    pub fn as_str(&self) -> &'static str {
        match self {
            DemandedBy::Caller => "caller",
            DemandedBy::Policy(_) => "policy",
        }
    }
}

/// What a policy says that leaves a flow one kind of path, for a person and for the wire (`Proxy-Status`).
pub fn permits(policy: Option<&str>, only: PathClass) -> String {
    let path = kind(only);
    match policy {
        Some(policy) => format!("policy `{policy}` permits it on a {path} path only"),
        None => format!("policy permits it on a {path} path only"),
    }
}

/// As words have it.
fn kind(path: PathClass) -> &'static str {
    match path {
        PathClass::Direct => "direct",
        PathClass::Relay => "relayed",
    }
}
