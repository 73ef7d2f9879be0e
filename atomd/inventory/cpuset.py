"""Sets of CPUs as the kernel prints them: lists ("0-3,8") and masks ("00000000,0000010f"). Pure.

Formats: the kernel's lib/bitmap.c, `%*pbl` and `%*pb`. Text that is neither gives `None`: half a set is no set.
"""

CPUS_MAX = 16_384  # the largest NR_CPUS of any architecture is 8,192
_WORD_DIGITS = 8  # a mask is printed in words of 32 bits


def parse_list(text: str) -> frozenset[int] | None:
    """ "0-2,8" → {0, 1, 2, 8}; empty text is the empty set."""
    cpus: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        low, high = _number(first), _number(last if dash else first)
        if low is None or high is None or low > high:
            return None
        cpus.update(range(low, high + 1))
    return frozenset(cpus)


def parse_mask(text: str) -> frozenset[int] | None:
    """ "00000000,00000101" → {0, 8}: most significant word first."""
    words = text.split(",")
    if any(not _is_word(word) for word in words[:1]) or any(len(word) != _WORD_DIGITS for word in words[1:]):
        return None
    digits = "".join(words)
    if len(digits) * 4 > CPUS_MAX or not _is_word(digits):
        return None
    bits = int(digits, 16)
    return frozenset(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)


def format_list(cpus: tuple[int, ...]) -> str:
    """(0, 1, 2, 8) → "0-2,8": ascending numbers as the kernel would print them."""
    parts: list[str] = []
    start = 0
    for index, cpu in enumerate(cpus):
        if index + 1 == len(cpus) or cpus[index + 1] != cpu + 1:
            parts.append(str(cpu) if index == start else f"{cpus[start]}-{cpu}")
            start = index + 1
    return ",".join(parts)


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 6:
        return None
    return number if (number := int(text)) < CPUS_MAX else None


def _is_word(text: str) -> bool:
    return bool(text) and all(digit in "0123456789abcdefABCDEF" for digit in text)
