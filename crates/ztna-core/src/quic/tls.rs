//! TLS 1.3 contexts and transport settings of the four kinds of connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use boring::ex_data::Index;
use boring::pkey::PKey;
use boring::ssl::{
    Ssl, SslAlert, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode, SslVerifyError,
    SslVerifyMode, SslVersion,
};
use boring::x509::X509;

use crate::error::{Error, Result};
use crate::trust::{Expect, PeerIdentity, Refusal, RoleSet, Snapshot, Usage};

/// Largest UDP payload of an inner connection, bytes (protocol.md, Sizes): the same on every path.
pub const INNER_PAYLOAD: usize = 1320;
/// Largest UDP payload of an outer connection, bytes: 1320 + 32 of QUIC + 4 of quarter stream ID + 4 of context ID.
pub const OUTER_PAYLOAD: usize = 1360;
/// Idle timeouts in milliseconds (protocol.md, Timers).
pub const INNER_IDLE_MS: u64 = 60_000;
pub const OUTER_IDLE_MS: u64 = 30_000;
/// Streams a peer may have open at once (protocol.md: flows 4,096 per connection, and some for path signalling).
pub const INNER_STREAMS: u64 = 4_096 + 8;
/// A relay connection carries one stream a session.
pub const OUTER_STREAMS: u64 = 1_024;
/// Connection receive window, inner: far larger than the sum of a few stalled streams, below the relay's DATAGRAM queue
/// (8,192 packets of 1,320 bytes).
pub const INNER_CONNECTION_WINDOW: u64 = 48 << 20;
/// Stream receive window, inner: 200 Mbit/s × 80 ms is 2 MB, and a loss holds back a few of those; auto-tuning starts small and ends
/// here, below the 8,192 packets that a relay queues.
const INNER_STREAM_WINDOW: u64 = 10 << 20;
const INNER_STREAM_INITIAL: u64 = 512 << 10;
/// An outer stream carries capsules only.
const OUTER_STREAM_WINDOW: u64 = 64 << 10;
/// Received DATAGRAMs that wait for this end: one GRO batch of 8 × 64 KB must never overflow it (facts.md: below 2,048 loses).
const OUTER_DGRAM_RECV: usize = 8_192;
/// A relay's way out; a node's is only staging behind `is_dgram_send_queue_full`.
const RELAY_DGRAM_SEND: usize = 8_192;
const NODE_DGRAM_SEND: usize = 256;
const INNER_DGRAM_RECV: usize = 2_048;
const INNER_DGRAM_SEND: usize = 512;

/// Which of the four connections a context is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Node → relay, at the node.
    OuterClient,
    /// Node → relay, at the relay.
    OuterServer,
    /// Agent → connector, at the agent.
    InnerClient,
    /// Agent → connector, at the connector.
    InnerServer,
}

impl Kind {
    pub fn is_server(self) -> bool {
        matches!(self, Kind::OuterServer | Kind::InnerServer)
    }
    pub(super) fn is_outer(self) -> bool {
        matches!(self, Kind::OuterClient | Kind::OuterServer)
    }
    fn expect(self, trust_domain: &str) -> Expect<'_> {
        let (roles, usage) = match self {
            Kind::OuterClient => (RoleSet::RELAY, Usage::ServerAuth),
            Kind::OuterServer => (RoleSet::NODES, Usage::ClientAuth),
            Kind::InnerClient => (RoleSet::CONNECTOR, Usage::ServerAuth),
            Kind::InnerServer => (RoleSet::AGENT, Usage::ClientAuth),
        };
        Expect { trust_domain, roles, usage }
    }
}

/// A context made from one snapshot. Rebuilt on every snapshot change; connections made before keep theirs.
pub struct TlsConfig {
    pub(super) quiche: quiche::Config,
    snapshot: Arc<Snapshot>,
    kind: Kind,
    refused: Refused,
}

/// Verdicts of handshakes that were refused, by the address of their TLS state: those of one batch must not be mixed up.
/// Each is taken when its connection is next settled, so that there are no more of them than connections.
type Refused = Arc<Mutex<BTreeMap<usize, Refusal>>>;

fn place(ssl: &SslRef) -> usize {
    std::ptr::from_ref(ssl).addr()
}

