//! Key material that both ends of a connection derive (RFC 8446 §7.5).

use super::pair::{End, Pair};
use super::world::World;

const LABEL: &str = "EXPORTER-test";

#[test]
fn both_ends_export_the_same_bytes_and_others_for_each_label_context_and_connection() {
    let mut p = Pair::new();
    let agent = export(&mut p.client, LABEL, b"agent");
    assert!(agent.is_some());
    assert_eq!(agent, export(&mut p.server, LABEL, b"agent"));
    let others = [(LABEL, &b"connector"[..]), (LABEL, b""), ("EXPORTER-other", b"agent")];
    for (label, context) in others {
        let other = export(&mut p.client, label, context);
        assert!(other.is_some() && other != agent, "{label}");
        assert_eq!(other, export(&mut p.server, label, context), "{label}");
    }
    assert_ne!(export(&mut Pair::new().client, LABEL, b"agent"), agent);
}

#[test]
fn nothing_is_exported_before_the_peer_is_known_nor_after_the_end() {
    let w = World::new(1, &["c1"]);
    let mut p = Pair::between(&w, &w);
    assert_eq!([export(&mut p.client, LABEL, b""), export(&mut p.server, LABEL, b"")], [None, None]);
    // One flight of the client, and the server's answer: the client may be done, the server has seen no certificate.
    p.client.turn(&mut p.server);
    p.server.turn(&mut p.client);
    assert_eq!(export(&mut p.server, LABEL, b""), None);
    p.settle();
    assert!(export(&mut p.client, LABEL, b"").is_some() && export(&mut p.server, LABEL, b"").is_some());
    p.client.conn.close(0x100, "done");
    p.settle();
    assert_eq!([export(&mut p.client, LABEL, b""), export(&mut p.server, LABEL, b"")], [None, None]);
}

#[test]
fn nothing_is_exported_to_a_peer_that_was_refused() {
    let mut p = Pair::between(&World::new(1, &["c1"]), &World::new(1, &["c1"]));
    p.settle();
    assert_eq!([export(&mut p.client, LABEL, b""), export(&mut p.server, LABEL, b"")], [None, None]);
}

/// `None`: refused, and nothing written.
fn export(end: &mut End, label: &str, context: &[u8]) -> Option<[u8; 40]> {
    let mut out = [0; 40];
    let done = end.conn.export(label, context, &mut out);
    assert!(done.is_ok() || out == [0; 40]);
    done.is_ok().then_some(out)
}
