"""The settings files that the package installs explain every key, and say the default that the program has."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from atomd.config import Config as AtomdConfig
from storaged.config import Config as StoragedConfig

FILES = Path(__file__).resolve().parents[2] / "packaging" / "deb"
EXAMPLES = {"inventory_root", "narrow", "usb"}  # TOML has no word for nothing: an example stands there
MODELS = [("atomd.toml", AtomdConfig), ("storaged.toml", StoragedConfig)]


def uncommented(name: str) -> dict[str, object]:
    return tomllib.loads(re.sub(r"^#(?=\[?[a-z_]+(\]| = ))", "", (FILES / name).read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_the_installed_settings_change_nothing(name: str, model: type[BaseModel]) -> None:
    assert tomllib.loads((FILES / name).read_text()) == {}
    assert model.model_validate({}) == model()


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_every_key_is_there_with_its_default(name: str, model: type[BaseModel]) -> None:
    shown = uncommented(name)
    assert set(shown) == set(model.model_fields)
    without = {key: value for key, value in shown.items() if key not in EXAMPLES}
    assert model.model_validate(without) == model()


@pytest.mark.parametrize(("name", "model"), MODELS)
def test_every_example_is_taken_and_every_way_to_narrow_has_one(name: str, model: type[BaseModel]) -> None:
    shown = uncommented(name)
    narrow = model.model_validate(shown).narrow  # type: ignore[attr-defined]
    assert shown["narrow"].keys() == type(narrow).model_fields.keys()  # type: ignore[attr-defined]
    assert all(getattr(narrow, key) != getattr(type(narrow)(), key) for key in type(narrow).model_fields)
