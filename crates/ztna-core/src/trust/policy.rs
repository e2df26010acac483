//! Cedar policies: may this agent open this flow, and is there any flow for which it needs this connector.
//!
//! Everything that is not plainly allowed is denied: an unknown agent or service, a port the service does not declare,
//! a policy that fails while it is evaluated (Cedar itself would only skip it).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use cedar_policy::{
    Authorizer, Context, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, PrincipalConstraint,
    Request, ResourceConstraint, RestrictedExpression,
};

use crate::error::Error;
use crate::id::NAME_MAX;
use crate::trust::network::{Network, Service};
use crate::trust::policy_load::{Rules, load};
use crate::trust::text::rfc3339;

/// Most remembered decisions of one policy. At some 300 bytes each this is 5 MB; when full, all are forgotten at once,
/// which costs one evaluation for each flow that still opens.
const CACHE_MAX: usize = 16_384;

/// Most remembered slices. One holds references to the policies of one agent and one service.
const SLICES_MAX: usize = 4_096;

/// A validated set of policies, bound to the agents and services of one network.
pub struct Policy {
    rules: Arc<Rules>,
    agents: BTreeMap<String, Principal>,
    services: BTreeMap<String, Target>,
    connectors: BTreeMap<String, Vec<String>>,
    warnings: Vec<String>,
    slices: Mutex<HashMap<(String, String), Arc<Slice>>>,
    decided: Mutex<HashMap<FlowKey, Decision>>,
    admitted: Mutex<HashMap<(String, String), Decision>>,
}

struct Principal {
    uid: EntityUid,
    groups: HashSet<EntityUid>,
    /// The agent and its groups.
    entities: Entities,
}

struct Target {
    service: Service,
    uid: EntityUid,
}

/// The policies whose scope can match one agent and one service: what a decision costs grows with these alone. A policy
/// whose scope does not match can neither apply nor fail, so leaving it out changes nothing.
#[derive(Default)]
struct Slice {
    exact: PolicySet,
    /// Over-approximation for admission: see `policy_load`.
    relaxed: PolicySet,
}

/// What a flow is, to a policy.
#[derive(Debug, Clone, Copy)]
pub struct FlowContext<'a> {
    pub service: &'a str,
    pub protocol: Protocol,
    /// 0 for ICMP.
    pub port: u16,
    pub path: PathClass,
    pub now: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "icmp" => Ok(Protocol::Icmp),
            other => Err(Error::config(format!("protocol `{}`", other.escape_debug()), "must be tcp, udp or icmp")),
        }
    }
}

/// How a flow travels, as far as a policy may care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathClass {
    Relay,
    Direct,
}

impl FromStr for PathClass {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "relay" => Ok(PathClass::Relay),
            "direct" => Ok(PathClass::Direct),
            other => Err(Error::config(format!("path `{}`", other.escape_debug()), "must be direct or relay")),
        }
    }
}

impl PathClass {
    pub fn as_str(self) -> &'static str {
        match self {
            PathClass::Relay => "relay",
            PathClass::Direct => "direct",
        }
    }
}

/// The answer, with what an operator needs to understand it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// The `@id` (else `policyN`, counted from 0 in the file) of the policy that settled it, when one did.
    pub policy_id: Option<String>,
    pub reason: String,
}

#[derive(PartialEq, Eq, Hash)]
struct FlowKey {
    agent: String,
    service: String,
    protocol: Protocol,
    port: u16,
    path: PathClass,
}

/// The reason of a denial by a policy that forbids.
pub fn forbidden_by(id: &str) -> String {
    format!("forbidden by `{id}`")
}

impl Policy {
    /// Parses `text`, validates it strictly against the schema and binds it to `network`. `at` names the file.
    /// An empty text is a policy: it allows nothing.
    ///
    /// Errors: [`Error::Config`] at `<at>:<line>` for what does not parse or validate, templates, and an `@id` that is
    /// used twice or can't stand in a log line.
    pub fn new(text: &str, network: &Network, at: &str) -> Result<Policy, Error> {
        Policy::bind(Arc::new(load(text, at)?), network, at)
    }

    /// As [`new`](Self::new) where `self` may be of the same text: that is not parsed and validated again then, which is nearly all
    /// that a new policy costs.
    pub fn renew(&self, text: &str, network: &Network, at: &str) -> Result<Policy, Error> {
        if self.is_of(text) { Policy::bind(self.rules.clone(), network, at) } else { Policy::new(text, network, at) }
    }

