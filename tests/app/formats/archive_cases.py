"""Zip archives made by hand: image folders and npz files, whole and hostile."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

Members = Mapping[str, bytes]


def png(value: int, size: tuple[int, int] = (8, 8), kind: str = "PNG", mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


def zipped(
    members: Members | Sequence[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """An archive; as pairs a name may come twice."""
    buffer = io.BytesIO()
    pairs = members.items() if isinstance(members, Mapping) else members
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in pairs:
            file.writestr(name, data)
    return buffer.getvalue()


def folder(n: int = 6, **more: bytes) -> dict[str, bytes]:
    """Members of an image folder: `n` grey images, alternately of ant and bee, every third held out."""
    found = {}
    for row in range(n):
        split, name = ("holdout" if row % 3 == 2 else "train"), ("ant", "bee")[row % 2]
        found[f"{split}/{name}/person-{row}.png"] = png(row * 20)
    return found | more


def npz(compressed: bool = False, **changes: Any) -> bytes:
    """Six images with ids person-0 …; a change to None leaves the array out."""
    found = {
        "images": np.arange(6 * 8 * 8 * 3).astype(np.uint8).reshape(6, 8, 8, 3),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "ids": np.array([f"person-{row}" for row in range(6)]),
    } | changes
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, **{name: values for name, values in found.items() if values is not None})
    return buffer.getvalue()


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    """An array file with a header of one's own."""
    text = header.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def symbolic_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def patched(data: bytes, name: str, **fields: int) -> bytes:
    """The archive with fields of one member's entry in the directory, and of its own header, overwritten.

    flags, method, crc, compressed, size.
    """
    places = {"flags": (8, 6, "<H"), "method": (10, 8, "<H"), "crc": (16, 14, "<I"), "compressed": (20, 18, "<I")}
    places |= {"size": (24, 22, "<I")}
    found = bytearray(data)
    for signature, skipped, which in ((b"PK\x01\x02", 46, 0), (b"PK\x03\x04", 30, 1)):
        at = found.find(signature)
        while at >= 0 and found[at + skipped : at + skipped + len(name)] != name.encode():
            at = found.find(signature, at + 4)
        assert at >= 0, "there is no such member"
        for field, value in fields.items():
            struct.pack_into(places[field][2], found, at + places[field][which], value)
    return bytes(found)
