//! Drops first Initials in the kernel while more of them arrive than the machine answers.
//!
//! A spoofed Initial costs a hundred times more once it has been received than where the kernel can drop it, and fills the queue
//! that established connections share. So the loop measures how many arrive, and over the machine's budget has a socket filter
//! (socket(7), SO_ATTACH_FILTER) let through a random share. Nothing tells an honest first Initial from a spoofed one, so all have
//! the same chance and honest clients repeat theirs; everything else, Initials with a Retry token among it, always passes.

use std::time::{Duration, Instant};

use crate::wire::quic_header::is_first_initial;

/// How long is measured before the share is set anew.
const WINDOW: Duration = Duration::from_millis(100);
/// Windows a second.
const WINDOWS: f64 = 10.0;
/// The sieve goes in when this many times the budget arrives: below that the machine itself drops what is over.
const ENTER: f64 = 2.0;
/// A wanted share above this takes it out again.
const LEAVE: f64 = 0.9;
/// A new share is set where it differs by more than this part: the count of a window is itself only that exact.
const COARSE: f64 = 0.2;
/// The smallest share: something has to come through, or nothing would be measured.
const LEAST: f64 = 1.0 / 4_096.0;

/// The measurement and the share that follows from it.
#[derive(Debug)]
pub(super) struct Sieve {
    since: Option<Instant>,
    seen: u32,
    share: f64,
}

/// What a window came to.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    /// Install this share; 1 takes the sieve out. `None`: leave it as it is.
    pub share: Option<f64>,
    /// About how many were dropped in the window.
    pub shed: u64,
}

impl Default for Sieve {
    fn default() -> Self {
        Sieve { since: None, seen: 0, share: 1.0 }
    }
}

impl Sieve {
    /// Counts what a received burst brought.
    pub fn count(&mut self, burst: &[u8], stride: usize) {
        if burst.first().is_some_and(|first| first & 0xf0 == 0xc0) {
            self.seen += burst.chunks(stride.max(1)).filter(|d| is_first_initial(d)).count() as u32;
        }
    }

    /// When [`judge`](Self::judge) has to be called even if nothing arrives.
    pub fn deadline(&self) -> Option<Instant> {
        if self.share < 1.0 { Some(self.since? + WINDOW) } else { None }
    }

    /// Closes a window that is over. `budget`: first Initials a second.
    pub fn judge(&mut self, now: Instant, budget: u32) -> Option<Verdict> {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed < WINDOW {
            return None;
        }
        let seen = f64::from(std::mem::take(&mut self.seen));
        self.since = Some(now);
        let offered = seen / self.share;
        let shed = (offered - seen) as u64;
        let wanted = f64::from(budget) / WINDOWS;
        let arrived = offered * WINDOW.as_secs_f64() / passed.as_secs_f64();
        let sieved = self.share < 1.0;
        let share = if arrived <= wanted * if sieved { 1.0 } else { ENTER } { 1.0 } else { wanted / arrived };
        let share = if share > LEAVE { 1.0 } else { share.max(LEAST) };
        let change = share != self.share && ((share - self.share).abs() > COARSE * self.share || share == 1.0);
        if change {
            self.share = share;
        }
        Some(Verdict { share: change.then_some(share), shed })
    }
}

/// Lets `share` of the first Initials through to this socket, and all else. 1 takes the filter out.
#[cfg(target_os = "linux")]
pub(super) fn install(socket: socket2::SockRef<'_>, share: f64) -> std::io::Result<()> {
    if share >= 1.0 {
        return socket.detach_filter();
    }
    socket.attach_filter(&program((share * f64::from(u32::MAX)) as u32))
}

/// Elsewhere the machine's own budget has to do.
#[cfg(not(target_os = "linux"))]
pub(super) fn install(_: socket2::SockRef<'_>, _: f64) -> std::io::Result<()> {
    Ok(())
}

