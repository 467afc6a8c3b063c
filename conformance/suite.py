"""Autobahn's fuzzing client: find a Python 2, install the suite for it, run some of its cases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .compare import Case, Outcome

VERSION = "25.10.1"
#: The last setuptools for Python 2, which the suite's dependencies need.
REQUIREMENTS = ("setuptools==44.0.0", f"autobahntestsuite=={VERSION}")
#: Each case of sections 12 and 13 sends this many messages, if it is not told otherwise.
FULL = 1000
#: Where the suite is installed: no virtual environment, but ignored and removed like one.
DIRECTORY = Path(__file__).parent.parent / ".venv-conformance"
#: Seconds for one download of all that the suite needs, with one package to be compiled.
INSTALL_DEADLINE = 600

_RUN = """
import sys
from autobahntestsuite import wstest
from autobahntestsuite.case import case12_x_x as cases
for case in cases.Case12_X_X + cases.Case13_X_X:
    case.COUNT = int(sys.argv[2])
sys.argv = ["wstest", "-m", "fuzzingclient", "-s", sys.argv[1]]
wstest.run()
"""


class SuiteError(Exception):
    """The suite cannot be installed or run."""


def find_python2(given: str) -> str:
    """Return a Python 2.7 that runs: the *given* one, one on the path, or one of pyenv's.

    Raises:
        SuiteError: There is none.
    """
    for candidate in [given] if given else _candidates():
        # Run it: pyenv puts a python2.7 on the path that only says where there is one.
        if _output(candidate, "-c", "import sys; print(sys.version_info[:2] == (2, 7))") == "True":
            return candidate
    tried = f"{given} is none" if given else "none was found on the path or in pyenv"
    raise SuiteError(
        f"the Autobahn test suite needs Python 2.7, and {tried}. Install one "
        "(pyenv install 2.7.18) or name it: make conformance PYTHON2=/path/to/python2.7"
    )


def _candidates() -> Iterator[str]:
    yield "python2.7"
    yield "python2"
    if prefix := _output("pyenv", "prefix", "2.7"):
        yield f"{prefix}/bin/python2.7"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass(frozen=True)
class Suite:
    """The installed suite."""

    python: str
    #: How many messages each case of sections 12 and 13 sends.
    messages: int

    def install(self) -> None:
        """Install it if it is not there.

        Raises:
            SuiteError: pip has failed.
        """
        stamp = DIRECTORY / ".installed"
        if stamp.exists() and stamp.read_text() == "\n".join((self.python, *REQUIREMENTS)):
            return
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        DIRECTORY.mkdir()
        pip = [self.python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        done = subprocess.run(
            [*pip, "--target", str(DIRECTORY), *REQUIREMENTS],
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_DEADLINE,
            check=False,
        )
        if done.returncode:
            raise SuiteError(f"pip of {self.python} has failed:\n{done.stdout[-2000:]}")
        # With --target, pip leaves out what makes this folder a package.
        (DIRECTORY / "zope" / "__init__.py").touch()
        stamp.write_text("\n".join((self.python, *REQUIREMENTS)))

    def run(
        self, port: int, cases: Sequence[str], directory: Path, seconds: float
    ) -> Mapping[Case, Outcome]:
        """Run *cases* against *port*, leave reports in *directory* and return the outcomes.

        Raises:
            SuiteError: It has not come to its end in *seconds*.
        """
        directory.mkdir(parents=True)
        spec = directory / "spec.json"
        server = {"agent": "server", "url": f"ws://127.0.0.1:{port}"}
        spec.write_text(
            json.dumps({"outdir": str(directory), "servers": [server], "cases": list(cases)})
        )
        with (directory / "log").open("w") as log:
            try:
                subprocess.run(
                    [self.python, "-c", _RUN, str(spec), str(self.messages)],
                    cwd=directory,
                    env=os.environ | {"PYTHONPATH": str(DIRECTORY)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=seconds,
                    check=True,
                )
            except subprocess.TimeoutExpired as error:
                raise SuiteError(f"not done after {seconds:.0f} s; see {log.name}") from error
            except subprocess.CalledProcessError as error:
                raise SuiteError(f"wstest has failed; see {log.name}") from error
        # It writes its reports only at its end.
        found = json.loads((directory / "index.json").read_text())["server"]
        return {
            Case.parse(case): Outcome(one["behavior"], one["behaviorClose"])
            for case, one in found.items()
        }
