"""How devices are named in what hosts and clients tell people. Pure."""


def device_kind(vendor: str, model: str, device_class: str, mdev_type: str = "") -> str:
    """ "10de:24b0", "class 03", "10de class 03", "10de:1b38 nvidia-63"; what is left open is empty."""
    says_type_alone = mdev_type and not (vendor or model)
    named = f"{vendor or '*'}:{model or '*'}" if model or not (device_class or says_type_alone) else vendor
    return " ".join(filter(None, (named, device_class and f"class {device_class}", mdev_type)))