    /// Whether it was made from exactly this text.
    pub fn is_of(&self, text: &str) -> bool {
        self.rules.text == text
    }

    fn bind(rules: Arc<Rules>, network: &Network, at: &str) -> Result<Policy, Error> {
        let internal = |e: &dyn fmt::Display| Error::config(at, format!("can't be used: {e}"));

        let strange = rules.mentions.iter().filter(|(kind, id)| match kind.as_str() {
            "Agent" => !network.agents.contains_key(id),
            "Group" => !network.agents.values().any(|a| a.groups.contains(id)),
            "Service" => network.service(id).is_none(),
            _ => false,
        });
        let mut warnings = rules.warnings.clone();
        warnings.extend(
            strange.map(|(kind, id)| {
                format!("{at}: names {kind}::\"{}\", which is not in network.toml", id.escape_debug())
            }),
        );

        let mut services = BTreeMap::new();
        for service in network.services.values() {
            let uid = entity_uid("Service", &service.name)?;
            services.insert(service.name.clone(), Target { service: service.clone(), uid });
        }
        let mut agents = BTreeMap::new();
        for agent in network.agents.values() {
            let groups = agent.groups.iter().map(|g| entity_uid("Group", g)).collect::<Result<HashSet<_>, _>>()?;
            let uid = entity_uid("Agent", &agent.name)?;
            let mut entities: Vec<Entity> = groups.iter().cloned().map(Entity::with_uid).collect();
            entities.push(Entity::new_no_attrs(uid.clone(), groups.clone()));
            let entities = Entities::from_entities(entities, None).map_err(|e| internal(&e))?;
            agents.insert(agent.name.clone(), Principal { uid, groups, entities });
        }
        let connectors = network
            .connectors()
            .into_iter()
            .map(|c| (c.to_owned(), network.services_of_connector(c).map(|s| s.name.clone()).collect()))
            .collect();
        Ok(Policy {
            rules,
            agents,
            services,
            connectors,
            warnings,
            slices: Mutex::default(),
            decided: Mutex::default(),
            admitted: Mutex::default(),
        })
    }

    /// The connector's decision about one flow. Remembered when no policy reads `now`.
    pub fn decide(&self, agent: &str, flow: &FlowContext<'_>) -> Decision {
        if self.rules.reads_now || agent.len() > NAME_MAX || flow.service.len() > NAME_MAX {
            return self.evaluate(agent, flow);
        }
        let key = FlowKey {
            agent: agent.to_owned(),
            service: flow.service.to_owned(),
            protocol: flow.protocol,
            port: flow.port,
            path: flow.path,
        };
        if let Some(known) = lock(&self.decided).get(&key) {
            return known.clone();
        }
        let decision = self.evaluate(agent, flow);
        remember(&self.decided, key, &decision);
        decision
    }

    /// The only kind of path on which such a flow is permitted, whatever `flow.path` is, and the policy that settles it: one that
    /// forbids the other kind, else the one that permits this. `None` where both are permitted, or neither.
    pub fn only_path(&self, agent: &str, flow: &FlowContext<'_>) -> Option<(PathClass, Option<String>)> {
        if !self.reads_path() {
            return None;
        }
        let decided = |path| self.decide(agent, &FlowContext { path, ..*flow });
        let (relayed, direct) = (decided(PathClass::Relay), decided(PathClass::Direct));
        match (relayed.allowed, direct.allowed) {
            (true, false) => Some((PathClass::Relay, direct.policy_id.or(relayed.policy_id))),
            (false, true) => Some((PathClass::Direct, relayed.policy_id.or(direct.policy_id))),
            (true, true) | (false, false) => None,
        }
    }

    /// The relay's admission: whether any flow of any service on `connector` could be permitted to `agent`, `path` and
    /// `now` being unknown.
    ///
    /// Never refuses what `decide` could allow. It may admit a little more: a condition on `now`, or one that computes
    /// with numbers, is taken as fulfilled in a `permit` and as not fulfilled in a `forbid`.
    pub fn may_reach(&self, agent: &str, connector: &str) -> Decision {
        if agent.len() > NAME_MAX || connector.len() > NAME_MAX {
            return deny(None, "a name is too long");
        }
        let key = (agent.to_owned(), connector.to_owned());
        if let Some(known) = lock(&self.admitted).get(&key) {
            return known.clone();
        }
        let decision = self.admit(agent, connector);
        remember(&self.admitted, key, &decision);
        decision
    }

