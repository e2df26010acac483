//! What has arrived at a port and was not read yet.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Received;

/// Bytes that wait; more are lost, as in the kernel's buffer of a role's socket.
const MAX_BYTES: usize = 8 << 20;
/// Datagrams that wait: each costs more than its bytes.
const MAX_DATAGRAMS: usize = 16_384;

/// Both ends of it: the network puts in, the port takes out.
#[derive(Debug, Clone)]
pub(super) struct Inbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    waiting: Mutex<Waiting>,
    /// Its other end is what the reader polls.
    bell: UnixDatagram,
}

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<Datagram>,
    bytes: usize,
    /// The bell was rung and nobody has found the inbox empty since.
    rung: bool,
}

#[derive(Debug)]
struct Datagram {
    from: SocketAddr,
    to: IpAddr,
    payload: Vec<u8>,
}

impl Inbox {
    /// With the socket that becomes readable when the first datagram comes after [`take`](Self::take) has said `WouldBlock`.
    pub(super) fn new() -> io::Result<(Self, UnixDatagram)> {
        let (bell, ready) = UnixDatagram::pair()?;
        bell.set_nonblocking(true)?;
        ready.set_nonblocking(true)?;
        Ok((Self(Arc::new(Inner { waiting: Mutex::default(), bell })), ready))
    }

    pub(super) fn put(&self, from: SocketAddr, to: IpAddr, payload: Vec<u8>) {
        let mut waiting = self.lock();
        if waiting.datagrams.len() >= MAX_DATAGRAMS || waiting.bytes + payload.len() > MAX_BYTES {
            return;
        }
        waiting.bytes += payload.len();
        waiting.datagrams.push_back(Datagram { from, to, payload });
        if !waiting.rung {
            // Fails only where the reader is gone.
            waiting.rung = self.0.bell.send(&[1]).is_ok();
        }
    }

    /// A burst of one sender: datagrams of the first one's size, the last may be shorter. `ready` is the inbox' own.
    ///
    /// Errors: `WouldBlock`.
    pub(super) fn take(&self, ready: &UnixDatagram, buffer: &mut [u8]) -> io::Result<Received> {
        let mut waiting = self.lock();
        let Some(first) = waiting.datagrams.front() else {
            if waiting.rung {
                // What it says is known.
                let _ = ready.recv(&mut [0]);
                waiting.rung = false;
            }
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let (from, to, stride) = (first.from, first.to, first.payload.len());
        let (mut len, mut taken) = (0, 0);
        while let Some(next) = waiting.datagrams.front() {
            let size = next.payload.len();
            let room = buffer.get_mut(len..).and_then(|rest| rest.get_mut(..size));
            let Some(room) = room.filter(|_| next.from == from && next.to == to && size <= stride) else { break };
            room.copy_from_slice(&next.payload);
            len += size;
            waiting.bytes -= size;
            waiting.datagrams.pop_front();
            taken += 1;
            if size < stride || size == 0 {
                break;
            }
        }
        if taken == 0 {
            // Larger than the buffer.
            let lost = waiting.datagrams.pop_front().map_or(0, |lost| lost.payload.len());
            waiting.bytes -= lost;
        }
        Ok(Received { len, stride, from, to })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_of_one_sender_and_size_come_as_a_burst_that_a_shorter_one_ends() {
        let (inbox, ready) = Inbox::new().unwrap();
        for (port, size) in [(1, 4), (1, 4), (1, 3), (1, 3), (2, 3)] {
            put(&inbox, port, size);
        }
        let mut buffer = [0; 64];
        let mut next = || inbox.take(&ready, &mut buffer).map(|b| (b.from.port(), b.len, b.stride));
        assert_eq!(next().unwrap(), (1, 11, 4));
        assert_eq!(next().unwrap(), (1, 3, 3));
        assert_eq!(next().unwrap(), (2, 3, 3));
        assert_eq!(next().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_bell_rings_once_for_all_that_came_until_the_inbox_was_found_empty() {
        let (inbox, ready) = Inbox::new().unwrap();
        put(&inbox, 1, 1);
        put(&inbox, 1, 1);
        assert_eq!((ready.recv(&mut [0; 8]).unwrap(), ready.recv(&mut [0; 8]).is_err()), (1, true));
        let mut buffer = [0; 64];
        assert_eq!(inbox.take(&ready, &mut buffer).unwrap().len, 2);
        put(&inbox, 1, 1);
        assert!(ready.recv(&mut [0; 8]).is_err(), "the reader has not found it empty yet");
        inbox.take(&ready, &mut buffer).unwrap();
        assert!(inbox.take(&ready, &mut buffer).is_err());
        put(&inbox, 1, 1);
        assert_eq!(ready.recv(&mut [0; 8]).unwrap(), 1);
    }

    #[test]
    fn what_is_over_the_bounds_is_lost() {
        let (inbox, ready) = Inbox::new().unwrap();
        let mut buffer = vec![0; 65_536];
        for (size, kept) in [(1, MAX_DATAGRAMS), (65_000, MAX_BYTES / 65_000)] {
            (0..MAX_DATAGRAMS + 10).for_each(|_| put(&inbox, 1, size));
            let mut got = 0;
            while let Ok(burst) = inbox.take(&ready, &mut buffer) {
                got += burst.len / burst.stride;
            }
            assert_eq!(got, kept, "{size} bytes each");
        }
    }

    fn put(inbox: &Inbox, port: u16, size: usize) {
        inbox.put(SocketAddr::from(([192, 0, 2, 1], port)), [192, 0, 2, 2].into(), vec![7; size]);
    }
}
