"""One table for all that can be asked: it is whole, and what is described is what is there."""

import pytest
from openapi_spec_validator import validate

from matcher.net.door.openapi import document
from matcher.net.door.routes import ROUTES, Lines, Octets, Table, Who
from matcher.wire.realm import Verb


def test_the_description_is_valid_openapi() -> None:
    validate(document(ROUTES))  # type: ignore[arg-type]


def test_the_description_has_every_route_and_no_other() -> None:
    described = {
        (method.upper(), path, operation["operationId"])
        for path, operations in document(ROUTES)["paths"].items()
        for method, operation in operations.items()
    }
    assert described == {(route.method, route.path, route.name) for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_is_found_by_a_path_of_its_own(route: object) -> None:
    assert route in ROUTES
    path = route.path.replace("{id}", "a" * 32).replace("{user}", "a" * 64).replace("{vid}", "b" * 32)  # type: ignore[attr-defined]
    found = Table().find(route.method, path, websocket=route.websocket)  # type: ignore[attr-defined]
    assert found.route is route


def test_what_changes_something_or_shows_somebody_needs_a_verb() -> None:
    """But for what proves itself, what the caller is anyway, and what every member knows."""
    free = {route.name for route in ROUTES if route.verb is None}
    hosts = {route.name for route in ROUTES if route.who is Who.HOST}
    assert hosts == {"attach", "detach", "relayed"}
    assert free - hosts == {"whoami", "openapi", "status", "bundle", "offer", "renew"}
    assert {route.name for route in ROUTES if route.who is Who.MEMBER} == free - hosts - {"whoami"}


def test_the_realms_own_matters_are_for_admins() -> None:
    admins = {route.name for route in ROUTES if route.verb is Verb.ADMIN}
    assert admins == {"invite_host", "invite_user", "change_grant", "revoke", "make_issuer", "members", "uses"}


def test_a_superseded_leaf_is_good_for_one_route() -> None:
    assert [route.name for route in ROUTES if route.superseded] == ["renew"]


@pytest.mark.parametrize(
    ("method", "path", "methods"),
    [
        ("GET", "/v1/nothing", ()),
        ("GET", "/", ()),
        ("GET", "", ()),
        ("GET", "/v1/vms/", ()),
        ("GET", "/v1/vms/x/y/z/a/b/c", ()),
        ("GET", "//v1/vms", ()),
        ("GET", "/v1/vms/../realm", ()),
        ("PUT", "/v1/vms", ("GET",)),
        ("POST", "/v1/vms/x", ("DELETE", "GET")),
        ("GET", "/v1/vms/x/console", ()),  # a WebSocket, or nothing
    ],
)
def test_what_is_not_there_is_not_found(method: str, path: str, methods: tuple[str, ...]) -> None:
    found = Table().find(method, path)
    assert found.route is None
    assert found.methods == methods


def test_bodies_have_a_limit() -> None:
    for route in ROUTES:
        assert (route.body_max_bytes > 0) == (route.question is not None)
        assert isinstance(route.answer, type | Octets | Lines) or route.websocket
