//! The text of `ztna-netlab net --help`.

/// Text of `net --help`.
pub const HELP: &str = "\
Joins network namespaces by routers: NATs, firewalls, carriers, with delay and loss on every link.

usage: ztna-netlab net --config FILE

Each host is a TUN device in a namespace, in the realm `internet` or in the one behind a router. Hosts of one realm reach each
other without a router. The namespaces need a default route through the device. UDP, TCP and ICMP are translated, fragments
are not. The timeouts are those of UDP; TCP has 2 hours, ICMP a minute.

FILE is JSON, for example:
{
  \"seed\": 7,
  \"routers\": [
    { \"name\": \"isp\", \"external\": [\"203.0.113.1\"], \"v6\": \"open\",
      \"v4\": { \"nat\": { \"filtering\": \"eif\", \"hairpin\": true, \"timeouts\": { \"lifetime\": \"60s\" } } } },
    { \"name\": \"home\", \"outer\": \"isp\", \"external\": [\"100.64.0.2\"],
      \"v4\": { \"nat\": { \"mapping\": \"apdm\", \"ports\": \"random\" } }, \"v6\": { \"firewall\": {} },
      \"up\": { \"delay\": \"10ms\", \"rate\": \"50mbit\" }, \"down\": { \"delay\": \"10ms\" } }
  ],
  \"hosts\": [
    { \"name\": \"agent\", \"realm\": \"home\", \"netns\": \"lab-a\", \"addresses\": [\"192.168.1.10/24\", \"2001:db8:a::10/64\"] },
    { \"name\": \"relay\", \"netns\": \"lab-r\", \"addresses\": [\"198.51.100.1/24\", \"198.51.100.2/24\"] }
  ]
}

top: seed (1), ifMtu (1500), routers, hosts
router: name; outer (internet); external: its addresses there; v4 and v6: none (default), open, { firewall: … } or { nat: … };
  block: nothing (default), all, or { allExcept: [IP:PORT, …] } for UDP; up and down: settings of its link, outwards and inwards
host: name; realm (internet); netns; interface (eth0); addresses; up and down
nat: mapping eim|adm|apdm (eim), filtering eif|adf|apdf (apdf), ports preserve|sequential|random (preserve), hairpin (false),
  overload (false: true shares an external port between inside hosts as Linux does), timeouts, portRange ([1024, 65535]),
  maxMappings (16384)
firewall: filtering (apdf), timeouts, maxMappings
timeouts: unreplied (30s), replied (120s), lifetime (none), refreshInbound (true)
settings: those of ztna-netlab --help

prints `ready` when all interfaces are up, then reads commands from standard input, one JSON line of answer for each:
  set NAME up|down|both SETTING VALUE    change a link: a router's to its outer realm, or a host's to its realm
  cut NAME up|down|both                  lose everything on it, also what is under way; mend undoes it
  rebind ROUTER                          forget all mappings, give other ports
  external ROUTER IP,...                 other external addresses; the mappings die
  block ROUTER nothing | all | except IP:PORT,...
  move HOST REALM IP,...                 where packets for these addresses go; changing the interface is up to you
  stats | stats NAME
ends at end of input, SIGTERM or SIGINT.
";
