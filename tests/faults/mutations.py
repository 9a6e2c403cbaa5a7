"""Ways to damage bytes, texts, JSON documents and the parts of image and model files, all drawn from a generator."""

import json
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from safetensors.torch import load, save

from unetcli.models.container import tensors_sha256
from unetcli.models.modelfile import HEADER_KEY

Random = np.random.Generator
NUMBERS = [-1, 0, 1, 2, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64, 10**30, 0.5, 1e-320, 1e308, float("nan")]
PLAIN = [None, True, "", "x" * 5000, "\0", "../../etc/passwd", "é\ud800", [], {}, [[]], {"": None}, *NUMBERS]


def choose(items: Sequence, rng: Random):
    return items[int(rng.integers(len(items)))]


def damaged_bytes(data: bytes, rng: Random, header: int = 400) -> bytes:
    """Return a copy with one to four places overwritten, removed or cut off, mostly in the header."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(min(len(out), header if rng.random() < 0.7 else len(out))))
        kind = rng.random()
        if kind < 0.4:
            out[at] = int(rng.integers(256))
        elif kind < 0.6:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind < 0.8:
            out[at : at + 4] = choose([b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f", b"\0\0\0\x80"], rng)
        elif kind < 0.9:
            out = out[: at + 1]
        else:
            del out[at : at + int(rng.integers(1, 9))]
        if not out:
            return b"\0"
    return bytes(out)


def damaged_text(text: str, rng: Random) -> str:
    """Return a text with one to three numbers replaced, or parts removed, repeated or inserted."""
    for _ in range(int(rng.integers(1, 4))):
        digits = [at for at, character in enumerate(text) if character.isdigit()]
        at = int(rng.integers(len(text) + 1))
        end = at + int(rng.integers(1, 40))
        kind = rng.random()
        if kind < 0.5 and digits:
            at = end = choose(digits, rng)
            while end < len(text) and text[end].isdigit():
                end += 1
            text = text[:at] + str(choose(NUMBERS, rng)) + text[end:]
        elif kind < 0.65:
            text = text[:at] + text[end:]
        elif kind < 0.8:
            text = text[:end] + text[at:]
        elif kind < 0.95:
            text = (
                text[:at]
                + choose(['"', "<", ">", "&amp;", "&x;", "\n", ",", "{", "]", "é", "\t", "<!--"], rng)
                + text[at:]
            )
        else:
            text = text[:at]
    return text


def damaged_json(document, rng: Random):
    """Return plain data with one to three values replaced, removed, renamed or doubled."""
    document = json.loads(json.dumps(document))
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(document))
        if not places:
            return document
        holder, key = choose(places, rng)
        kind = rng.random()
        if kind < 0.6:
            holder[key] = choose(PLAIN, rng)
        elif kind < 0.75:
            del holder[key]
        elif kind < 0.85 and isinstance(holder, dict):
            holder[str(choose(PLAIN, rng))] = holder.pop(key)
        elif isinstance(holder, dict):
            holder[key] = [holder[key]]
        else:
            holder.insert(0, holder[key])
    return document


def _places(document):
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def damaged_json_text(document, rng: Random) -> str:
    if rng.random() < 0.05:
        return choose(["", "null", "[]", "{", "[" * 100_000, '{"a":' * 50_000, "1e999", '"\\ud800"'], rng)
    if rng.random() < 0.3:
        return damaged_text(json.dumps(document), rng)
    return json.dumps(damaged_json(document, rng))


def damaged_tags(data: bytes, rng: Random) -> bytes:
    """Return a classic TIFF with type, count or value of one to three entries of its first directory changed."""
    order = "<" if data[:2] == b"II" else ">"
    out = bytearray(data)
    start = struct.unpack_from(order + "I", data, 4)[0]
    count = struct.unpack_from(order + "H", data, start)[0]
    for _ in range(int(rng.integers(1, 4))):
        entry = start + 2 + 12 * int(rng.integers(count))
        field, form, size = choose([(0, "H", 16), (2, "H", 4), (4, "I", 32), (8, "I", 32), (8, "H", 16)], rng)
        value = choose([0, 1, 2, 3, 7, 255, 256, 4096, 65535, 2**31 - 1, 2**31, 2**32 - 1, len(data)], rng)
        struct.pack_into(order + form, out, entry + field, value % (1 << size))
    return bytes(out)


def damaged_chunks(data: bytes, rng: Random) -> bytes:
    """Return a PNG with one to three chunks changed, removed or doubled, their checksums right again."""
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(int(rng.integers(1, 4))):
        number = int(rng.integers(len(chunks)))
        name, content = chunks[number]
        kind = rng.random()
        if kind < 0.6 and content:
            chunks[number] = name, damaged_bytes(content, rng)
        elif kind < 0.7:
            chunks[number] = choose([b"IDAT", b"PLTE", b"tRNS", b"acTL", b"fdAT", b"zTXt", b"IHDR"], rng), content
        elif kind < 0.85 or len(chunks) == 1:
            chunks.insert(number, chunks[number])
        else:
            del chunks[number]
    parts = [
        len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
        for name, content in chunks
    ]
    return data[:8] + b"".join(parts)


def damaged_model(content: bytes, rng: Random) -> bytes:
    """Return a model file with another header, description or tensors, or with damaged bytes."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    kind = rng.random()
    if kind < 0.25:
        return damaged_bytes(content, rng, header=8 + length)
    if kind < 0.5:
        text = damaged_json_text(header, rng).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(text)) + text + content[8 + length :]
    tensors = load(content)
    description = json.loads(header["__metadata__"][HEADER_KEY])
    if kind < 0.85:
        text = damaged_json_text(description, rng)
        return save(tensors, metadata={HEADER_KEY: text.encode("utf-8", "replace").decode()})
    name = choose(sorted(tensors), rng)
    tensor = tensors.pop(name)
    changes: list[Callable] = [
        lambda: {name: tensor[:0].clone()},
        lambda: {name: tensor.double()},
        lambda: {name: tensor.to(dtype=choose([tensor.int().dtype, tensor.bool().dtype], rng))},
        lambda: {name: tensor.reshape(-1)},
        lambda: {name: tensor * 1e38},
        lambda: {name: tensor.fill_(float(choose([np.nan, np.inf, 3e38, 1e-45], rng)))},
        lambda: {choose(["", "x" * 9999, "../a", name + ".weight"], rng): tensor},
        dict,
    ]
    tensors |= choose(changes, rng)()
    description["sha256"] = tensors_sha256(tensors)
    return save(tensors, metadata={HEADER_KEY: json.dumps(description)})
