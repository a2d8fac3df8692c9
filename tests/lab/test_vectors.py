"""The test vectors of docs/protocol.md: made, shown and understood alike."""

import json
import os
import re

import pytest

import peer
import vectors
from relay import ROOT

with open(os.path.join(ROOT, "tests", "vectors.json")) as file:
    VECTORS = json.load(file)


def fields(name):
    """The fields of one vector, its hex as bytes."""
    text = ("text", "cipher")
    return {key: bytes.fromhex(value) if isinstance(value, str) and key not in text else value
            for key, value in VECTORS[name].items()}


def names(prefix):
    return [name for name in VECTORS if re.match(prefix, name)]


def message(v):
    return peer.Message(v["kind"], v["address"], v["payload"], v["tag"], v["hop_limit"],
                        v["flags"], v["via"])


def test_file_is_made_by_script():
    assert VECTORS == vectors.make()


def test_document_shows_them():
    with open(os.path.join(ROOT, "docs", "protocol.md")) as file:
        assert f"```\n{vectors.text(VECTORS)}```\n" in file.read()


@pytest.mark.parametrize("name", names(".*_id$"))
def test_id(name):
    v = fields(name)
    assert peer.id_text(v["id"]) == v["text"]
    assert peer.id_parse(v["text"]) == v["id"]


@pytest.mark.parametrize("name", names("context_"))
def test_context(name):
    v = fields(name)
    assert peer.export_context(v["aead"], v["direction"], v["index"], v["epoch"], v["peer"],
                               v["relay"]) == v["context"]


@pytest.mark.parametrize("name,prefix", [("rekey", b"viaduct rekey"),
                                         ("rekey_grant", b"viaduct grant")])
def test_rekey_mac(name, prefix):
    v = fields(name)
    assert peer.rekey_input(v["binding"], v["index"], v["epoch"], prefix) == v["input"]
    assert peer.rekey_mac(v["secret"], v["binding"], v["index"], v["epoch"], prefix) == v["mac"]


@pytest.mark.parametrize("name", names("message_"))
def test_message(name):
    v = fields(name)
    assert message(v).pack() == v["message"]
    assert peer.messages_parse(v["message"]) == [message(v)]


@pytest.mark.parametrize("name", names("record_"))
def test_record(name):
    v = fields(name)
    key = peer.Key(v["cipher"], v["export"])
    header = peer.Header(v["class"], v["phase"], v["index"], v["lane"], v["sequence"])
    assert header.pack() == v["header"]
    assert peer.header_parse(v["record"]) == header
    assert key.nonce(v["header"]) == v["nonce"]
    assert key.seal(v["header"], v["plaintext"]) == v["record"]
    assert key.open(v["record"]) == v["plaintext"]


def test_record_holds_several_messages():
    messages = peer.messages_parse(fields("record_chacha")["plaintext"])
    assert messages == [message(fields(name)) for name in
                        ("message_send", "message_ping", "message_via")]
