"""What tgtd and ganesha are told is what was meant, and what they show is read for what it is."""

import struct
from ipaddress import IPv4Address, IPv6Address

from matcher.wire.messages import ImageFormat
from storaged.export import ganesha_words, tgt_words
from storaged.export.description import Export, Image, Kind, chap_of, target_name
from storaged.testing import H1, vid_of
from storaged.volume import Epoch

ONE = vid_of(1)
EPOCH = Epoch(7, "0123456789abcdef")
NAME = target_name(ONE, EPOCH)
SHOWN = f"""Target 1: {NAME}
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 5
            Initiator: iqn.2026-01.io.atomos:host.1111111111111111 alias: h1
            Connection: 0
                IP Address: 127.0.0.1
    LUN information:
        LUN: 0
            Type: controller
            SCSI ID: IET     00010000
            SCSI SN: beaf10
            Size: 0 MB, Block size: 1
            Online: Yes
            Readonly: No
            Backing store type: null
            Backing store path: None
            Backing store flags:\x20
        LUN: 1
            Type: disk
            SCSI ID: {ONE}
            SCSI SN: {ONE}
            Size: 8 MB, Block size: 512
            Online: Yes
            Readonly: Yes
            Backing store type: rdwr
            Backing store path: /pool/a b: c.elimg/data.img
            Backing store flags:\x20
    Account information:
        0011223344556677
    ACL information:
        iqn.2026-01.io.atomos:host.1111111111111111
Target 22: iqn.2001-04.com.example:other
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
    LUN information:
        LUN: 0
            Type: controller
            SCSI ID: IET     00160000
            Online: Yes
    Account information:
    ACL information:
        ALL
"""


def test_a_target_is_read_with_all_that_it_has() -> None:
    mine, other = tgt_words.parse_targets(SHOWN)
    assert (mine.tid, mine.name, mine.luns) == (1, NAME, {0, 1})
    assert (other.tid, other.seen, other.initiators) == (22, None, {"ALL"})
    seen = mine.seen
    assert seen is not None
    assert (seen.vid, seen.epoch, seen.sessions, seen.whole) == (ONE, EPOCH, 1, True)
    assert (seen.file, seen.readonly) == ("/pool/a b: c.elimg/data.img", True)
    assert (seen.users, seen.initiators) == ({"0011223344556677"}, {"iqn.2026-01.io.atomos:host.1111111111111111"})


def test_a_target_that_lacks_a_part_is_not_whole() -> None:
    account = "        0011223344556677\n"
    initiator = "        iqn.2026-01.io.atomos:host.1111111111111111\n"
    for without in (account, initiator, SHOWN[SHOWN.index("        LUN: 1") : SHOWN.index("    Account")]):
        seen = tgt_words.parse_targets(SHOWN.replace(without, "", 1))[0].seen
        assert seen is not None
        assert not seen.whole, without


def test_no_targets_are_no_error() -> None:
    assert tgt_words.parse_targets("") == ()


def test_connections_are_read_by_session() -> None:
    shown = (
        "Session: 5\n    Connection: 0\n        Initiator: x\n        IP Address: y\nSession: 12\n    Connection: 1\n"
    )
    assert tgt_words.parse_connections(shown) == ((5, 0), (12, 1))


def test_a_request_is_as_long_as_it_says_and_shows_no_secret() -> None:
    chap = chap_of(bytes(32), ONE, EPOCH)
    request = tgt_words.new_account(chap)
    mode, op, driver, size = struct.unpack_from("@II64sI", request.bytes)
    assert (mode, op, driver.rstrip(b"\0"), size) == (7, 0, b"iscsi", len(request.bytes))
    assert request.bytes.endswith(f"user={chap.user},password={chap.secret}\0".encode())
    assert chap.secret not in repr(request)


def test_a_path_that_would_be_taken_for_more_is_not_speakable() -> None:
    assert tgt_words.is_speakable("/pool/a b=c.elimg/data.img")
    for path in ("/pool/a,bstype=null", "/pool/a\nTarget 9: x", "/pool/\x7f", "/p" * 600):
        assert not tgt_words.is_speakable(path), path


def nfs_export(path: str = "/pool/a.elimg", *, readonly: bool = False) -> Export:
    image = Image(ONE, "/pool", path, "share", ImageFormat.RAW, readonly)
    return Export(image, EPOCH, Kind.NFS, H1, client=IPv4Address("192.0.2.1"))


def test_a_folder_is_for_one_client_and_for_reading_alone_where_it_says_so() -> None:
    block = ganesha_words.export_block(nfs_export(), 77)
    assert "Export_Id = 77; Filesystem_Id = 77.1" in block
    assert 'Path = "/pool/a.elimg/share"' in block
    assert "Clients = 192.0.2.1; Access_Type = RW" in block
    assert "Access_Type = RO" in ganesha_words.export_block(nfs_export(readonly=True), 77)


def test_a_path_that_would_end_its_quotes_is_not_plain() -> None:
    assert ganesha_words.is_plain("/pool/a b.elimg/share")
    for path in ('/a"b', "/a\nb", "/a;}b\\", "/a#b", "/a%b", "/a$b"):
        assert not ganesha_words.is_plain(path), path


def test_an_exports_number_is_the_same_each_time_and_fits_and_is_nobody_elses() -> None:
    first = ganesha_words.number_for("one", ())
    assert first == ganesha_words.number_for("one", {first + 1})
    assert ganesha_words.number_for("one", {first}) not in (first, 0)
    all_but_one = {*range(1, ganesha_words.ID_MAX + 1)} - {7}
    assert ganesha_words.number_for("one", all_but_one) == 7


def test_exports_are_read_by_number_and_others_left_out() -> None:
    path = ganesha_words.pseudo_path(nfs_export())
    shown = f'struct {{\n  uint16 0\n   string "/"\n }}\n struct {{\n uint16 77\n         string "{path}"\n }}'
    assert ganesha_words.parse_exports(shown) == {77: (ONE, EPOCH)}


def test_an_export_is_read_with_its_clients() -> None:
    shown = '   uint16 77\n   string "/pool/a"\n   string "/vol.1"\n   string ""\n   array [\n      struct {\n'
    shown += '         string "192.0.2.1/32"\n         int32 0\n'
    for options, readonly in ((53490146, False), (53489826, True)):
        end = f"         uint32 {options}\n         uint32 480\n      }}\n   ]"
        assert ganesha_words.parse_export(shown + end) == ("/pool/a", {"192.0.2.1"}, readonly)


def test_the_settings_name_one_address_and_one_port() -> None:
    text = ganesha_words.settings(IPv6Address("::1"), 2049, "/state")
    assert "Bind_addr = ::1; NFS_Port = 2049" in text
