//! The loop of a network: devices to network, network to devices, commands between.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Instant;

use super::poll::{Poll, sleep_exactly};
use super::terminal::{Input, Terminal, print};
use super::{BATCH, is_link_chatter, signals, tun::Tun};
use crate::lab::{self, Lab, command};
use crate::sim::HostId;
use crate::{Error, Result};

/// Descriptors before those of the devices.
const OTHERS: usize = 2;

/// Runs the network that a file describes until the end of standard input, SIGTERM or SIGINT; the interfaces are gone afterwards.
pub fn run_net(config: &Path) -> Result<()> {
    let name = config.display().to_string();
    let text = std::fs::read_to_string(config).map_err(|error| Error::io(name.as_str(), error))?;
    let mut lab = lab::parse(&text).map_err(|error| error.within(&name))?;
    let termination = signals::termination()?;
    let tuns: BTreeMap<HostId, Tun> =
        lab.ends.iter().map(|(host, end)| Ok((*host, Tun::create(end, lab.if_mtu)?))).collect::<Result<_>>()?;
    let origin = Instant::now();
    let mut buffer = vec![0; 65_536];
    let mut terminal = Terminal::open()?;
    let devices = tuns.values().map(|tun| tun.as_fd().as_raw_fd());
    let mut poll = Poll::new([termination.as_raw_fd(), libc::STDIN_FILENO].into_iter().chain(devices));
    sleep_exactly()?;
    print("ready")?;

    loop {
        poll.wait(lab.network.poll_timeout().map(|at| at.saturating_sub(origin.elapsed())))?;
        if poll.is_ready(0) {
            return Ok(());
        }
        for (index, (host, tun)) in tuns.iter().enumerate() {
            let mut left = if poll.is_ready(OTHERS + index) { BATCH } else { 0 };
            while left > 0 {
                let Some(packet) = tun.receive(&mut buffer)? else { break };
                if !is_link_chatter(packet) {
                    lab.network.send_ip(origin.elapsed(), *host, packet.to_vec());
                }
                left -= 1;
            }
        }
        // Before a command: a change is for what comes after it.
        deliver(&mut lab, &tuns, origin);
        if poll.is_ready(1) && terminal.read(|line| command::answer(&mut lab, line))? == Input::Ended {
            return Ok(());
        }
    }
}

fn deliver(lab: &mut Lab, tuns: &BTreeMap<HostId, Tun>, origin: Instant) {
    while let Some(delivery) = lab.network.poll_delivery(origin.elapsed()) {
        if let Some(tun) = tuns.get(&delivery.host) {
            // A refused packet is lost in the receiving kernel, beyond the network.
            tun.send(&delivery.payload);
        }
    }
}
