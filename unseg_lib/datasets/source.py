"""What is known of a data set's origin."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One file to download: `folder` in it becomes `place` below the data root; what is no archive becomes `place`."""

    url: str
    checksum: str | None  # "sha256:..." or "md5:..."
    megabytes: int | None  # None: not published
    folder: str = ""
    place: str = ""


@dataclass(frozen=True)
class Source:
    title: str
    place: str  # the folder (or file) below the data root whose presence means that the set is there
    licence: str
    paper: str
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""  # what to do where nothing can be downloaded without an account or the reading of terms
    needs: str = ""  # the set that this one completes
    official: str = ""  # how many images the whole set has
