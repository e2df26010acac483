use super::*;

fn ip(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn peer(n: usize) -> SpiffeId {
    format!("spiffe://example.test/agent/a{n}").parse().unwrap()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Whether a check of a peer's to port 7 there is allowed now.
fn take(b: &mut Budget, now: Instant, of: usize, ip: IpAddr) -> Result<(), Held> {
    let peer = peer(of);
    let wanted = Wanted { peer: &peer, to: SocketAddr::new(ip, 7), heard: false };
    b.take(now, wanted).map_err(|(why, _)| why)
}

/// A network of its own for each number.
fn far(n: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + (n << 8)).to_be_bytes())
}

#[test]
fn one_prefix_gets_its_burst_and_then_its_rate_whoever_asks() {
    let now = Instant::now();
    let mut b = Budget::default();
    let sent = (0..1_000usize).filter(|n| take(&mut b, now, n / 10, ip(*n as u8)).is_ok()).count();
    assert_eq!(sent, EACH.at_once as usize);
    let later = now + secs(4);
    let sent = (0..1_000usize).filter(|n| take(&mut b, later, n / 10, ip(*n as u8)).is_ok()).count();
    assert_eq!(sent, 4 * EACH.each_second as usize);
    assert_eq!(take(&mut b, later, 1, IpAddr::from([198, 51, 100, 1])), Ok(()), "another prefix has its own");
}

#[test]
fn many_prefixes_share_the_nodes_burst_and_a_bounded_memory() {
    let now = Instant::now();
    let mut b = Budget::default();
    let all = (0..100_000u32).filter(|n| take(&mut b, now, *n as usize / 100, far(*n)).is_ok()).count();
    assert_eq!(all, PREFIXES.min(ALL.at_once as usize));
    assert!(b.checks.watched() <= PREFIXES);
    assert_eq!(take(&mut b, now + secs(60), 1, ip(1)), Ok(()), "buckets that are full again make room");
}

#[test]
fn an_identity_gets_128_new_addresses_at_once_and_two_a_second_whatever_it_names() {
    let now = Instant::now();
    let mut b = Budget::default();
    let mut named = 0;
    let mut count = |b: &mut Budget, at: Instant| {
        let names = named..named + 1_000;
        named += 1_000;
        names.filter(|n| take(b, at, 1, far(*n)).is_ok()).count()
    };
    assert_eq!(count(&mut b, now), NEW.at_once as usize);
    assert_eq!(count(&mut b, now + secs(10)), 20);
    assert_eq!(take(&mut b, now + secs(10), 1, far(50_000)), Err(Held::New));
    assert_eq!(take(&mut b, now + secs(10), 2, far(50_000)), Ok(()), "another identity has its own");
}

#[test]
fn an_address_that_was_checked_is_not_new_for_five_minutes() {
    let now = Instant::now();
    let mut b = Budget::default();
    for n in 0..128 {
        assert_eq!(take(&mut b, now, 1, far(n)), Ok(()));
    }
    assert_eq!((0..128).filter(|n| take(&mut b, now, 1, far(*n)).is_ok()).count(), 128, "a second time");
    assert_eq!(take(&mut b, now, 1, far(128)), Err(Held::New));
}

#[test]
fn an_identity_gets_its_checks_and_then_its_rate() {
    let now = Instant::now();
    let mut b = Budget::default();
    let mut count = |at: Instant| (0..5_000u32).filter(|n| take(&mut b, at, 1, far(n % 100)).is_ok()).count();
    assert_eq!(count(now), PEER.at_once as usize);
    assert_eq!(count(now + secs(3)), 3 * PEER.each_second as usize);
}

#[test]
fn who_has_to_wait_is_told_how_long() {
    let now = Instant::now();
    let (mut b, hostile) = (Budget::default(), peer(1));
    let mut at =
        |now: Instant, n: u32| b.take(now, Wanted { peer: &hostile, to: SocketAddr::new(far(n), 7), heard: false });
    for n in 0..128 {
        at(now, n).unwrap();
    }
    let (why, wait) = at(now, 128).unwrap_err();
    assert_eq!((why, wait.as_millis()), (Held::New, 500));
    assert_eq!(at(now + wait, 128), Ok(()));
}

