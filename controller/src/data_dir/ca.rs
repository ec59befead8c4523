//! The files of the CA: one that is made here and its replacement, or one that somebody else keeps.

use super::{DataDir, read_if_there, write_private};
use crate::{
    config::CaFiles,
    pki::{Authority, Issued},
};
use anyhow::{Context as _, bail};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// Files of the CA, and of the one that is going to replace it.
const CURRENT: &str = "ca";
const NEXT: &str = "ca-next";

impl DataDir {
    /// The CA that signs, the given one or one that is made at the first start, and the one that it is
    /// replacing, if it is. Half a CA, one that can't be read, and another than before are errors: every
    /// host trusts the old one.
    pub(crate) fn authorities(
        &self,
        given: Option<&CaFiles>,
    ) -> anyhow::Result<(Authority, Option<Authority>)> {
        if let Some(given) = given {
            return Ok((self.given_authority(given)?, None));
        }
        self.mend_rotation()?;
        let current = self.authority()?;
        match self.read_ca(NEXT)? {
            (Some(certificate), Some(key)) => {
                let next = Authority::from_pem(&certificate, &key)
                    .with_context(|| format!("CA in {:?}", self.ca(NEXT).0))?;
                Ok((next, Some(current)))
            }
            // A key alone: the controller ended before its certificate was there.
            (None, _) => Ok((current, None)),
            (Some(_), None) => bail!("CA: {:?} is missing; put it back", self.ca(NEXT).1),
        }
    }

    fn authority(&self) -> anyhow::Result<Authority> {
        let (certificate, key) = self.ca(CURRENT);
        match self.read_ca(CURRENT)? {
            (Some(certificate_pem), Some(key_pem)) => {
                Authority::from_pem(&certificate_pem, &key_pem)
                    .with_context(|| format!("CA in {certificate:?} and {key:?}"))
            }
            (None, None) => {
                if self.store_path().try_exists()? {
                    bail!(
                        "CA: {certificate:?} and its key are missing, but there is a store; put \
                         them back, or use another --data-dir"
                    );
                }
                let Issued { certificate: certificate_pem, key: key_pem } = Authority::generate()?;
                self.write_ca(CURRENT, &certificate_pem, &key_pem)?;
                tracing::info!(path = %certificate.display(), "CA: made a new one");
                Ok(Authority::from_pem(&certificate_pem, &key_pem)?)
            }
            (None, Some(_)) => bail!("CA: {certificate:?} is missing; put it back"),
            (Some(_), None) => {
                bail!("CA: {key:?} is missing; put it back, or say with --ca-file where the CA is")
            }
        }
    }

    /// Keeps a new CA beside the one that it is going to replace.
    pub(crate) fn begin_rotation(&self, certificate: &str, key: &str) -> anyhow::Result<()> {
        self.write_ca(NEXT, certificate, key)
    }

    /// Puts the new CA in the place of the old one: first the key, then the certificate.
    pub(crate) fn finish_rotation(&self) -> anyhow::Result<()> {
        let ((certificate, key), (new_certificate, new_key)) = (self.ca(CURRENT), self.ca(NEXT));
        fs::rename(&new_key, &key).with_context(|| format!("{new_key:?}"))?;
        fs::rename(&new_certificate, &certificate)
            .with_context(|| format!("{new_certificate:?}"))?;
        File::open(&self.path).and_then(|folder| folder.sync_all()).context("data directory")
    }

    /// Goes on where a controller ended between the two files.
    fn mend_rotation(&self) -> anyhow::Result<()> {
        let (next, (_, key)) = (self.read_ca(NEXT)?, self.read_ca(CURRENT)?);
        if let (Some(certificate), None) = next
            && key.is_some_and(|key| Authority::from_pem(&certificate, &key).is_ok())
        {
            fs::rename(self.ca(NEXT).0, self.ca(CURRENT).0).context("CA")?;
        }
        Ok(())
    }

