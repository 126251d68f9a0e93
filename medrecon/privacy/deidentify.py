# SPDX-License-Identifier: Apache-2.0
"""De-identification of DICOM images by the Basic Application Level Confidentiality Profile (PS3.15 Annex E).

What is not covered: text burned into the pixels (only rectangles the user names are blacked out) and faces that a
volume rendering would show. Objects without pixels (reports, structure sets) are left out, not cleaned.
"""

from __future__ import annotations

import copy
import hashlib
import hmac
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ImplicitVRLittleEndian

from medrecon.errors import InputError, StageError
from medrecon.ingest.dicom_io import DICOMDIR_CLASS, list_files, quiet, read_dataset, read_header
from medrecon.privacy import actions
from medrecon.privacy.blackout import Rectangle, black_out
from medrecon.privacy.burned_in import burned_in_warning
from medrecon.privacy.streams import strip_comments
from medrecon.progress import Progress

MIN_KEY_BYTES = 16
METHOD = "medrecon: DICOM PS3.15 Annex E, Basic Profile"  # at most 64 characters
_PROFILE = ("113100", "Basic Application Confidentiality Profile")
_CLEAN_PIXELS = ("113101", "Clean Pixel Data Option")
# Words of these may be quoted in elements that are otherwise kept.
_IDENTIFYING = (
    "PatientName PatientID OtherPatientIDs OtherPatientNames PatientBirthName AccessionNumber ReferringPhysicianName "
    "PerformingPhysicianName OperatorsName PhysiciansOfRecord InstitutionName StudyID PatientMotherBirthName"
).split()


def new_key() -> bytes:
    """A fresh secret. Whoever holds it can link new UIDs to old ones; it is written nowhere."""
    return secrets.token_bytes(32)


