"""Inside a sandbox: import one function, call it with the JSON that comes in, write the JSON that it returns.

This file is mounted and run by itself: ``inside.py MODULE NAME PATH…``, the paths being where modules are found.
"""

import importlib
import json
import os
import sys

VALUE = 3


def main() -> None:
    """Call the function; its value goes out by a descriptor of its own, so that what it prints is only that."""
    module, name, *paths = sys.argv[1:]
    sys.argv[1:] = []
    sys.path[:] = [*(path for path in sys.path if path != os.path.dirname(__file__)), *paths]  # noqa: PTH120  # a start without pathlib
    function = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    value = function(json.load(sys.stdin))  # type: ignore[operator]  # whatever has that name
    if hasattr(value, "__await__"):
        import asyncio  # it takes longer to load than all the rest

        value = asyncio.run(value)
    data = json.dumps(value, allow_nan=False).encode()
    while data:
        data = data[os.write(VALUE, data) :]


if __name__ == "__main__":
    main()
