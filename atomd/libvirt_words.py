"""libvirt's and QEMU's error messages, as sentences that a person can act on. Pure.

Their error codes are coarse (one code for a missing CPU model and for a dead socket), so that the words have to tell.
The patterns were measured with libvirt 9.0 and QEMU 7.2; what is not known here is passed on as it is.
"""

import re

WORDS_MAX = 400

_KIND = re.compile(
    r"^(internal error|operation failed|unsupported configuration|invalid argument|Requested \w+ \w+): ?"
)
_QEMU_SAYS = re.compile(r"^.*?(?:monitor|qemu)[^:]*: (?:\S+Z )?qemu-system-\w+: ")

# The first that is found counts. {0}, {1} are the pattern's groups.
_START_HINTS: tuple[tuple[str, str], ...] = ()


def plain(message: str) -> str:
    """On one line, without libvirt's word for the kind of error."""
    return _KIND.sub("", " ".join(message.split()))[:WORDS_MAX]


def explain_start(words: str) -> str:
    """Why a domain did not start, and where we know it, what to do."""
    for pattern, hint in _START_HINTS:
        found = re.search(pattern, words)
        if found:
            return hint.format(*found.groups())
    return f"libvirt did not start it: {_QEMU_SAYS.sub('QEMU says: ', words)}"
