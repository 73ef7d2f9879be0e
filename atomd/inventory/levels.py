"""The x86-64 levels, told from the kernel's flags. Pure.

Source: System V ABI, AMD64 supplement (psABI), "Micro-Architecture Levels". The kernel has names of its own for some
features: SSE3 is `pni`, LZCNT is `abm`, CMPXCHG16B is `cx16`, LAHF and SAHF are `lahf_lm`, CMPXCHG8B is `cx8`. It shows
`xsave` only where it has enabled it, which is the OSXSAVE that v3 asks for.
"""

_ADDED = {
    "x86-64-v1": "lm cmov cx8 fpu fxsr mmx syscall sse sse2",
    "x86-64-v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "x86-64-v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}

# Each level needs all that came before it.
LEVELS: dict[str, frozenset[str]] = {}
for _name, _flags in _ADDED.items():
    LEVELS[_name] = frozenset(_flags.split()).union(*LEVELS.values())


def level_of(flags: frozenset[str]) -> str | None:
    """The highest level whose flags are all there, or `None` off x86-64."""
    return max((name for name, needed in LEVELS.items() if needed <= flags), default=None)
