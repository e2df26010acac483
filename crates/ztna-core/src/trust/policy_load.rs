//! From the text of policy.cedar to checked policies, and to the relaxed ones that admission needs.
//!
//! A relaxed policy set permits at least everything the exact one can permit for some `now`: conditions whose value is
//! not settled by principal, service, protocol, port and path are dropped from a `permit`, and a `forbid` that has one
//! is dropped whole. A condition counts as settled only when it is built from operators listed in [`transparent`];
//! `now`, arithmetic, extension functions and whatever Cedar adds later are not.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use cedar_policy::ffi::DetailedError;
use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use cedar_policy_core::est;
use cedar_policy_core::parser::parse_policyset_to_ests_and_pset;
use serde_json::{Value, json};

use crate::error::Error;
use crate::trust::schema::SCHEMA;
use crate::trust::text::Lines;

/// Longest `@id`, in bytes: it travels in a header field and stands in log lines.
const ID_MAX: usize = 128;

/// Most policies in one file: at 0.1 to 0.2 ms each they are read in some seconds, and a node takes a change while the folder's
/// next one is not yet late.
const POLICIES_MAX: usize = 20_000;

/// Context attributes that admission tries out, one value after the other.
const SETTLED: [&str; 3] = ["port", "protocol", "path"];

/// What one text says, whatever the network.
pub(super) struct Rules {
    pub text: String,
    pub policies: Vec<Rule>,
    /// Long literals of all policies: between two of them no comparison with `context.port` changes its result.
    pub literals: BTreeSet<i64>,
    pub reads_path: bool,
    pub reads_now: bool,
    pub warnings: Vec<String>,
    /// Entities the policies name: type and id.
    pub mentions: BTreeSet<(String, String)>,
}

pub(super) struct Rule {
    pub exact: Policy,
    /// `None`: a `forbid` that can't be relied upon to apply.
    pub relaxed: Option<Policy>,
}

/// Errors: [`Error::Config`] at `<at>:<line>`.
pub(super) fn load(text: &str, at: &str) -> Result<Rules, Error> {
    let lines = Lines::new(text);
    let set = PolicySet::from_str(text).map_err(|errors| {
        let first = errors.iter().next().map(DetailedError::from);
        first.map_or_else(|| Error::config(at, errors.to_string()), |e| place(&lines, at, &e))
    })?;
    if let Some(template) = set.templates().next() {
        return Err(Error::config(
            at,
            format!("`{}` has a ?principal or ?resource slot; templates are not accepted", template.id()),
        ));
    }
    let count = set.policies().count();
    if count > POLICIES_MAX {
        return Err(Error::config(
            at,
            format!(
                "holds {count} policies, and {POLICIES_MAX} are accepted: put agents into groups and ports into `when`"
            ),
        ));
    }
    let (schema, _) =
        Schema::from_cedarschema_str(SCHEMA).map_err(|e| Error::Internal(format!("the built-in schema: {e}")))?;
    let verdict = Validator::new(schema).validate(&set, ValidationMode::Strict);
    let mut wrong: Vec<Error> =
        verdict.validation_errors().map(|e| place(&lines, at, &DetailedError::from(e))).collect();
    wrong.sort_by_key(ToString::to_string);
    if let Some(error) = wrong.into_iter().next() {
        return Err(error);
    }
    let mut warnings: Vec<String> =
        verdict.validation_warnings().map(|w| place(&lines, at, &DetailedError::from(w)).to_string()).collect();
    warnings.sort();

    let mut loaded = Rules {
        text: text.to_owned(),
        policies: Vec::new(),
        literals: BTreeSet::new(),
        reads_path: false,
        reads_now: false,
        warnings,
        mentions: BTreeSet::new(),
    };
    let mut written = as_written(text, at)?;
    for (id, policy) in named(&set, text, at)? {
        let unusable = |e: &dyn std::fmt::Display| Error::config(at, format!("policy `{id}`: {e}"));
        let json = written.remove(&policy.id().to_string()).ok_or_else(|| unusable(&"was lost while it was read"))?;
        let json = serde_json::to_value(json).map_err(|e| unusable(&e))?;
        let policy = policy.new_id(PolicyId::new(&id));
        collect_mentions(&json, &mut loaded.mentions);
        let conditions: Vec<Value> = json.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        for condition in &conditions {
            collect_numbers(condition, &mut loaded.literals);
            loaded.reads_path |= reads(condition, "path");
            loaded.reads_now |= reads(condition, "now");
        }
        let relaxed = match relax(policy.effect(), &conditions) {
            Relaxed::Unreliable => None,
            Relaxed::Same => Some(policy.clone()),
            Relaxed::To(conditions) => {
                let mut json = json;
                if let Some(object) = json.as_object_mut() {
                    object.insert("conditions".to_owned(), Value::Array(conditions));
                }
                Some(Policy::from_json(Some(policy.id().clone()), json).map_err(|e| unusable(&e))?)
            }
        };
        loaded.policies.push(Rule { exact: policy, relaxed });
    }
    Ok(loaded)
}

