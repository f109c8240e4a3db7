"""The licence gate: may these texts be passed on at all, and what must the licence of the published set demand?

A reading of licence names, not of contracts, and no legal advice: what it does not know, it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from psychocounsel.errors import UserError, nearest

Standing = Literal["free", "conditions", "forbidden", "unknown"]
ATTRIBUTION, SHARE_ALIKE, NON_COMMERCIAL = "attribution", "share-alike", "non-commercial"
USE_LIMITS, NO_DERIVATIVES = "use restrictions", "no derivatives"
OTHER = "other"
TERMS: dict[str, tuple[str, ...]] = {
    "CC0-1.0": (),
    "PDDL-1.0": (),
    "Unlicense": (),
    **dict.fromkeys(("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "ODC-By-1.0"), (ATTRIBUTION,)),
    **dict.fromkeys(("CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "AFL-3.0"), (ATTRIBUTION,)),
    **dict.fromkeys(("ODbL-1.0", "CDLA-Sharing-1.0", "GPL-3.0-only", "AGPL-3.0-only"), (ATTRIBUTION, SHARE_ALIKE)),
    **dict.fromkeys(("OpenRAIL", "BigScience-OpenRAIL-M", "CreativeML-OpenRAIL-M"), (ATTRIBUTION, USE_LIMITS)),
}
ALIASES = {"odbl": "ODbL-1.0", "odc by": "ODC-By-1.0", "pddl": "PDDL-1.0", "cc0": "CC0-1.0", "apache 2": "Apache-2.0",
           "gpl 3.0": "GPL-3.0-only", "agpl 3.0": "AGPL-3.0-only", "openrail m": "OpenRAIL"}  # fmt: skip
HUB_NAMES = {"ODbL-1.0": "odbl", "ODC-By-1.0": "odc-by", "PDDL-1.0": "pddl", "GPL-3.0-only": "gpl-3.0",
             "AGPL-3.0-only": "agpl-3.0"}  # fmt: skip
CC_WORDS = {"attribution": "by", "noncommercial": "nc", "sharealike": "sa", "noderivatives": "nd", "noderivs": "nd"}
CC_TERMS = {"by": ATTRIBUTION, "nc": NON_COMMERCIAL, "sa": SHARE_ALIKE, "nd": NO_DERIVATIVES}
FILLER = {"the", "a", "an", "license", "licence", "licenses", "version", "v", "deed", "international", "unported",
          "generic", "public", "https", "http", "www", "org", "creativecommons", "creativecommons.org", "legalcode",
          "creative", "commons", "cc"}  # fmt: skip
FORBIDS = re.compile(
    r"all rights reserved|proprietary|confidential|(no|not|without|forbid\w*|prohibit\w*)\W+(\w+\W+){0,3}redistribut"
    r"|(do|must|may|can) ?not\W+(\w+\W+){0,3}(share|distribute|publish|pass)|internal use|no sharing",
    re.I,
)


@dataclass(frozen=True)
class Licence:
    """A licence as the gate reads it: its SPDX id (or the text as found), and what it demands of who passes it on."""

    id: str
    standing: Standing
    demands: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Cleared:
    """One source under one licence that passed the gate. `accepted`: the publisher answers for it."""

    source: str
    stated: str
    licence: Licence
    pairs: int
    accepted: bool = False


def read_licence(text: str) -> Licence:
    """The licence behind what a source says of itself: an SPDX id, a hub tag, a Creative Commons name or address.

    Everything that is not understood to the last word is unknown ('CC BY 4.0 except the images').
    """
    plain = re.sub(r"share[ -]alike", "sharealike", re.sub(r"non[ -]commercial", "noncommercial", text.casefold()))
    plain = re.sub(r"no[ -](derivatives|derivs)", r"noderivatives", plain)
    words = re.sub(r"\bv(?=\d)", "", re.sub(r"[^a-z0-9.]+", " ", plain)).split()
    words = [CC_WORDS.get(word.strip("."), word.strip(".")) for word in words if word.strip(".")]
    core = [word for word in words if word not in FILLER]
    common = "cc" in words or "creativecommons" in " ".join(words) or "creative commons" in " ".join(words)
    key = " ".join(core)
    if common and (found := _creative_commons(core)):
        return found
    by_key = {" ".join(re.sub(r"[^a-z0-9.]+", " ", name.casefold()).split()): name for name in TERMS}
    if name := by_key.get(key) or ALIASES.get(key):
        return _licence(name, TERMS[name])
    return Licence(text.strip(), "forbidden" if FORBIDS.search(text) else "unknown")


def _creative_commons(words: Sequence[str]) -> Licence | None:
    """A Creative Commons licence by its parts (by, nc, sa, nd) and version; CC0 under its three names."""
    version = next((word for word in words if re.fullmatch(r"\d\.\d", word)), "")
    parts = list(dict.fromkeys(word for word in words if word != version))
    if parts in (["0"], ["zero"], ["publicdomain", "zero"]) and version in ("", "1.0"):
        return _licence("CC0-1.0", ())
    if parts[:1] != ["by"] or not set(parts) <= set(CC_TERMS):
        return None
    name = "-".join(["CC", *(part.upper() for part in CC_TERMS if part in parts), *([version] if version else [])])
    return _licence(name, [CC_TERMS[part] for part in parts])


def _licence(name: str, terms: Iterable[str]) -> Licence:
    demands = frozenset(terms)
    if NO_DERIVATIVES in demands:  # cleaned, pseudonymised and paired texts are derivatives
        return Licence(name, "forbidden", demands)
    return Licence(name, "conditions" if demands - {ATTRIBUTION} else "free", demands)


def clear_sources(sources: Mapping[tuple[str, str], int], accept: Sequence[str]) -> list[Cleared]:
    """Let sources through that may be passed on; `sources` counts pairs by (source, licence as stated).

    Raises UserError with every source that may not: forbidden ones always, unknown ones unless their licence is in
    `accept`. A licence nobody stated cannot be accepted: whoever takes the set over must be told one.
    """
    accepted = {_folded(text) for text in accept if text.strip()}
    cleared, faults = [], []
    for (source, stated), pairs in sorted(sources.items()):
        licence = read_licence(stated)
        by_hand = licence.standing == "unknown" and _folded(stated) in accepted
        if licence.standing in ("free", "conditions") or by_hand:
            cleared.append(Cleared(source, stated, licence, pairs, by_hand))
        elif licence.standing == "forbidden":
            faults.append(f"source '{source}' ({pairs} pairs): its licence '{stated}' forbids redistribution")
        elif stated.strip():
            faults.append(f"source '{source}' ({pairs} pairs): the licence '{stated}' is not known")
        else:
            faults.append(f"source '{source}' ({pairs} pairs): no licence is stated")
    if faults:
        raise UserError(
            f"publish: {'; '.join(faults)}. Leave such a source out of speeches.sources; or write the licence that its "
            "owner gave you as `license` of the source and go on with --redo speeches (no stored call is paid again); "
            "or, for a licence that is not known and that you have read, list it in publish.accept"
        )
    return cleared


def check_licence(text: str, cleared: Sequence[Cleared]) -> str:
    """The SPDX id (or 'other') under which the set may be published. Raises UserError with the sources in the way.

    'other' means that every row keeps the licence of its source; it fits every mixture.
    """
    fit = suggested(cleared)
    if not text.strip():
        raise UserError(
            'publish: choose a licence for the published set: [publish] license = "..."; '
            f'from what the sources demand, "{fit}" fits'
        )
    chosen = known_licence(text)
    faults = [fault for row in cleared if (fault := _fault(chosen, row))]
    if faults:
        raise UserError(
            f"publish: license '{text}' gives away more than the sources allow: {'; '.join(faults)}. "
            f'Choose "{fit}"{_more(fit)}, or leave the source out of speeches.sources'
        )
    return chosen.id


def known_licence(text: str) -> Licence:
    """A licence that may stand on a published set, or UserError."""
    if text.casefold() == OTHER:
        return Licence(OTHER, "conditions")
    found = read_licence(text)
    if found.id not in TERMS and not (found.demands and found.id[-1].isdigit()):  # "CC-BY" without its version is none
        names = [*TERMS, *(f"CC-{kind}-4.0" for kind in ("BY", "BY-SA", "BY-NC", "BY-NC-SA")), OTHER]
        raise UserError(
            f"publish: license '{text}' is not known{nearest(text, names) or '.'} Write an SPDX id, "
            'or "other" to let every row keep the licence of its source'
        )
    return found


def suggested(cleared: Sequence[Cleared]) -> str:
    """The licence that keeps every demand and asks for nothing more, or 'other' when no single one does."""
    own = sorted({row.licence.id for row in cleared if row.licence.demands & {SHARE_ALIKE, USE_LIMITS}})
    for name in ["CC-BY-4.0", "CC-BY-NC-4.0", *own]:
        chosen = read_licence(name)
        if not any(_fault(chosen, row) for row in cleared):
            return name
    return OTHER


def hub_licence(name: str) -> str:
    """The hub's tag for an SPDX id."""
    return HUB_NAMES.get(name, name.lower())


def _fault(chosen: Licence, row: Cleared) -> str:
    """What of a source's demands the chosen licence would drop, or ''."""
    if chosen.id == OTHER or row.accepted:
        return ""
    missing = row.licence.demands - chosen.demands
    if row.licence.demands & {SHARE_ALIKE, USE_LIMITS} and not _same_kind(row.licence.id, chosen.id):
        missing |= row.licence.demands & {SHARE_ALIKE, USE_LIMITS}
    if not missing:
        return ""
    return f"'{row.source}' ({row.licence.id}, {row.pairs} pairs) demands {' and '.join(sorted(missing))}"


def _same_kind(source: str, chosen: str) -> bool:
    """Share-alike: the same licence, or for Creative Commons the same kind in the same or a later version."""
    if source == chosen:
        return True
    kind, _, version = source.rpartition("-") if source[-1].isdigit() else (source, "", "")
    return source.startswith("CC-") and chosen.rpartition("-")[0] == kind and chosen.rpartition("-")[2] >= version


def _more(fit: str) -> str:
    return "" if fit == OTHER else f' (or "{OTHER}": every row keeps the licence of its source)'


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
