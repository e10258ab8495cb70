//! What is mounted and what is swapped to: `/proc/self/mountinfo` and `/proc/swaps` (proc(5)).

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// `major:minor` of the file system; `0:…` where there is no single block device.
    pub(super) device: String,
    /// Where it is mounted.
    pub(super) point: String,
    /// The file system's type.
    pub(super) kind: String,
    /// What is mounted, as whoever mounted it named it.
    pub(super) source: String,
}

/// The mounts in `text`; lines that are none are left out. Of several on one point the last counts: it hides the
/// others.
pub(super) fn mounts(text: &str) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for mount in text.lines().filter_map(mount) {
        found.retain(|earlier| earlier.point != mount.point);
        found.push(mount);
    }
    found
}

fn mount(line: &str) -> Option<Mount> {
    // A variable number of optional fields ends with a lone hyphen.
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let device = before.next()?;
    let point = before.nth(1)?;
    let mut after = after.split(' ');
    let kind = after.next()?;
    let source = after.next()?;
    let numbers = device.split_once(':')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(numbers.0) && is_number(numbers.1)).then(|| Mount {
        device: device.to_owned(),
        point: unescape(point),
        kind: kind.to_owned(),
        source: unescape(source),
    })
}

/// One line of `/proc/swaps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Swap {
    /// The device or file.
    pub(super) path: String,
    /// Whether it is a file in a file system.
    pub(super) is_file: bool,
}

/// The swaps in `text`, which begins with a heading.
pub(super) fn swaps(text: &str) -> Vec<Swap> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        Some(Swap { path: unescape(fields.next()?), is_file: fields.next()? == "file" })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\').and_then(octal);
        match code {
            Some(byte) => {
                plain.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn octal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    if text.starts_with('+') { None } else { u8::from_str_radix(text, 8).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_with_and_without_optional_fields_is_read() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
                    22 27 0:21 / /proc rw - proc proc rw\nnonsense\n";
        let found = mounts(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].device.as_str(), found[0].point.as_str()), ("98:0", "/mnt 2"));
        assert_eq!((found[0].kind.as_str(), found[0].source.as_str()), ("ext3", "/dev/root"));
    }

    #[test]
    fn the_last_mount_on_a_point_hides_the_others() {
        let text = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 0 8:2 / / rw - ext4 /dev/b rw\n";
        assert_eq!(mounts(text).iter().map(|m| m.device.as_str()).collect::<Vec<_>>(), ["8:2"]);
    }

    #[test]
    fn swaps_are_partitions_or_files() {
        let text = "Filename\tType\n/dev/dm-1 partition 8 0 -2\n/swap\\040file file 8 0 -3\n";
        let found = swaps(text);
        assert_eq!((found[0].path.as_str(), found[0].is_file), ("/dev/dm-1", false));
        assert_eq!((found[1].path.as_str(), found[1].is_file), ("/swap file", true));
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "(\\PC|[\\\\0-9 \n:-]){0,300}") {
            for mount in mounts(&text) {
                prop_assert!(mount.device.contains(':'));
            }
            swaps(&text);
        }
    }
}
