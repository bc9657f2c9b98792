"""Which network: one grammar for every command, and what loads what it names.

The grammar (`bitskip.sources.grammar`) needs no torch; `bitskip.sources.load` does.
"""

from __future__ import annotations

from bitskip.sources.grammar import SOURCES_HELP, Kind, Source, parse, spec_of

__all__ = ["SOURCES_HELP", "Kind", "Source", "parse", "spec_of"]
