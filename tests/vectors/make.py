#!/usr/bin/env python3
"""Makes the golden vectors in this directory, without a line of Muster's own code.

Needs python3 with cbor2 and cryptography. `make.py` writes the files; `make.py --check` makes them again in
memory and fails when one differs. Keys are derived from their names, times and ids are fixed, Ed25519 is
deterministic and ES256 is asked to be (RFC 6979), so every run makes the same bytes.
"""

import base64
import hashlib
import json
import pathlib
import sys
import zlib

import cbor2
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

HERE = pathlib.Path(__file__).resolve().parent
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def sha256(data):
    return hashlib.sha256(data).digest()


def fixed_id(number):
    """A UUIDv7 whose random part is `number` repeated."""
    raw = bytearray((1_700_000_000_000).to_bytes(6, "big") + bytes([number]) * 10)
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return bytes(raw)


class Key:
    """A private key derived from its name."""

    def __init__(self, name, algorithm="Ed25519"):
        self.name, self.algorithm = name, algorithm
        self.seed = sha256(b"muster test vector key: " + name.encode())
        if algorithm == "Ed25519":
            self.private = ed25519.Ed25519PrivateKey.from_private_bytes(self.seed)
            self.cose = -19
        else:
            scalar = int.from_bytes(self.seed, "big") % (P256_ORDER - 1) + 1
            self.private = ec.derive_private_key(scalar, ec.SECP256R1())
            self.seed = scalar.to_bytes(32, "big")
            self.cose = -7
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        self.spki = self.private.public_key().public_bytes(serialization.Encoding.DER, form)

    @property
    def raw(self):
        return self.spki[-32:]

    @property
    def kid(self):
        return sha256(self.spki)[:8]

    def protected(self):
        return cbor2.dumps({1: self.cose, 4: self.kid})

    def sign(self, message):
        if self.algorithm == "Ed25519":
            return self.private.sign(message)
        der = self.private.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        r, s = decode_dss_signature(der)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


COMMAND, AUDIT = Key("command"), Key("audit")
ALICE, BOB, CAROL, DAVE = Key("alice"), Key("bob"), Key("carol"), Key("dave")
SAFES = [Key("safe 1"), Key("safe 2"), Key("safe 3")]
IDENTITY, IDENTITY_P256 = Key("identity"), Key("identity p256", "ES256")

DEVICE, OTHER = fixed_id(1), fixed_id(2)
T0 = 1_700_000_000
ORIGIN = "fleet.example/audit"


# --- COSE (RFC 9052) -------------------------------------------------------------------------------------------


def aad(document):
    return f"muster/{document}/v1".encode()


def sign1(document, payload, key):
    message = cbor2.dumps(["Signature1", key.protected(), aad(document), payload])
    return cbor2.dumps(cbor2.CBORTag(18, [key.protected(), {}, payload, key.sign(message)]))


def sign(document, payload, keys):
    signatures = []
    for key in keys:
        message = cbor2.dumps(["Signature", b"", key.protected(), aad(document), payload])
        signatures.append([key.protected(), {}, key.sign(message)])
    return cbor2.dumps(cbor2.CBORTag(98, [b"", {}, payload, signatures]))


# --- RFC 6962 --------------------------------------------------------------------------------------------------


def leaf_hash(leaf):
    return sha256(b"\x00" + leaf)


def node_hash(left, right):
    return sha256(b"\x01" + left + right)


def split(count):
    half = 1
    while half * 2 < count:
        half *= 2
    return half


def root_of(leaves):
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    half = split(len(leaves))
    return node_hash(root_of(leaves[:half]), root_of(leaves[half:]))


def inclusion(leaves, index):
    if len(leaves) == 1:
        return []
    half = split(len(leaves))
    if index < half:
        return inclusion(leaves[:half], index) + [root_of(leaves[half:])]
    return inclusion(leaves[half:], index - half) + [root_of(leaves[:half])]


def consistency(leaves, size, known=True):
    if size == len(leaves):
        return [] if known else [root_of(leaves)]
    half = split(len(leaves))
    if size <= half:
        return consistency(leaves[:half], size, known) + [root_of(leaves[half:])]
    return consistency(leaves[half:], size - half, False) + [root_of(leaves[:half])]


# --- C2SP tlog-checkpoint, signed-note -------------------------------------------------------------------------


def checkpoint(size, root, key):
    body = f"{ORIGIN}\n{size}\n{base64.b64encode(root).decode()}\n"
    key_id = sha256(ORIGIN.encode() + b"\n\x01" + key.raw)[:4]
    blob = base64.b64encode(key_id + key.sign(body.encode())).decode()
    return f"{body}\n— {ORIGIN} {blob}\n"


