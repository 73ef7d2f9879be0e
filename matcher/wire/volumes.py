"""What users say to a storage host about volumes, and what it answers.

A volume's `vid` is made by the client, as a VM's id is: asked twice, it is made once.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import MaxLen
from pydantic.types import Strict

from matcher.wire.messages import Count, Fingerprint, Flag, Id, ImageFormat, Label, Line, Message, Word

VOLUMES_LISTED_MAX = 4096  # in one answer


@dataclass(frozen=True, slots=True)
class VolumeView(Message):
    """A volume as one user may see it. `owner` is empty where nobody owns it; `vms` names those of this user's VMs that
    have it; `why` is a sentence about the state, or empty.

    `state`: "free", "attached" (to VMs of whomever), "bad" (it can't be given until somebody mends it).
    """

    vid: Id
    name: Label
    size_mib: Count
    format: ImageFormat
    bootable: Flag
    private: Flag
    shareable: Flag
    readonly: Flag
    owner: Annotated[str, Strict(), MaxLen(64)]
    host: Label
    host_id: Fingerprint
    pool: Line
    state: Word
    why: Line = ""
    vms: Annotated[tuple[Label, ...], MaxLen(64)] = ()


@dataclass(frozen=True, slots=True)
class VolumeViews(Message):
    """`left_out` counts those that did not fit."""

    volumes: Annotated[tuple[VolumeView, ...], MaxLen(VOLUMES_LISTED_MAX)]
    left_out: Count = 0
