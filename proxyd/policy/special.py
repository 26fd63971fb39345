"""The special-purpose table: what nobody reaches by default, each row with the document that says so.

Built in, always on. A policy adds to it and can never take from it by leaving something out (R5, R12). Only
`2000::/3` minus this table is public IPv6. Python's `ipaddress` and netaddr's `is_global` both call several of
these rows global, and change between releases: hence a table of our own.
"""

from __future__ import annotations

from dataclasses import dataclass

from netaddr import IPAddress, IPNetwork

from proxyd.policy.embedded import is_isatap
from proxyd.policy.names import NameTable
from proxyd.policy.ranges import RangeTable


@dataclass(frozen=True, slots=True)
class Special:
    """One row: what it is called in logs, where that is written, and whether a permit could ever open it."""

    what: str
    source: str
    locked: bool = False


_IANA4 = "IANA IPv4 Special-Purpose Address Registry"
_IANA6 = "IANA IPv6 Special-Purpose Address Registry"
_AWS = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html"
_ECS = "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ec2-metadata.html"
_EKS = "https://docs.aws.amazon.com/eks/latest/userguide/pod-id-agent-setup.html"
_GCP = "https://cloud.google.com/compute/docs/metadata/querying-metadata"
_AZURE = "https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16"
_ALIBABA = "https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata"
_ORACLE = "https://docs.oracle.com/iaas/Content/Compute/Tasks/gettingmetadata.htm"
_OPENSTACK = "https://docs.openstack.org/nova/latest/admin/metadata-service.html"
_AKAMAI = "https://docs.cloud-init.io/en/latest/reference/datasources/akamai.html"
_CLOUDSTACK = "https://docs.cloud-init.io/en/latest/reference/datasources/cloudstack.html"
_EQUINIX = "https://deploy.equinix.com/developers/docs/metal/server-metadata/metadata"
_IBM = "https://cloud.ibm.com/apidocs/vpc-metadata"
_RANCHER = "https://rancher.com/docs/rancher/v1.6/en/rancher-services/metadata-service/"
_TENCENT = "https://www.tencentcloud.com/document/product/213/4934"
_VOLCENGINE = "https://www.volcengine.com/docs/6396/113780"
_UCLOUD = "https://docs.ucloud.cn/uhost/guide/metadata/metadata-server"
_GKE = "https://cloud.google.com/kubernetes-engine/docs/concepts/workload-identity"
_SCALEWAY = "https://www.scaleway.com/en/developers/api/instance/user-data"

