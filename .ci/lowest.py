"""Print the lowest versions that pyproject.toml allows, as pip requirements."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in project["dependencies"]:
    print(re.sub(r">=([^,]+).*", r"==\1", requirement))  # noqa: T201
