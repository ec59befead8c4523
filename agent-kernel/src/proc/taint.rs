//! What taints a kernel, as in the kernel's admin-guide/tainted-kernels.rst.

use super::file::text;
use std::path::Path;

/// Letter and meaning of each bit.
const TAINTS: [(char, &str); 20] = [
    ('P', "proprietary module"),
    ('F', "module loaded by force"),
    ('S', "hardware out of specification"),
    ('R', "module removed by force"),
    ('M', "machine check exception"),
    ('B', "bad page"),
    ('U', "asked for by user space"),
    ('D', "kernel died: oops or bug"),
    ('A', "ACPI table overridden"),
    ('W', "kernel warning"),
    ('C', "staging driver"),
    ('I', "workaround for a firmware bug"),
    ('O', "out-of-tree module"),
    ('E', "unsigned module"),
    ('L', "soft lockup"),
    ('K', "live patch"),
    ('X', "auxiliary, of the distribution"),
    ('T', "randomized structures"),
    ('N', "in-kernel test"),
    ('J', "fwctl debug operation"),
];

/// One reason why the kernel, or a module, is tainted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taint {
    /// As in the kernel's messages; `?` for one that this version does not know.
    pub letter: char,
    /// What it stands for.
    pub meaning: &'static str,
}

impl Taint {
    /// From a letter of /proc/modules.
    pub(crate) fn of_letter(letter: char) -> Self {
        let known = TAINTS.iter().find(|(known, _)| *known == letter);
        Self { letter, meaning: known.map_or("unknown", |(_, meaning)| meaning) }
    }
}

/// What taints the kernel, from `sys/kernel/tainted`; `None` where the kernel does not tell.
pub(super) fn taints(root: &Path) -> Option<Vec<Taint>> {
    let bits: u64 = text(root, "sys/kernel/tainted").ok()?.trim().parse().ok()?;
    let is_set = |bit: &usize| bits & (1 << bit) != 0;
    let taint = |bit: usize| match TAINTS.get(bit) {
        Some(&(letter, meaning)) => Taint { letter, meaning },
        None => Taint { letter: '?', meaning: "unknown" },
    };
    Some((0..64).filter(is_set).map(taint).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_has_its_letter() {
        let root = tempfile::tempdir().expect("a folder");
        let tainted = |bits: u64| {
            std::fs::create_dir_all(root.path().join("sys/kernel")).expect("a folder");
            std::fs::write(root.path().join("sys/kernel/tainted"), format!("{bits}\n"))
                .expect("written");
            let taints = taints(root.path()).expect("told");
            taints.iter().map(|taint| taint.letter).collect::<String>()
        };
        assert_eq!(taints(root.path()), None);
        assert_eq!(tainted(0), "");
        assert_eq!(tainted(1 | 1 << 9 | 1 << 12 | 1 << 13), "PWOE");
        assert_eq!(tainted((1 << 20) - 1), "PFSRMBUDAWCIOELKXTNJ");
        assert_eq!(tainted(1 << 40), "?");
        assert_eq!(Taint::of_letter('E').meaning, "unsigned module");
        assert_eq!(Taint::of_letter('Z').meaning, "unknown");
    }
}