_ADDRESSES: tuple[tuple[str, Special], ...] = (
    # IPv4, in the registry's order
    ("0.0.0.0/8", Special("this network", f"{_IANA4}; RFC 791 §3.2")),
    ("0.0.0.0/32", Special("unspecified address", f"{_IANA4}; RFC 1122 §3.2.1.3", locked=True)),
    ("10.0.0.0/8", Special("private network", f"{_IANA4}; RFC 1918")),
    ("100.64.0.0/10", Special("carrier-grade NAT shared address space", f"{_IANA4}; RFC 6598")),
    ("127.0.0.0/8", Special("loopback", f"{_IANA4}; RFC 1122 §3.2.1.3")),
    ("169.254.0.0/16", Special("link-local", f"{_IANA4}; RFC 3927")),
    ("172.16.0.0/12", Special("private network", f"{_IANA4}; RFC 1918")),
    ("192.0.0.0/24", Special("IETF protocol assignments", f"{_IANA4}; RFC 6890 §2.1")),
    ("192.0.0.0/29", Special("IPv4 service continuity prefix", f"{_IANA4}; RFC 7335")),
    ("192.0.0.8/32", Special("IPv4 dummy address", f"{_IANA4}; RFC 7600")),
    ("192.0.0.9/32", Special("Port Control Protocol anycast", f"{_IANA4}; RFC 7723")),
    ("192.0.0.10/32", Special("TURN anycast", f"{_IANA4}; RFC 8155")),
    ("192.0.0.170/31", Special("NAT64/DNS64 discovery", f"{_IANA4}; RFC 8880, RFC 7050 §2.2")),
    ("192.0.2.0/24", Special("documentation (TEST-NET-1)", f"{_IANA4}; RFC 5737")),
    ("192.31.196.0/24", Special("AS112-v4", f"{_IANA4}; RFC 7535")),
    ("192.52.193.0/24", Special("AMT", f"{_IANA4}; RFC 7450")),
    ("192.88.99.2/32", Special("6a44 relay anycast", f"{_IANA4}; RFC 6751")),
    ("192.88.99.0/24", Special("6to4 relay anycast, deprecated", f"{_IANA4}; RFC 7526")),
    ("192.168.0.0/16", Special("private network", f"{_IANA4}; RFC 1918")),
    ("192.175.48.0/24", Special("direct delegation AS112", f"{_IANA4}; RFC 7534")),
    ("198.18.0.0/15", Special("benchmarking", f"{_IANA4}; RFC 2544")),
    ("198.51.100.0/24", Special("documentation (TEST-NET-2)", f"{_IANA4}; RFC 5737")),
    ("203.0.113.0/24", Special("documentation (TEST-NET-3)", f"{_IANA4}; RFC 5737")),
    ("224.0.0.0/4", Special("multicast", "RFC 5771")),
    ("240.0.0.0/4", Special("reserved", f"{_IANA4}; RFC 1112 §4")),
    ("255.255.255.255/32", Special("limited broadcast", f"{_IANA4}; RFC 919 §7")),
    # IPv6: everything outside 2000::/3 first, then the narrower rows that say why
    ("::/3", Special("not global unicast", "RFC 4291 §2.4; IANA IPv6 Global Unicast Address Assignments")),
    ("4000::/2", Special("not global unicast", "RFC 4291 §2.4; IANA IPv6 Global Unicast Address Assignments")),
    ("8000::/1", Special("not global unicast", "RFC 4291 §2.4; IANA IPv6 Global Unicast Address Assignments")),
    ("::/96", Special("IPv4-compatible", "RFC 4291 §2.5.5.1")),
    ("::/128", Special("unspecified address", f"{_IANA6}; RFC 4291 §2.5.2", locked=True)),
    ("::1/128", Special("loopback", f"{_IANA6}; RFC 4291 §2.5.3")),
    ("::ffff:0:0/96", Special("IPv4-mapped", f"{_IANA6}; RFC 4291 §2.5.5.2")),
    ("::ffff:0:0:0/96", Special("IPv4-translated (SIIT)", "RFC 2765 §2.1")),
    ("64:ff9b::/96", Special("NAT64 well-known prefix", f"{_IANA6}; RFC 6052")),
    ("64:ff9b:1::/48", Special("NAT64 local-use prefix", f"{_IANA6}; RFC 8215")),
    ("100::/64", Special("discard-only", f"{_IANA6}; RFC 6666")),
    ("100:0:0:1::/64", Special("dummy prefix", f"{_IANA6}; RFC 9780")),
    ("2001::/23", Special("IETF protocol assignments", f"{_IANA6}; RFC 2928")),
    ("2001::/32", Special("Teredo", f"{_IANA6}; RFC 4380")),
    ("2001:1::1/128", Special("Port Control Protocol anycast", f"{_IANA6}; RFC 7723")),
    ("2001:1::2/128", Special("TURN anycast", f"{_IANA6}; RFC 8155")),
    ("2001:1::3/128", Special("DNS-SD service registration anycast", f"{_IANA6}; RFC 9665")),
    ("2001:2::/48", Special("benchmarking", f"{_IANA6}; RFC 5180")),
    ("2001:3::/32", Special("AMT", f"{_IANA6}; RFC 7450")),
    ("2001:4:112::/48", Special("AS112-v6", f"{_IANA6}; RFC 7535")),
    ("2001:10::/28", Special("ORCHID, deprecated", f"{_IANA6}; RFC 4843")),
    ("2001:20::/28", Special("ORCHIDv2", f"{_IANA6}; RFC 7343")),
    ("2001:30::/28", Special("drone remote ID", f"{_IANA6}; RFC 9374")),
    ("2001:db8::/32", Special("documentation", f"{_IANA6}; RFC 3849")),
    ("2002::/16", Special("6to4", f"{_IANA6}; RFC 3056")),
    ("2620:4f:8000::/48", Special("direct delegation AS112", f"{_IANA6}; RFC 7534")),
    ("3ffe::/16", Special("6bone, returned", "RFC 3701")),
    ("3fff::/20", Special("documentation", f"{_IANA6}; RFC 9637")),
    ("5f00::/16", Special("segment routing SIDs", f"{_IANA6}; RFC 9602")),
    ("fc00::/7", Special("unique local", f"{_IANA6}; RFC 4193")),
    ("fe80::/10", Special("link-local", f"{_IANA6}; RFC 4291 §2.5.6")),
    ("fec0::/10", Special("site-local, deprecated", "RFC 3879")),
    ("ff00::/8", Special("multicast", "RFC 4291 §2.7")),
    # Cloud metadata: credentials for the asking. Nothing opens these.
    ("169.254.169.254/32", Special("cloud metadata service", _AWS, locked=True)),
    ("fd00:ec2::254/128", Special("cloud metadata service (AWS)", _AWS, locked=True)),
    ("169.254.170.2/32", Special("container credentials (AWS ECS)", _ECS, locked=True)),
    ("169.254.170.23/32", Special("pod identity (AWS EKS)", _EKS, locked=True)),
    ("fd00:ec2::23/128", Special("pod identity (AWS EKS)", _EKS, locked=True)),
    ("fd20:ce::254/128", Special("cloud metadata service (Google)", _GCP, locked=True)),
    ("168.63.129.16/32", Special("platform services (Azure), a public address", _AZURE, locked=True)),
    ("100.100.100.200/32", Special("cloud metadata service (Alibaba)", _ALIBABA, locked=True)),
    ("192.0.0.192/32", Special("cloud metadata service (Oracle)", _ORACLE, locked=True)),
    ("fe80::a9fe:a9fe/128", Special("cloud metadata service (OpenStack)", _OPENSTACK, locked=True)),
    ("169.254.0.23/32", Special("cloud metadata service (Tencent)", _TENCENT, locked=True)),
    ("100.88.222.5/32", Special("cloud metadata service (Tencent)", _TENCENT, locked=True)),
    ("100.96.0.96/32", Special("cloud metadata service (Volcengine)", _VOLCENGINE, locked=True)),
    ("100.80.80.80/32", Special("cloud metadata service (UCloud)", _UCLOUD, locked=True)),
    ("169.254.169.252/32", Special("cloud metadata service (Google GKE)", _GKE, locked=True)),
    ("192.80.8.124/32", Special("cloud metadata service (Equinix), a public address", _EQUINIX, locked=True)),
    ("169.254.169.250/32", Special("cloud metadata service (Rancher)", _RANCHER, locked=True)),
    ("169.254.42.42/32", Special("cloud metadata service (Scaleway)", _SCALEWAY, locked=True)),
    ("fd00:c1::a9fe:a9fe/128", Special("cloud metadata service (Oracle)", _ORACLE, locked=True)),
    ("fd00:a9fe:a9fe::1/128", Special("cloud metadata service (Akamai)", _AKAMAI, locked=True)),
    ("fd00:100::100:200/128", Special("cloud metadata service (Alibaba)", _ALIBABA, locked=True)),
    ("fd00:42::42/128", Special("cloud metadata service (Scaleway)", _SCALEWAY, locked=True)),
)