/// Every policy as it is written, under Cedar's own `policyN`. `Policy::to_json` would parse each once more by itself, which costs
/// half of a load.
fn as_written(text: &str, at: &str) -> Result<BTreeMap<String, est::Policy>, Error> {
    let (written, _) = parse_policyset_to_ests_and_pset(text).map_err(|e| Error::config(at, e.to_string()))?;
    Ok(written.into_iter().map(|(id, policy)| (id.to_string(), policy)).collect())
}

/// Policies, still called `policyN`, under their `@id`, or under that.
fn named<'a>(set: &'a PolicySet, text: &str, at: &str) -> Result<BTreeMap<String, &'a Policy>, Error> {
    let mut policies = BTreeMap::new();
    for policy in set.policies() {
        let annotation = policy.annotations().find_map(|(key, id)| (key == "id").then_some(id));
        let id = annotation.map_or_else(|| policy.id().to_string(), str::to_owned);
        let wrong = |why: &str| {
            let line = text.find(&format!("\"{id}\"")).map_or(1, |offset| Lines::new(text).of(offset));
            Error::config(format!("{at}:{line}"), format!("@id(\"{}\") {why}", id.escape_debug()))
        };
        if id.is_empty()
            || id.len() > ID_MAX
            || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:/ ".contains(&b))
        {
            return Err(wrong(&format!("must be 1 to {ID_MAX} letters, digits, spaces or any of - _ . : /")));
        }
        if policies.contains_key(&id) {
            return Err(wrong("is used twice"));
        }
        policies.insert(id, policy);
    }
    Ok(policies)
}

fn place(lines: &Lines, at: &str, error: &DetailedError) -> Error {
    let mut message = error.message.clone();
    if let Some(label) = error.source_locations.iter().find_map(|l| l.label.as_ref()) {
        message = format!("{message}: {label}");
    }
    if let Some(help) = &error.help {
        message = format!("{message} ({help})");
    }
    let at =
        error.source_locations.first().map_or_else(|| at.to_owned(), |l| format!("{at}:{}", lines.of(l.loc.start)));
    Error::config(at, message.replace('\n', " "))
}

/// How a policy takes part in admission.
enum Relaxed {
    /// A `forbid` that can't be relied upon to apply: not at all.
    Unreliable,
    /// As it is written.
    Same,
    /// A `permit` with the conditions that are left.
    To(Vec<Value>),
}

fn relax(effect: Effect, conditions: &[Value]) -> Relaxed {
    if conditions.iter().all(|c| c.get("body").is_some_and(transparent)) {
        return Relaxed::Same;
    }
    match effect {
        Effect::Forbid => Relaxed::Unreliable,
        Effect::Permit => Relaxed::To(conditions.iter().filter_map(relax_condition).collect()),
    }
}

