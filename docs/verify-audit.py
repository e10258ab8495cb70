#!/usr/bin/env python3
"""Verifies an export of Muster's audit log without any of Muster's code:
verify-audit.py DIR [--key FILE] [--authority DIGEST] [--since FILE] [--entry N]

DIR is what `muster audit export DIR` wrote. --key FILE is the server's `audit.vkey`, had from elsewhere; without it the
key in the export is used, which proves only that the export is whole. --authority DIGEST is that of the first authority
document, in hexadecimal, as `muster init` printed it: whoever knows it believes the audit keys that the chain of authority
documents in the export names, so also one that took over from the key in FILE. --since FILE is a checkpoint seen earlier,
by the key or, with --authority, by one before it; the log has to hold its promise. --entry N proves that entry N stands
in the log: "entry" is the entry, "inclusion" the hashes (RFC 9162 2.1.3) from it to the root that the checkpoint signs.
Prints {"ok", "size", "root_sha256", "first_bad", "problem", "note"}; exit code 1 when not ok, 2 for arguments that are
none. "note" says what an ok does not: without --key and --authority nothing ties the export to a server. Formats: RFC 6962, C2SP tlog-tiles,
tlog-checkpoint, signed-note; the authority: RFC 8949, RFC 9052. Needs Python 3.8; openssl 3 checks the signatures."""
import argparse, base64, hashlib, json, os, subprocess, sys, tempfile

SPKI = bytes.fromhex("302a300506032b6570032100")  # RFC 8410: what stands before an Ed25519 key in DER

class Bad(Exception):
    """What is wrong, and the entry it is wrong with or None."""

def need(holds, what, seq=None):
    if not holds:
        raise Bad(what, seq)

def sha(data):
    return hashlib.sha256(data).digest()

def read(root, path, seq=None):
    need(os.path.isfile(os.path.join(root, path)), f"{path} is missing", seq)
    with open(os.path.join(root, path), "rb") as file:
        return file.read()

def unbase64(text, what):
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    need(base64.b64encode(data) == text, f"{what} is not canonical base64")
    return data

def parse_key(data):
    name, _, rest = data.rstrip(b"\n").partition(b"+")
    ident, _, text = rest.partition(b"+")
    key = unbase64(text, "the key")
    need(len(key) == 33 and key[0] == 1, "not an Ed25519 verifier key")
    number = sha(name + b"\n" + key)[:4]
    need(number.hex().encode() == ident, "the key does not have the id that it claims")
    return name, number, key[1:]

def holds(key, message, signature):
    """Whether the Ed25519 key has signed the message."""
    with tempfile.TemporaryDirectory() as tmp:
        paths = [os.path.join(tmp, name) for name in ("key", "signature", "text")]
        for path, data in zip(paths, (SPKI + key, signature, message)):
            with open(path, "wb") as file:
                file.write(data)
        run = subprocess.run(["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-keyform", "DER", "-inkey", paths[0],
                              "-sigfile", paths[1], "-in", paths[2]], capture_output=True)
    return run.returncode == 0

def open_note(note, key, what):
    """The lines of a signed note whose one signature is by `key`."""
    body, _, line = note.partition(b"\n\n")
    prefix = "\u2014 ".encode() + key[0] + b" "
    spelled = line.startswith(prefix) and line.endswith(b"\n")
    blob = unbase64(line[len(prefix):-1], f"the signature of {what}") if spelled else b""
    need(len(blob) == 68 and blob[:4] == key[1], f"{what} is not signed by the audit key")
    need(holds(key[2], body + b"\n", blob[4:]), f"the signature of {what} is false")
    return body.split(b"\n")

def parse_checkpoint(note, key, what):
    lines = open_note(note, key, what)
    need(len(lines) == 3 and lines[0] == key[0] and lines[1].isdigit(), f"{what} is malformed")
    size, root = int(lines[1]), unbase64(lines[2], f"the root of {what}")
    need(str(size).encode() == lines[1] and len(root) == 32, f"{what} is malformed")
    return size, root

def tile_path(kind, index, width):
    groups = [f"{index % 1000:03}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03}")
    return f"tile/{kind}/" + "/".join(groups) + ("" if width == 256 else f".p/{width}")

def tree(nodes):
    """RFC 6962 2.1 over hashes."""
    if len(nodes) < 2:
        return nodes[0] if nodes else sha(b"")
    half = 1 << (len(nodes) - 1).bit_length() - 1
    return sha(b"\1" + tree(nodes[:half]) + tree(nodes[half:]))

def path_to(nodes, at):
    """RFC 6962 2.1.1: the hashes beside the way from leaf `at` to the root, the lowest first."""
    if len(nodes) < 2:
        return []
    half = 1 << (len(nodes) - 1).bit_length() - 1
    near, far, at = (nodes[:half], nodes[half:], at) if at < half else (nodes[half:], nodes[:half], at - half)
    return path_to(near, at) + [tree(far)]