impl TlsConfig {
    /// Errors: a certificate or key that BoringSSL does not take.
    pub fn new(kind: Kind, snapshot: &Arc<Snapshot>) -> Result<Self> {
        let refused = Refused::default();
        let context = context(kind, snapshot, &refused).map_err(|e| Error::Identity(format!("TLS context: {e}")))?;
        let quiche = transport(kind, context).map_err(|e| Error::Internal(format!("QUIC configuration: {e}")))?;
        Ok(TlsConfig { quiche, snapshot: snapshot.clone(), kind, refused })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Why this handshake was refused, if the verifier refused it. Reading clears it.
    pub(super) fn take_refusal(&self, ssl: &SslRef) -> Option<Refusal> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).remove(&place(ssl))
    }

    /// Whom the handshake's verifier has accepted on this session, under the snapshot that still counts.
    pub(super) fn verified(&self, ssl: &SslRef) -> Option<Arc<PeerIdentity>> {
        let verified = ssl.ex_data(verified_index()?)?;
        Arc::ptr_eq(&verified.snapshot, &self.snapshot).then(|| verified.identity.clone())
    }

    /// Verifies the chain that an established connection showed, leaf first: a missing certificate is a refusal too, and the
    /// snapshot may have changed during the handshake. `verified`: what [`verified`](Self::verified) gave, so that the same
    /// signature need not be checked twice.
    pub(super) fn verify(
        &self,
        chain: &[&[u8]],
        verified: Option<Arc<PeerIdentity>>,
        now: SystemTime,
    ) -> Result<Arc<PeerIdentity>, Refusal> {
        if let (Some(identity), Some(leaf)) = (verified, chain.first())
            && *identity.leaf_der == **leaf
        {
            return Ok(identity);
        }
        let s = &self.snapshot;
        s.anchors.verify(chain, self.kind.expect(&s.network.trust_domain), &s.revoked, now).map(Arc::new)
    }
}

/// What the handshake's verifier found, kept with the TLS session.
struct Verified {
    snapshot: Arc<Snapshot>,
    identity: Arc<PeerIdentity>,
}

/// Where a session keeps it. `None` when BoringSSL has no memory: all is verified twice then.
fn verified_index() -> Option<Index<Ssl, Verified>> {
    static INDEX: OnceLock<Option<Index<Ssl, Verified>>> = OnceLock::new();
    *INDEX.get_or_init(|| Ssl::new_ex_index().ok())
}

fn context(
    kind: Kind,
    snapshot: &Arc<Snapshot>,
    refused: &Refused,
) -> Result<SslContextBuilder, boring::error::ErrorStack> {
    let mut b = SslContextBuilder::new(SslMethod::tls())?;
    b.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    b.set_max_proto_version(Some(SslVersion::TLS1_3))?;
    b.set_curves_list("X25519MLKEM768:X25519:P-256")?;
    b.set_options(SslOptions::NO_TICKET);
    b.set_session_cache_mode(SslSessionCacheMode::OFF);
    let certs = X509::stack_from_pem(snapshot.credentials.cert_chain_pem.as_bytes())?;
    for (i, cert) in certs.into_iter().enumerate() {
        if i == 0 {
            b.set_certificate(&cert)?;
        } else {
            b.add_extra_chain_cert(cert)?;
        }
    }
    let key = PKey::private_key_from_pem(snapshot.credentials.key_pem.expose().as_bytes())?;
    b.set_private_key(&key)?;
    b.check_private_key()?;
    let (snapshot, refused) = (snapshot.clone(), refused.clone());
    let mode = SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT;
    b.set_custom_verify_callback(mode, move |ssl| {
        let expect = kind.expect(&snapshot.network.trust_domain);
        let chain = presented_chain(ssl, kind.is_server());
        let refs: Vec<&[u8]> = chain.iter().map(Vec::as_slice).collect();
        let verdict = snapshot.anchors.verify(&refs, expect, &snapshot.revoked, SystemTime::now());
        let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        match verdict {
            Ok(identity) => {
                // What an earlier connection at the same place left behind.
                refused.remove(&place(ssl));
                if let Some(index) = verified_index() {
                    ssl.set_ex_data(index, Verified { snapshot: snapshot.clone(), identity: Arc::new(identity) });
                }
                Ok(())
            }
            Err(refusal) => {
                let alert = alert_of(&refusal);
                refused.insert(place(ssl), refusal);
                Err(SslVerifyError::Invalid(alert))
            }
        }
    });
    Ok(b)
}

