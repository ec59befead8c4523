//! A file's bytes.

use super::read::Record;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use kctl_proto::agent::v1 as pb;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

/// A file, or as much of it as came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileView {
    path: String,
    bytes: Vec<u8>,
    truncated: bool,
    secret: bool,
}

impl FileView {
    pub(crate) fn new(path: &str) -> Self {
        Self { path: path.to_owned(), bytes: Vec::new(), truncated: false, secret: false }
    }

    pub(crate) fn add(&mut self, part: pb::ReadFileResponse) {
        self.bytes.extend(part.data);
        self.truncated |= part.truncated;
        self.secret |= part.secret;
    }

    /// Notes whether it was cut, where its bytes are not kept.
    pub(crate) fn end(&mut self, truncated: bool) {
        self.truncated |= truncated;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn truncated(&self) -> bool {
        self.truncated
    }
}

impl Serialize for FileView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(&self.bytes).ok();
        let encoded = text.is_none().then(|| BASE64_STANDARD.encode(&self.bytes));
        let mut file = serializer.serialize_map(None)?;
        file.serialize_entry("path", &self.path)?;
        file.serialize_entry("size_bytes", &self.bytes.len())?;
        file.serialize_entry("truncated", &self.truncated)?;
        file.serialize_entry("secret", &self.secret)?;
        // One of both, as the bytes are text or not.
        file.serialize_entry("content", &text)?;
        file.serialize_entry("content_base64", &encoded)?;
        file.end()
    }
}

impl Record for FileView {
    const NOUN: &'static str = "files";
    const COLUMNS: &'static [&'static str] = &[];
    const WIDE_COLUMNS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn is_whole(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::read::HostRow;
    use serde_json::json;

    fn row(data: &[u8]) -> serde_json::Value {
        let mut file = FileView::new("/proc/a");
        let (first, rest) = data.split_at(data.len() / 2);
        for data in [first, rest] {
            let data = data.to_vec();
            file.add(pb::ReadFileResponse { data, truncated: false, secret: true });
        }
        let row = HostRow { host: "web-1".to_owned(), result: Ok(vec![file]) };
        serde_json::to_value(row).expect("json")
    }

    #[test]
    fn text_is_text_and_other_bytes_are_base64() {
        let expected = json!({"host": "web-1", "path": "/proc/a", "size_bytes": 4,
            "truncated": false, "secret": true, "content": "a é", "content_base64": null});
        assert_eq!(row("a é".as_bytes()), expected);
        let binary = row(b"a\xff\x00b");
        assert_eq!(
            (&binary["content"], &binary["content_base64"]),
            (&json!(null), &json!("Yf8AYg=="))
        );
    }
}
