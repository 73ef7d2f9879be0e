"""How an answer that does not fit its datagram is told in fewer words, and never in silence. Pure.

What is wrong matters more than what to do about it: hints go first, from the last reason on; then whole reasons, and
the answer says how many. No edit is ever cut, since half of one is another one.
"""

from dataclasses import replace

from matcher.wire.messages import Message, Unfit


def briefer(answer: Message) -> Message | None:
    """The same with one thing less; `None` where it has nothing that could go."""
    if not isinstance(answer, Unfit):
        return None
    reasons = answer.reasons
    for index in range(len(reasons) - 1, -1, -1):
        if reasons[index].hint:
            return replace(answer, reasons=(*reasons[:index], replace(reasons[index], hint=""), *reasons[index + 1 :]))
    if len(reasons) <= 1:
        return None
    return replace(answer, reasons=reasons[:-1], left_off=answer.left_off + 1)
