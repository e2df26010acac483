//! Path signalling between the two ends of an inner connection: HTTP Datagrams of its `ztna-path` stream (protocol.md). Each message
//! is one datagram; what has to arrive is numbered and sent again until the other end has said the number back.
//!
//! ```text
//! CANDIDATES     0x01  generation (i)  mapping (8)  count (i)  { kind (8)  IP version (8)  address  port (16) } ...
//! ACK            0x02  generation (i)
//! CHECK_NOW      0x03  generation (i)
//! STATUS         0x04  generation (i)  sending (8)  count (i)  { kind (8)  result (8)  round trip, us (i)  IP version (8)  address  port (16) } ...
//! STATUS_ASK     0x05
//! PORT_BURST     0x06  attempt (i)  step (8)  [ checks (i) | reason (8) ]
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use super::error::DecodeError;
use super::reader::Reader;
use super::{address, varint};

/// Candidates of one end (protocol.md: a peer must not have us check more).
pub const MAX_CANDIDATES: usize = 16;
/// Checks that one STATUS reports.
pub const MAX_REPORTS: usize = 24;

const CANDIDATES: u64 = 1;
const ACK: u64 = 2;
const CHECK_NOW: u64 = 3;
const STATUS: u64 = 4;
const STATUS_ASK: u64 = 5;
const PORT_BURST: u64 = 6;

/// How an end came to know an address of its own (RFC 8445 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CandidateKind {
    /// Of an interface.
    Host,
    /// As a relay saw it.
    ServerReflexive,
    /// As the peer saw it. Never signalled.
    PeerReflexive,
    /// Opened at the router by a port mapping protocol.
    PortMapped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Candidate {
    pub kind: CandidateKind,
    pub address: SocketAddr,
}

/// A NAT's mapping behaviour (RFC 4787 §4.1), as one end has found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mapping {
    #[default]
    Unknown,
    /// Our address is seen unchanged.
    None,
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

/// Where an end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    Nothing,
    Relay,
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not answered yet.
    Waiting,
    Answered,
    /// Answered, but not when padded to the largest packet.
    Narrow,
    TimedOut,
    /// Never sent: the address is not one to send to.
    Refused,
    /// Not answered yet, and the next check waits: the receiver has named too many addresses, or too much went there.
    Held,
}

/// What checks to one address have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Kind and address of the candidate that was checked.
    pub candidate: Candidate,
    pub outcome: Outcome,
    /// `None` unless answered.
    pub rtt: Option<Duration>,
}

/// How far two ends have come with a port burst. The end behind the hard NAT asks and opens, the other one guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BurstStep {
    /// Will the receiver guess ports of the sender's NAT?
    Ask,
    /// It will, with so many checks, once the asker's sockets are open.
    Agree { checks: u16 },
    /// It will not; or, from the end that would have asked, it does not ask.
    Refuse(BurstRefusal),
    /// The asker's sockets are open, and each has sent a check.
    Open,
    /// The guessing has begun.
    Begun,
}

/// Why an end has no part in a port burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BurstRefusal {
    /// It is switched off there.
    Off,
    /// The network there is metered.
    Metered,
    /// Another burst is running there.
    Busy,
    /// One has gone to that peer or prefix within ten minutes, or many to others.
    TooSoon,
    /// No burst would help, as far as is known there.
    Unsuitable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// All addresses of the sender, in place of any older generation.
    Candidates {
        generation: u64,
        mapping: Mapping,
        candidates: Vec<Candidate>,
    },
    /// This generation of the receiver's candidates has arrived.
    Ack {
        generation: u64,
    },
    /// Checks are worth a new round: something changed at the sender.
    CheckNow {
        generation: u64,
    },
    /// What the sender found, for people.
    Status {
        generation: u64,
        sending: Sending,
        reports: Vec<Report>,
    },
    StatusAsk,
    /// `attempt`: counted by the end that asks, so that a late answer is known for one.
    PortBurst {
        attempt: u64,
        step: BurstStep,
    },
}

