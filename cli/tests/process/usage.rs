//! kctl as a process where no controller is spoken to: usage, files, configuration.

use crate::fixture::{Pki, kctl, write_private};
use std::path::Path;

fn nowhere() -> &'static Path {
    Path::new("/nonexistent/kctl/config.toml")
}

#[tokio::test]
async fn wrong_usage_exits_2_and_prints_nothing_on_stdout() {
    for line in [
        "",
        "block",
        "block not-an-ip --all-hosts",
        "block 10.0.0.5/33 --all-hosts",
        "block 10.0.0.5 --all-hosts --host a",
        "block 10.0.0.5 --all-hosts --ttl 0",
        "block 10.0.0.5 --all-hosts --port 70000",
        "--agent /run/a.sock hosts",
        "--agent unix:///a block 10.0.0.5 --all-hosts",
        "--agent unix:///a token list",
        "--agent unix:///a blocklist recover --from-host a",
        "hosts -o csv",
    ] {
        let ran = kctl(nowhere(), line, "").await;
        assert_eq!(ran.code, 2, "{line}: {ran:?}");
        assert_eq!(ran.stdout, "", "{line}");
        assert!(!ran.stderr.is_empty(), "{line}");
    }
}

#[tokio::test]
async fn a_bad_file_is_refused_whole_with_line_numbers() {
    let folder = tempfile::tempdir().expect("temp dir");
    let file = folder.path().join("feed.txt");
    std::fs::write(&file, "10.0.0.1\n# comment\nnot-an-ip\n\n10.0.0.5/33\n").expect("file");
    let line = format!("block --all-hosts --file {}", file.display());
    let ran = kctl(nowhere(), &line, "").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("2 bad lines, nothing was changed"), "{ran:?}");
    assert!(ran.stderr.contains("line 3: \"not-an-ip\""), "{ran:?}");
    assert!(ran.stderr.contains("line 5: \"10.0.0.5/33\""), "{ran:?}");

    std::fs::write(&file, "# nothing\n\n").expect("file");
    let ran = kctl(nowhere(), &line, "").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("no prefixes"), "{ran:?}");

    let ran = kctl(nowhere(), "block --all-hosts --file -", "x\n").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("standard input: 1 bad line"), "{ran:?}");

    let ran = kctl(nowhere(), "block --all-hosts --file /nonexistent/feed", "").await;
    assert_eq!(ran.code, 1, "{ran:?}");
}

#[tokio::test]
async fn without_a_configuration_the_error_says_how_to_get_one() {
    let ran = kctl(nowhere(), "hosts", "").await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("admin.toml"), "{ran:?}");
    let ran = kctl(nowhere(), "version -o json", "").await;
    assert_eq!(ran.code, 0);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("json");
    assert!(json["server"].is_null() && json["client"]["version"].is_string());
}

#[tokio::test]
async fn a_strict_configuration_names_the_unknown_key() {
    let folder = tempfile::tempdir().expect("temp dir");
    let config = folder.path().join("config.toml");
    write_private(&config, "current = \"a\"\ncolour = true\n");
    let ran = kctl(&config, "hosts", "").await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("colour") && ran.stderr.contains("line 2"), "{ran:?}");
}

#[tokio::test]
async fn contexts_are_imported_used_and_removed() {
    let folder = tempfile::tempdir().expect("temp dir");
    let config = folder.path().join("new/config.toml");
    let admin = folder.path().join("admin.toml");
    write_private(&admin, &Pki::new().context("10.0.0.1:7443", "kctl://user/admin"));
    let import = format!("context import {}", admin.display());
    assert_eq!(kctl(&config, &import, "").await.code, 0);
    assert_eq!(kctl(&config, &format!("{import} --name lab"), "").await.code, 0);
    let ran = kctl(&config, "context list -o json", "").await;
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).expect("json");
    assert_eq!(json[0]["name"], "default");
    assert_eq!((&json[0]["current"], &json[1]["current"]), (&true.into(), &false.into()));
    assert_eq!(json[1]["user"], "kctl://user/admin");
    assert!(!ran.stdout.contains("PRIVATE"));
    assert_eq!(kctl(&config, "context use lab", "").await.code, 0);
    assert!(kctl(&config, "context show", "").await.stdout.contains("lab"));
    assert_eq!(kctl(&config, "context use nope", "").await.code, 1);
    assert_eq!(kctl(&config, "context remove lab", "").await.code, 0);
    let ran = kctl(&config, "hosts", "").await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("context use"), "{ran:?}");
}
