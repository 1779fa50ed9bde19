"""The records of the chaos drivers: each is unique, and its bytes follow from who sent it (sim/src/broker/value.rs), so that a reader can tell whether it is whole."""

import struct

MASK = (1 << 64) - 1
MAX_BYTES = 64
HEAD_BYTES = 12


def seed(producer, number):
    mixed = ((producer << 32 | number) + 0x9E3779B97F4A7C15) & MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
    return mixed ^ (mixed >> 31)


def encode(producer, number):
    mixed = seed(producer, number)
    length = HEAD_BYTES + mixed % MAX_BYTES
    # Shifting the doubled number right is rotating it left.
    double = mixed << 64 | mixed
    filler = bytes(((double >> (71 - at % 61)) ^ at) & 0xFF for at in range(HEAD_BYTES, length))
    return struct.pack(">III", producer, number, length) + filler


def decode(value):
    """`producer number`, or `?` if these bytes are no whole record."""
    if value is None or len(value) < HEAD_BYTES:
        return "?"
    producer, number, _ = struct.unpack_from(">III", value)
    return f"{producer} {number}" if encode(producer, number) == value else "?"