impl Message {
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::Candidates { generation, mapping, candidates } => {
                varint::encode(CANDIDATES, out);
                varint::encode(*generation, out);
                out.push(match mapping {
                    Mapping::Unknown => 0,
                    Mapping::None => 1,
                    Mapping::EndpointIndependent => 2,
                    Mapping::AddressDependent => 3,
                    Mapping::AddressAndPortDependent => 4,
                });
                varint::encode(candidates.len() as u64, out);
                for c in candidates {
                    encode_candidate(c, out);
                }
            }
            Message::Ack { generation } => {
                varint::encode(ACK, out);
                varint::encode(*generation, out);
            }
            Message::CheckNow { generation } => {
                varint::encode(CHECK_NOW, out);
                varint::encode(*generation, out);
            }
            Message::Status { generation, sending, reports } => {
                varint::encode(STATUS, out);
                varint::encode(*generation, out);
                out.push(match sending {
                    Sending::Nothing => 0,
                    Sending::Relay => 1,
                    Sending::Direct => 2,
                });
                varint::encode(reports.len() as u64, out);
                for r in reports {
                    encode_candidate(&r.candidate, out);
                    out.push(match r.outcome {
                        Outcome::Waiting => 0,
                        Outcome::Answered => 1,
                        Outcome::Narrow => 2,
                        Outcome::TimedOut => 3,
                        Outcome::Refused => 4,
                        Outcome::Held => 5,
                    });
                    varint::encode(r.rtt.map_or(0, |d| d.as_micros().max(1) as u64), out);
                }
            }
            Message::StatusAsk => varint::encode(STATUS_ASK, out),
            Message::PortBurst { attempt, step } => {
                varint::encode(PORT_BURST, out);
                varint::encode(*attempt, out);
                encode_step(*step, out);
            }
        }
    }

    /// One message, which must fill the datagram. `None`: of a type from a later version, to be passed over.
    pub fn decode(datagram: &[u8]) -> Result<Option<Message>, DecodeError> {
        let mut r = Reader::new(datagram);
        let cut = || DecodeError::truncated("path signal");
        let message = match r.varint().ok_or_else(cut)? {
            CANDIDATES => {
                let generation = r.varint().ok_or_else(cut)?;
                let mapping = match r.u8().ok_or_else(cut)? {
                    0 => Mapping::Unknown,
                    1 => Mapping::None,
                    2 => Mapping::EndpointIndependent,
                    3 => Mapping::AddressDependent,
                    4 => Mapping::AddressAndPortDependent,
                    other => return Err(DecodeError::invalid("NAT mapping", other, "0 to 4")),
                };
                let count = bounded(&mut r, "candidates", MAX_CANDIDATES)?;
                let candidates = (0..count).map(|_| decode_candidate(&mut r)).collect::<Result<_, _>>()?;
                Message::Candidates { generation, mapping, candidates }
            }
            ACK => Message::Ack { generation: r.varint().ok_or_else(cut)? },
            CHECK_NOW => Message::CheckNow { generation: r.varint().ok_or_else(cut)? },
            STATUS => {
                let generation = r.varint().ok_or_else(cut)?;
                let sending = match r.u8().ok_or_else(cut)? {
                    0 => Sending::Nothing,
                    1 => Sending::Relay,
                    2 => Sending::Direct,
                    other => return Err(DecodeError::invalid("sending path", other, "0 to 2")),
                };
                let count = bounded(&mut r, "reports", MAX_REPORTS)?;
                let reports = (0..count).map(|_| decode_report(&mut r)).collect::<Result<_, _>>()?;
                Message::Status { generation, sending, reports }
            }
            STATUS_ASK => Message::StatusAsk,
            PORT_BURST => {
                let attempt = r.varint().ok_or_else(cut)?;
                Message::PortBurst { attempt, step: decode_step(&mut r)? }
            }
            _ => return Ok(None),
        };
        if r.is_empty() {
            Ok(Some(message))
        } else {
            Err(DecodeError::invalid("path signal", format!("{} bytes more", r.rest().len()), "one message a datagram"))
        }
    }
}

