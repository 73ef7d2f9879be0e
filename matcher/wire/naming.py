"""How devices are named in what hosts and clients tell people. Pure."""


def device_kind(vendor: str, model: str, device_class: str) -> str:
    """ "10de:24b0", "class 03", "10de class 03"; what is left open is empty."""
    named = f"{vendor or '*'}:{model or '*'}" if model or not device_class else vendor
    return " ".join(filter(None, (named, device_class and f"class {device_class}")))
