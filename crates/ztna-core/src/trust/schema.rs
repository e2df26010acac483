//! The Cedar schema every policy is validated against.

/// Principals, the one action and its context. Written to `schema.cedarschema` by `pki`, for editors and reviewers.
pub const SCHEMA: &str = r#"// Generated: policies are validated against this. Edits are lost.
entity Group;
entity Agent in [Group];
entity Service;

action "connect" appliesTo {
  principal: [Agent],
  resource: [Service],
  context: {
    protocol: String, // "tcp", "udp" or "icmp"
    port: Long,       // 0 for icmp
    path: String,     // "relay" or "direct"
    now: datetime,    // when the flow opens, and every 60 s after
  },
};
"#;