def map_uid(uid: str, key: bytes) -> str:
    """The UID that stands for ``uid``: the same for the same key, in every file; not reversible without it.

    A 128-bit keyed hash under the UUID root 2.25 (PS3.5 B.2).
    """
    digest = bytearray(hmac.new(key, b"uid:" + uid.strip("\0 ").encode(), hashlib.sha256).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80  # UUID version 8: made by the application
    digest[8] = digest[8] & 0x3F | 0x80
    return f"2.25.{int.from_bytes(digest, 'big')}"


def pseudonym(patient_id: str, key: bytes) -> str:
    """What stands in for Patient ID and name, so that patients in one folder stay apart."""
    return "P-" + hmac.new(key, b"patient:" + patient_id.strip("\0 ").encode(), hashlib.sha256).hexdigest()[:12].upper()


def deidentify(dataset: Dataset, key: bytes, blackout: Sequence[Rectangle] = ()) -> FileDataset:
    """A de-identified copy of one image.

    Args:
        dataset: as read by pydicom, with its file meta information; left as it is.
        key: secret of the keyed hashes; the same key keeps UIDs consistent across files.
        blackout: rectangles (x, y, width, height) in px set to black in every frame; the pixels are then stored
            uncompressed.

    Raises:
        InputError: no pixel data, or pixels that cannot be decoded where ``blackout`` needs it.
    """
    if not any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputError("the object holds no picture; only images can be de-identified", "leave it out")
    with quiet():
        words = _identifying_words(dataset)
        syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", ImplicitVRLittleEndian)
        patient = pseudonym(f"{dataset.get('IssuerOfPatientID', '')}/{dataset.get('PatientID', '')}", key)
        clean = _clean(dataset, key, words)
        out = FileDataset(None, clean, preamble=b"\0" * 128)
        out.file_meta = FileMetaDataset()
        out.file_meta.TransferSyntaxUID = syntax
        out.file_meta.MediaStorageSOPClassUID = out.get("SOPClassUID", "")
        out.file_meta.MediaStorageSOPInstanceUID = out.get("SOPInstanceUID", "")
        out.set_original_encoding(bool(syntax.is_implicit_VR), syntax.is_little_endian, "iso8859")
        out.PatientID = out.PatientName = patient
        out.PatientIdentityRemoved = "YES"
        out.LongitudinalTemporalInformationModified = "REMOVED"
        out.DeidentificationMethod = METHOD
        codes = [_PROFILE] + ([_CLEAN_PIXELS] if blackout else [])
        out.DeidentificationMethodCodeSequence = DicomSequence([_code(*c) for c in codes])
        if "PixelData" in out:
            strip_comments(out)
    if blackout:
        black_out(out, blackout)
    return out


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _clean(dataset: Dataset, key: bytes, words: frozenset[str]) -> Dataset:
    out = Dataset()
    for tag in sorted(dataset.keys()):
        if tag.is_private or tag.group in (0x0000, 0x0002):
            continue
        try:
            element = dataset[tag]
            action = actions.action_for(element)
        except Exception:  # cannot be parsed, so it cannot be judged
            continue
        if action == actions.REMOVE:
            continue
        if element.VR == "SQ":
            items = [_clean(item, key, words) for item in element.value] if action == actions.RECURSE else []
            if action == actions.DUMMY:
                items = [Dataset()]
            out.add_new(tag, "SQ", DicomSequence(items))
        elif action == actions.KEEP:
            if not _quotes(element.value, words):
                out[tag] = copy.copy(element)  # setting a value later must not reach into the original
        elif action == actions.MAP_UID:
            value = element.value
            many = not isinstance(value, str) and hasattr(value, "__iter__")
            mapped = [map_uid(str(v), key) for v in value if str(v)] if many else map_uid(str(value), key)
            out.add_new(tag, "UI", mapped if value else "")
        else:
            out.add_new(tag, element.VR, actions.dummy_value(element.VR) if action == actions.DUMMY else None)
    return out


def _identifying_words(dataset: Dataset) -> frozenset[str]:
    """Words of four letters and more in names and numbers of the patient, staff and institution, in lower case."""
    found: set[str] = set()
    for keyword in _IDENTIFYING:
        try:
            found |= {w.casefold() for w in re.split(r"[\W_]+", str(dataset.get(keyword) or "")) if len(w) >= 4}
        except Exception:
            continue
    return frozenset(found)


def _quotes(value, words: frozenset[str]) -> bool:
    """Whether kept text contains one of the words."""
    values = [value] if isinstance(value, str) else value if hasattr(value, "__iter__") else []
    if isinstance(value, (bytes, bytearray)):
        return False
    texts = [v.casefold() for v in values if isinstance(v, str)]
    return any(word in text for text in texts for word in words)


@dataclass(frozen=True, slots=True)
class DeidentifyReport:
    """What ``deidentify_folder`` did.

    Attributes:
        n_written: images written.
        n_left_out: DICOM objects without pictures (reports, structure sets, DICOMDIR), not written.
        n_ignored: files that are not DICOM, not written.
        warnings: about burned-in text; show them to the user.
    """

    n_written: int
    n_left_out: int
    n_ignored: int
    warnings: tuple[str, ...]


def deidentify_folder(
    src: Path, dst: Path, progress: Progress, key: bytes | None = None, blackout: Sequence[Rectangle] = ()
) -> DeidentifyReport:
    """De-identify every DICOM image below ``src`` into ``dst``, as 000001.dcm, 000002.dcm, ...

    ``dst`` appears when all is done, or not at all. ``src`` is only read.

    Args:
        src: a file or folder.
        dst: a folder that does not exist yet or is empty, neither inside nor around ``src``.
        key: secret for UIDs and pseudonyms; None makes a fresh one that is forgotten, so that nothing can be linked.
        blackout: see ``deidentify``.

    Raises:
        InputError: nothing to de-identify, a damaged file, a key that is too short, or ``dst`` unsuitable.
        StageError: ``dst`` cannot be written.
    """
    src, dst = Path(src), Path(dst)
    files = list_files(src)
    _check_destination(src, dst)
    if key and len(key) < MIN_KEY_BYTES:
        raise InputError(
            f"the key has {len(key)} bytes, which can be guessed", f"use a random one of at least {MIN_KEY_BYTES} bytes"
        )
    key = key or new_key()
    partial = dst.with_name(f".{dst.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        report = _write_all(files, partial, progress, key, blackout)
        if dst.exists():
            dst.rmdir()
        partial.replace(dst)
        return report
    except OSError as e:
        raise StageError(
            f"the de-identified files cannot be written: {e.strerror or 'input/output error'}",
            "free some space or choose another output folder",
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_destination(src: Path, dst: Path) -> None:
    source = src.resolve() if src.is_dir() else src.resolve().parent
    target = dst.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise InputError(
            "the output folder lies in the source folder, or around it", "choose a folder apart from the source"
        )
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise InputError("the output folder already holds something", "choose a new or empty folder")


def _write_all(
    files: list[Path], folder: Path, progress: Progress, key: bytes, blackout: Sequence[Rectangle]
) -> DeidentifyReport:
    progress.begin(len(files), "files")
    written = left_out = ignored = 0
    warnings: list[str] = []
    for number, path in enumerate(files, 1):
        where = f"DICOM file {number} of {len(files)}"
        header = read_header(path, where)
        if header is None:
            ignored += 1
        elif "Rows" not in header or header.file_meta.get("MediaStorageSOPClassUID", "") == DICOMDIR_CLASS:
            left_out += 1
        else:
            ds = read_dataset(path, where)
            try:
                clean = deidentify(ds, key, blackout)
            except InputError as e:
                raise InputError(f"{where}: {e.cause}", e.remedy) from None
            warning = "" if blackout else burned_in_warning(ds)
            if warning and warning not in warnings:
                warnings.append(warning)
                progress.say(warning)
            written += 1
            _save(clean, folder / f"{written:06d}.dcm", where)
        progress.advance()
    if not written:
        what = f"{left_out} DICOM objects without pictures" if left_out else "no DICOM files"
        raise InputError(f"there is nothing to de-identify: {what} among {len(files)} files", "check the source folder")
    return DeidentifyReport(written, left_out, ignored, tuple(warnings))


def _save(dataset: FileDataset, path: Path, where: str) -> None:
    with quiet():
        try:
            dataset.save_as(path, enforce_file_format=True)
        except OSError:
            raise
        except Exception:
            raise InputError(f"{where} cannot be encoded again: its header is damaged", "export it again") from None
