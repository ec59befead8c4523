//! Kernel modules: /proc/modules, as in proc_modules(5), and what sysfs adds (the kernel's
//! ABI/stable/sysfs-module).

use super::file::{attribute, names, word};
use crate::error::{Error, named};
use crate::proc::Taint;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Longer values are cut.
const LONGEST_VALUE: usize = 1 << 10;
/// More parameters of a module are left out.
const MOST_PARAMETERS: usize = 256;

/// One module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Module {
    /// With underscores, as the kernel writes it.
    pub name: String,
    /// Memory that it takes; 0 for one that is part of the kernel.
    pub size_bytes: u64,
    /// How many use it; `None` for one that is part of the kernel, or can't be removed.
    pub users: Option<u64>,
    /// Modules that use it.
    pub used_by: Vec<String>,
    /// `live`, `loading` or `unloading`.
    pub state: String,
    /// Why it taints the kernel.
    pub taints: Vec<Taint>,
    /// Its version; any bytes.
    pub version: Option<Vec<u8>>,
    /// Checksum of its source.
    pub srcversion: Option<String>,
    /// By name.
    pub parameters: Vec<Parameter>,
    /// Whether it is part of the kernel.
    pub built_in: bool,
}

/// One parameter of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Any bytes; `None` for one that is not to be read.
    pub value: Option<Vec<u8>>,
}

/// Which modules a listing is about, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleQuery {
    /// This module alone; empty for any.
    pub name: String,
    /// Also those that are part of the kernel and have parameters or a version.
    pub all: bool,
    /// Also the values of parameters that only root may read.
    pub secret: bool,
}

/// Lists the modules of the procfs and sysfs that are mounted there, by name. A kernel without modules
/// has none.
pub fn modules(proc: &Path, sys: &Path, query: &ModuleQuery) -> Result<Vec<Module>, Error> {
    let path = proc.join("modules");
    let table = match std::fs::read(&path) {
        Ok(table) => String::from_utf8_lossy(&table).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::io(named("file", path.display()), error)),
    };
    let loaded = table.lines().filter_map(line);
    let mut modules: BTreeMap<_, _> = loaded.map(|module| (module.name.clone(), module)).collect();
    let folder = sys.join("module");
    if query.all {
        for name in names(&folder) {
            // Modules on their way in or out have such a file too.
            if !modules.contains_key(&name) && !folder.join(&name).join("initstate").exists() {
                let state = "live".to_owned();
                let module = Module { name, state, built_in: true, ..Module::default() };
                modules.insert(module.name.clone(), module);
            }
        }
    }
    let mut modules: Vec<_> = modules
        .into_values()
        .filter(|module| query.name.is_empty() || module.name == underscored(&query.name))
        .collect();
    for module in &mut modules {
        complete(module, &folder.join(&module.name), query.secret);
    }
    Ok(modules)
}

/// As modprobe(8) does.
fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

/// `nf_nat 49152 2 nft_chain_nat,xt_nat, Live 0xffffffffc0a3e000 (OE)`
fn line(line: &str) -> Option<Module> {
    let mut words = line.split_whitespace();
    let name = words.next()?.to_owned();
    let size_bytes = words.next()?.parse().ok()?;
    let users = words.next()?.parse().ok();
    let used_by = words.next()?.split(',').filter(|name| !name.is_empty() && *name != "-");
    // What can't be removed is told in the same list.
    let used_by = used_by.filter(|name| !name.starts_with('[')).map(str::to_owned).collect();
    let state = words.next()?.to_lowercase();
    let letters = words.nth(1).unwrap_or_default().trim_matches(['(', ')']);
    // A plus or minus says that it is on its way in or out, as the state does.
    let taints = letters.chars().filter(char::is_ascii_uppercase).map(Taint::of_letter).collect();
    Some(Module { name, size_bytes, users, used_by, state, taints, ..Module::default() })
}

fn complete(module: &mut Module, folder: &Path, secret: bool) {
    module.version = attribute(folder, "version");
    module.srcversion = word(folder, "srcversion");
    let parameters = folder.join("parameters");
    let read = |name: String| {
        let value = value(&parameters.join(&name), secret);
        Parameter { name, value }
    };
    module.parameters = names(&parameters).into_iter().take(MOST_PARAMETERS).map(read).collect();
}