fn bounded(r: &mut Reader<'_>, what: &'static str, max: usize) -> Result<usize, DecodeError> {
    let count = r.varint().ok_or_else(|| DecodeError::truncated("path signal"))?;
    match usize::try_from(count) {
        Ok(n) if n <= max => Ok(n),
        Ok(_) | Err(_) => Err(DecodeError::TooLong { what, got: count, max: max as u64 }),
    }
}

fn encode_candidate(c: &Candidate, out: &mut Vec<u8>) {
    out.push(match c.kind {
        CandidateKind::Host => 0,
        CandidateKind::ServerReflexive => 1,
        CandidateKind::PeerReflexive => 2,
        CandidateKind::PortMapped => 3,
    });
    address::encode(c.address, out);
}

fn decode_candidate(r: &mut Reader<'_>) -> Result<Candidate, DecodeError> {
    let kind = match r.u8().ok_or_else(|| DecodeError::truncated("candidate"))? {
        0 => CandidateKind::Host,
        1 => CandidateKind::ServerReflexive,
        2 => CandidateKind::PeerReflexive,
        3 => CandidateKind::PortMapped,
        other => return Err(DecodeError::invalid("candidate kind", other, "0 to 3")),
    };
    Ok(Candidate { kind, address: address::decode(r)? })
}

fn decode_report(r: &mut Reader<'_>) -> Result<Report, DecodeError> {
    let cut = || DecodeError::truncated("report");
    let candidate = decode_candidate(r)?;
    let outcome = match r.u8().ok_or_else(cut)? {
        0 => Outcome::Waiting,
        1 => Outcome::Answered,
        2 => Outcome::Narrow,
        3 => Outcome::TimedOut,
        4 => Outcome::Refused,
        5 => Outcome::Held,
        other => return Err(DecodeError::invalid("check outcome", other, "0 to 4")),
    };
    let us = r.varint().ok_or_else(cut)?;
    Ok(Report { candidate, outcome, rtt: (us > 0).then(|| Duration::from_micros(us)) })
}

fn encode_step(step: BurstStep, out: &mut Vec<u8>) {
    match step {
        BurstStep::Ask => out.push(0),
        BurstStep::Agree { checks } => {
            out.push(1);
            varint::encode(checks.into(), out);
        }
        BurstStep::Refuse(why) => out.extend([
            2,
            match why {
                BurstRefusal::Off => 0,
                BurstRefusal::Metered => 1,
                BurstRefusal::Busy => 2,
                BurstRefusal::TooSoon => 3,
                BurstRefusal::Unsuitable => 4,
            },
        ]),
        BurstStep::Open => out.push(3),
        BurstStep::Begun => out.push(4),
    }
}

