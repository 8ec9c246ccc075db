"""All processes of a run must have the same state: which one differs, in what, and why that may be."""

from collections import Counter
from collections.abc import Mapping, Sequence

from flash_pl.errors import RankError
from flash_pl.fingerprint import Fingerprint

# Why the states differ, by what they are after.
OF_AGGREGATION = (
    "likely causes are unequal processors, an operation that does not repeat its bits, or an average or a server "
    "optimizer that draws random numbers without a seed"
)
OF_SERVER_HOOKS = (
    "likely causes are the order of a set or a random draw without server.generator, such as in a server hook of the "
    "scheduler"
)
OF_CHANGES = "likely causes are a callback or a hook of a client that changes the server"


def check_equal(fingerprints: Sequence[Fingerprint], when: str, cause: str = "") -> None:
    """Check that the fingerprints of all ranks are equal.

    What most ranks have counts as right, in a tie what rank 0 has. So every rank raises the same error.

    Args:
        fingerprints: by rank.
        when: a clause such as "after round 7".
        cause: why they may differ; by default it is guessed from the parts that differ.

    >>> alike, other = {("scheduler", "scores"): b"1"}, {("scheduler", "scores"): b"2"}
    >>> check_equal([alike, alike, other], "after round 7", cause="the cause")
    Traceback (most recent call last):
    flash_pl.errors.RankError: rank 2: its scheduler (scores) differs from rank 0's after round 7; the cause

    Raises:
        RankError: one differs; it names the first rank that does, and all parts in which it differs.
    """
    contents = [tuple(sorted(fingerprint.items())) for fingerprint in fingerprints]
    usual = contents.index(Counter(contents).most_common(1)[0][0])
    for rank, content in enumerate(contents):
        if content != contents[usual]:
            differing = _differing(fingerprints[rank], fingerprints[usual])
            names = [f"{part} ({', '.join(keys)})" for part, keys in differing.items()]
            verb = "differs" if len(names) == 1 else "differ"
            problem = f"its {' and '.join(names)} {verb} from rank {usual}'s {when}"
            raise RankError(rank, f"{problem}; {cause or _guess(differing)}")


def _differing(fingerprint: Fingerprint, usual: Fingerprint) -> dict[str, list[str]]:
    """The keys whose digests differ or are missing on one side, by part."""
    parts: dict[str, list[str]] = {}
    for part, key in usual | fingerprint:
        if fingerprint.get((part, key)) != usual.get((part, key)):
            parts.setdefault(part, []).append(key)
    return parts


def _guess(differing: Mapping[str, Sequence[str]]) -> str:
    """The likely causes. The union is the aggregate before any hook of the scheduler has seen it."""
    by_aggregation = "union" in differing.get("server", ()) or "server_optimizer" in differing
    return OF_AGGREGATION if by_aggregation else OF_SERVER_HOOKS
