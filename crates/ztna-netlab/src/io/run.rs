//! The loop of a wire: devices to wire, wire to devices, commands between.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use super::poll::{Poll, sleep_exactly};
use super::terminal::{Input, Terminal, print};
use super::{BATCH, is_link_chatter, signals, tun::Tun};
use crate::args::WireArgs;
use crate::wire::{Direction, Wire};
use crate::{Result, command};

/// Runs until the end of standard input, SIGTERM or SIGINT; the interfaces are gone afterwards.
pub fn run(args: &WireArgs) -> Result<()> {
    let termination = signals::termination()?;
    let a = Tun::create(&args.a, args.if_mtu)?;
    let b = Tun::create(&args.b, args.if_mtu)?;
    let mut wire = Wire::new(args.seed, args.a_to_b, args.b_to_a);
    let origin = Instant::now();
    let mut buffer = vec![0; 65_536];
    let mut terminal = Terminal::open()?;
    let fds = [termination.as_raw_fd(), libc::STDIN_FILENO, a.as_fd().as_raw_fd(), b.as_fd().as_raw_fd()];
    let mut poll = Poll::new(fds);
    sleep_exactly()?;
    print("ready")?;

    loop {
        poll.wait(wire.poll_timeout().map(|at| at.saturating_sub(origin.elapsed())))?;
        if poll.is_ready(0) {
            return Ok(());
        }
        for (index, tun, direction) in [(2, &a, Direction::AToB), (3, &b, Direction::BToA)] {
            let mut left = if poll.is_ready(index) { BATCH } else { 0 };
            while left > 0 {
                let Some(packet) = tun.receive(&mut buffer)? else { break };
                if !is_link_chatter(packet) {
                    wire.handle_packet(origin.elapsed(), direction, packet.to_vec());
                }
                left -= 1;
            }
        }
        if poll.is_ready(1) && terminal.read(|line| command::answer(&mut wire, line))? == Input::Ended {
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
