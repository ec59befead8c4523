//! Expressions of the Common Expression Language over the JSON form of an event.
//!
//! The `cel` crate reads them. They are checked against the fields of events and evaluated here, because
//! every event passes by: a pattern is compiled once, and only what an expression names is looked at.
//! What an event has not, a field that is null too, makes a condition neither true nor false; only what
//! is true matches.

mod check;
mod node;

use crate::{Kind, Kinds};
use cel::{Env, ParseErrors};
use kctl_proto::agent::v1::{Event, Origin};
use node::{Node, Scope, Term};
use std::sync::Arc;

/// The longest expression, bytes.
const MAX_BYTES: usize = 4_096;
/// How deep the parts of an expression may be in each other.
const MAX_DEPTH: u16 = 48;

/// An expression that is either true of an event or not.
#[derive(Debug, Clone)]
pub(crate) struct Expression(Arc<Node>);

impl Expression {
    /// Reads an expression that events of these kinds will meet. The error says where and why.
    pub(crate) fn new(text: &str, kinds: Kinds) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("is {} bytes long; at most {MAX_BYTES} are read", text.len()));
        }
        let parser = Env::default().parser().enable_optional_syntax(false);
        let (tree, source) = parser
            .max_recursion_depth(MAX_DEPTH)
            .parse_with_source_info(text)
            .map_err(|errors| syntax(&errors))?;
        let check = check::Check::new(text, &source, kinds);
        check.condition(&tree).map(|node| Self(Arc::new(node)))
    }

    /// Whether it is true of an event.
    pub(crate) fn is_true(&self, origin: &Origin, event: &Event, kind: Kind) -> bool {
        let scope = Scope::new(origin, event, kind);
        matches!(self.0.evaluate(&scope, None), Some(Term::Bool(true)))
    }
}

/// The first error, without the grammar's own words.
fn syntax(errors: &ParseErrors) -> String {
    let first = errors.errors.iter().find(|error| error.msg.starts_with("Syntax error: "));
    let Some(error) = first.or(errors.errors.first()) else {
        return "can't be read".to_owned();
    };
    let why = error.msg.strip_prefix("Syntax error: ").unwrap_or(&error.msg);
    let quoted = || {
        let (_, rest) = why.split_once('\'')?;
        let (token, _) = rest.split_once("' expecting").or(rest.rsplit_once('\''))?;
        Some(token)
    };
    let why = match quoted() {
        Some("<EOF>") => "something is missing at the end".to_owned(),
        Some(token) if why.starts_with("token recognition") && token.starts_with(['"', '\'']) => {
            "this text has no end, or an escape that there is not".to_owned()
        }
        Some("= ") => "unexpected \"=\"; equality is \"==\"".to_owned(),
        Some(token) => format!("unexpected {token:?}"),
        None => why.to_owned(),
    };
    place(error.pos.0.max(1), error.pos.1.max(1), &why)
}

/// `line 1, column 6: why`
fn place(line: isize, column: isize, why: &str) -> String {
    format!("line {line}, column {column}: {why}")
}
