"""Made-up people and companies, the same ones for the same question and seed."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from typing import Any

__all__ = ["Draw", "company", "person"]

GIVEN = ("Ada", "Bruno", "Chiara", "Dmitri", "Élise", "Fatima", "Goran", "Hana", "Ines", "Jörg")
FAMILY = ("Abara", "Björk", "Castellanos", "Dvořák", "Ekström", "Fujimoto", "García", "Haddad")
TITLES = ("Account Executive", "Chief Financial Officer", "Data Engineer", "Head of Sales")
FIRMS = ("Alder Works", "Blue Kiln", "Copperleaf", "Dunes & Daughters", "Evenfall Logistics")
PLACES = (
    ("Lisbon", "Lisboa", "Portugal"),
    ("Osaka", "Ōsaka", "Japan"),
    ("Denver", "Colorado", "United States"),
    ("Kraków", "Lesser Poland", "Poland"),
)
AGES = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")


class Draw:
    """What chance says of one question, always the same for the same seed.

    asked: the body of the request. The same email, however it is written and
    wherever it stands, is the same person.
    """

    def __init__(self, seed: int, category: str, asked: Mapping[str, Any]) -> None:
        self.name = self._name(asked)
        self._key = f"{seed}\0{category}\0{self.name}".encode()

    @staticmethod
    def _name(asked: Mapping[str, Any]) -> str:
        emails = asked.get("emails")
        first = emails[0] if isinstance(emails, list) and emails else None
        for told in (asked.get("email"), first, asked.get("domain")):
            if isinstance(told, str) and told:
                return told.strip().casefold()
        rest = {name: told for name, told in asked.items() if name != "webhookUrl"}
        return json.dumps(rest, sort_keys=True)

    def share(self, purpose: str) -> float:
        """Return a number from 0 up to, not including, 1."""
        digest = hashlib.blake2b(self._key, digest_size=8, person=purpose.encode()).digest()
        return int.from_bytes(digest, "big") / (1 << 64)

    def chance(self) -> random.Random:
        """Return a source of further choices."""
        return random.Random(self._key)  # noqa: S311 - not for secrets


def person(draw: Draw) -> dict[str, Any]:
    """Return a person as person.enrich documents one."""
    chance = draw.chance()
    given, family = chance.choice(GIVEN), chance.choice(FAMILY)
    city, region, country = chance.choice(PLACES)
    title, firm = chance.choice(TITLES), chance.choice(FIRMS)
    ages, gender = chance.choice(AGES), chance.choice(("Female", "Male"))
    email = draw.name if "@" in draw.name else f"{family.casefold()}@example.com"
    handle = f"{given}{family}".casefold()
    return {
        "fullName": f"{given} {family}",
        "email": email,
        "ageRange": ages,
        "gender": gender,
        "location": f"{city}, {region}, {country}",
        "title": title,
        "organization": firm,
        "twitter": f"https://twitter.com/{handle}",
        "linkedin": f"https://www.linkedin.com/in/{handle}",
        "facebook": None,
        "bio": f"{title} at {firm}.",
        "avatar": f"https://img.example.com/{handle}.png",
        "website": None,
        "details": {
            "name": {"given": given, "family": family, "full": f"{given} {family}"},
            "age": {"range": ages, "value": None},
            "gender": gender,
            "emails": [{"label": "work", "value": email}],
            "phones": [],
            "profiles": {},
            "locations": [{"city": city, "region": region, "country": country}],
            "employment": [{"name": firm, "title": title, "current": True}],
            "photos": [],
            "education": [],
            "urls": [],
            "interests": [],
        },
        "updated": "2026-05-01",
    }


def company(draw: Draw) -> dict[str, Any]:
    """Return a company as company.enrich documents one."""
    chance = draw.chance()
    firm = chance.choice(FIRMS)
    city, region, country = chance.choice(PLACES)
    domain = draw.name if "." in draw.name and "{" not in draw.name else "example.com"
    return {
        "name": firm,
        "location": f"{city}, {region}, {country}",
        "twitter": None,
        "linkedin": None,
        "facebook": None,
        "bio": f"{firm} of {city}.",
        "logo": f"https://img.example.com/{domain}.png",
        "website": f"https://{domain}",
        "founded": chance.randrange(1900, 2025),
        "employees": chance.choice((12, 80, 350, 4_200)),
        "locale": "en",
        "category": "Other",
        "details": {
            "locales": [{"code": "en", "name": "English"}],
            "categories": [{"code": "OTHER", "name": "Other"}],
            "emails": [{"label": "sales", "value": f"sales@{domain}"}],
            "phones": [],
            "locations": [{"city": city, "region": region, "country": country}],
            "urls": [],
        },
        "updated": "2026-05-01",
    }