fn decode_step(r: &mut Reader<'_>) -> Result<BurstStep, DecodeError> {
    let cut = || DecodeError::truncated("port burst");
    Ok(match r.u8().ok_or_else(cut)? {
        0 => BurstStep::Ask,
        1 => {
            let checks = r.varint().ok_or_else(cut)?;
            let max = u64::from(u16::MAX);
            let checks =
                u16::try_from(checks).map_err(|_| DecodeError::TooLong { what: "port burst", got: checks, max })?;
            BurstStep::Agree { checks }
        }
        2 => BurstStep::Refuse(match r.u8().ok_or_else(cut)? {
            0 => BurstRefusal::Off,
            1 => BurstRefusal::Metered,
            2 => BurstRefusal::Busy,
            3 => BurstRefusal::TooSoon,
            4 => BurstRefusal::Unsuitable,
            other => return Err(DecodeError::invalid("refusal of a port burst", other, "0 to 4")),
        }),
        3 => BurstStep::Open,
        4 => BurstStep::Begun,
        other => return Err(DecodeError::invalid("step of a port burst", other, "0 to 4")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Message> {
        let candidate = |kind, text: &str| Candidate { kind, address: text.parse().unwrap() };
        let v4 = candidate(CandidateKind::Host, "192.0.2.7:40000");
        let v6 = candidate(CandidateKind::ServerReflexive, "[2001:db8::7]:65535");
        [
            Message::Candidates { generation: 3, mapping: Mapping::EndpointIndependent, candidates: vec![v4, v6] },
            Message::Candidates { generation: 1 << 40, mapping: Mapping::Unknown, candidates: Vec::new() },
            Message::Ack { generation: 70 },
            Message::CheckNow { generation: 0 },
            Message::Status {
                generation: 5,
                sending: Sending::Direct,
                reports: vec![
                    Report { candidate: v4, outcome: Outcome::TimedOut, rtt: None },
                    Report { candidate: v6, outcome: Outcome::Answered, rtt: Some(Duration::from_micros(4_321)) },
                ],
            },
            Message::StatusAsk,
        ]
        .into_iter()
        .chain(
            [
                BurstStep::Ask,
                BurstStep::Agree { checks: 1_024 },
                BurstStep::Refuse(BurstRefusal::Metered),
                BurstStep::Open,
                BurstStep::Begun,
            ]
            .map(|step| Message::PortBurst { attempt: 300, step }),
        )
        .collect()
    }

    fn bytes(m: &Message) -> Vec<u8> {
        let mut out = Vec::new();
        m.encode(&mut out);
        out
    }

    #[test]
    fn every_message_reads_back() {
        for m in samples() {
            assert_eq!(Message::decode(&bytes(&m)), Ok(Some(m)));
        }
    }

    #[test]
    fn every_truncation_and_every_extra_byte_is_refused() {
        for m in samples() {
            let mut whole = bytes(&m);
            for n in 0..whole.len() {
                assert!(Message::decode(&whole[..n]).is_err(), "{m:?} cut to {n}");
            }
            whole.push(0);
            assert!(Message::decode(&whole).is_err(), "{m:?}");
        }
    }

    #[test]
    fn more_candidates_than_sixteen_are_refused_before_they_are_read() {
        let mut many = vec![1, 1, 0];
        varint::encode(17, &mut many);
        assert!(matches!(Message::decode(&many), Err(DecodeError::TooLong { got: 17, .. })));
    }

    #[test]
    fn every_refusal_of_a_port_burst_reads_back_and_no_other_is_taken() {
        for code in 0..=u8::MAX {
            let message = Message::decode(&[6, 1, 2, code]);
            assert_eq!(message.is_ok(), code <= 4, "{code}");
            if let Ok(Some(m)) = message {
                assert_eq!(bytes(&m), [6, 1, 2, code]);
            }
        }
    }

    #[test]
    fn a_message_of_a_later_version_is_passed_over() {
        assert_eq!(Message::decode(&[0x3f, 1, 2, 3]), Ok(None));
    }

    #[test]
    fn the_largest_set_of_candidates_fits_a_datagram_of_the_smallest_link() {
        let address = "[2001:db8::7]:65535".parse().unwrap();
        let all = vec![Candidate { kind: CandidateKind::Host, address }; MAX_CANDIDATES];
        let m = Message::Candidates { generation: varint::MAX, mapping: Mapping::None, candidates: all };
        assert!(bytes(&m).len() < 400);
        let report = Report {
            candidate: Candidate { kind: CandidateKind::Host, address },
            outcome: Outcome::Answered,
            rtt: Some(Duration::from_secs(9)),
        };
        let m =
            Message::Status { generation: varint::MAX, sending: Sending::Relay, reports: vec![report; MAX_REPORTS] };
        assert!(bytes(&m).len() < 800);
    }
}
