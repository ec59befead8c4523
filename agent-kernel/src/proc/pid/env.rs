//! `/proc/PID/environ`, as in proc_pid_environ(5).

use super::Handle;
use crate::error::{Error, ErrorKind};
use std::path::Path;

/// No more is read; a process may have up to a quarter of its stack limit.
const LONGEST: usize = 1 << 20;

/// What a process was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// In order, with repeats.
    pub variables: Vec<Variable>,
    /// Whether it is longer than 1 MiB; the last variable may be cut.
    pub truncated: bool,
}

/// One string of an environment: any bytes but NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Before the first `=`.
    pub name: Vec<u8>,
    /// Behind it; `None` where there is none.
    pub value: Option<Vec<u8>>,
}

/// Reads it; empty for kernel threads and zombies.
pub fn environment(root: &Path, pid: u32) -> Result<Environment, Error> {
    let handle = Handle::open(root, pid)?;
    let (text, truncated) = match handle.read("environ", LONGEST) {
        Err(error) if error.kind() == ErrorKind::NotFound && handle.has_no_memory() => {
            (Vec::new(), false)
        }
        read => read?,
    };
    Ok(Environment { variables: parse(&text), truncated })
}

fn parse(text: &[u8]) -> Vec<Variable> {
    // One that wrote its title over it leaves NULs behind.
    let variables = text.split(|&byte| byte == 0).filter(|variable| !variable.is_empty());
    let variable = |text: &[u8]| match text.iter().position(|&byte| byte == b'=') {
        None => Variable { name: text.to_vec(), value: None },
        Some(at) => Variable { name: text[..at].to_vec(), value: Some(text[at + 1..].to_vec()) },
    };
    variables.map(variable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &[u8], value: Option<&[u8]>) -> Variable {
        Variable { name: name.to_vec(), value: value.map(<[u8]>::to_vec) }
    }

    #[test]
    fn variables_are_any_bytes() {
        let text = b"A=b=c\0B=\0odd\0=x\0N=\xff\nl\0\0\0";
        let root = super::super::tests::fixture(&[("environ", text)]);
        let environment = environment(root.path(), 7).expect("variables");
        let expected = [
            variable(b"A", Some(b"b=c")),
            variable(b"B", Some(b"")),
            variable(b"odd", None),
            variable(b"", Some(b"x")),
            variable(b"N", Some(b"\xff\nl")),
        ];
        assert_eq!(environment.variables, expected);
        assert!(!environment.truncated);
    }

    #[test]
    fn a_huge_environment_is_cut_and_says_so() {
        let text = [b"A=".to_vec(), vec![b'x'; LONGEST]].concat();
        let root = super::super::tests::fixture(&[("environ", &text)]);
        let environment = environment(root.path(), 7).expect("variables");
        assert!(environment.truncated);
        let value = environment.variables[0].value.as_ref().map(Vec::len);
        assert_eq!(value, Some(LONGEST - 2));
    }
}