_ISATAP = Special("ISATAP", "RFC 5214 §6.1")

_METADATA_NAMES: tuple[tuple[str, Special], ...] = (
    ("metadata.google.internal", Special("cloud metadata service (Google)", _GCP, locked=True)),
    ("*.metadata.google.internal", Special("cloud metadata service (Google)", _GCP, locked=True)),
    ("metadata.goog", Special("cloud metadata service (Google)", _GCP, locked=True)),
    ("*.metadata.goog", Special("cloud metadata service (Google)", _GCP, locked=True)),
    ("metadata", Special("cloud metadata service (Google, short name)", _GCP, locked=True)),
    ("instance-data", Special("cloud metadata service (AWS)", _AWS, locked=True)),
    ("instance-data.ec2.internal", Special("cloud metadata service (AWS)", _AWS, locked=True)),
    ("api.metadata.cloud.ibm.com", Special("cloud metadata service (IBM)", _IBM, locked=True)),
    ("metadata.platformequinix.com", Special("cloud metadata service (Equinix)", _EQUINIX, locked=True)),
    ("metadata.packet.net", Special("cloud metadata service (Packet)", _EQUINIX, locked=True)),
    ("data-server", Special("cloud metadata service (CloudStack)", _CLOUDSTACK, locked=True)),
    ("rancher-metadata", Special("cloud metadata service (Rancher)", _RANCHER, locked=True)),
    ("metadata.tencentyun.com", Special("cloud metadata service (Tencent)", _TENCENT, locked=True)),
)

