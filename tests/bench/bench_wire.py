"""What the wire costs, printed and never asserted: `python -m tests.bench.bench_wire`, or run this file.

Microseconds for each operation, the best of five rounds, so that other load shows least.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from timeit import Timer

from matcher.trust.identity import load_identity
from matcher.wire import messages as m
from matcher.wire import signature
from matcher.wire.codec import decode, encode, from_json, to_json
from matcher.wire.envelope import KIND_OF, REALM, Kind, seal, unseal, verify
from tests.fakes.realms import make_realm

ID = "0a" * 16
HOST_ID = "0b" * 32
ASK = m.VmAsk(
    2,
    False,
    1,
    (m.Arch.X86_64,),
    ("avx2", "sse4_2"),
    2048,
    False,
    (m.PciAsk("10de", "24b0", 1),),
    m.Firmware.BIOS,
    True,
)
REASON = m.Reason("ram", "65536 MiB", "41984 MiB free", "ask for less", "ram.ramsize=41984")
VOLUME = m.OfferedVolume(ID, "web", 2048, m.ImageFormat.RAW, True, False, False, m.Reach.LOCAL)
SAMPLES: tuple[m.Message, ...] = (
    m.Pledge(
        ID,
        1_700_000_000_000,
        (m.Address("10.0.0.1", 4711),),
        False,
        ID,
        1,
        ASK,
        (ID,),
        bytes(32),
        3000,
        3,
        m.Policy.PACK,
    ),
    m.VmOffer(
        ID, ID, "h1", 8443, 3, 3000, 0.5, (0, 1, 48, 49), 2, 0, ("0000:3b:00.0",), m.Arch.X86_64, m.Accelerator.KVM
    ),
    m.VolumeOffer(ID, ID, "h1", 3, 3000, (VOLUME,)),
    m.Unfit(ID, "h1", m.Role.COMPUTE, 3, (REASON, REASON)),
    m.Reveal(ID, bytes(32), ID),
    m.Confirm(ID, 1, ID, ID, HOST_ID, "web", ASK, (m.VolumeClaim(ID, HOST_ID, ID),), "{}" * 200),
    m.Abandon(ID, 1, ID, HOST_ID),
)


def cost_us(work: Callable[[], object]) -> float:
    timer = Timer(work)
    number = max(1, int(0.02 / max(timer.timeit(1), 1e-7)))
    return min(timer.repeat(5, number)) / number * 1e6


def show(name: str, work: Callable[[], object], note: str = "") -> None:
    print(f"  {name:24}{cost_us(work):9.1f} µs  {note}")


def bench_messages() -> None:
    print(f"  {'':24}{'bytes':>7}{'encode':>9}{'decode':>9}{'to_json':>9}{'from_json':>11}")
    for message in SAMPLES:
        cls, data, text = type(message), encode(message), to_json(message)
        costs = (
            cost_us(lambda message=message: encode(message)),  # type: ignore[misc]
            cost_us(lambda cls=cls, data=data: decode(cls, data)),  # type: ignore[misc]
            cost_us(lambda message=message: to_json(message)),  # type: ignore[misc]
            cost_us(lambda cls=cls, text=text: from_json(cls, text)),  # type: ignore[misc]
        )
        print(f"  {cls.__name__:24}{len(data):7}{costs[0]:9.1f}{costs[1]:9.1f}{costs[2]:9.1f}{costs[3]:11.1f}")


def bench_envelope(folder: Path) -> None:
    realm = make_realm(folder, "h1", "ann")
    h1, ann = realm["h1"], realm["ann"]
    payload, now_s = encode(SAMPLES[0]), time.time()
    data = seal(Kind.PLEDGE, payload, realm=ann.realm, signer=ann, audience=REALM, pad_bytes=1200)
    sealed = unseal(data, realm=h1.realm)
    key = h1.verifier.principal(sealed.certificate, now_s)[1]
    outside = bytes([*data[:14], *bytes(8), *data[22:]])
    signed = ann.sign(payload)
    show("sign", lambda: ann.sign(payload))
    show("verify", lambda: signature.verify(key, signed, payload))
    show(
        "seal a pledge", lambda: seal(Kind.PLEDGE, payload, realm=ann.realm, signer=ann, audience=REALM, pad_bytes=1200)
    )
    show("unseal it", lambda: unseal(data, realm=h1.realm), f"{len(data)} bytes, leaf {len(ann.certificate)}")
    show("refuse a wrong tag", lambda: _refuse(outside, h1))
    show("verify the envelope", lambda: verify(sealed, key, realm_id=h1.realm.realm_id, audience=REALM))
    show("principal, first seen", lambda: h1.verifier._check(sealed.certificate))
    show("principal, known", lambda: h1.verifier.principal(sealed.certificate, now_s))
    show("load an identity", lambda: load_identity(folder / "ann"))


def _refuse(data: bytes, identity: object) -> None:
    try:
        unseal(data, realm=identity.realm)  # type: ignore[attr-defined]
    except Exception:
        return
    raise AssertionError("a wrong tag passed")


def main() -> None:
    print(f"wire and trust, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        bench_envelope(Path(folder))
    bench_messages()


if __name__ == "__main__":
    assert set(KIND_OF) >= {type(message) for message in SAMPLES}
    main()
