"""What `pmm ingest` can be asked of any source."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pmm.flags import Flag
from pmm.ingest.download.raw_download import download_and_tell
from pmm.ingest.targets.target_tables import IngestOptions
from pmm.storage.home import Home, resolve_home


@dataclass(frozen=True, kw_only=True)
class SourceRequest(IngestOptions):
    """How a source becomes targets, and where; a source's own request adds its raw files."""

    home: Annotated[Path | None, Flag(group="output", shown="$PMM_HOME or ./pmm-data")] = None
    """Folder of all artefacts."""

    def place(self) -> Home:
        """The home folder."""
        return resolve_home(self.home)

    def options(self) -> IngestOptions:
        """How the source becomes targets, without its files: what a target's manifest records."""
        names = [field.name for field in dataclasses.fields(IngestOptions)]
        return IngestOptions(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class PlatformRequest(SourceRequest):
    """The same of a source with raw files of known names and with several targets."""

    raw: Annotated[Path | None, Flag(group="data", shown="HOME/raw/SOURCE")] = None
    """Folder of the raw files."""
    target: Annotated[tuple[str, ...], Flag(group="data", shown="all")] = ()
    """One of its datasets; repeatable."""
    encoding: Annotated[str | None, Flag(group="data")] = None
    """Of delimited files, e.g. gb18030; left out, it is detected."""
    download: Annotated[bool, Flag(group="data")] = False
    """First fetch the raw files that have public addresses."""
    allow_private_addresses: Annotated[bool, Flag(group="data")] = False
    """Downloads: ask addresses of this machine and its network too."""

    def fetch_if_asked(self, source: str, **which: Any) -> None:
        """With --download, fetch the raw files into the folder they are then read from.

        Args:
            source: as it is typed, "hm" say.
            which: which of them, as `pmm.ingest.download.raw_download.download_raw` takes it.
        """
        if self.download:
            folder = self.raw or self.place().raw(source)
            private = self.allow_private_addresses
            download_and_tell(source, folder, allow_private=private, **which)
