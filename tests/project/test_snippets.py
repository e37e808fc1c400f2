"""What the documentation's snippets become."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project.snippets import blocks, page

PAGE = """\
# A page

<!-- worker: shop -->
```python
x = 1
```

```sh
rm -rf everything
```

```python
import shop
```

<!-- not executed: it needs a bank -->
```python
bank.charge()
```

1. In a list
   ```python
   print(shop.x)
   ```
"""


def test_given_a_page_then_python_runs_in_order_at_its_own_lines() -> None:
    program = page(PAGE).program
    assert [(number, line) for number, line in enumerate(program, 1) if line] == [
        (13, "import shop"),
        (23, "print(shop.x)"),
    ]


def test_given_a_worker_mark_then_the_block_is_a_file_and_a_worker_runs() -> None:
    found = page(PAGE)
    assert found.worker == "shop"
    assert found.files["shop.py"].splitlines()[4] == "x = 1"


def test_given_a_first_line_that_names_a_file_then_the_block_is_that_file() -> None:
    assert set(page("```python\n# shop.py\nx = 1\n```\n").files) == {"shop.py"}


def test_given_a_mark_then_the_block_is_only_shown_with_its_reason() -> None:
    found = page(PAGE)
    assert found.reasons == ["it needs a bank"]
    assert "bank" not in "".join(found.program)


def test_given_only_files_then_the_program_imports_them(tmp_path: Path) -> None:
    program = page("```python\n# shop.py\nx = 1\n```\n").write(tmp_path)
    assert program.read_text() == "import shop\n"


def test_given_an_open_block_then_its_line_is_named() -> None:
    with pytest.raises(ValueError, match="line 2"):
        blocks("text\n```python\nx = 1\n")