    /// Whether a change of path can change a decision.
    pub fn reads_path(&self) -> bool {
        self.rules.reads_path
    }
    /// Whether time alone can change a decision.
    pub fn reads_now(&self) -> bool {
        self.rules.reads_now
    }
    /// What the validator found odd without refusing it, one line each, with file and line.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn evaluate(&self, agent: &str, flow: &FlowContext<'_>) -> Decision {
        let Some(principal) = self.agents.get(agent) else {
            return deny(None, format!("agent `{}` is not in network.toml", agent.escape_debug()));
        };
        let Some(target) = self.services.get(flow.service) else {
            return deny(None, format!("service `{}` is not in network.toml", flow.service.escape_debug()));
        };
        if !declares(&target.service, flow.protocol, flow.port) {
            return deny(
                None,
                match flow.protocol {
                    Protocol::Icmp => format!("service `{}` does not declare icmp", flow.service),
                    Protocol::Tcp | Protocol::Udp => {
                        format!("service `{}` does not declare {} port {}", flow.service, flow.protocol, flow.port)
                    }
                },
            );
        }
        let now = self.rules.reads_now.then_some(flow.now);
        let slice = match self.slice(agent, principal, target) {
            Ok(slice) => slice,
            Err(why) => return deny(None, format!("the policies can't be put together: {why}")),
        };
        let request = match request(principal, target, flow.protocol, flow.port, flow.path, now) {
            Ok(request) => request,
            Err(why) => return deny(None, format!("the request can't be put to the policy: {why}")),
        };
        let response = Authorizer::new().is_authorized(&request, &slice.exact, &principal.entities);
        if let Some(error) = response.diagnostics().errors().next() {
            return deny(error_policy(error), format!("a policy failed: {error}"));
        }
        let id = response.diagnostics().reason().map(ToString::to_string).min();
        match (response.decision(), id) {
            (cedar_policy::Decision::Allow, Some(id)) => {
                Decision { allowed: true, reason: format!("permitted by `{id}`"), policy_id: Some(id) }
            }
            (cedar_policy::Decision::Deny, Some(id)) => deny(Some(id.clone()), forbidden_by(&id)),
            (_, None) => deny(None, "no policy permits it"),
        }
    }

    fn admit(&self, agent: &str, connector: &str) -> Decision {
        let Some(principal) = self.agents.get(agent) else {
            return deny(None, format!("agent `{}` is not in network.toml", agent.escape_debug()));
        };
        let Some(services) = self.connectors.get(connector) else {
            return deny(None, format!("no service is on connector `{}`", connector.escape_debug()));
        };
        let paths: &[PathClass] =
            if self.rules.reads_path { &[PathClass::Relay, PathClass::Direct] } else { &[PathClass::Relay] };
        for target in services.iter().filter_map(|s| self.services.get(s)) {
            let slice = match self.slice(agent, principal, target) {
                Ok(slice) => slice,
                Err(why) => return deny(None, format!("the policies can't be put together: {why}")),
            };
            if !slice.relaxed.policies().any(|p| p.effect() == Effect::Permit) {
                continue;
            }
            for (protocol, port) in self.representatives(&target.service) {
                for path in paths {
                    let Ok(request) = request(principal, target, protocol, port, *path, None) else { continue };
                    let response = Authorizer::new().is_authorized(&request, &slice.relaxed, &principal.entities);
                    if response.decision() == cedar_policy::Decision::Allow {
                        let id = response.diagnostics().reason().map(ToString::to_string).min();
                        let reason = format!("{protocol} to service `{}` could be permitted", target.service.name);
                        return Decision { allowed: true, policy_id: id, reason };
                    }
                }
            }
        }
        deny(None, format!("no policy permits any flow to a service on connector `{connector}`"))
    }

    fn slice(&self, agent: &str, principal: &Principal, target: &Target) -> Result<Arc<Slice>, String> {
        let key = (agent.to_owned(), target.service.name.clone());
        if let Some(known) = lock(&self.slices).get(&key) {
            return Ok(known.clone());
        }
        let mut slice = Slice::default();
        for policy in self.rules.policies.iter().filter(|p| may_concern(&p.exact, principal, target)) {
            slice.exact.add(policy.exact.clone()).map_err(|e| e.to_string())?;
            if let Some(policy) = &policy.relaxed {
                slice.relaxed.add(policy.clone()).map_err(|e| e.to_string())?;
            }
        }
        let slice = Arc::new(slice);
        let mut slices = lock(&self.slices);
        if slices.len() >= SLICES_MAX {
            slices.clear();
        }
        slices.insert(key, slice.clone());
        Ok(slice)
    }

    /// Flows that stand for all flows of a service: the ends of its port ranges, and each number that policies compare
    /// with together with its neighbours.
    fn representatives(&self, service: &Service) -> BTreeSet<(Protocol, u16)> {
        let mut flows = BTreeSet::new();
        for (protocol, ranges) in [(Protocol::Tcp, &service.tcp), (Protocol::Udp, &service.udp)] {
            for range in ranges {
                flows.extend([(protocol, range.lo), (protocol, range.hi)]);
                let near = (i64::from(range.lo) - 1)..=(i64::from(range.hi) + 1);
                for literal in self.rules.literals.range(near) {
                    let around = [literal - 1, *literal, literal + 1].into_iter().filter_map(|p| u16::try_from(p).ok());
                    flows.extend(around.filter(|p| range.contains(*p)).map(|p| (protocol, p)));
                }
            }
        }
        if service.icmp {
            flows.insert((Protocol::Icmp, 0));
        }
        flows
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("reads_path", &self.rules.reads_path)
            .field("reads_now", &self.rules.reads_now)
            .finish_non_exhaustive()
    }
}

