"""What machines write in their files, as numbers and as lines fit for people. Pure."""

DIGITS_MAX = 20  # 2**64 has 20


def whole(text: str | None) -> int | None:
    """A decimal whole number, or nothing; a thousand digits are garbage, not a number."""
    if text is None or not text or len(text) > DIGITS_MAX or not text.isascii():
        return None
    return int(text) if text.removeprefix("-").isdigit() else None


def printable(text: str, characters_max: int = 200) -> str:
    """Text from a machine, fit for one line of a terminal."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in line)[:characters_max]
