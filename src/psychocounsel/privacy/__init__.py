"""Personal data in texts: recognisers by type with validators, a source's own list of persons, and pseudonyms.

Pure: no model, no network, no file but the package's own lists. Everything runs in time linear in the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from psychocounsel.privacy.addresses import addresses
from psychocounsel.privacy.clinics import clinics
from psychocounsel.privacy.counselchat import counselchat_persons
from psychocounsel.privacy.dates import dates
from psychocounsel.privacy.findings import PLACEHOLDER, TYPES, Finding, settle
from psychocounsel.privacy.known import NOTHING, Known, known_values
from psychocounsel.privacy.names import names
from psychocounsel.privacy.numbers import numbers
from psychocounsel.privacy.pseudonyms import Replaced, covered, replace
from psychocounsel.privacy.words import Words

__all__ = [
    "PLACEHOLDER", "TYPES", "Finding", "Known", "Replaced", "counselchat_persons", "find", "known_values",
    "replace", "scrub", "settle",
]  # fmt: skip


def find(text: str, known: Known = NOTHING) -> list[Finding]:
    """All personal data in a text, without overlap, by place. Placeholders of an earlier pass are left alone."""
    plain = covered(text)
    words = Words(plain, known.given)
    findings = [*known.find(words), *addresses(plain), *numbers(plain), *dates(plain), *clinics(words), *names(words)]
    return settle(plain, findings)


def scrub(texts: Sequence[str], known: Known = NOTHING) -> Replaced:
    """The texts of one dialogue with placeholders in place of everything found; see `pseudonyms.replace`."""
    return replace(texts, lambda text: find(text, known))
