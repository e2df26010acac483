//! `ztna pki`: the commands on an operator's trust folder (contract.md). One struct of options in, one report out.
//!
//! Everything is checked before the first byte is written, each file is replaced in one step, and a node's snapshot.json
//! comes last: a command that fails half way leaves nodes with what they had, and can be run again.

mod edit;
mod examine;
mod publish;
mod question;
mod rotate;
mod store;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::{Role, SpiffeId, check_name, check_trust_domain};
use crate::io::folder::{read_text, sha256_hex};
use crate::io::pki_folder::store::{
    Checked, NETWORK, POLICY, PUBLIC, REVOKED, Record, SCHEMA_FILE, Store, require_empty, write_atomic,
};
use crate::trust::network::DEFAULT_ZONE;
use crate::trust::pki::{Ca, LeafSpec};
use crate::trust::{Network, SCHEMA, parse_relay_url, rfc3339, system_time, unix_seconds};

pub use examine::{ExamineOptions, ExamineReport, Examined, Fault, PolicyReport, Publication, examine};
pub use question::policy_check;
pub use rotate::{Phase, RotateOptions, RotateReport, rotate_ca};

/// Life of a certificate when nothing else is asked for (contract.md).
pub const DEFAULT_TTL_SECONDS: u64 = 24 * 3600;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InitOptions {
    pub dir: PathBuf,
    pub trust_domain: String,
    #[serde(default)]
    pub zone: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IssueOptions {
    pub dir: PathBuf,
    /// `agent`, `connector` or `relay`.
    pub role: String,
    pub name: String,
    pub out: PathBuf,
    /// Agents only.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Relays only, and at least one unless network.toml lists the relay already.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Default [`DEFAULT_TTL_SECONDS`].
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublishOptions {
    pub dir: PathBuf,
    pub outs: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenewOptions {
    pub dir: PathBuf,
    /// `alice`, or `agent/alice` where several roles share the name.
    pub name: String,
    pub out: PathBuf,
    /// Default: as before.
    #[serde(default)]
    pub ttl_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevokeOptions {
    pub dir: PathBuf,
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckOptions {
    pub dir: PathBuf,
    #[serde(default)]
    pub agent: Option<String>,
    /// `web`, or `web:80`.
    #[serde(default)]
    pub to: Option<String>,
    /// Default tcp.
    #[serde(default)]
    pub protocol: Option<String>,
    /// `direct` or `relay`. Default: each of them where a policy reads `context.path`.
    #[serde(default)]
    pub path: Option<String>,
}

/// What `init` made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InitReport {
    pub dir: String,
    pub trust_domain: String,
    pub zone: String,
    pub advice: Vec<String>,
}

/// What `issue` and `renew` made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssueReport {
    /// `spiffe://…`.
    pub id: String,
    pub serial: String,
    /// Milliseconds since 1970.
    pub expires_at: i64,
    pub out: String,
    pub version: u64,
    pub advice: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishReport {
    pub version: u64,
    pub nodes: Vec<PublishedNode>,
    pub warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedNode {
    pub name: String,
    pub out: String,
    /// False for a revoked node: it gets nothing new.
    pub published: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokeReport {
    pub name: String,
    pub serials: Vec<String>,
    pub advice: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// No finding is an error.
    pub ok: bool,
    pub findings: Vec<Finding>,
    /// Present when an agent and a target were named. Taken for a flow that opens now.
    pub decision: Option<CheckDecision>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// `error` or `warning`.
    pub severity: &'static str,
    /// File and line where known.
    pub at: String,
    pub message: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckDecision {
    pub allowed: bool,
    /// The only kind of path on which it is, where none was asked for.
    pub path: Option<&'static str>,
    pub policy_id: Option<String>,
    pub reason: String,
}

/// Runs a command by its name with its options as JSON, and gives its report as JSON.
pub fn run(command: &str, options: &str, now: SystemTime) -> Result<String> {
    match command {
        "init" => json(&init(&parsed(options)?, now)?),
        "issue" => json(&issue(&parsed(options)?, now)?),
        "publish" => json(&publish(&parsed(options)?, now)?),
        "renew" => json(&renew(&parsed(options)?, now)?),
        "revoke" => json(&revoke(&parsed(options)?, now)?),
        "rotate-ca" => json(&rotate_ca(&parsed(options)?, now)?),
        "examine" => json(&examine(&parsed(options)?, now)?),
        "policy-check" => json(&policy_check(&parsed(options)?, now)?),
        other => Err(Error::config(
            "pki command",
            format!("`{}` is not one of init, issue, publish, renew, revoke, rotate-ca", other.escape_debug()),
        )),
    }
}

/// Makes a trust folder: a CA, a network without nodes, a policy that allows nothing.
pub fn init(options: &InitOptions, now: SystemTime) -> Result<InitReport> {
    check_trust_domain(&options.trust_domain).map_err(|_| {
        let domain = options.trust_domain.escape_debug();
        Error::config("--trust-domain", format!("`{domain}` must be a lower-case DNS name such as `example.test`"))
    })?;
    let zone = options.zone.clone().unwrap_or_else(|| DEFAULT_ZONE.to_owned());
    let network = edit::first_network(&options.trust_domain, &zone);
    Network::parse(&network, "--zone").map_err(|_| {
        Error::config(
            "--zone",
            format!("`{}` must be a lower-case DNS name such as `{DEFAULT_ZONE}`", zone.escape_debug()),
        )
    })?;
    let ca = Ca::generate(&options.trust_domain, now)?;
    let mut store = Store::create(&options.dir)?;
    store.add_ca(&ca)?;
    for (file, text) in [
        (NETWORK, network.as_str()),
        (POLICY, edit::FIRST_POLICY),
        (SCHEMA_FILE, SCHEMA),
        (REVOKED, edit::FIRST_REVOKED),
    ] {
        write_atomic(&store.path(file), text, PUBLIC)?;
    }
    store.save_state()?;
    let dir = options.dir.display().to_string();
    let advice = vec![
        format!("issue a relay: ztna pki issue {dir} relay r1 --url https://HOST:4433 --out OUT"),
        format!("keep {dir}/ca secret: whoever has it is every node"),
    ];
    Ok(InitReport { dir, trust_domain: options.trust_domain.clone(), zone, advice })
}

/// Issues a node's first certificate, adds the node to network.toml, and writes its folder.
pub fn issue(options: &IssueOptions, now: SystemTime) -> Result<IssueReport> {
    let role: Role = options.role.parse().map_err(|_| {
        Error::config("role", format!("`{}` must be agent, connector or relay", options.role.escape_debug()))
    })?;
    check_name(role.as_str(), &options.name)?;
    let article = if role == Role::Agent { "an" } else { "a" };
    if role != Role::Agent && !options.groups.is_empty() {
        return Err(Error::config("--group", format!("only agents have groups, not {article} {role}")));
    }
    if role != Role::Relay && !options.urls.is_empty() {
        return Err(Error::config("--url", format!("only relays have URLs, not {article} {role}")));
    }
    for group in &options.groups {
        check_name("group", group).map_err(|e| Error::config("--group", e.to_string()))?;
    }
    for url in &options.urls {
        parse_relay_url(url).map_err(|why| Error::config("--url", why))?;
    }
    let mut store = Store::open(&options.dir)?;
    let name = format!("{role}/{}", options.name);
    let before = store.check(None, None)?;
    let revoked = before.revoked.names().any(|n| n == name);
    if !revoked && let Some(last) = store.state.certificates.iter().rfind(|c| c.name == name) {
        let until = rfc3339(system_time(last.not_after));
        return Err(Error::config(
            format!("node `{name}`"),
            format!("was issued already, valid to {until}; run `ztna pki renew`, or revoke it first"),
        ));
    }
    claim(&store, &options.out, &name)?;

    let text = read_text(&store.path(NETWORK))?.unwrap_or_default();
    let at = store.at(NETWORK);
    let network_text = match role {
        Role::Agent => edit::add_agent(&text, &at, &options.name, &options.groups)?,
        Role::Connector => text.clone(),
        Role::Relay if options.urls.is_empty() && !before.network.relays.iter().any(|r| r.name == options.name) => {
            return Err(Error::config("--url", "a relay needs at least one, such as https://192.0.2.1:4433"));
        }
        Role::Relay => edit::add_relay(&text, &at, &options.name, &options.urls)?,
    };
    let old_revoked = &before.revoked_text;
    let revoked_text =
        if revoked { edit::remove_revoked_name(old_revoked, &store.at(REVOKED), &name)? } else { old_revoked.clone() };
    let checked = store.check(Some(&network_text), Some(&revoked_text))?;

    let ttl = options.ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS);
    let mut report = sign(&mut store, &checked, role, &options.name, &options.out, ttl, now, || {
        if network_text != text {
            write_atomic(&options.dir.join(NETWORK), &network_text, PUBLIC)?;
        }
        if revoked { write_atomic(&options.dir.join(REVOKED), &revoked_text, PUBLIC) } else { Ok(()) }
    })?;
    report.advice.push(format!("tell the other nodes: ztna pki publish {} OUT...", options.dir.display()));
    match role {
        Role::Connector if checked.network.services_of_connector(&options.name).next().is_none() => {
            report.advice.push(format!(
                "name it in a service: add [[service]] with connectors = [\"{}\"] to {at}",
                options.name
            ));
        }
        Role::Agent | Role::Connector | Role::Relay => {}
    }
    Ok(report)
}

/// Writes the present state of the trust folder into nodes' folders. Nothing is written when anything is wrong.
pub fn publish(options: &PublishOptions, now: SystemTime) -> Result<PublishReport> {
    if options.outs.is_empty() {
        return Err(Error::config("OUT", "name at least one node's folder"));
    }
    let mut store = Store::open(&options.dir)?;
    let checked = store.check(None, None)?;
    write_atomic(&store.path(SCHEMA_FILE), SCHEMA, PUBLIC)?;
    let mut warnings = checked.policy.warnings().to_vec();
    warnings.extend(question::connector_warnings(&store, &checked));
    let (mut nodes, mut prepared) = (Vec::new(), Vec::new());
    for out in &options.outs {
        let at = out.display().to_string();
        let Some(record) = store.node_of(out)? else {
            return Err(Error::config(
                at,
                "holds no certificate issued from this trust folder, or one that has expired and was renewed elsewhere; \
                 `ztna pki issue` and `ztna pki renew` make node folders",
            ));
        };
        let name = record.name.clone();
        let gone = checked.is_revoked(record);
        if gone {
            warnings.push(format!("{at}: {name} is revoked and gets nothing new"));
        } else {
            if record.not_after < unix_seconds(now) {
                warnings.push(format!("{at}: the certificate of {name} has expired; run `ztna pki renew`"));
            }
            prepared.push(publish::prepare(&store, &checked, &name, out, None)?);
        }
        nodes.push(PublishedNode { name, out: at, published: !gone });
    }
    store.state.version = publish::next_version(&store, options.outs.iter().map(PathBuf::as_path));
    store.save_state()?;
    for folder in &prepared {
        publish::write(folder, store.state.version)?;
    }
    Ok(PublishReport { version: store.state.version, nodes, warnings })
}

/// Gives a node a new key and certificate and publishes to its folder. The old certificate stays good until it expires.
pub fn renew(options: &RenewOptions, now: SystemTime) -> Result<IssueReport> {
    let mut store = Store::open(&options.dir)?;
    let checked = store.check(None, None)?;
    let name = store.resolve(&options.name)?;
    if checked.revoked.names().any(|n| n == name) {
        return Err(Error::config(format!("node `{name}`"), "is revoked; `ztna pki issue` lets it come back"));
    }
    claim(&store, &options.out, &name)?;
    let before =
        store.state.certificates.iter().rfind(|c| c.name == name).map_or(DEFAULT_TTL_SECONDS, |c| c.ttl_seconds);
    let (role, node) = name.split_once('/').ok_or_else(|| Error::Internal(format!("`{name}` is no node's name")))?;
    sign(&mut store, &checked, role.parse()?, node, &options.out, options.ttl_seconds.unwrap_or(before), now, || Ok(()))
}

/// Revokes every certificate of a node that has not expired, and its name until it is issued again.
pub fn revoke(options: &RevokeOptions, now: SystemTime) -> Result<RevokeReport> {
    let store = Store::open(&options.dir)?;
    let checked = store.check(None, None)?;
    let name = store.resolve(&options.name)?;
    let live = store.state.certificates.iter().filter(|c| c.name == name && !c.is_over(now));
    let serials: Vec<String> = live.map(|c| c.serial.clone()).collect();
    let text = edit::add_revocation(&checked.revoked_text, &store.at(REVOKED), &name, &serials)?;
    store.check(None, Some(&text))?;
    write_atomic(&store.path(REVOKED), &text, PUBLIC)?;
    let advice = vec![format!(
        "it takes effect when relays and connectors have it: ztna pki publish {} OUT...",
        options.dir.display()
    )];
    Ok(RevokeReport { name, serials, advice })
}

/// Refuses to write over anything but the same node's folder.
fn claim(store: &Store, out: &Path, name: &str) -> Result<()> {
    match store.node_of(out)? {
        Some(record) if record.name == name => Ok(()),
        Some(record) => Err(Error::config(
            out.display().to_string(),
            format!("holds the folder of {}; choose another --out for {name}", record.name),
        )),
        None => require_empty(out, &format!("choose a new or empty folder as --out for {name}")),
    }
}

/// Signs a certificate, records it, runs `commit` for the operator's files, and publishes to `out`.
#[allow(
    clippy::too_many_arguments,
    reason = "one caller each for issue and renew; a struct would only rename the arguments"
)]
fn sign(
    store: &mut Store,
    checked: &Checked,
    role: Role,
    node: &str,
    out: &Path,
    ttl: u64,
    now: SystemTime,
    commit: impl FnOnce() -> Result<()>,
) -> Result<IssueReport> {
    let id = SpiffeId::new(&checked.network.trust_domain, role, node)?;
    let (number, ca) = store.signing_ca()?;
    let ca_end = ca.not_after()?;
    let end = now.checked_add(Duration::from_secs(ttl)).filter(|end| ttl > 0 && *end <= ca_end);
    let Some(end) = end else {
        return Err(Error::config(
            "--ttl",
            format!("must be at least 1 s and end before the CA does, on {}", rfc3339(ca_end)),
        ));
    };
    let issued = ca.issue(&LeafSpec::node(&id, now, Duration::from_secs(ttl)))?;
    let name = format!("{role}/{node}");
    let prepared = publish::prepare(store, checked, &name, out, Some((&issued.cert_pem, &issued.key_pem)))?;
    store.state.version = publish::next_version(store, std::iter::once(out));
    store.forget_over(&name, out, now)?;
    store.state.certificates.push(Record {
        name,
        serial: issued.serial.clone(),
        not_after: unix_seconds(end),
        ttl_seconds: ttl,
        ca: number,
        sha256: sha256_hex(issued.cert_pem.as_bytes()),
    });
    // Recorded before it exists anywhere else: a certificate that no revocation knows of must not get out.
    store.save_state()?;
    commit()?;
    publish::write(&prepared, store.state.version)?;
    Ok(IssueReport {
        id: id.to_string(),
        serial: issued.serial,
        expires_at: unix_seconds(end).saturating_mul(1000),
        out: out.display().to_string(),
        version: store.state.version,
        advice: Vec::new(),
    })
}

fn parsed<T: for<'de> Deserialize<'de>>(options: &str) -> Result<T> {
    serde_json::from_str(options).map_err(|e| Error::config("options", e.to_string()))
}

fn json<T: Serialize>(report: &T) -> Result<String> {
    serde_json::to_string(report).map_err(|e| Error::Internal(e.to_string()))
}
