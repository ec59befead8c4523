//! Which versions go together: those of one major version whose minor versions are at most one apart.

/// Of the whole project.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why two programs, each with its name and version, are not made for each other, and what to do; `None`
/// when they are. Nothing is said of what does not look like a version.
pub fn version_skew(one: (&str, &str), other: (&str, &str)) -> Option<String> {
    let (first, second) = (major_minor(one.1)?, major_minor(other.1)?);
    if first.0 == second.0 && first.1.abs_diff(second.1) <= 1 {
        return None;
    }
    let (old, new) = if first < second { (one, other) } else { (other, one) };
    Some(format!(
        "{} {} and {} {} are more than one minor version apart and were not tried together; upgrade {}",
        old.0, old.1, new.0, new.1, old.0
    ))
}

fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_version_apart_is_near_enough() {
        let skew = |a, b| version_skew(("kctl-agent", a), ("kctl-controller", b));
        for (a, b) in
            [("0.1.0", "0.1.9"), ("0.1.0", "0.2.3"), ("1.4.0-rc1", "1.3.0"), ("", "0.1.0")]
        {
            assert_eq!(skew(a, b), None, "{a} {b}");
            assert_eq!(skew(b, a), None, "{b} {a}");
        }
        for (a, b) in [("0.1.0", "0.3.0"), ("1.9.0", "2.0.0")] {
            let said = skew(a, b).expect("too far");
            assert!(said.ends_with("upgrade kctl-agent"), "{said}");
            let said = skew(b, a).expect("too far");
            assert!(said.ends_with("upgrade kctl-controller"), "{said}");
        }
    }
}