#[test]
fn a_peer_that_roams_every_ten_seconds_with_sixteen_new_addresses_waits_for_none_of_its_checks() {
    let start = Instant::now();
    let (mut b, roams) = (Budget::default(), peer(1));
    for place in 0..360u32 {
        let since = start + secs(10) * place;
        for (check, ms) in
            [0u64, 200, 500, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_000, 9_000].iter().enumerate()
        {
            for n in 0..16 {
                let wanted = Wanted { peer: &roams, to: SocketAddr::new(far(place * 16 + n), 7), heard: false };
                let taken = b.take(since + Duration::from_millis(*ms), wanted);
                assert_eq!(taken, Ok(()), "place {place}, check {check}, address {n}");
            }
        }
    }
}

#[test]
fn within_our_own_networks_an_identity_gets_sixteen_addresses_and_sixteen_more_in_an_hour() {
    let now = Instant::now();
    let mut b = Budget::default();
    b.set_networks([(ip(10), 24), ("2001:db8::1".parse().unwrap(), 64)]);
    let mut sweep = |at: Instant| (0..=255).filter(|n| take(&mut b, at, 1, ip(*n)).is_ok()).collect::<Vec<u8>>();
    assert_eq!(sweep(now), (0..16).collect::<Vec<u8>>());
    assert_eq!(sweep(now + secs(1)).len(), 16, "the same again");
    assert_eq!(sweep(now + secs(1_801)).len(), 24);
    let inside = "2001:db8::77".parse().unwrap();
    assert_eq!(take(&mut b, now + secs(1_801), 1, inside), Err(Held::Near));
    assert_eq!(take(&mut b, now + secs(1_801), 1, "2001:db8:0:1::77".parse().unwrap()), Ok(()), "another network");
    assert_eq!(take(&mut b, now + secs(1_801), 2, inside), Ok(()), "another identity");
}

#[test]
fn ports_of_one_host_of_ours_count_as_addresses() {
    let now = Instant::now();
    let (mut b, hostile) = (Budget::default(), peer(1));
    b.set_networks([(ip(10), 24)]);
    let mut scan = |port: u16| b.take(now, Wanted { peer: &hostile, to: SocketAddr::new(ip(1), port), heard: false });
    assert_eq!((1..2_000).filter(|port| scan(*port).is_ok()).count(), 16);
}

#[test]
fn a_neighbour_that_has_been_heard_is_checked_whatever_its_identity_has_named_before() {
    let now = Instant::now();
    let (mut b, shared) = (Budget::default(), peer(1));
    b.set_networks([(ip(10), 24)]);
    let mut at = |n: u8, heard| b.take(now, Wanted { peer: &shared, to: SocketAddr::new(ip(n), 7), heard }).is_ok();
    assert_eq!((20..90).filter(|n| at(*n, false)).count(), 16);
    assert_eq!((100..150).filter(|n| at(*n, true)).count(), 50);
}

#[test]
fn an_identity_that_names_for_days_is_remembered_in_bounded_memory() {
    let start = Instant::now();
    let (mut b, hostile) = (Budget::default(), peer(1));
    b.set_networks([("10.0.0.1".parse().unwrap(), 12)]);
    for n in 0..200_000u32 {
        let (at, to) = (start + Duration::from_millis(500) * n, IpAddr::from((0x0a00_0000 + n * 77).to_be_bytes()));
        let _ = b.take(at, Wanted { peer: &hostile, to: SocketAddr::new(to, 7), heard: false });
        assert!(b.peers[&hostile].known.len() <= 128 + 600 + 32, "{}", b.peers[&hostile].known.len());
    }
}

#[test]
fn identities_beyond_what_is_remembered_make_room_when_they_have_been_silent() {
    let now = Instant::now();
    let mut b = Budget::default();
    for n in 0..PEERS as u32 {
        b.peers.insert(peer(n as usize), Share::new(now));
    }
    let busy = b.peers.get_mut(&peer(3)).unwrap();
    (0..128).for_each(|n| busy.spend(now, SocketAddr::new(far(n), 7), false));
    assert_eq!(take(&mut b, now, 20_000, far(1)), Ok(()));
    assert_eq!(b.peers.keys().cloned().collect::<Vec<_>>(), [peer(20_000), peer(3)], "what is spent is not forgotten");
}

#[test]
fn a_network_of_no_bits_or_of_the_other_family_says_nothing_and_one_of_all_bits_is_its_own_address() {
    let at = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(!is_within(at("192.0.2.1"), at("10.0.0.1"), 0));
    assert!(!is_within(at("::1"), at("0.0.0.1"), 8));
    assert!(is_within(at("10.0.0.1"), at("10.0.0.1"), 32) && !is_within(at("10.0.0.2"), at("10.0.0.1"), 32));
    assert!(is_within(at("10.255.0.1"), at("10.0.0.1"), 8) && !is_within(at("11.0.0.1"), at("10.0.0.1"), 8));
}
