//! Expressions of the Common Expression Language over the JSON form of an event.
//!
//! The `cel` crate reads them. They are checked against the fields of events and evaluated here, because
//! every event passes by: a pattern is compiled once, and only what an expression names is looked at.
//! What an event has not, a field that is null too, makes a condition neither true nor false; only what
//! is true matches.

mod call;
mod check;
mod node;

use crate::{Kind, Kinds};
use cel::{Env, ParseErrors};
use check::Check;
use kctl_proto::agent::v1::{Event, Origin};
use node::{Node, Scope, Term};
use std::sync::Arc;

/// The longest expression, bytes.
const MAX_BYTES: usize = 4_096;
/// How deep the parts of an expression may be in each other.
const MAX_DEPTH: u16 = 48;
/// How many operators and fields there may be: each of a row of them is a call deeper.
const MAX_OPERATORS: usize = 128;
/// Of the thread that reads an expression: a bracket takes the parser up to 60 KiB without optimization.
const STACK_BYTES: usize = 16 << 20;

/// An expression that is either true of an event or not.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    node: Arc<Node>,
    /// It asks for the arguments of processes.
    pub(crate) arguments: bool,
}

impl Expression {
    /// Reads an expression that events of these kinds will meet. The error says where and why.
    pub(crate) fn new(text: &str, kinds: Kinds) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("is {} bytes long; at most {MAX_BYTES} are read", text.len()));
        }
        let operators = operators(text);
        if operators > MAX_OPERATORS {
            return Err(format!(
                "has {operators} operators and fields; at most {MAX_OPERATORS} are read"
            ));
        }
        std::thread::scope(|scope| {
            let reader = std::thread::Builder::new().stack_size(STACK_BYTES);
            let reader = reader.spawn_scoped(scope, || read(text, kinds));
            let reader = reader.map_err(|why| format!("can't be read: {why}"))?;
            reader.join().map_err(|_| "can't be read: the parser failed".to_owned())?
        })
    }

    /// Whether it is true of an event.
    pub(crate) fn is_true(&self, origin: &Origin, event: &Event, kind: Kind) -> bool {
        let scope = Scope::new(origin, event, kind);
        matches!(self.node.evaluate(&scope, None), Some(Term::Bool(true)))
    }
}

fn read(text: &str, kinds: Kinds) -> Result<Expression, String> {
    let parser = Env::default().parser().enable_optional_syntax(false);
    let parser = parser.max_recursion_depth(MAX_DEPTH);
    let (tree, source) = parser.parse_with_source_info(text).map_err(|errors| syntax(&errors))?;
    let check = Check::new(text, &source, kinds);
    let node = check.condition(&tree)?;
    Ok(Expression { node: Arc::new(node), arguments: check.asks_for_arguments() })
}

/// How many operators and fields are in it at most. Text in quotes counts too, as what is text and what
/// is not is only known to the parser, but an address or a number does not.
fn operators(text: &str) -> usize {
    let is_word = |it: Option<char>| it.is_some_and(|it| it.is_alphanumeric() || it == '_');
    let mut count = 0;
    let mut rest = text.chars();
    let mut before = None;
    while let Some(character) = rest.next() {
        let after = rest.as_str();
        count += usize::from(match character {
            '.' => !after.trim_start().starts_with(|it: char| it.is_ascii_digit()),
            'i' if after.starts_with('n') => !is_word(before) && !is_word(after.chars().nth(1)),
            '+' | '-' | '*' | '/' | '%' | '!' | '?' | '(' | '[' | '{' | '<' | '>' => true,
            '=' | '&' | '|' => before == Some(character) || !after.starts_with(character),
            _ => false,
        });
        before = Some(character);
    }
    count
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
        _ if why.contains("Recursion limit") => format!("nested deeper than {MAX_DEPTH}"),
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
