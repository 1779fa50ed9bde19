#!/usr/bin/env python3
"""Writes src/wire/schema.rs: the shapes of Kafka's messages, as far as `wire::guard` needs them.

usage: ci/wire-schemas.py KAFKA-CLIENTS.jar > src/wire/schema.rs

The jar holds Kafka's message schemas (common/message/*.json). Run it when an API or a version is added to `wire::api`.
"""
import json
import re
import sys
import zipfile

# APIs between a client and a broker that Ottla serves or will serve.
KEYS = list(range(0, 4)) + list(range(8, 52)) + [55, 56, 57, 60, 61, 64, 65, 66, 68, 69, 74, 75]
# Messages inside the bytes of other messages.
DATA = ["ConsumerProtocolSubscription", "ConsumerProtocolAssignment"]

FIXED = {"bool": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "float64": 8, "uuid": 16}
END = 32767


def load(jar, path):
    text = jar.read(path).decode()
    text = "\n".join(line for line in text.split("\n") if not line.strip().startswith("//"))
    text = re.sub(r"(?<=[\[,{}\]\s])//[^\n]*$", "", text, flags=re.M)
    return json.loads(text)


def versions(text):
    """First and last version of "none", "3", "0-8" or "2+"."""
    if text == "none":
        return END, -1
    if text.endswith("+"):
        return int(text[:-1]), END
    first, _, last = text.partition("-")
    return int(first), int(last or first)


class Message:
    def __init__(self, schema):
        self.name = schema["name"]
        self.structs = {struct["name"]: struct["fields"] for struct in schema.get("commonStructs", [])}
        self.flexible = versions(schema["flexibleVersions"])[0]
        self.fields = schema["fields"]

    def kind(self, field):
        """Its shape, and the bytes that kafka-protocol's struct has for it."""
        kind = field["type"]
        nested = field.get("fields")
        if kind.startswith("[]"):
            shape, memory = self.element(kind[2:], nested)
            return f"A(&{shape}, {memory})", 24
        shape, memory = self.element(kind, nested)
        if shape.startswith("T(") and "nullableVersions" in field:
            first, last = versions(field["versions"])
            nullable = versions(field["nullableVersions"])
            assert nullable[0] <= first and nullable[1] >= last, (self.name, field["name"])
            return "N" + shape[1:], memory + 8
        return shape, memory

    def element(self, kind, nested):
        if kind in FIXED:
            return f"F({FIXED[kind]})", FIXED[kind]
        if kind == "string":
            return "S", 32
        if kind in ("bytes", "records"):
            return "B", 32
        fields = nested if nested is not None else self.structs[kind]
        shape, memory = self.shape(fields)
        return f"T({shape})", memory

    def shape(self, fields):
        out, memory = [], 24 if self.flexible < END else 0
        for field in fields:
            kind, bytes_ = self.kind(field)
            memory += -(-bytes_ // 4) * 4
            first, last = versions(field["versions"])
            assert "flexibleVersions" not in field, (self.name, field["name"])
            if "tag" in field:
                tagged = versions(field["taggedVersions"])
                # Always tagged, or not there: no message has a field that was first untagged.
                assert tagged == (first, last), (self.name, field["name"])
                out.append(f"t({field['tag']}, {first}, {last}, {kind})")
            elif last >= first:
                out.append(f"f({first}, {last}, {kind})")
        return f"&[{', '.join(out)}]", -(-memory // 8) * 8

    def line(self):
        shape, _ = self.shape(self.fields)
        return f"Message {{ flexible_version: {self.flexible}, fields: {shape} }}"


def main():
    with zipfile.ZipFile(sys.argv[1]) as jar:
        messages = {}
        for path in jar.namelist():
            if path.startswith("common/message/") and path.endswith(".json"):
                schema = load(jar, path)
                if schema["type"] in ("request", "response") and schema["apiKey"] in KEYS and schema["validVersions"] != "none":
                    messages[schema["type"], schema["apiKey"]] = Message(schema)
                elif schema["name"] in DATA:
                    messages[schema["name"]] = Message(schema)
    print("//! The shapes of Kafka's messages, written by `ci/wire-schemas.py`: do not edit. A line is a message; see [`super::guard`] for its notation.")
    print("#![cfg_attr(rustfmt, rustfmt_skip)]")
    print("use super::guard::{Kind::{A, B, F, N, S, T}, Message, f, t};")
    for what in ("request", "response"):
        print(f"\n/// The {what}s, in the order of their API keys.")
        print(f"pub static {what.upper()}S: &[(i16, Message)] = &[")
        for key in KEYS:
            if (what, key) in messages:
                print(f"    // {messages[what, key].name}")
                print(f"    ({key}, {messages[what, key].line()}),")
        print("];")
    for name in DATA:
        print(f"\n/// {name}, which is inside the bytes of other messages.")
        constant = re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
        print(f"pub static {constant}: Message = {messages[name].line()};")


main()
