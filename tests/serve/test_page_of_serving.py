"""The calls of the guide "Serve a model", made as they stand there."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pmm.serve.serving import Serving
from pmm.serve.web.access import AccessRules
from pmm.serve.web.web_app import make_app

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serve-a-model.md"
HOST = "http://127.0.0.1:8000"


def test_every_call_of_the_guide_works(
    serving: Serving, served_runs: Path, listen: Any, tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    calls = [shlex.split(line) for line in lines if line.startswith("curl ")]
    assert len(calls) == 10
    app = make_app(serving, AccessRules(), place_of=lambda _: served_runs / "second")
    said = []
    with listen(app) as port:
        for words in calls:
            made = [each.replace(HOST, f"http://127.0.0.1:{port}") for each in words]
            done = subprocess.run(
                [made[0], "--fail-with-body", "--silent", "--noproxy", "*", *made[1:]],
                cwd=tmp_path,
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, (words, done.stdout)
            said.append(json.loads(done.stdout) if "--output" not in words else None)
    assert [len(each["items"]) for each in said[:1]] == [5]
    assert (tmp_path / "picture.jpg").read_bytes().startswith(b"\xff\xd8")
    assert said[5]["item"]["has_picture"]
    assert said[6]["withdrawn"]
    assert said[7]["serving"]["name"] == "second"
    assert said[9]["serving"]["name"] == "first"