/// `None` for one that can't be read, or that only root may read and nobody asked for.
fn value(path: &Path, secret: bool) -> Option<Vec<u8>> {
    const READ_BY_ALL: u32 = 0o004;
    const READ_BY_OWNER: u32 = 0o400;
    let mode = std::fs::metadata(path).ok()?.mode();
    if mode & READ_BY_OWNER == 0 || (mode & READ_BY_ALL == 0 && !secret) {
        return None;
    }
    let mut value = std::fs::read(path).ok()?.trim_ascii_end().to_vec();
    value.truncate(LONGEST_VALUE);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    const TABLE: &str = "nf_nat 49152 2 nft_chain_nat,xt_nat, Live 0xffffffffc0a3e000\n\
        own 16384 0 - Live 0x0000000000000000 (OE)\n\
        stays 4096 1 [permanent], Live 0x0\n\
        going 8192 0 - Unloading 0x0 (PE-)\n\
        old 8192 - - Loading 0x0\n\
        nonsense\n";

    fn fixture(files: &[(&str, &str, u32)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (name, text, mode) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, Permissions::from_mode(*mode)).expect("a mode");
        }
        root
    }

    fn list(root: &Path, query: ModuleQuery) -> Vec<Module> {
        modules(&root.join("proc"), &root.join("sys"), &query).expect("modules")
    }

    fn names_of(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    #[test]
    fn a_table_of_modules_is_read_with_what_sysfs_adds() {
        let root = fixture(&[
            ("proc/modules", TABLE, 0o444),
            ("sys/module/own/version", "1.2\n", 0o444),
            ("sys/module/own/srcversion", "533BB7E5866E52F63B9ACCB\n", 0o444),
            ("sys/module/own/parameters/word", "a b\n", 0o644),
            ("sys/module/own/parameters/secret", "s3cret\n", 0o600),
            ("sys/module/own/parameters/trigger", "1\n", 0o200),
            ("sys/module/kernel_part/parameters/n", "7\n", 0o444),
            ("sys/module/coming/initstate", "coming\n", 0o444),
        ]);
        let all = list(root.path(), ModuleQuery::default());
        assert_eq!(names_of(&all), ["going", "nf_nat", "old", "own", "stays"]);
        let letters = |module: &Module| -> String {
            module.taints.iter().map(|taint| taint.letter).collect()
        };
        let told = |module: &Module| (module.users, module.state.clone(), letters(module));
        assert_eq!(told(&all[0]), (Some(0), "unloading".to_owned(), "PE".to_owned()));
        assert_eq!(told(&all[2]), (None, "loading".to_owned(), String::new()));
        assert_eq!((all[1].size_bytes, all[1].users), (49_152, Some(2)));
        assert_eq!(all[1].used_by, ["nft_chain_nat", "xt_nat"]);
        assert!(all[4].used_by.is_empty());
        let own = &all[3];
        assert_eq!((letters(own).as_str(), own.version.as_deref()), ("OE", Some(&b"1.2"[..])));
        assert_eq!(own.srcversion.as_deref(), Some("533BB7E5866E52F63B9ACCB"));
        let parameter = |name: &str, value: Option<&[u8]>| Parameter {
            name: name.to_owned(),
            value: value.map(<[u8]>::to_vec),
        };
        let word = parameter("word", Some(b"a b"));
        let trigger = parameter("trigger", None);
        let hidden = [parameter("secret", None), trigger.clone(), word.clone()];
        assert_eq!(own.parameters, hidden);

        let query = ModuleQuery { name: "own".to_owned(), secret: true, all: true };
        let own = list(root.path(), query);
        assert_eq!(own[0].parameters, [parameter("secret", Some(b"s3cret")), trigger, word]);
    }

    #[test]
    fn parts_of_the_kernel_are_shown_when_asked_for_and_a_kernel_may_have_no_modules() {
        let root = fixture(&[
            ("sys/module/kernel_part/parameters/n", "7\n", 0o444),
            ("sys/module/coming/initstate", "coming\n", 0o444),
        ]);
        assert!(list(root.path(), ModuleQuery::default()).is_empty());
        let query = ModuleQuery { name: "kernel-part".to_owned(), all: true, secret: false };
        let found = list(root.path(), query);
        assert_eq!(names_of(&found), ["kernel_part"]);
        assert!(found[0].built_in && found[0].users.is_none());
        assert_eq!(found[0].parameters[0].value.as_deref(), Some(&b"7"[..]));
    }

    #[test]
    fn long_values_are_cut() {
        let long = "x".repeat(3_000);
        let root = fixture(&[
            ("proc/modules", "own 1 0 - Live 0x0\n", 0o444),
            ("sys/module/own/parameters/word", &long, 0o444),
        ]);
        let all = list(root.path(), ModuleQuery::default());
        assert_eq!(all[0].parameters[0].value.as_ref().map(Vec::len), Some(LONGEST_VALUE));
    }
}
