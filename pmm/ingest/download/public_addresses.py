"""Which addresses are public: not of this machine, its network, or its provider's inside.

The addresses of pictures stand in files that strangers wrote. One that leads to 127.0.0.1, to a
router or to a cloud's metadata service would have this machine ask what only it may ask.
"""

import contextlib
import math
import queue
import socket
import threading
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util.connection import allowed_gai_family

_GLOBAL_6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_REFUSED_6 = IPv6Network("3fff::/20")  # documentation; Python before 3.13 does not know it
_REFUSED_4 = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata service is among them
    IPv4Network("168.63.129.16/32"),  # Azure's inside, though of a public range
)


class RefusedAddress(HTTPError):
    """A host that is at an address which is not public. Never leaves this package."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet.

    One that stands for an IPv4 address (mapped, 6to4, NAT64) is what that is.

    >>> is_public("93.184.215.14"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv4Address):
        return (
            found.is_global
            and not found.is_multicast
            and not found.is_reserved
            and not any(found in each for each in _REFUSED_4)
        )
    inner = _inner(found)
    if inner is not None:
        return is_public(str(inner))
    return found in _GLOBAL_6 and found.is_global and found not in _REFUSED_6


def _inner(found: IPv6Address) -> IPv4Address | None:
    if found in _NAT64:
        return IPv4Address(int(found) & 0xFFFFFFFF)
    return found.ipv4_mapped or found.sixtofour


def require_public(host: str, addresses: list[str]) -> None:
    """Refuse a host if any of its addresses is not public: it could not be told which is asked.

    Raises:
        RefusedAddress: one is not.
    """
    for address in addresses:
        if not is_public(address):
            named = host if host == address else f"{host} is {address}, which"
            raise RefusedAddress(
                f"{named} is not of the public internet; to ask it all the same: "
                "--allow-private-addresses"
            )


def resolve(host: str, port: int, within_s: float = math.inf) -> list[str]:
    """The IP addresses of a host, each once, in the order in which they are to be tried.

    Numbers in any form that the system takes for an address (`2130706433`, `0x7f.1`) are resolved
    by the same rules as when they are connected to.

    Raises:
        LocationParseError: a label of the name is empty or too long.
        socket.gaierror: there is no such host.
        TimeoutError: there is no answer within the seconds.
    """
    host = host.strip("[]")
    with contextlib.suppress(ValueError):
        return [str(ip_address(host))]
    try:
        host.encode("idna")
    except UnicodeError:
        raise LocationParseError(f"'{host}', label empty or too long") from None
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(row[4][0]) for row in rows)))
        except Exception as error:  # the one who waits raises it
            answers.put(error)

    # The system's resolver cannot be interrupted; a thread can be left behind.
    threading.Thread(target=ask, daemon=True).start()
    try:
        found = answers.get(timeout=None if within_s == math.inf else max(0.0, within_s))
    except queue.Empty:
        raise TimeoutError(f"{host} was not resolved in time") from None
    if isinstance(found, Exception):
        raise found
    return found