fn declares(service: &Service, protocol: Protocol, port: u16) -> bool {
    match protocol {
        Protocol::Tcp => service.has_tcp(port),
        Protocol::Udp => service.has_udp(port),
        Protocol::Icmp => service.icmp && port == 0,
    }
}

/// False only when the policy's scope names another service, another agent, or a group the agent is not in.
fn may_concern(policy: &cedar_policy::Policy, principal: &Principal, target: &Target) -> bool {
    let service = match policy.resource_constraint() {
        ResourceConstraint::Eq(other) | ResourceConstraint::In(other) | ResourceConstraint::IsIn(_, other) => {
            other == target.uid
        }
        ResourceConstraint::Any | ResourceConstraint::Is(_) => true,
    };
    service
        && match policy.principal_constraint() {
            PrincipalConstraint::Eq(other) => other == principal.uid,
            PrincipalConstraint::In(other) | PrincipalConstraint::IsIn(_, other) => {
                other == principal.uid || principal.groups.contains(&other)
            }
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => true,
        }
}

fn request(
    principal: &Principal,
    target: &Target,
    protocol: Protocol,
    port: u16,
    path: PathClass,
    now: Option<SystemTime>,
) -> Result<Request, String> {
    let mut pairs = vec![
        ("protocol".to_owned(), RestrictedExpression::new_string(protocol.as_str().to_owned())),
        ("port".to_owned(), RestrictedExpression::new_long(i64::from(port))),
        ("path".to_owned(), RestrictedExpression::new_string(path.as_str().to_owned())),
    ];
    if let Some(now) = now {
        pairs.push(("now".to_owned(), RestrictedExpression::new_datetime(rfc3339(now))));
    }
    let context = Context::from_pairs(pairs).map_err(|e| e.to_string())?;
    let action = entity_uid("Action", "connect").map_err(|e| e.to_string())?;
    Request::new(principal.uid.clone(), action, target.uid.clone(), context, None).map_err(|e| e.to_string())
}

fn entity_uid(kind: &str, name: &str) -> Result<EntityUid, Error> {
    let kind = EntityTypeName::from_str(kind).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(name)))
}

fn error_policy(error: &cedar_policy::AuthorizationError) -> Option<String> {
    match error {
        cedar_policy::AuthorizationError::PolicyEvaluationError(e) => Some(e.policy_id().to_string()),
    }
}

fn deny(policy_id: Option<String>, reason: impl Into<String>) -> Decision {
    Decision { allowed: false, policy_id, reason: reason.into() }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The maps hold finished values only: a panic elsewhere leaves nothing half done in them.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember<K: Eq + std::hash::Hash>(cache: &Mutex<HashMap<K, Decision>>, key: K, decision: &Decision) {
    let mut cache = lock(cache);
    if cache.len() >= CACHE_MAX {
        cache.clear();
    }
    cache.insert(key, decision.clone());
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
