"""Nothing is fetched from an address that only this host can reach, in whatever form it is written."""

import pytest

from storaged.images.addresses import forbidden, parse_address


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "::1", "::"),
        *("169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "febf::1"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::7f00:1"),
        *("64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe"),
        *("2002:7f00:1::", "2002:a9fe:a9fe::1"),
        *("2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:5601:5601"),
        *("100::1", "fec0::1", "1000::1", "4000::1"),
    ],
)
def test_what_leads_back_to_us_is_forbidden(text: str) -> None:
    assert forbidden(parse_address(text)) is not None


@pytest.mark.parametrize(
    "text",
    [
        *("93.184.216.34", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "100.100.100.201"),
        *("2606:2800::1", "fd12:3456::1", "64:ff9b::5db8:d822", "::ffff:93.184.216.34", "2002:5db8:d822::1"),
    ],
)
def test_mirrors_are_open_on_private_networks_too(text: str) -> None:
    assert forbidden(parse_address(text)) is None
