"""Templates: named specfiles to redistribute. A template is a specfile whose `info` has a name.

The four of the tech pack come with the program; `packaging/examples` holds the same as files.
"""

from collections.abc import Mapping
from types import MappingProxyType

from specs.forms import list_of_choices
from specs.problems import Problem, SpecError, show
from specs.specfile import Info, Specfile, parse_specfile


def _template(name: str, description: str, *, slots: int, ramsize_mib: int, overprovision: int) -> Specfile:
    info = Info(name=name, description=description)
    return Specfile(info=info, slots=slots, ramsize_mib=ramsize_mib, overprovision=overprovision)


_ALL = (
    _template(
        "Helium",
        "Smallest virtual machine template for light tasks",
        slots=1, ramsize_mib=512, overprovision=4,
    ),
    _template(
        "Neon",
        "Small virtual machine template for everyday tasks",
        slots=2, ramsize_mib=2048, overprovision=2,
    ),
    _template(
        "Argon",
        "Medium virtual machine template with cores of its own",
        slots=4, ramsize_mib=4096, overprovision=1,
    ),
    _template(
        "Kripton",
        "Large virtual machine template for demanding tasks",
        slots=8, ramsize_mib=8192, overprovision=1,
    ),
)  # fmt: skip

TEMPLATES: Mapping[str, Specfile] = MappingProxyType(
    {template.info.name.lower(): template for template in _ALL if template.info and template.info.name}
)


def load_template(name: str) -> Specfile:
    """The template of that name, in any case; raises `SpecError` naming those there are."""
    template = TEMPLATES.get(name.strip().lower())
    if template is None:
        hint = list_of_choices(name.lower(), tuple(TEMPLATES))
        raise SpecError([Problem("", f"there is no template {show(name)}", hint)], what="template")
    return template


def parse_template(text: str | bytes) -> Specfile:
    """A specfile that others can find by its name; raises `SpecError` where it has none."""
    specfile = parse_specfile(text)
    if specfile.info is None or specfile.info.name is None:
        problem = Problem("info.name", "is missing", 'a template needs a name: "info": {"name": "Helium"}')
        raise SpecError([problem], what="template")
    return specfile
