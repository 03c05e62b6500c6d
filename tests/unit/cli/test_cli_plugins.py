"""Plugins of Docker's CLI: found, and called as that calls them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proa.cli import plugins
from proa.cli.failure import Failure
from proa.cli.flags import Globals
from proa.cli.main import dispatch

PYTHON = Path(__file__).parents[3] / "python"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A directory of settings with one plugin, which says how it was called."""
    program = tmp_path / "cli-plugins/docker-compose"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$DOCKER_HOST $DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND $*"; exit 7\n')
    program.chmod(0o755)
    (tmp_path / "cli-plugins/docker-idle").write_text("")
    return tmp_path


def test_a_plugin_takes_over(config: Path) -> None:
    words = ["--config", str(config), "-H", "tcp://there:1", "--tls", "compose", "--file", "x", "up", "-d"]
    done = subprocess.run(
        [sys.executable, "-m", "proa.cli", *words],
        env={"PYTHONPATH": str(PYTHON), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == f"tcp://there:1 proa --config {config} --tls compose --file x up -d\n"


@pytest.mark.parametrize("name", ["idle", "none", "../cli-plugins/docker-compose", "Compose", ""])
def test_what_is_no_plugin(config: Path, name: str) -> None:
    options = Globals()
    options.config = str(config)
    assert plugins.find(name, options) == ""
    with pytest.raises(Failure, match=f"unknown command: proa {name}\n\nRun"):
        dispatch([name], options)


def test_what_proa_does_not_have_says_why() -> None:
    with pytest.raises(Failure) as caught:
        dispatch(["swarm", "init"], Globals())
    assert str(caught.value) == (
        "proa: unknown command: proa swarm\nproa is the engine of one host and has no swarm mode\n\n"
        "Run 'proa --help' for more information"
    )
