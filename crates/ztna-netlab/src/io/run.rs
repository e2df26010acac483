//! The loop: devices to wire, wire to devices, commands between.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::{check, signals, tun::Tun};
use crate::args::WireArgs;
use crate::wire::{Direction, Wire};
use crate::{Error, Result, command};

/// Packets taken from one device before the other has its turn: short enough to keep the delays of both exact.
const BATCH: usize = 64;
/// A command is far shorter; what is longer is no command and is thrown away.
const LINE_LIMIT: usize = 4096;

/// Runs until the end of standard input, SIGTERM or SIGINT; the interfaces are gone afterwards.
pub fn run(args: &WireArgs) -> Result<()> {
    let termination = signals::termination()?;
    let a = Tun::create(&args.a, args.if_mtu)?;
    let b = Tun::create(&args.b, args.if_mtu)?;
    let mut wire = Wire::new(args.seed, args.a_to_b, args.b_to_a);
    let origin = Instant::now();
    let mut buffer = vec![0; 65_536];
    let mut terminal = Terminal::open()?;
    // Without this the kernel may round every sleep up by 50 µs.
    // SAFETY: no pointers.
    check("prctl", unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) })?;
    print("ready")?;

    loop {
        let wait = wire.poll_timeout().map(|at| at.saturating_sub(origin.elapsed()));
        let fds = [termination.as_raw_fd(), libc::STDIN_FILENO, a.as_fd().as_raw_fd(), b.as_fd().as_raw_fd()];
        let [ended, input, from_a, from_b] = wait_readable(fds, wait)?;
        if ended {
            return Ok(());
        }
        for (ready, tun, direction) in [(from_a, &a, Direction::AToB), (from_b, &b, Direction::BToA)] {
            let mut left = if ready { BATCH } else { 0 };
            while left > 0 {
                let Some(packet) = tun.receive(&mut buffer)? else { break };
                // The kernel's own chatter (router solicitations, multicast listeners) is no traffic of the test's.
                if !is_link_chatter(packet) {
                    wire.handle_packet(origin.elapsed(), direction, packet.to_vec());
                }
                left -= 1;
            }
        }
        if input && terminal.read(&mut wire)? == Input::Ended {
            return Ok(());
        }
        while let Some((direction, packet)) = wire.poll_packet(origin.elapsed()) {
            // A refused packet is lost in the receiving kernel, beyond the wire.
            match direction {
                Direction::AToB => b.send(&packet),
                Direction::BToA => a.send(&packet),
            };
        }
    }
}

/// IPv6 to a multicast address.
fn is_link_chatter(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 6) && packet.get(24) == Some(&0xff)
}

fn wait_readable<const N: usize>(fds: [RawFd; N], wait: Option<Duration>) -> Result<[bool; N]> {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let wait = wait.map(|wait| libc::timespec {
        tv_sec: wait.as_secs().min(3600) as libc::time_t,
        tv_nsec: wait.subsec_nanos().into(),
    });
    let timeout = wait.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the array, its length and the timeout outlive the call; a null timeout and mask are allowed.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), N as libc::nfds_t, timeout, std::ptr::null()) };
    match check("ppoll", result) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::Interrupted => Ok([false; N]),
        Err(error) => Err(error),
        Ok(_) => Ok(polled.map(|fd| fd.revents != 0)),
    }
}

#[derive(PartialEq, Eq)]
enum Input {
    Open,
    Ended,
}

struct Terminal {
    /// Not `std::io::Stdin`: that one reads ahead, and ppoll would not see what it holds.
    input: File,
    line: Vec<u8>,
    too_long: bool,
}

impl Terminal {
    fn open() -> Result<Self> {
        let input =
            std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| Error::io("standard input", error))?;
        Ok(Self { input: File::from(input), line: Vec::new(), too_long: false })
    }

    /// Carries out the commands that have arrived. The caller has seen that a read will not block.
    fn read(&mut self, wire: &mut Wire) -> Result<Input> {
        let mut chunk = [0; 1024];
        let len = match self.input.read(&mut chunk) {
            Ok(0) => return Ok(Input::Ended),
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Input::Open);
            }
            Err(error) => return Err(Error::io("standard input", error)),
        };
        for byte in chunk.iter().take(len) {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    let too_long = std::mem::take(&mut self.too_long);
                    let text = if too_long { "(too long)".into() } else { String::from_utf8_lossy(&line) };
                    print(&command::answer(wire, text.trim()))?;
                }
                byte if self.line.len() < LINE_LIMIT => self.line.push(*byte),
                _ => self.too_long = true,
            }
        }
        Ok(Input::Open)
    }
}

fn print(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| Error::io("standard output", error))
}