_LOCALHOST_NAMES = ("localhost", "*.localhost", "localhost.localdomain")

_RESERVED_NAMES: tuple[tuple[str, Special], ...] = (
    *((name, Special("loopback name", "RFC 6761 §6.3")) for name in _LOCALHOST_NAMES),
    ("localdomain", Special("local name", "customary in hosts files")),
    ("*.localdomain", Special("local name", "customary in hosts files")),
    ("localhost4", Special("loopback name", "customary in hosts files")),
    ("localhost6", Special("loopback name", "customary in hosts files")),
    ("ip6-localhost", Special("loopback name", "customary in hosts files")),
    ("ip6-loopback", Special("loopback name", "customary in hosts files")),
    ("local", Special("multicast DNS name", "RFC 6762 §3")),
    ("*.local", Special("multicast DNS name", "RFC 6762 §3")),
    ("internal", Special("private-use name", "ICANN resolution 2024.07.29.06")),
    ("*.internal", Special("private-use name", "ICANN resolution 2024.07.29.06")),
    ("home.arpa", Special("home network name", "RFC 8375 §3")),
    ("*.home.arpa", Special("home network name", "RFC 8375 §3")),
    ("onion", Special("Tor name", "RFC 7686 §2")),
    ("*.onion", Special("Tor name", "RFC 7686 §2")),
    ("alt", Special("non-DNS name", "RFC 9476 §2")),
    ("*.alt", Special("non-DNS name", "RFC 9476 §2")),
    ("invalid", Special("invalid name", "RFC 6761 §6.4")),
    ("*.invalid", Special("invalid name", "RFC 6761 §6.4")),
    ("ipv4only.arpa", Special("NAT64 discovery name", "RFC 8880 §7")),
    ("*.ipv4only.arpa", Special("NAT64 discovery name", "RFC 8880 §7")),
)

# The Fetch Standard's "bad port" list, https://fetch.spec.whatwg.org/#port-blocking: services that would act on
# the bytes of an HTTP request. Port 0 is on it too, and is no port here (address.parse_port).
BAD_PORTS = frozenset(
    {
        1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104,
        109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515,
        526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049,
        3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
    }
)  # fmt: skip

LOCALHOST_ADDRESSES = (IPAddress("127.0.0.1"), IPAddress("::1"))
"""What a localhost name means, without asking DNS (RFC 6761 §6.3)."""

_TABLE = RangeTable((IPNetwork(network), row) for network, row in _ADDRESSES)
_LOCKED = RangeTable((IPNetwork(network), row) for network, row in _ADDRESSES if row.locked)
_METADATA = NameTable(_METADATA_NAMES)
_RESERVED = NameTable(_RESERVED_NAMES)
_LOCALHOST = NameTable((name, name) for name in _LOCALHOST_NAMES)

SPECIAL_NETWORKS = tuple(IPNetwork(network) for network, _ in _ADDRESSES)
"""Every network of the table."""

SPECIAL_NAMES = tuple(pattern for pattern, _ in (*_METADATA_NAMES, *_RESERVED_NAMES))
"""Every pattern of a name that is metadata or reserved."""


def special_address(address: IPAddress) -> Special | None:
    """The narrowest row that holds `address`, or None for a public one. Says nothing of embedded addresses."""
    if is_isatap(address):
        return _ISATAP
    return _TABLE.find(address)


def locked_address(address: IPAddress) -> Special | None:
    """The row that no permit opens: metadata endpoints and the unspecified addresses."""
    return _LOCKED.find(address)


def metadata_name(host: str) -> Special | None:
    """The row of a metadata service's name: no permit opens it."""
    return _METADATA.first(host)


def reserved_name(host: str) -> Special | None:
    """The row of a name reserved for local use: only a permit for this host and port opens it."""
    return _RESERVED.first(host)


def is_localhost(host: str) -> bool:
    """Whether `host` means LOCALHOST_ADDRESSES and is never sent to DNS (RFC 6761 §6.3)."""
    return _LOCALHOST.first(host) is not None
