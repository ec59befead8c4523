//! Reading sysfs: a value a file (the kernel's filesystems/sysfs.rst). What is missing, not to be read,
//! or gone with its device is `None`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// An attribute is one page at most.
const LONGEST: u64 = 4 << 10;

/// The bytes of an attribute without the blanks around them; `None` also for an empty one.
pub(super) fn attribute(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(folder.join(name)).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    // Devices fill their names up with blanks or NUL.
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    let first = bytes.iter().position(|byte| !blank(byte))?;
    let last = bytes.iter().rposition(|byte| !blank(byte))?;
    Some(bytes[first..=last].to_vec())
}

/// An attribute that is text of the kernel's own.
pub(super) fn word(folder: &Path, name: &str) -> Option<String> {
    attribute(folder, name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// An attribute that is a number.
pub(super) fn number<T: std::str::FromStr>(folder: &Path, name: &str) -> Option<T> {
    word(folder, name)?.parse().ok()
}

/// An attribute that is 0 or 1.
pub(super) fn flag(folder: &Path, name: &str) -> Option<bool> {
    number::<u8>(folder, name).map(|value| value != 0)
}

/// The names in a folder, sorted; none when there is no such folder.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name())
        .filter_map(|name: OsString| name.into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_their_padding_and_missing_ones_are_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).expect("written");
        };
        write("model", b"  A \xff DISK \0\0\n");
        write("ro", b"1\n");
        write("size", b"2048\n");
        write("empty", b" \n");
        assert_eq!(attribute(folder.path(), "model").as_deref(), Some(&b"A \xff DISK"[..]));
        assert_eq!(flag(folder.path(), "ro"), Some(true));
        assert_eq!(number::<u64>(folder.path(), "size"), Some(2_048));
        assert_eq!(number::<u64>(folder.path(), "model"), None);
        assert_eq!(attribute(folder.path(), "empty"), None);
        assert_eq!(attribute(folder.path(), "absent"), None);
        assert_eq!(names(folder.path()), ["empty", "model", "ro", "size"]);
        assert!(names(&folder.path().join("absent")).is_empty());
    }
}
