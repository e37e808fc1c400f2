"""Looking at strangers' errors by their shape."""

from __future__ import annotations


def attribute(holder: object, name: str) -> object:
    """Return ``holder.name``, or None when there is none or its getter raises: looking must not fail where work did."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001  # a foreign object's property may raise anything
        return None


def header(holder: object, name: str) -> object:
    """Return what stands under ``name`` in ``holder.headers``, or None; plain dicts are asked in lower case too."""
    get = attribute(attribute(holder, "headers"), "get")
    if not callable(get):
        return None
    try:
        return get(name) or get(name.lower())
    except Exception:  # noqa: BLE001  # a foreign object's property may raise anything
        return None
