//! DER by hand, for what no honest library would write.

/// One element.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        len @ 0..=0x7f => out.push(len as u8),
        len @ 0x80..=0xff => out.extend([0x81, len as u8]),
        len @ 0x100..=0xffff => out.extend([0x82, (len >> 8) as u8, len as u8]),
        len => out.extend([0x83, (len >> 16) as u8, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(content);
    out
}

/// SEQUENCE of `parts`.
pub(crate) fn seq(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// SET of one element.
pub(crate) fn set(part: &[u8]) -> Vec<u8> {
    tlv(0x31, part)
}

/// OBJECT IDENTIFIER; the first two arcs make one byte.
pub(crate) fn oid(arcs: &[u32]) -> Vec<u8> {
    let mut content = vec![(arcs[0] * 40 + arcs[1]) as u8];
    for arc in &arcs[2..] {
        let groups = (0..5).rev().map(|n| (arc >> (7 * n)) & 0x7f).skip_while(|group| *group == 0);
        let groups: Vec<u32> = groups.collect();
        let last = groups.len().saturating_sub(1);
        content.extend(
            groups.iter().enumerate().map(|(n, g)| if n == last { *g as u8 } else { *g as u8 | 0x80 }),
        );
        if groups.is_empty() {
            content.push(0);
        }
    }
    tlv(0x06, &content)
}

/// BIT STRING without unused bits.
pub(crate) fn bits(content: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], content].concat())
}

/// OCTET STRING.
pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    tlv(0x04, content)
}

/// INTEGER of one byte.
pub(crate) fn small(value: u8) -> Vec<u8> {
    tlv(0x02, &[value])
}

/// BOOLEAN TRUE.
pub(crate) fn yes() -> Vec<u8> {
    tlv(0x01, &[0xff])
}

/// An X.509 extension.
pub(crate) fn extension(id: &[u32], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { yes() } else { Vec::new() };
    seq(&[&oid(id), &critical, &octets(value)])
}

/// A relative distinguished name of one attribute; `tag` is its string type.
pub(crate) fn rdn(id: &[u32], tag: u8, text: &[u8]) -> Vec<u8> {
    set(&seq(&[&oid(id), &tlv(tag, text)]))
}

/// PEM around `der`.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub(crate) const UTF8: u8 = 0x0c;
pub(crate) const PRINTABLE: u8 = 0x13;

pub(crate) const COMMON_NAME: &[u32] = &[2, 5, 4, 3];
pub(crate) const SERIAL_NUMBER: &[u32] = &[2, 5, 4, 5];
pub(crate) const KEY_USAGE: &[u32] = &[2, 5, 29, 15];
pub(crate) const ALT_NAMES: &[u32] = &[2, 5, 29, 17];
pub(crate) const BASIC_CONSTRAINTS: &[u32] = &[2, 5, 29, 19];
pub(crate) const EXTENDED_KEY_USAGE: &[u32] = &[2, 5, 29, 37];
pub(crate) const ECDSA_SHA256: &[u32] = &[1, 2, 840, 10045, 4, 3, 2];
pub(crate) const EXTENSION_REQUEST: &[u32] = &[1, 2, 840, 113_549, 1, 9, 14];