# --- documents -------------------------------------------------------------------------------------------------

TABLE = {
    "rotate_identity": 0, "rotate_secret": 0, "collect_posture": 0, "unlock": 0, "lock": 1, "stop": 1,
    "wipe(retire)": 1, "wipe(clear)": 2, "wipe(crypto-erase)": 2, "wipe(factory-reset)": 2, "wipe(many)": 3,
    "update_trust": 2, "update_agent": 2, "files": 0, "files(elsewhere)": 2, "declared_roots": 2, "sysctl": 0,
    "sysctl(other)": 2, "time": 0, "packages": 2, "systemd_units": 2, "ssh": 2, "intervals": 0,
    "lapse(reversible)": 0, "lapse(destructive)": 2, "authority": 2,
}  # fmt: skip


def authority(version, approvers, previous):
    required = [[name, TABLE[name]] for name in sorted(TABLE, key=lambda name: name.encode())]
    recovery = [[key.name, key.raw] for key in SAFES]
    people = [[key.name, key.raw, since] for key, since in approvers]
    return cbor2.dumps(
        [1, version, "fleet.example", [COMMAND.raw], [AUDIT.raw], people, recovery, required, previous]
    )


AUTHORITY_1 = authority(1, [(ALICE, T0), (BOB, T0), (CAROL, T0)], None)
AUTHORITY_2 = authority(2, [(ALICE, T0), (BOB, T0), (DAVE, T0 + 1000)], sha256(AUTHORITY_1))

WIPE_BODY = ["clear", ["/srv/data"]]
TARGETS = [
    [DEVICE, "SN0001", "Ada", "wipe", "clear"],
    [OTHER, None, None, "wipe", "clear"],
    [fixed_id(3), "SN0003", None, "wipe", "clear"],
]
LEAVES = [leaf_hash(cbor2.dumps(target)) for target in TARGETS]
WARRANT = cbor2.dumps(
    [1, fixed_id(10), "wipe", "clear", sha256(cbor2.dumps(WIPE_BODY)), root_of(LEAVES), 3, T0 + 31_536_000, 1]
)
WARRANT_SIGNED = sign("warrant", WARRANT, [ALICE, BOB])

LOG = [leaf_hash(f"entry {number}".encode()) for number in range(9)]
CHECKPOINT = checkpoint(9, root_of(LOG), AUDIT)
ORDER = cbor2.dumps(
    [
        1, DEVICE, fixed_id(11), [1, 0, 5], "wipe", WIPE_BODY, WARRANT_SIGNED, TARGETS[0],
        [0, 3, inclusion(LEAVES, 0)], T0 + 100, T0 + 700, CHECKPOINT, [6, consistency(LOG, 6)],
    ]
)  # fmt: skip

BASELINE = cbor2.dumps(
    [
        1,
        "laptop-linux",
        [
            ["files", "enforce", [["/etc/motd", 0o644, "root", "root", b"hello\n"]]],
            ["sysctl", "audit", [["kernel.kptr_restrict", "2"]]],
            ["systemd_units", "enforce", [["ssh.service", True, False]]],
            ["ssh", "enforce", [["PermitRootLogin", "no"]]],
            ["time", "enforce", [["ntp.example"], "Etc/UTC"]],
            ["packages", "enforce", [["telnetd", False]]],
            ["agent", "audit", [["/srv"]]],
        ],
    ]
)
DESIRED = cbor2.dumps(
    [1, DEVICE, [0, 7], sha256(BASELINE), ["p256", 2_592_000, 66], [300, 3600, 900], [604_800, "lock"], T0 + 50]
)

STATE = cbor2.dumps([1, DEVICE, fixed_id(12), [0, 6], [["sysctl", "kernel.kptr_restrict"]], "0.1.0", [9, root_of(LOG)], T0 + 60])
POSTURE = cbor2.dumps(
    [
        1,
        DEVICE,
        fixed_id(13),
        [
            ["disk_encryption", "pass", True, "CRYPT-LUKS2", "/sys/dev/block/254:0", T0 + 61],
            [261, "pass", 86_400, "", "/proc/uptime", T0 + 61],  # uptime, RFC 9711
            [270, "pass", "Debian GNU/Linux", "", "/etc/os-release", T0 + 61],  # swname
            ["listening_ports", "fail", ["22/tcp", "23/tcp"], "", "/proc/net/tcp", T0 + 61],
            ["tpm", "not_applicable", None, "", "/sys/class/tpm", T0 + 61],
            ["clock_offset", "unknown", -3, "", "adjtimex", T0 + 61],
        ],
        T0 + 62,
    ]
)
EVENT = cbor2.dumps([1, DEVICE, fixed_id(14), "refused", "order: sequence", T0 + 63])
THUMBPRINT = sha256(b"a certificate")
RENEW = cbor2.dumps([1, DEVICE, fixed_id(15), THUMBPRINT, bytes.fromhex("3003020100")])
RECEIPT = cbor2.dumps(
    [
        1, DEVICE, fixed_id(11), sha256(WARRANT), "clear", "data_destroyed", "done",
        [["/srv/data", "deleted", 4096], ["vpn", "key_destroyed", 32]], sha256(b"evidence"), sha256(b"receipt before"),
        THUMBPRINT, [9, root_of(LOG)], T0 + 200,
    ]
)  # fmt: skip
ACK = cbor2.dumps([1, DEVICE, fixed_id(11), sha256(RECEIPT)])


