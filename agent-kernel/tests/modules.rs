//! Modules against what sysfs tells of each, read by the test itself. A kernel may have none: then only
//! what is part of it is looked at.

use agent_kernel::sys::{Module, ModuleQuery, modules};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

const SYS: &str = "/sys/module";

fn list(query: &ModuleQuery) -> BTreeMap<String, Module> {
    let found = modules(Path::new("/proc"), Path::new("/sys"), query).expect("a listing");
    found.into_iter().map(|module| (module.name.clone(), module)).collect()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

/// An attribute without its newline; empty where there is none.
fn attribute(module: &str, name: &str) -> String {
    let text = fs::read_to_string(Path::new(SYS).join(module).join(name)).unwrap_or_default();
    text.trim().to_owned()
}

#[test]
fn loaded_modules_are_as_sysfs_tells() {
    let ours = list(&ModuleQuery::default());
    let folders = names(Path::new(SYS));
    let is_loaded = |name: &&String| Path::new(SYS).join(name).join("initstate").exists();
    assert!(ours.keys().eq(folders.iter().filter(is_loaded)), "{ours:?}");
    for (name, module) in &ours {
        assert!(!module.built_in);
        assert_eq!(module.size_bytes.to_string(), attribute(name, "coresize"), "{module:?}");
        let users = module.users.map(|users| users.to_string()).unwrap_or_default();
        assert_eq!(users, attribute(name, "refcnt"), "{module:?}");
        assert_eq!(module.state, attribute(name, "initstate"));
        let letters: String = module.taints.iter().map(|taint| taint.letter).collect();
        assert_eq!(letters, attribute(name, "taint"));
        let holders = names(&Path::new(SYS).join(name).join("holders"));
        assert_eq!(module.used_by.iter().cloned().collect::<BTreeSet<_>>(), holders);
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).expect("text");
        let version = module.version.as_ref().map(text).unwrap_or_default();
        assert_eq!(version, attribute(name, "version"));
        assert_eq!(module.srcversion.clone().unwrap_or_default(), attribute(name, "srcversion"));
    }
}

#[test]
fn parameters_are_as_sysfs_tells_and_kept_from_those_who_may_not_read_them() {
    let everything = ModuleQuery { all: true, secret: true, ..ModuleQuery::default() };
    let all = list(&everything);
    let public = list(&ModuleQuery { secret: false, ..everything });
    assert!(all.keys().eq(&names(Path::new(SYS))), "{:?}", all.keys());
    let mut seen = 0;
    for (name, module) in &all {
        let folder = Path::new(SYS).join(name).join("parameters");
        let told: BTreeSet<_> = module.parameters.iter().map(|it| it.name.clone()).collect();
        assert_eq!(told, names(&folder));
        for (parameter, shown) in module.parameters.iter().zip(&public[name].parameters) {
            let path = folder.join(&parameter.name);
            let mode = fs::metadata(&path).expect("its mode").mode();
            // Some drivers answer with an error, as when a device is missing.
            let read = if mode & 0o400 == 0 { None } else { fs::read(&path).ok() };
            let value = read.as_ref().map(|value| value.trim_ascii_end());
            assert_eq!(parameter.value.as_deref(), value, "{name} {parameter:?}");
            let for_all = value.filter(|_| mode & 0o004 != 0);
            assert_eq!(shown.value.as_deref(), for_all, "{name} {parameter:?} {mode:o}");
            seen += usize::from(value.is_some());
        }
    }
    assert!(seen > 10, "every kernel has parameters: {seen}");
}
