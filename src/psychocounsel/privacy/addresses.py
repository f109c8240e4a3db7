"""E-mail addresses, URLs, IP addresses and handles. Every pattern is bounded, so time grows with the text alone."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import cache

from psychocounsel.privacy.findings import Finding
from psychocounsel.privacy.words import table

LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
EMAIL = re.compile(rf"(?<![\w.+%-])[\w.+%-]{{1,64}}@(?:{LABEL}\.){{1,6}}[A-Za-z]{{2,24}}")
DOT = r" ?[(\[{]?(?:\.|\bdot\b)[)\]}]? ?"
SPELT_EMAIL = re.compile(
    rf"(?<![\w.+-])[\w.+-]{{2,64}} ?(?:[(\[{{] ?(?:at|@) ?[)\]}}]|\bat\b|@) ?"
    rf"(?:gmail|googlemail|yahoo|hotmail|outlook|icloud|proton(?:mail)?|aol|live|msn|gmx|[\w-]{{2,30}}(?= ?[(\[{{]dot))"
    rf"{DOT}(?:com|net|org|co|me|de|edu|uk|ca)\b(?:{DOT}uk\b)?",
    re.I,
)
# Ends that are words as well (me, in, it, so, be) count only behind http:// or www.
ENDS = (
    "(?i:com|org|net|edu)|gov|info|biz|io|app|dev|online|site|clinic|blog|example|"
    "co\\.uk|org\\.uk|ac\\.uk|gov\\.uk|nhs\\.uk|com\\.au|org\\.au|co\\.nz|co\\.za|co\\.in|ca|au|uk|de|fr|ie|nl"
)
URL = re.compile(
    r"(?i:https?://|www\.)[^\s<>\"\x00]{3,2000}"
    rf"|(?<![\w@.-])(?:{LABEL}\.){{1,5}}(?:{ENDS})(?![a-z0-9-])(?:/[^\s<>\"\x00]{{0,2000}})?",
)
IP4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])")
IP6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{8,45}(?![\w:])")
HANDLE = re.compile(r"(?<![\w@./])@[A-Za-z][\w.]{1,29}\b|(?<![\w/])u/[A-Za-z0-9][\w-]{2,20}\b|\b[\w.]{2,32}#[0-9]{4}\b")
SITES = (
    r"(?:insta(?:gram)?|ig|snap(?:chat)?|twitter|tiktok|kik|skype|discord|telegram|gamertag|username|user name|handle|"
    r"xbox|psn)"
)
SAID_HANDLE = re.compile(
    rf"(?i:\b{SITES}(?: (?:name|id|account|handle|tag|username|user ?name))?(?: is| are|:|=) ?(?:called )?)"
    r"@?([\w.#-]{3,32})"
)
NOT_HANDLES = {"home", "work", "school", "night", "least", "all", "the", "me", "my", "gmail", "hotmail", "yahoo"}
CLOSING = {")": "(", "]": "[", "}": "{"}


def addresses(text: str) -> Iterator[Finding]:
    """All addresses of the net in a text. Public help lines' addresses are none."""
    yield from _emails(text)
    if "." in text:
        yield from _urls(text)
    yield from _ips(text)
    yield from _handles(text)


def _emails(text: str) -> Iterator[Finding]:
    patterns = [pattern for pattern, mark in ((EMAIL, "@"), (SPELT_EMAIL, "")) if mark in text]
    for pattern in patterns:
        for match in pattern.finditer(text):
            if match.group().lower() not in allowed("emails"):
                yield Finding(match.start(), match.end(), "EMAIL")


def _urls(text: str) -> Iterator[Finding]:
    for match in URL.finditer(text):
        end = match.start() + len(without_tail(match.group()))
        if not is_public(text[match.start() : end]) and "." in text[match.start() : end]:
            yield Finding(match.start(), end, "URL")


def without_tail(url: str) -> str:
    """A URL without the punctuation of the sentence behind it; a closing bracket stays if it was opened inside."""
    while url and (url[-1] in ".,;:!?'\"*~”’…" or (url[-1] in CLOSING and CLOSING[url[-1]] not in url)):
        url = url[:-1]
    return url


def host_of(url: str) -> str:
    """The host of a URL or bare address, in lower case, without www."""
    host = re.split(r"[/?#]", re.sub(r"^https?://", "", url.lower()), maxsplit=1)[0]
    return host.rpartition("@")[2].partition(":")[0].removeprefix("www.").rstrip(".")


def is_public(url: str) -> bool:
    """Does the URL belong to a help line or a public authority?"""
    parts = host_of(url).split(".")
    return any(".".join(parts[i:]) in allowed("hosts") for i in range(len(parts) - 1))


@cache
def allowed(kind: str) -> frozenset[str]:
    """The values of one kind in allowed.toml, in lower case."""
    return frozenset(value.lower() for entry in table("allowed")[kind] for value in entry["values"])


def _ips(text: str) -> Iterator[Finding]:
    for pattern in (IP4, IP6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue
            if not (address.is_loopback or address.is_unspecified or match.group() == "255.255.255.255"):
                yield Finding(match.start(), match.end(), "IP")


def _handles(text: str) -> Iterator[Finding]:
    for match in HANDLE.finditer(text):
        if match.group().lstrip("@").lower() not in NOT_HANDLES:
            yield Finding(match.start(), match.end(), "HANDLE")
    for match in SAID_HANDLE.finditer(text):
        value = match.group(1)
        # A plain word behind "my Instagram is" tells of the account ("full", "private"), it is not the account.
        if any(character in "._#" or character.isdigit() for character in value.strip(".-")):
            yield Finding(*match.span(1), "HANDLE")
