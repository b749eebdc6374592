from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .gunicorn import Till


@pytest.fixture
def open_till(tmp_path: Path) -> Iterator[Callable[..., Till]]:
    tills: list[Till] = []

    def open_one(**settings: Any) -> Till:
        folder = tmp_path / str(len(tills))
        folder.mkdir()
        tills.append(Till(folder, **settings))
        return tills[-1]

    yield open_one
    for till in tills:
        till.close()
