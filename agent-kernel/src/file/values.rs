//! Short files as values, by path or by pattern.

use super::path::{Place, Roots, invalid};
use super::policy::{Holds, readable};
use super::read::open;
use crate::error::{Error, ErrorKind};
use glob::Pattern;

/// The longest value, bytes: nothing that can be set is longer.
pub const LONGEST_VALUE: usize = 64 << 10;
/// How many files a pattern may match.
const MOST: usize = 20_000;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Without the line feed at its end.
    pub value: Vec<u8>,
    /// What it holds that is not for everybody.
    pub holds: Holds,
}

/// Reads one.
pub fn value(roots: &Roots, path: &str) -> Result<Value, Error> {
    let file = open(roots, path)?;
    let holds = file.holds();
    let too_long = || Error::new(ErrorKind::Full, super::path::object(path), TOO_LONG);
    let mut value = file.whole(LONGEST_VALUE)?.ok_or_else(too_long)?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    Ok(Value { value, holds })
}

const TOO_LONG: &str = "it is longer than 64 KiB; read it with kctl cat";

/// The files that a pattern of glob(7) matches, name by name, in order. One that ends at a folder means
/// the files in it; below /proc/sys also those in the folders of it. NotFound: none at all.
pub fn matching(roots: &Roots, pattern: &str) -> Result<Vec<String>, Error> {
    let mut found = Found { roots, files: Vec::new() };
    // What is asked for by name must be there, and an error says what is wrong with it.
    if !pattern.contains(['*', '?', '[']) {
        let place = readable(roots, pattern)?;
        match place.is_folder() {
            true => found.folder(&place)?,
            false => found.add(pattern.to_owned())?,
        }
        return Ok(found.files);
    }
    let mut names = pattern.split('/').filter(|name| !name.is_empty()).map(str::to_owned);
    let tree = names.next().unwrap_or_default();
    if !pattern.starts_with('/') || !["proc", "sys"].contains(&tree.as_str()) {
        return Err(invalid(pattern, "must begin with /proc/ or /sys/"));
    }
    let names: Vec<String> = names.collect();
    found.below(&format!("/{tree}"), &names).map_err(|error| match error.kind() {
        ErrorKind::Invalid => invalid(pattern, error.why()),
        _ => error,
    })?;
    if found.files.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            super::path::object(pattern),
            "matches nothing",
        ));
    }
    Ok(found.files)
}

struct Found<'a> {
    roots: &'a Roots,
    files: Vec<String>,
}

impl Found<'_> {
    fn add(&mut self, path: String) -> Result<(), Error> {
        if self.files.len() == MOST {
            let why = format!("matches more than {MOST} files; ask for fewer");
            return Err(Error::new(ErrorKind::Full, super::path::object(&path), why));
        }
        self.files.push(path);
        Ok(())
    }

    /// What the names match below a folder.
    fn below(&mut self, folder: &str, names: &[String]) -> Result<(), Error> {
        let Some((name, rest)) = names.split_first() else { return self.end(folder) };
        if name == ".." || name == "." {
            return Err(invalid(folder, "\".\" and \"..\" are refused; name the file itself"));
        }
        if !name.contains(['*', '?', '[']) {
            return self.below(&format!("{folder}/{name}"), rest);
        }
        let name = Pattern::new(name).map_err(|error| invalid(name, error.msg))?;
        let place = match Place::find(self.roots, folder) {
            Ok(place) if place.is_folder() => place,
            Err(error) if error.kind() == ErrorKind::Invalid => return Err(error),
            // It ended meanwhile, or it is not where another pattern's match has one.
            _ => return Ok(()),
        };
        for entry in place.names()?.iter().filter(|entry| name.matches(entry)) {
            self.below(&format!("{folder}/{entry}"), rest)?;
        }
        Ok(())
    }

    /// A path that the whole pattern matches.
    fn end(&mut self, path: &str) -> Result<(), Error> {
        match Place::find(self.roots, path) {
            Ok(place) if place.is_folder() => self.folder(&place),
            Ok(_) => self.add(path.to_owned()),
            // Links to elsewhere are none of ours, and what ended is not there.
            Err(_) => Ok(()),
        }
    }

    fn folder(&mut self, folder: &Place) -> Result<(), Error> {
        let deep = folder.resolved == "/proc/sys" || folder.resolved.starts_with("/proc/sys/");
        for name in folder.names()? {
            let path = format!("{}/{name}", folder.asked.trim_end_matches('/'));
            match Place::find(self.roots, &path) {
                Ok(place) if place.is_folder() && deep => self.folder(&place)?,
                Ok(place) if !place.is_folder() => self.add(path)?,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots() -> Roots {
        Roots { proc: "/proc".into(), sys: "/sys".into() }
    }

    #[test]
    fn a_value_has_no_line_feed_at_its_end() {
        let ostype = value(&roots(), "/proc/sys/kernel/ostype").expect("a value");
        assert_eq!((ostype.value.as_slice(), ostype.holds), (&b"Linux"[..], Holds::Nothing));
    }

    #[test]
    fn patterns_match_name_by_name_and_folders_mean_their_files() {
        let found = |pattern: &str| matching(&roots(), pattern).expect(pattern);
        assert_eq!(found("/proc/sys/kernel/ostype"), ["/proc/sys/kernel/ostype"]);
        let pattern = "/proc/sys/kernel/os*";
        assert_eq!(found(pattern), ["/proc/sys/kernel/osrelease", "/proc/sys/kernel/ostype"]);
        let all = found("/proc/sys/net/ipv4/conf/*/rp_filter");
        assert!(all.contains(&"/proc/sys/net/ipv4/conf/lo/rp_filter".to_owned()), "{all:?}");
        let deep = found("/proc/sys/net");
        assert!(deep.contains(&"/proc/sys/net/ipv4/conf/lo/rp_filter".to_owned()));
        // Links of sysfs lead to other places below /sys.
        let mtu = found("/sys/class/net/*/mtu");
        assert!(mtu.contains(&"/sys/class/net/lo/mtu".to_owned()), "{mtu:?}");
        assert!(found("/sys/class/net/lo").contains(&"/sys/class/net/lo/mtu".to_owned()));
        for (pattern, kind) in [
            ("/proc/sys/kernel/zz*", ErrorKind::NotFound),
            ("/proc/sys/none", ErrorKind::NotFound),
            ("/etc/*", ErrorKind::Invalid),
            ("/proc/*/../1", ErrorKind::Invalid),
            ("/proc/sys/[", ErrorKind::Invalid),
            ("/proc/self/cwd/*", ErrorKind::Invalid),
        ] {
            let error = matching(&roots(), pattern).expect_err(pattern);
            assert_eq!(error.kind(), kind, "{pattern}: {error}");
        }
    }
}
