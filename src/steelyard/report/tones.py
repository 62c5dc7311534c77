"""The palette: every colour by its purpose, for light and dark, in one table.

Baselines differ in marker and dash as well as in hue, and shades of damage or bits are one hue of rising
strength, so nothing depends on telling hues apart.
"""

from __future__ import annotations

# purpose -> (light, dark)
TONES: dict[str, tuple[str, str]] = {
    "surface": ("#ffffff", "#14161a"),
    "panel": ("#f5f6f8", "#1c1f25"),
    "ink": ("#191c22", "#e9ebef"),
    "muted": ("#5a6270", "#9ea6b3"),
    "rule": ("#dde1e7", "#31363f"),
    "grid": ("#eaedf1", "#262a32"),
    "accent": ("#0b62b8", "#69adf7"),
    # Text on the accent, by how strong it is there (see heatmap): each the better of black and white.
    "on-weak": ("#000000", "#ffffff"),
    "on-medium": ("#000000", "#000000"),
    "on-strong": ("#ffffff", "#000000"),
    "before": ("#c5cbd4", "#495060"),
    "good": ("#00704f", "#4cc79f"),
    "bad": ("#b3261e", "#ff8f86"),
    "series-1": ("#b4500c", "#f0985e"),
    "series-2": ("#007a5c", "#45c39d"),
    "series-3": ("#8f4c88", "#d497cb"),
    "series-4": ("#6f5f00", "#cdb43f"),
    "series-5": ("#a62a45", "#f08799"),
    "series-6": ("#5a6270", "#9ea6b3"),
}
BASELINES = tuple(name for name in TONES if name.startswith("series-"))


def css_variables(dark: bool) -> str:
    """Return the palette as CSS custom properties."""
    return "".join(f"--{name}:{pair[dark]};" for name, pair in TONES.items())


def light(tone: str) -> str:
    """Return the colour a tone has on paper."""
    return TONES[tone][0]
