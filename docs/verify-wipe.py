#!/usr/bin/env python3
"""Verifies the proof of a wipe without a line of Muster: verify-wipe.py PROOF --authority DIGEST --root DIGEST
PROOF is the directory that `muster device record D --proof PROOF` wrote. The digests of the first authority document and of the
root's public key are taken on trust, in hexadecimal, as `muster init` printed them. Exit code 0 when every link holds; otherwise
1 and a sentence: what is missing, damaged or failed proves nothing. RFC 9052 (COSE), 8949 (CBOR), 9162 (the tree of targets)."""
import argparse, base64, hashlib, pathlib, subprocess, sys, tempfile, uuid
sha256 = lambda data: hashlib.sha256(data).digest()
ed25519 = lambda raw: bytes.fromhex("302a300506032b6570032100") + raw
LEVELS = ["retire", "clear", "crypto-erase", "factory-reset"]
PHASES = ["accepted", "armed", "keys_destroyed", "data_destroyed", "verified"]

must = lambda holds, why: holds or sys.exit(f"not proven: {why}")

def decode(data):
    value, rest = item(data)
    return must(not rest, f"bytes after the end of {read.last}") and value

def item(data):
    kind, low, data = data[0] >> 5, data[0] & 31, data[1:]
    if low >= 24:
        size = must(low <= 27, f"CBOR of indefinite length in {read.last}") << (low - 24)
        low, data = int.from_bytes(data[:size], "big"), data[size:]
    if kind in (0, 1):
        return (low if kind == 0 else -1 - low), data
    if kind in (2, 3):
        must(len(data) >= low, f"{read.last} ends too early")
        return (data[:low] if kind == 2 else data[:low].decode()), data[low:]
    if kind == 7:
        return {20: False, 21: True, 22: None}[low], data
    items = []
    for _ in range({4: low, 5: 2 * low, 6: 1}[kind]):
        value, data = item(data)
        items.append(value)
    return (dict(zip(items[::2], items[1::2])) if kind == 5 else (low, *items) if kind == 6 else items), data

def blob(value):
    size = len(value)
    return (bytes([64 + size]) if size < 24 else bytes([88, size]) if size < 256 else b"\x59" + size.to_bytes(2, "big")) + value

def openssl(*arguments, **files):
    with tempfile.TemporaryDirectory() as place:
        for name, content in files.items():
            pathlib.Path(place, name).write_bytes(content)
        return subprocess.run(["openssl", *map(str, arguments)], cwd=place, capture_output=True)