/// The certificates the peer sent, leaf first, DER. BoringSSL's chain holds the leaf on the client side only.
fn presented_chain(ssl: &SslRef, is_server: bool) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    if is_server && let Some(Ok(leaf)) = ssl.peer_certificate().map(|c| c.to_der()) {
        out.push(leaf);
    }
    if let Some(chain) = ssl.peer_cert_chain() {
        out.extend(chain.iter().filter_map(|c| c.to_der().ok()));
    }
    out
}

fn alert_of(refusal: &Refusal) -> SslAlert {
    match refusal {
        Refusal::Expired | Refusal::NotYetValid => SslAlert::CERTIFICATE_EXPIRED,
        Refusal::Revoked => SslAlert::CERTIFICATE_REVOKED,
        Refusal::UnknownCa => SslAlert::UNKNOWN_CA,
        Refusal::NoCertificate => SslAlert::CERTIFICATE_REQUIRED,
        Refusal::WrongRole | Refusal::WrongTrustDomain => SslAlert::ACCESS_DENIED,
        Refusal::StrayCertificate
        | Refusal::NoUriSan
        | Refusal::SeveralUriSans
        | Refusal::BadSpiffeId
        | Refusal::WrongUsage
        | Refusal::MissingDnsSan
        | Refusal::NotALeaf
        | Refusal::Malformed(_) => SslAlert::BAD_CERTIFICATE,
    }
}

fn transport(kind: Kind, context: SslContextBuilder) -> quiche::Result<quiche::Config> {
    let mut c = quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, context)?;
    c.set_application_protos(&[b"h3"])?;
    c.grease(false);
    // BBR2 below and above: cubic on either layer collapses under loss with delay (facts.md).
    c.set_cc_algorithm_name("bbr2_gcongestion")?;
    c.enable_pacing(false);
    c.set_max_recv_udp_payload_size(1500);
    c.set_initial_max_streams_uni(8);
    c.set_initial_max_stream_data_uni(64 << 10);
    c.set_active_connection_id_limit(4);
    c.set_initial_congestion_window_packets(32);
    if kind.is_outer() {
        c.set_max_idle_timeout(OUTER_IDLE_MS);
        c.set_max_send_udp_payload_size(OUTER_PAYLOAD);
        c.discover_pmtu(true);
        c.set_initial_max_data(1 << 20);
        c.set_max_connection_window(4 << 20);
        c.set_initial_max_stream_data_bidi_local(OUTER_STREAM_WINDOW);
        c.set_initial_max_stream_data_bidi_remote(OUTER_STREAM_WINDOW);
        c.set_max_stream_window(OUTER_STREAM_WINDOW);
        c.set_initial_max_streams_bidi(OUTER_STREAMS);
        c.enable_dgram(
            true,
            OUTER_DGRAM_RECV,
            if kind == Kind::OuterServer { RELAY_DGRAM_SEND } else { NODE_DGRAM_SEND },
        );
    } else {
        c.set_max_idle_timeout(INNER_IDLE_MS);
        c.set_max_send_udp_payload_size(INNER_PAYLOAD);
        // Paths are switched below QUIC, so that QUIC itself never migrates.
        c.set_disable_active_migration(true);
        c.set_initial_max_data(INNER_CONNECTION_WINDOW);
        c.set_max_connection_window(INNER_CONNECTION_WINDOW);
        c.set_initial_max_stream_data_bidi_local(INNER_STREAM_INITIAL);
        c.set_initial_max_stream_data_bidi_remote(INNER_STREAM_INITIAL);
        c.set_max_stream_window(INNER_STREAM_WINDOW);
        c.set_initial_max_streams_bidi(INNER_STREAMS);
        c.enable_dgram(true, INNER_DGRAM_RECV, INNER_DGRAM_SEND);
    }
    Ok(c)
}
