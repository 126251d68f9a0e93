# SPDX-License-Identifier: Apache-2.0
"""What happens to each DICOM element: the table of PS3.15 Annex E, and a rule for all that the table does not list."""

from __future__ import annotations

import functools
import json
import re
from importlib import resources

from pydicom.datadict import dictionary_has_tag, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.uid import UID

REMOVE, EMPTY, DUMMY, MAP_UID, KEEP, RECURSE = "remove", "empty", "dummy", "map uid", "keep", "recurse"

# "X/Z/D" leaves the choice to the type the attribute has in its IOD. The mildest listed action is valid for every
# type, and each of them takes the value away.
_CHOICE = {"X": REMOVE, "Z": EMPTY, "D": DUMMY, "U": MAP_UID, "X/Z": EMPTY, "X/D": DUMMY, "Z/D": DUMMY, "X/Z/D": DUMMY}

# Text that the table does not list, which describes the machine or the picture and is needed to read the picture.
# Any other unlisted text goes: an allow-list cannot forget a tag.
_SAFE_TEXT = frozenset(
    "Manufacturer ManufacturerModelName ConvolutionKernel FilterType SequenceName PulseSequenceName ImagedNucleus "
    "ReceiveCoilName TransmitCoilName RescaleType ModalityLUTType StackID CodeValue LongCodeValue CodeMeaning "
    "CodingSchemeDesignator CodingSchemeVersion DimensionDescriptionLabel DeidentificationMethod "
    "TransducerType ContentLabel".split()
)
# Binary elements that are the picture or are needed to show it. An unlisted blob may hold anything.
_SAFE_BINARY = frozenset(
    "PixelData FloatPixelData DoubleFloatPixelData LUTData ICCProfile ExtendedOffsetTable ExtendedOffsetTableLengths "
    "RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData "
    "AlphaPaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData "
    "SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData".split()
)
_TEXT = frozenset({"AE", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "PN"})
_BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_TIMES = frozenset({"DA", "DT", "TM"})
_NUMBERS = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
_CODE_STRING = re.compile(r"[A-Z0-9 _]{0,16}\Z")
_NUMBER_STRING = re.compile(r"\s*[-+0-9.eE]{0,16}\s*\Z")


@functools.cache
def table() -> dict[int, str]:
    """Tag -> action of the Basic Profile, e.g. 0x00100010 -> "Z"."""
    text = resources.files("medrecon.privacy").joinpath("basic_profile.json").read_text(encoding="utf-8")
    return {int(tag, 16): row[0] for tag, row in json.loads(text)["actions"].items()}


def action_for(element: DataElement) -> str:
    """One of REMOVE, EMPTY, DUMMY, MAP_UID, KEEP, RECURSE for a data element (read, so that its VR is known)."""
    tag = element.tag
    if (
        tag.is_private
        or 0x5000 <= tag.group <= 0x501E
        or 0x6000 <= tag.group <= 0x601E
        or tag.group in (0x0004, 0xFFFC)
    ):
        return REMOVE  # private, curves, overlays, DICOMDIR records, padding
    listed = table().get(int(tag))
    if listed is not None:
        if element.VR == "SQ" and "U" in listed:
            return RECURSE  # X/Z/U*: references, kept with their UIDs replaced
        return _CHOICE.get(listed, REMOVE)
    if not dictionary_has_tag(tag):
        return REMOVE
    return _action_for_unlisted(element)


def _action_for_unlisted(element: DataElement) -> str:
    vr, keyword = element.VR, keyword_for_tag(element.tag)
    if vr == "SQ":
        return RECURSE
    if vr == "UI":
        # A class of object or a well-known UID says nothing about anybody; any other unlisted UID may be an instance.
        known = keyword.endswith("ClassUID") or all(UID(str(v)).startswith("1.2.840.10008.") for v in _many(element))
        return KEEP if known else MAP_UID
    if vr in _TEXT:
        return KEEP if keyword in _SAFE_TEXT else REMOVE
    if vr in _BINARY or " or " in vr:
        return KEEP if keyword in _SAFE_BINARY or vr == "US or SS" else REMOVE
    if vr in _TIMES or vr == "AS":
        return REMOVE
    if vr == "CS":
        return KEEP if all(_CODE_STRING.match(str(v)) for v in _many(element)) else REMOVE
    if vr in ("DS", "IS"):
        return KEEP if all(_NUMBER_STRING.match(str(v)) for v in _many(element)) else REMOVE
    return KEEP if vr in _NUMBERS else REMOVE


def _many(element: DataElement) -> list:
    value = element.value
    if value is None:
        return []
    return list(value) if not isinstance(value, (str, bytes)) and hasattr(value, "__iter__") else [value]


def dummy_value(vr: str):
    """A value that is valid for the VR, not empty, and says nothing."""
    return {
        "AE": "REMOVED",
        "AS": "000Y",
        "CS": "REMOVED",
        "DA": "19000101",
        "DS": "0",
        "DT": "19000101000000",
        "IS": "0",
        "PN": "REMOVED",
        "TM": "000000",
        "UI": "2.25.0",
        "UR": "removed:",
    }.get(vr, b"\0\0" if vr in _BINARY else "REMOVED" if vr in _TEXT else 0)