def vector(document, payload, keys, message):
    signers = [
        {"name": key.name, "algorithm": key.algorithm, "private": key.seed.hex(), "spki": key.spki.hex()}
        for key in keys
    ]
    return {
        "document": document,
        "external_aad": aad(document).decode(),
        "signers": signers,
        "payload": payload.hex(),
        "message": message.hex(),
    }


def one(document, payload, key):
    return vector(document, payload, [key], sign1(document, payload, key))


def many(document, payload, keys):
    return vector(document, payload, keys, sign(document, payload, keys))


# --- enrolment -------------------------------------------------------------------------------------------------

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def base62(number, digits):
    text = ""
    for _ in range(digits):
        number, rest = divmod(number, 62)
        text = BASE62[rest] + text
    assert number == 0
    return text


def token(entropy):
    text = "muster_" + base62(int.from_bytes(entropy, "big"), 33)
    return text + base62(zlib.crc32(text.encode()), 6)


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def enrollment():
    tokens = []
    for entropy in (bytes(24), b"\xff" * 24, bytes(range(24)), sha256(b"muster")[:24]):
        text = token(entropy)
        tokens.append({"entropy": entropy.hex(), "token": text, "digest": sha256(text.encode()).hex()})
    ca, auth = sha256(b"the root's SPKI"), sha256(AUTHORITY_1)
    strings = []
    for host, place in (("fleet.example", "fleet.example"), ("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "[2001:db8::7]")):
        text = f"muster://{place}:8443/{tokens[2]['token']}?ca={base64url(ca)}&auth={base64url(auth)}"
        strings.append({"host": host, "port": 8443, "ca": ca.hex(), "auth": auth.hex(), "string": text})
    return {"tokens": tokens, "strings": strings}


def log():
    return {
        "origin": ORIGIN,
        "audit_key": AUDIT.raw.hex(),
        "audit_private": AUDIT.seed.hex(),
        "leaves": [leaf.hex() for leaf in LOG],
        "roots": [root_of(LOG[:size]).hex() for size in range(len(LOG) + 1)],
        "inclusion": [
            {"index": index, "size": size, "path": [node.hex() for node in inclusion(LOG[:size], index)]}
            for size in range(1, len(LOG) + 1)
            for index in range(size)
        ],
        "consistency": [
            {"from": small, "to": large, "path": [node.hex() for node in consistency(LOG[:large], small)]}
            for large in range(1, len(LOG) + 1)
            for small in range(1, large + 1)
        ],
        "checkpoint": CHECKPOINT,
    }


VECTORS = {
    "authority-1": many("authority", AUTHORITY_1, [COMMAND]),
    "authority-2": many("authority", AUTHORITY_2, [ALICE, BOB]),
    "authority-2-recovery": many("authority", AUTHORITY_2, [SAFES[0], SAFES[2]]),
    "warrant": vector("warrant", WARRANT, [ALICE, BOB], WARRANT_SIGNED),
    "order": one("order", ORDER, COMMAND),
    "desired": one("desired", DESIRED, COMMAND),
    "baseline": many("baseline", BASELINE, [COMMAND, ALICE, BOB]),
    "report-state": one("report-state", STATE, IDENTITY),
    "report-posture": one("report-posture", POSTURE, IDENTITY_P256),
    "report-event": one("report-event", EVENT, IDENTITY),
    "renew": one("renew", RENEW, IDENTITY_P256),
    "receipt": one("receipt", RECEIPT, IDENTITY_P256),
    "receipt-ed25519": one("receipt", RECEIPT, IDENTITY),
    "ack": one("ack", ACK, COMMAND),
    "enrollment": enrollment(),
    "log": log(),
}


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, content in VECTORS.items():
        path = HERE / f"{name}.json"
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        sys.exit("differ from what this script makes: " + ", ".join(stale))


main()
