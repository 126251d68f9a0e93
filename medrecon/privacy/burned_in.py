# SPDX-License-Identifier: Apache-2.0
"""Text burned into the pixels: what the header admits, and a warning where it must be suspected."""

from __future__ import annotations

from pydicom.dataset import Dataset

# Screenshots, film scans and ultrasound machines usually draw the patient's name into the picture.
_SUSPECT_MODALITIES = frozenset({"US", "IVUS", "SC", "OT", "XC"})
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def burned_in_warning(ds: Dataset) -> str:
    """One line for the user, or "" when the header gives no reason for concern."""
    advice = "look at the pictures, and cut text off with `crop` or black it out before they are shared"
    stated = str(ds.get("BurnedInAnnotation") or "").strip().upper()
    features = str(ds.get("RecognizableVisualFeatures") or "").strip().upper()
    if stated == "YES":
        return f"the header says that text is burned into the pictures: it may name the patient; {advice}"
    if features == "YES":
        return f"the header says that the patient may be recognised in the pictures; {advice}"
    if stated == "NO":
        return ""
    sop_class = str(ds.get("SOPClassUID") or "")
    screenshot = sop_class == _SECONDARY_CAPTURE or sop_class.startswith(_SECONDARY_CAPTURE + ".")
    suspect = str(ds.get("Modality") or "").strip().upper() in _SUSPECT_MODALITIES or ds.get("ConversionType")
    if screenshot or suspect:
        return f"pictures of this kind often carry text with the patient's name, and the header is silent; {advice}"
    return ""