    /// Where certificate and key of a CA are.
    fn ca(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.path.join(format!("{name}.pem")), self.path.join(format!("{name}.key")))
    }

    fn read_ca(&self, name: &str) -> anyhow::Result<(Option<String>, Option<String>)> {
        let (certificate, key) = self.ca(name);
        Ok((read_if_there(&certificate)?, read_if_there(&key)?))
    }

    fn write_ca(&self, name: &str, certificate_pem: &str, key_pem: &str) -> anyhow::Result<()> {
        let (certificate, key) = self.ca(name);
        // The key first: without its certificate it is told apart from a whole CA.
        write_private(&key, key_pem)?;
        write_private(&certificate, certificate_pem)
    }

    /// A CA that somebody else keeps. Its certificate is remembered, its key is not.
    fn given_authority(&self, given: &CaFiles) -> anyhow::Result<Authority> {
        let known = &self.ca(CURRENT).0;
        let CaFiles { certificate, key } = given;
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("CA: {path:?}"));
        let authority = Authority::from_pem(&read(certificate)?, &read(key)?)
            .with_context(|| format!("CA in {certificate:?} and {key:?}"))?;
        match read_if_there(known)? {
            Some(pem) if Authority::sha256_of(&pem).ok() != Some(authority.sha256()) => bail!(
                "CA: {certificate:?} is another than {known:?}, which every host here trusts; give \
                 that one, or use another --data-dir"
            ),
            Some(_) => {}
            None => write_private(known, authority.pem())?,
        }
        Ok(authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_ca_survives_an_end_at_any_point() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let data = DataDir::open(folder.path()).expect("opens");
        let (old, none) = data.authorities(None).expect("CA");
        assert!(none.is_none());
        let hashes = || {
            let (signing, proving) = data.authorities(None).expect("CA");
            (signing.sha256(), proving.map(|it| it.sha256()))
        };
        let new = Authority::generate().expect("generates");
        let new_hash = Authority::from_pem(&new.certificate, &new.key).expect("reads").sha256();
        fs::write(folder.path().join("ca-next.key"), &new.key).expect("writes");
        assert_eq!(hashes(), (old.sha256(), None), "its certificate was not there yet");
        data.begin_rotation(&new.certificate, &new.key).expect("writes");
        assert_eq!(hashes(), (new_hash, Some(old.sha256())));
        fs::rename(folder.path().join("ca-next.key"), folder.path().join("ca.key")).expect("half");
        assert_eq!(hashes(), (new_hash, None));
        let again = Authority::generate().expect("generates");
        data.begin_rotation(&again.certificate, &again.key).expect("writes");
        data.finish_rotation().expect("renames");
        let (now, none) = data.authorities(None).expect("CA");
        assert!(none.is_none() && now.pem() == again.certificate);
    }

    #[test]
    fn a_given_ca_is_used_and_no_other_afterwards() {
        let folder = tempfile::tempdir().expect("temporary directory");
        let given = |name: &str| {
            let Issued { certificate, key } = Authority::generate().expect("generates");
            let at = |kind: &str| folder.path().join(format!("{name}.{kind}"));
            let files = CaFiles { certificate: at("crt"), key: at("key") };
            fs::write(&files.certificate, certificate).expect("writes");
            fs::write(&files.key, key).expect("writes");
            files
        };
        let (ours, other) = (given("ours"), given("other"));
        let data = DataDir::open(&folder.path().join("data")).expect("opens");
        let first = data.authorities(Some(&ours)).expect("reads").0.sha256();
        assert_eq!(data.authorities(Some(&ours)).expect("reads").0.sha256(), first);
        assert!(!folder.path().join("data/ca.key").exists(), "the key stays where it was");
        for refused in [data.authorities(Some(&other)), data.authorities(None)] {
            let error = format!("{:#}", refused.err().expect("hosts trust the first"));
            assert!(error.contains("ca.pem") || error.contains("--ca-file"), "{error}");
        }
        let mixed = CaFiles { key: other.key, ..ours };
        assert!(data.authorities(Some(&mixed)).is_err());
    }
}
