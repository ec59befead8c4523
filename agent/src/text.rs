//! Names and paths as text: the kernel takes any bytes, messages take UTF-8.

use std::fmt::Write as _;
use std::path::Path;

/// Any bytes as text: what is no UTF-8 becomes `\xNN`.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string can't fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The same for what there may be none of, which is empty on the wire.
pub(crate) fn text_or_empty(bytes: Option<Vec<u8>>) -> String {
    bytes.as_deref().map(text).unwrap_or_default()
}

/// The name of a process; empty when it ended meanwhile.
pub(crate) fn comm(proc_root: &Path, pid: u32) -> String {
    let comm = std::fs::read(proc_root.join(pid.to_string()).join("comm")).unwrap_or_default();
    text(comm.strip_suffix(b"\n").unwrap_or(&comm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_become_text() {
        for (bytes, expected) in [
            (&b"a b"[..], "a b"),
            ("café\n(x)".as_bytes(), "café\n(x)"),
            (b"\xff\xfe(\x01", "\\xff\\xfe(\u{1}"),
            (b"cut \xc3", "cut \\xc3"),
        ] {
            assert_eq!(text(bytes), expected);
        }
    }
}