/// `when { a && b }` keeps the settled ones of a and b; `unless { a || b }` is `when { !a && !b }`.
fn relax_condition(condition: &Value) -> Option<Value> {
    let kind = condition.get("kind").and_then(Value::as_str)?;
    let joint = match kind {
        "when" => "&&",
        "unless" => "||",
        _ => return None,
    };
    let mut parts = Vec::new();
    split(condition.get("body")?, joint, &mut parts);
    let kept = parts
        .into_iter()
        .filter(|p| transparent(p))
        .cloned()
        .reduce(|left, right| json!({ joint: { "left": left, "right": right } }))?;
    Some(json!({ "kind": kind, "body": kept }))
}

fn split<'a>(expr: &'a Value, joint: &str, into: &mut Vec<&'a Value>) {
    match expr.get(joint).and_then(|e| Some((e.get("left")?, e.get("right")?))) {
        Some((left, right)) => {
            split(left, joint, into);
            split(right, joint, into);
        }
        None => into.push(expr),
    }
}

/// Whether an expression's value is the same for all flows that compare alike with the literals in it, whatever the time.
fn transparent(expr: &Value) -> bool {
    let Some((operator, operand)) = expr.as_object().filter(|o| o.len() == 1).and_then(|o| o.iter().next()) else {
        return false;
    };
    let both = |o: &Value| ["left", "right"].iter().all(|side| o.get(side).is_some_and(transparent));
    match operator.as_str() {
        "Value" => true,
        // The whole context holds `now`.
        "Var" => operand.as_str().is_some_and(|v| v != "context"),
        "." => {
            let of_context = operand.get("left") == Some(&json!({ "Var": "context" }));
            of_context && operand.get("attr").and_then(Value::as_str).is_some_and(|a| SETTLED.contains(&a))
        }
        "==" | "!=" | "<" | "<=" | ">" | ">=" | "&&" | "||" | "in" | "contains" | "containsAll" | "containsAny" => {
            both(operand)
        }
        "!" | "isEmpty" => operand.get("arg").is_some_and(transparent),
        "like" => operand.get("left").is_some_and(transparent),
        "is" => operand.get("left").is_some_and(transparent) && operand.get("in").is_none_or(transparent),
        "if-then-else" => ["if", "then", "else"].iter().all(|part| operand.get(part).is_some_and(transparent)),
        "Set" => operand.as_array().is_some_and(|items| items.iter().all(transparent)),
        _ => false,
    }
}

/// Whether `context.<attribute>`, or the context in a shape that could hide it, occurs.
fn reads(expr: &Value, attribute: &str) -> bool {
    match expr {
        Value::Object(object) => {
            if object.get("Var").and_then(Value::as_str) == Some("context") {
                return true;
            }
            object.iter().any(|(key, value)| {
                let access = (key == "." && value.get("left") == Some(&json!({ "Var": "context" })))
                    .then(|| value.get("attr"))
                    .flatten();
                match access.and_then(Value::as_str) {
                    Some(name) => name == attribute,
                    None => reads(value, attribute),
                }
            })
        }
        Value::Array(items) => items.iter().any(|item| reads(item, attribute)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn collect_numbers(expr: &Value, into: &mut BTreeSet<i64>) {
    match expr {
        Value::Number(n) => into.extend(n.as_i64()),
        Value::Object(object) => object.values().for_each(|v| collect_numbers(v, into)),
        Value::Array(items) => items.iter().for_each(|v| collect_numbers(v, into)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// `{"type": "Group", "id": "eng"}` wherever it stands.
fn collect_mentions(expr: &Value, into: &mut BTreeSet<(String, String)>) {
    match expr {
        Value::Object(object) => {
            if let (Some(Value::String(kind)), Some(Value::String(id))) = (object.get("type"), object.get("id")) {
                into.insert((kind.clone(), id.clone()));
            }
            object.values().for_each(|v| collect_mentions(v, into));
        }
        Value::Array(items) => items.iter().for_each(|v| collect_mentions(v, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