def holds(spki, algorithm, message, signature):
    key = b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(spki) + b"-----END PUBLIC KEY-----\n"
    how = "pkeyutl -verify -pubin -inkey key -rawin -in message -sigfile signature"
    if algorithm != -19:
        must(algorithm == -7 and len(signature) == 64, "an algorithm other than Ed25519 and ES256")
        halves = [n.to_bytes(n.bit_length() // 8 + 1, "big") for n in (int(signature[:32].hex(), 16), int(signature[32:].hex(), 16))]
        body = b"".join(bytes([2, len(half)]) + half for half in halves)
        how, signature = "dgst -sha256 -verify key -signature signature message", bytes([48, len(body)]) + body
    return openssl(*how.split(), key=key, message=message, signature=signature).returncode == 0

def signers(message, document, keys):
    """The payload of a COSE message, and those of `keys` (SPKI) that have signed it."""
    tag, (protected, unprotected, payload, rest) = decode(message)
    must(unprotected == {} and tag in (18, 98), "a message that is no COSE message of ours")
    each = [(protected, rest)] if tag == 18 else [(one[0], one[2]) for one in rest]
    start = b"\x84\x6aSignature1" if tag == 18 else b"\x85\x69Signature\x40"
    names, found = {sha256(key)[:8]: key for key in keys}, set()
    for header, signature in each:
        algorithm, key = decode(header)[1], names.get(decode(header)[4])
        if key:
            signed = start + blob(header) + blob(f"muster/{document}/v1".encode()) + blob(payload)
            must(holds(key, algorithm, signed, signature), f"a false signature on the {document}")
            found.add(key)
    return payload, found

def walk(chain, trusted, at):
    """The last authority document's version, domain, needs, recovery keys, and approvers that count at `at`."""
    now, founders = None, set()
    for message in chain:
        payload = decode(message)[1][2]
        _, version, domain, command, _, approvers, recovery, required, previous = decode(payload)
        people, required = {ed25519(key) for _, key, _ in approvers}, dict(required)
        if now is None:
            founders, signed = people, signers(message, "authority", map(ed25519, command))[1]
            must(version == 1 and sha256(payload) == trusted and signed, "the authority is not the one that is trusted")
        else:
            must((version, previous) == (now["version"] + 1, sha256(now["payload"])), "a gap in the authority")
            by_recovery = len(signers(message, "authority", now["recovery"])[1]) > len(now["recovery"]) // 2
            by_quorum = len(signers(message, "authority", now["counting"])[1]) >= now["required"]["authority"] \
                and len(signers(message, "authority", people)[1]) >= required["authority"]
            must(by_recovery or by_quorum, f"authority version {version} lacks signatures")
        counting = [ed25519(key) for _, key, since in approvers if ed25519(key) in founders or at >= since + 86_400]
        now = dict(version=version, payload=payload, required=required, counting=counting, domain=domain,
                   recovery=[ed25519(key) for _, key in recovery])
    return must(now, "there is no authority")

def root_of(leaf, index, size, path):
    node, last, path = sha256(b"\0" + leaf), size - 1, list(path)
    while last:
        if index % 2 or index < last:
            pair = (must(path, "the target's proof is too short") and path.pop(0), node)
            node = sha256(b"\1" + b"".join(pair if index % 2 else pair[::-1]))
        index, last = index // 2, last // 2
    return must(not path, "the target's proof is too long") and node

def judge(names):
    """What the receipts prove: all five phases, each done at the level asked, and nothing in them that failed."""
    ended = decode(decode(read(names[-1]))[1][2])[-1]
    authority = walk([base64.b64decode(line) for line in read("authority").split()], asked.authority, ended)
    warrant, approved = signers(read("warrant.cose"), "warrant", authority["counting"])
    _, _, kind, level, _, root, count, ends, version = decode(warrant)
    matter = {"wipe": f"wipe({level})", "wipe_on_lapse": "lapse(destructive)"}[kind]
    must(1 <= version <= authority["version"], "the warrant is of an authority that is not in the proof")
    needed = max(authority["required"][matter] for matter in [matter] + ["wipe(many)"] * (count > 10 and level != "retire"))
    must(len(approved) >= needed, f"{len(approved)} approvers that count have signed, {needed} are needed")
    target, (index, size, path) = read("target.cbor"), decode(read("inclusion.cbor"))
    device, serial, _, *deed = decode(target)
    must(deed == [kind, level] and index < size == count and root_of(target, index, size, path) == root, "it names others")
    files = dict(root=read("root.pem"), others=read("authorities.pem"), shown=read("certificate.pem"))
    look = lambda name, *what: openssl("x509", "-in", name, *what, **files).stdout
    files["root"] = look("root")  # the one certificate that is looked at; this machine's own roots count for nothing, either
    leads = openssl(*"verify -no_check_time -no-CApath -no-CAstore -CAfile root -untrusted others shown".split(), **files)
    must(leads.returncode == 0, "the device's certificate does not lead to the root")
    root, spki = (base64.b64decode(b"".join(look(name, "-noout", "-pubkey").split(b"\n")[1:-2])) for name in ("root", "shown"))
    must(sha256(root) == asked.root, "the root is not the one that is trusted")
    name = f"URI:spiffe://{authority['domain']}/device/{uuid.UUID(bytes=device)}"
    must(name in look("shown", "-noout", "-ext", "subjectAltName").decode().split(), "the certificate is another's")
    link, phases = (device, sha256(warrant), None, sha256(look("shown", "-outform", "DER"))), []
    for name in names:
        said, signed = signers(read(name), "receipt", [spki])
        _, whose, _, under, reached, phase, outcome, items, _, before, by, *_, at = decode(said)
        must(phases or at <= ends, "it begins after the warrant's end")
        must((whose, under, before, by) == link, "a receipt out of its chain")
        must(signed and outcome == "done", f"{phase!r} is not signed by the device, or ended as {outcome!r}")
        must(reached in LEVELS[LEVELS.index(level):], f"{phase!r} went as far as {reached!r}, and {level} was asked")
        [must(fate != "failed", f"{phase} could not be done for {what!r}") for what, fate, _ in items]
        link, phases = (device, link[1], sha256(said), by), [*phases, phase]
    must(phases == PHASES, f"the phases are {phases}")
    return f"{uuid.UUID(bytes=device)} (serial {serial}) was wiped ({reached}); {len(approved)} approvers have signed"

def read(name):
    read.last = name
    return (asked.proof / name).read_bytes()

asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
asked.add_argument("proof", type=lambda text: pathlib.Path(text).resolve())
[asked.add_argument(name, required=True, type=bytes.fromhex) for name in ("--authority", "--root")]
asked = asked.parse_args()
try:
    receipts = sorted(f"receipts/{file.name}" for file in (asked.proof / "receipts").iterdir())
    print(f"PROVEN: {judge(must(receipts, 'there is no receipt'))}")
except OSError as error:
    must(False, f"{error.filename}: {error.strerror}")
except Exception:  # bytes that are no document of ours, in whatever way
    must(False, f"{read.last} is damaged, or not what it should be")
