//! The standing join token: one that a file gives, so that hosts of an installation join without a human.
//! It is a token like others in the store, without an end and for any number of new hosts.

use crate::{
    status::Error,
    store::{Records, Store, TokenRecord, Write},
    token::Shown,
};
use anyhow::Context as _;
use kctl_blocklist::now_unix_ms;
use std::path::Path;

/// Who has made it, in lists of tokens.
const MAKER: &str = "file";
/// The end of the year 9999: no token without an end has to be written anywhere.
const NEVER_UNIX_MS: i64 = 253_402_300_799_000;
/// A secret that can't be guessed has so many characters of base64 at least: 128 bits.
const SHORTEST_SECRET: usize = 22;

/// Makes the store hold the file's token and no other one of a file. One that was revoked stays so.
pub(crate) async fn keep(store: &Store, file: Option<&Path>) -> anyhow::Result<()> {
    let shown = match file {
        None => None,
        Some(path) => {
            let context = || format!("join token file {path:?}");
            let text = std::fs::read_to_string(path).with_context(context)?;
            Some(read(&text).with_context(context)?)
        }
    };
    let settled = move |records: &Records| settle(records, shown.as_ref(), now_unix_ms());
    let kept = store.write(move |model| Ok(settled(&model.records))).await?;
    if kept.value == Kept::Revoked {
        tracing::warn!("join token file: this token was revoked; put another into the file");
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Works,
    Revoked,
}

fn read(text: &str) -> Result<Shown, Error> {
    let shown = Shown::parse(text)?;
    let secret = text.trim().split('.').nth(2).unwrap_or_default();
    if secret.len() < SHORTEST_SECRET {
        let message = format!("token: its secret must have at least {SHORTEST_SECRET} characters");
        return Err(Error::Invalid(message));
    }
    Ok(shown)
}

fn settle(records: &Records, shown: Option<&Shown>, now_unix_ms: i64) -> (Vec<Write>, Kept) {
    let tokens = &records.tokens;
    let is_other = |token: &&TokenRecord| {
        token.created_by == MAKER && shown.is_none_or(|shown| shown.id != token.id)
    };
    let mut writes: Vec<Write> = tokens
        .values()
        .filter(is_other)
        .map(|token| Write::ForgetToken(token.id.clone()))
        .collect();
    let Some(shown) = shown else { return (writes, Kept::Works) };
    match tokens.get(&shown.id) {
        Some(known) if known.secret_sha256 == shown.secret_sha256() => {
            let kept = if known.revoked { Kept::Revoked } else { Kept::Works };
            (writes, kept)
        }
        _ => {
            writes.push(Write::Token(TokenRecord {
                id: shown.id.clone(),
                secret_sha256: shown.secret_sha256(),
                expires_unix_ms: NEVER_UNIX_MS,
                uses: None,
                host: String::new(),
                revoked: false,
                created_by: MAKER.to_owned(),
                created_unix_ms: now_unix_ms,
            }));
            (writes, Kept::Works)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, path::PathBuf};
    use tempfile::TempDir;

    struct World {
        folder: TempDir,
        store: Store,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("temporary directory");
            let (store, _thread) = Store::open(&folder.path().join("store.db")).expect("opens");
            Self { folder, store }
        }

        fn text(id: &str, letter: &str) -> String {
            format!("kctl1.{id}.{}\n", letter.repeat(44))
        }

        fn file(&self, text: &str) -> PathBuf {
            let file = self.folder.path().join("token");
            fs::write(&file, text).expect("writes");
            file
        }

        async fn start_with(&self, text: &str) {
            keep(&self.store, Some(&self.file(text))).await.expect("keeps");
        }

        fn works(&self, text: &str) -> bool {
            let shown = Shown::parse(text).expect("valid");
            let records = self.store.records();
            let records = records.borrow();
            shown.check(records.tokens.get(&shown.id), "web-1", now_unix_ms()).is_ok()
        }
    }

    #[tokio::test]
    async fn the_token_of_the_file_works_and_that_of_before_does_not() {
        let world = World::new();
        let (old, new) = (World::text("aaaaaaaa", "a"), World::text("bbbbbbbb", "b"));
        world.start_with(&old).await;
        world.start_with(&old).await;
        assert!(world.works(&old));
        world.start_with(&new).await;
        assert!(!world.works(&old) && world.works(&new));
        // Another secret under the same id counts from now on.
        let changed = World::text("bbbbbbbb", "c");
        world.start_with(&changed).await;
        assert!(!world.works(&new) && world.works(&changed));
        keep(&world.store, None).await.expect("keeps");
        assert!(!world.works(&changed));
    }

    #[tokio::test]
    async fn a_revoked_one_stays_revoked() {
        let world = World::new();
        let text = World::text("aaaaaaaa", "a");
        world.start_with(&text).await;
        let token = world.store.records().borrow().tokens["aaaaaaaa"].clone();
        let revoked = Write::Token(TokenRecord { revoked: true, ..token });
        world.store.write(|_| Ok((vec![revoked], ()))).await.expect("writes");
        world.start_with(&text).await;
        assert!(!world.works(&text));
    }

    #[tokio::test]
    async fn guessable_malformed_and_missing_ones_stop_the_start() {
        let world = World::new();
        for bad in ["", "kctl1.a", "kctl1.a.c2hvcnQ", "kctl2.a.b.c"] {
            let error = keep(&world.store, Some(&world.file(bad))).await.expect_err(bad);
            assert!(format!("{error:#}").contains("join token file"), "{error:#}");
        }
        let missing = world.folder.path().join("missing");
        assert!(keep(&world.store, Some(&missing)).await.is_err());
    }
}
