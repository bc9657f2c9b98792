"""The zoo: trained, packed models in the package, each with a card. Works offline, without torch."""

from __future__ import annotations

from bitskip.zoo.catalog import Card, card_of, model_path, packed_path, zoo_names

__all__ = ["Card", "card_of", "model_path", "packed_path", "zoo_names"]
