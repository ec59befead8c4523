//! Prefixes from arguments and files, refused as a whole when one is bad.

use super::input;
use crate::{
    exit::usage,
    output::{count, plain},
};
use kctl_blocklist::parse_prefix;

/// How many bad lines an error names.
const NAMED: usize = 20;

/// Canonical prefixes of the arguments and of `file` (`-` is standard input).
pub(crate) async fn read(arguments: &[String], file: Option<&str>) -> anyhow::Result<Vec<String>> {
    let mut bad = Vec::new();
    let mut prefixes = Vec::with_capacity(arguments.len());
    for text in arguments {
        match parse_prefix(text) {
            Ok(prefix) => prefixes.push(prefix.to_string()),
            Err(error) => bad.push(error.to_string()),
        }
    }
    if let [error] = bad.as_slice() {
        return Err(usage(error.clone()));
    } else if !bad.is_empty() {
        return Err(usage(refusal(&count(bad.len(), "bad prefix"), &bad, bad.len())));
    }
    if let Some(file) = file {
        let bytes = input::read(file).await?;
        prefixes.extend(parse_lines(input::name(file), &bytes)?);
    }
    if prefixes.is_empty() {
        let place = file.map_or_else(String::new, |file| format!("{}: ", input::name(file)));
        return Err(usage(format!("{place}no prefixes; give at least one")));
    }
    Ok(prefixes)
}

/// One prefix a line; `#` begins a comment; blank lines are fine.
fn parse_lines(name: &str, bytes: &[u8]) -> anyhow::Result<Vec<String>> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut prefixes = Vec::new();
    let mut bad = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match parse_prefix(line) {
            Ok(prefix) => prefixes.push(prefix.to_string()),
            Err(error) => bad.push(format!("line {}: {error}", index + 1)),
        }
    }
    if bad.is_empty() {
        return Ok(prefixes);
    }
    Err(usage(refusal(&format!("{name}: {}", count(bad.len(), "bad line")), &bad, bad.len())))
}

/// Names the first of `total` things that are bad.
pub(super) fn refusal(what: &str, bad: &[String], total: usize) -> String {
    let mut text = format!("{what}, nothing was changed");
    for error in bad.iter().take(NAMED) {
        let mut error = plain(error).into_owned();
        // A binary file has lines of any length.
        if let Some((end, _)) = error.char_indices().nth(200) {
            error.truncate(end);
            error.push('…');
        }
        text = format!("{text}\n  {error}");
    }
    if total > NAMED {
        text = format!("{text}\n  and {} more", total - NAMED);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_comments_blanks_and_any_line_end() {
        let bytes = b"\xef\xbb\xbf# feed\r\n10.0.0.5\r\n\n  10.0.0.7/24  # scanner\n2001:DB8::1";
        let prefixes = parse_lines("f", bytes).expect("valid");
        assert_eq!(prefixes, ["10.0.0.5/32", "10.0.0.0/24", "2001:db8::1/128"]);
    }

    #[test]
    fn bad_lines_are_numbered_and_counted() {
        let error = parse_lines("f.txt", b"10.0.0.5\nnot-an-ip\n#\n10.0.0.5/33\n\xff\xfe")
            .expect_err("bad")
            .to_string();
        assert!(error.starts_with("f.txt: 3 bad lines, nothing was changed\n"), "{error}");
        assert!(error.contains("line 2: \"not-an-ip\""), "{error}");
        assert!(error.contains("line 4: \"10.0.0.5/33\""), "{error}");
        let many = "x\n".repeat(25);
        let error = parse_lines("f", many.as_bytes()).expect_err("bad").to_string();
        assert_eq!(error.lines().count(), 22);
        assert!(error.ends_with("and 5 more"), "{error}");
    }

    #[tokio::test]
    async fn every_bad_argument_is_named() {
        let arguments = ["x", "10.0.0.1", "10.0.0.5/33"].map(str::to_owned);
        let error = read(&arguments, None).await.expect_err("bad").to_string();
        assert!(error.contains("\"x\"") && error.contains("\"10.0.0.5/33\""), "{error}");
        assert!(read(&[], None).await.expect_err("none").to_string().contains("no prefixes"));
    }
}