def root_by(path, leaf, at, size):
    """RFC 9162 2.1.3.2: where the way from `leaf` leads, by nothing but its place and the hashes beside it."""
    last = size - 1
    for beside in path:
        need(last > 0, "the path is too long")
        is_right = at % 2 or at == last
        leaf = sha(b"\1" + (beside + leaf if is_right else leaf + beside))
        while is_right and at and not at % 2:
            at, last = at // 2, last // 2
        at, last = at // 2, last // 2
    need(last == 0, "the path is too short")
    return leaf

def check_entry(entry, seq, expected):
    need(expected == sha(b"\0" + entry), f"entry {seq} does not have the hash that its tile gives it", seq)
    try:
        said = json.loads(entry)
        form = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, UnicodeError):
        said, form = {}, b""
    need(form == entry and said.get("v") == 1, f"entry {seq} is not canonical", seq)
    need(said.get("seq") == seq, f"entry {seq} gives itself another number", seq)

def walk(root_dir, size, used, report, wanted):
    """The leaf hashes of all entries, each entry and each tile checked on the way; the one `wanted` is reported."""
    leaves = []
    for first in range(0, size, 256):
        width = min(256, size - first)
        paths = [tile_path(kind, first // 256, width) for kind in ("entries", 0)]
        used.update(paths)
        bundle, hashes = (read(root_dir, path, first) for path in paths)
        for seq in range(first, first + width):
            end, place = 2 + int.from_bytes(bundle[:2], "big"), 32 * (seq - first)
            check_entry(bundle[2:end], seq, hashes[place:place + 32])
            leaves.append(hashes[place:place + 32])
            if seq == wanted:
                report["entry"] = json.loads(bundle[2:end])
            bundle = bundle[end:]
        need(not bundle and len(hashes) == 32 * width, "there is more in a tile than promised", first + width)
    level, nodes = 0, leaves
    while nodes:
        for first in range(0, len(nodes), 256):
            part = nodes[first:first + 256]
            path = tile_path(level, first // 256, len(part))
            used.add(path)
            need(read(root_dir, path, first << 8 * level) == b"".join(part), f"{path} is wrong", first << 8 * level)
        level, nodes = level + 1, [tree(nodes[n:n + 256]) for n in range(0, len(nodes) - 255, 256)]
    return leaves

def item(data):
    """The first CBOR item and what follows it; definite lengths are all that these documents use."""
    kind, value, data = data[0] >> 5, data[0] & 31, data[1:]
    if value > 23:
        need(value < 28, "CBOR of indefinite length")
        size = 1 << value - 24
        value, data = int.from_bytes(data[:size], "big"), data[size:]
    if kind < 2:
        return (value, -1 - value)[kind], data
    if kind < 4:
        need(value <= len(data), "CBOR that ends too early")
        return data[:value] if kind == 2 else data[:value].decode(), data[value:]
    if kind == 7:
        return {20: False, 21: True, 22: None}[value], data
    items = []
    for _ in range({4: value, 5: 2 * value, 6: 1}[kind]):
        one, data = item(data)
        items.append(one)
    return (items if kind == 4 else dict(zip(items[::2], items[1::2])) if kind == 5 else (value, *items)), data

def whole(data):
    value, rest = item(data)
    need(not rest, "bytes after the end of an authority document")
    return value

def blob(data):
    size = len(data)
    return (bytes([64 + size]) if size < 24 else bytes([88, size]) if size < 256 else b"\x59" + size.to_bytes(2, "big")) + data

def signers(payload, signatures, keys):
    """Those of `keys` that have signed the authority document `payload` (COSE_Sign)."""
    names, found = {sha(SPKI + key)[:8]: key for key in keys}, set()
    for header, _, signature in signatures:
        key = names.get(whole(header)[4])
        if key:
            signed = b"\x85\x69Signature\x40" + blob(header) + blob(b"muster/authority/v1") + blob(payload)
            need(holds(key, signed, signature), "a false signature under an authority document")
            found.add(key)
    return found

def walk_authority(chain, digest):
    """The log's name, and the audit keys of every document: the last ones are in force. When an approver begins to count
    is for devices to judge, not for an auditor's clock."""
    last, named, origin = None, [], b""
    for version, message in enumerate(chain, 1):
        tag, (_, _, payload, signatures) = whole(message)
        _, number, domain, command, audit, approvers, recovery, required, previous = whole(payload)
        people, kept, required = {key for _, key, _ in approvers}, {key for _, key in recovery}, dict(required)
        if last is None:
            right = sha(payload) == digest and signers(payload, signatures, command)
            need(right, "the authority is not the one that is known")
        else:
            former, people_then, kept_then, required_then = last
            need(previous == sha(former), "a gap in the chain of authority documents")
            quorum = len(signers(payload, signatures, people_then)) >= required_then["authority"] and \
                len(signers(payload, signatures, people)) >= required["authority"]
            rescued = 2 * len(signers(payload, signatures, kept_then)) > len(kept_then)
            need(quorum or rescued, f"authority version {version} lacks signatures")
        need(tag == 98 and number == version, "the chain of authority documents does not count up by one")
        last, origin = (payload, people, kept, required), domain.encode() + b"/audit"
        named.append([(origin, sha(origin + b"\n\1" + key)[:4], key) for key in audit])
    need(named, "there is no authority in the export")
    return named

def digest(text):
    """For argparse: a SHA-256 as `muster init` prints it."""
    if len(text) != 64 or not set(text) <= set("0123456789abcdefABCDEF"):
        raise argparse.ArgumentTypeError(f"{text!r} is no digest: give the 64 hexadecimal digits that `muster init` printed")
    return bytes.fromhex(text)

def authority_chain(root_dir):
    place = os.path.join(root_dir, "authority")
    names = sorted(os.listdir(place)) if os.path.isdir(place) else []
    return [read(root_dir, f"authority/{name}") for name in names]

def untied(root_dir):
    """What to compare where nobody said whose log this should be."""
    try:
        own = sha(whole(authority_chain(root_dir)[0])[1][2]).hex()
    except (Bad, ValueError, IndexError, KeyError, TypeError, RecursionError):
        own = "unreadable"
    return ("ok, but not tied to an authority you know: the key was taken from the export itself. The export's own authority "
            f"is {own}: compare that with what `muster init` printed, or give that digest with --authority")

def keys_by_authority(args):
    """The audit keys that count now, and all that ever did."""
    try:
        named = walk_authority(authority_chain(args.dir), args.authority)
    except (ValueError, IndexError, KeyError, TypeError, RecursionError):
        raise Bad("the chain of authority documents cannot be read", None)
    return named[-1], [key for document in named for key in document]

def check_manifest(root_dir, key, used):
    lines = open_note(read(root_dir, "manifest"), key, "the manifest")
    need(lines[:2] == [b"muster-audit-export/v1", key[0]], "the manifest is malformed")
    listed = [line.decode().partition("  ")[::2] for line in lines[2:]]
    names = [name for _, name in listed]
    found = [os.path.relpath(os.path.join(d, f), root_dir) for d, _, files in os.walk(root_dir) for f in files]
    need(sorted(found) == sorted(names + ["manifest"]), "the files are not those on the manifest")
    for digest, name in listed:
        need(sha(read(root_dir, name)).hex() == digest, f"{name} is not the file that was exported")
    authority = {f"authority/{n:03}" for n in range(sum(name.startswith("authority/") for name in names))}
    need(set(names) == used | authority | {"checkpoint", "audit.vkey"}, "a file does not belong here, or is missing")
    need(parse_key(read(root_dir, "audit.vkey")) == key, "the export names another key")

def open_earlier(note, keys):
    """A checkpoint that one of `keys` has signed."""
    *former, key = keys
    for one in former:
        try:
            return parse_checkpoint(note, one, "the earlier checkpoint")
        except Bad:
            continue
    return parse_checkpoint(note, key, "the earlier checkpoint")

def verify(args, report):
    given, own = args.key and parse_key(read(".", args.key)), parse_key(read(args.dir, "audit.vkey"))
    in_force, named = keys_by_authority(args) if args.authority else ([], [])
    if args.authority:
        need(own in in_force, "the export is not signed by an audit key that the authority names")
        need(not given or given in named, "the authority never named the key that was given")
    key = own if args.authority else given or own
    size, root = parse_checkpoint(read(args.dir, "checkpoint"), key, "the checkpoint")
    report.update(size=size, root_sha256=root.hex())
    leaves = walk(args.dir, size, used := set(), report, args.entry)
    need(tree(leaves) == root, "the entries do not lead to the root that the checkpoint promises")
    if args.entry is not None:
        need(0 <= args.entry < size, f"there is no entry {args.entry} in a log of {size}")
        path = path_to(leaves, args.entry)
        need(root_by(path, leaves[args.entry], args.entry, size) == root, "the entry's path does not lead to the root")
        report["inclusion"] = [node.hex() for node in path]
    if args.since:
        before, old_root = open_earlier(read(".", args.since), [*named, key])
        need(before <= size, "the log went back", size)
        need(tree(leaves[:before]) == old_root, "the log forked")
    check_manifest(args.dir, key, used)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Verifies an export of Muster's audit log.")
    [parser.add_argument(name) for name in ("dir", "--key", "--since")]
    parser.add_argument("--authority", type=digest, metavar="DIGEST")
    parser.add_argument("--entry", type=int)
    report = {"ok": False, "size": 0, "root_sha256": "", "first_bad": None, "problem": None, "note": None}
    args = parser.parse_args()
    try:
        verify(args, report)
        report.update(ok=True, note=None if args.key or args.authority else untied(args.dir))
    except Bad as bad:
        report["problem"], report["first_bad"] = bad.args
    print(json.dumps(report))
    sys.exit(0 if report["ok"] else 1)
