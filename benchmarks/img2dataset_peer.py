"""img2dataset, the peer that fetches, resizes and writes pictures, in an environment of its own.

It is made below the system's temporary folder if it is not there yet.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

PEER = Path(tempfile.gettempdir()) / "pmm-benchmark-img2dataset"

_PROGRAM = """
import json, sys
from img2dataset import download
if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""


def install() -> str | None:
    """Make img2dataset's environment unless it is there; its version, or None without it."""
    pip = [str(PEER / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    try:
        if not (PEER / "bin" / "img2dataset").exists():
            shutil.rmtree(PEER, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
            subprocess.run([*pip, "install", "--quiet", "img2dataset"], check=True, timeout=600)
        told = subprocess.run([*pip, "show", "img2dataset"], check=True, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"img2dataset cannot be installed ({error})", file=sys.stderr)
        return None
    found = re.search(r"Version: (\S+)", told.stdout.decode())
    return found[1] if found else "?"


def run(
    addresses: Iterable[str], folder: Path, options: Mapping[str, Any]
) -> tuple[float, float, float]:
    """Fetch pictures into folder/out with its options.

    Returns:
        seconds between its first shard's begin and its last one's end, of processor, and in all.
    """
    wanted = list(addresses)
    (folder / "urls.txt").write_text("\n".join(wanted))
    given = {
        "url_list": str(folder / "urls.txt"),
        "output_folder": str(folder / "out"),
        "number_sample_per_shard": -(-len(wanted) // 4),
        "enable_wandb": False,
        **options,
    }
    program = folder / "peer.py"  # a file: its workers import it
    program.write_text(_PROGRAM)
    command = [str(PEER / "bin" / "python"), str(program), json.dumps(given)]
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    subprocess.run(command, env=environment, capture_output=True, check=True)
    after, whole = getrusage(RUSAGE_CHILDREN), time.perf_counter() - start
    stats = [json.loads(path.read_text()) for path in (folder / "out").glob("*_stats.json")]
    assert sum(each["successes"] for each in stats) == len(wanted), stats
    clock = max(each["end_time"] for each in stats) - min(each["start_time"] for each in stats)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return clock, used, whole