/// Classic BPF (linux/filter.h). Offsets count from the UDP header. What is sieved is told as in [`is_first_initial`].
#[cfg(target_os = "linux")]
fn program(share: u32) -> [socket2::SockFilter; 17] {
    /// A = the byte or word at k; the byte at X + k.
    const LDB: u16 = 0x30;
    const LDW: u16 = 0x20;
    const LDB_X: u16 = 0x50;
    const AND: u16 = 0x54;
    const ADD_X: u16 = 0x0c;
    const TAX: u16 = 0x07;
    /// Jumps over as many instructions as the second operand says if A equals k, is over k, has a bit of k; else the third.
    const JEQ: u16 = 0x15;
    const JGT: u16 = 0x25;
    const JSET: u16 = 0x45;
    const RET: u16 = 0x06;
    /// SKF_AD_OFF + SKF_AD_RANDOM: a random word.
    const RANDOM: u32 = 0xffff_f000 + 56;
    const UDP: u32 = 8;
    let op = socket2::SockFilter::new;
    [
        op(LDB, 0, 0, UDP),
        op(AND, 0, 0, 0xf0),
        op(JEQ, 0, 12, 0xc0),
        op(LDW, 0, 0, UDP + 1),
        op(JEQ, 0, 10, 1),
        op(LDB, 0, 0, UDP + 5), // length of the destination connection ID
        op(TAX, 0, 0, 0),
        op(LDB_X, 0, 0, UDP + 6), // length of the source connection ID
        op(ADD_X, 0, 0, 0),
        op(TAX, 0, 0, 0),
        op(LDB_X, 0, 0, UDP + 7), // token length
        op(JEQ, 1, 0, 0),
        op(JSET, 0, 2, 0xc0),
        op(LDW, 0, 0, RANDOM),
        op(JGT, 1, 0, share),
        op(RET, 0, 0, u32::MAX),
        op(RET, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A first Initial: flags, version, no connection IDs, no token.
    const INITIAL: [u8; 9] = [0xc3, 0, 0, 0, 1, 0, 0, 0, 0];

    #[test]
    fn a_flood_is_brought_down_to_the_budget_and_the_sieve_goes_when_the_flood_does() {
        let mut sieve = Sieve::default();
        let mut now = Instant::now();
        let mut window = |arriving: u32, now: &mut Instant| {
            let through = (f64::from(arriving) * sieve.share) as u32;
            (0..through).for_each(|_| sieve.count(&INITIAL, INITIAL.len()));
            *now += WINDOW;
            let verdict = sieve.judge(*now, 5_000);
            (through, verdict.unwrap_or(Verdict { share: None, shed: 0 }), sieve.deadline())
        };
        window(0, &mut now);
        assert_eq!(window(900, &mut now), (900, Verdict { share: None, shed: 0 }, None));
        let (_, verdict, deadline) = window(10_000, &mut now);
        assert_eq!(verdict, Verdict { share: Some(0.05), shed: 0 });
        assert_eq!(deadline, Some(now + WINDOW));
        let (through, verdict, _) = window(10_000, &mut now);
        assert_eq!((through, verdict), (500, Verdict { share: None, shed: 9_500 }));
        let (through, ..) = window(20_000, &mut now);
        assert_eq!(through, 1_000);
        assert_eq!(window(20_000, &mut now).0, 500);
        assert_eq!(window(0, &mut now).1.share, Some(1.0));
        assert_eq!(window(900, &mut now), (900, Verdict { share: None, shed: 0 }, None));
    }

    #[test]
    fn only_first_initials_count() {
        let mut sieve = Sieve::default();
        let mut others = [INITIAL; 4];
        others[0][0] = 0x43; // short header
        others[1][0] = 0xe3; // Handshake
        others[2][4] = 2; // another version
        others[3][7] = 44; // a token
        others.iter().for_each(|o| sieve.count(o, o.len()));
        assert_eq!(sieve.seen, 0);
        sieve.count(&[INITIAL, INITIAL].concat(), INITIAL.len());
        assert_eq!(sieve.seen, 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_filter_drops_a_share_of_first_initials_and_nothing_else() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let with_ids = |token: u8| {
            let mut packet = vec![0xc0, 0, 0, 0, 1, 8];
            packet.extend_from_slice(&[7; 8]);
            packet.push(4);
            packet.extend_from_slice(&[9; 4]);
            packet.extend_from_slice(&[token; 40]);
            packet
        };
        let arrive = |packet: &[u8]| {
            // Few enough to fit the socket's queue.
            (0..100).for_each(|_| assert_eq!(client.send(packet).unwrap(), packet.len()));
            let mut room = [0; 100];
            (0..).take_while(|_| server.recv(&mut room).is_ok()).count()
        };
        install((&server).into(), LEAST).unwrap();
        assert!(arrive(&with_ids(0)) <= 5);
        assert!(arrive(&with_ids(0x40)) <= 5, "a token length in two bytes is none of ours");
        assert_eq!(arrive(&with_ids(20)), 100);
        for (at, byte) in [(0, 0x40), (0, 0xe0), (0, 0x00), (4, 2)] {
            let mut other = with_ids(0);
            other[at] = byte;
            assert_eq!(arrive(&other), 100, "byte {at} {byte:#x}");
        }
        install((&server).into(), 0.5).unwrap();
        assert!((20..=80).contains(&arrive(&with_ids(0))));
        install((&server).into(), 1.0).unwrap();
        assert_eq!(arrive(&with_ids(0)), 100);
    }
}
