//! A checked expression, and its evaluation on one event.

use crate::{
    Kind,
    view::{self, PayloadView},
};
use kctl_proto::agent::v1::{Event, Origin};
use regex::Regex;
use serde_json::{Map, Value};
use std::{borrow::Cow, cell::OnceCell, cmp::Ordering};

/// What every event has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    Time,
    Host,
    BootId,
    Seq,
    Late,
    ClockOff,
    Type,
}

/// Compares two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextTest {
    StartsWith,
    EndsWith,
    Contains,
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
}

/// A part of an expression.
#[derive(Debug)]
pub(super) enum Node {
    Literal(Literal),
    Literals(Vec<Literal>),
    Header(Header),
    Payload(Kind),
    /// The element that `exists` or `all` looks at.
    Element,
    Field(Box<Node>, String),
    Item(Box<Node>, Box<Node>),
    Has(Box<Node>),
    Not(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    If(Box<[Node; 3]>),
    Compare(Comparison, Box<[Node; 2]>),
    Calculate(Arithmetic, Box<[Node; 2]>),
    Negate(Box<Node>),
    In(Box<[Node; 2]>),
    Test(TextTest, Box<[Node; 2]>),
    Matches(Box<Node>, Regex),
    Size(Box<Node>),
    /// `all`, else `exists`.
    Each {
        all: bool,
        list: Box<Node>,
        condition: Box<Node>,
    },
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Term<'a> {
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Cow<'a, str>),
    List(&'a [Value]),
    Literals(&'a [Literal]),
    Object(&'a Map<String, Value>),
}

/// What an expression looks at.
pub(super) struct Scope<'a> {
    origin: &'a Origin,
    event: &'a Event,
    kind: Kind,
    /// Made when it is first asked for.
    payload: OnceCell<Value>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(origin: &'a Origin, event: &'a Event, kind: Kind) -> Self {
        Self { origin, event, kind, payload: OnceCell::new() }
    }

    fn header(&self, header: Header) -> Term<'_> {
        match header {
            Header::Time => Term::Text(view::time(self.event.time_unix_ns).into()),
            Header::Host => Term::Text(Cow::Borrowed(&self.origin.host)),
            Header::BootId => Term::Text(Cow::Borrowed(&self.origin.boot_id)),
            Header::Seq => Term::Int(self.event.seq.into()),
            Header::Late => Term::Bool(self.event.late),
            Header::ClockOff => Term::Bool(self.event.clock_off),
            Header::Type => Term::Text(Cow::Borrowed(self.kind.name())),
        }
    }

    fn payload(&self, kind: Kind) -> Option<Term<'_>> {
        if kind != self.kind {
            return None;
        }
        let made = self.payload.get_or_init(|| {
            let payload = self.event.payload.as_ref().map(PayloadView::from);
            let value = payload.and_then(|payload| serde_json::to_value(payload).ok());
            // Under its key, which the kind says already.
            match value {
                Some(Value::Object(one)) => one.into_iter().next().map(|(_, it)| it),
                _ => None,
            }
            .unwrap_or_default()
        });
        Term::of(made)
    }
}

impl<'a> Term<'a> {
    fn of(value: &'a Value) -> Option<Self> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(it) => Self::Bool(*it),
            Value::Number(it) => match it.as_i128() {
                Some(whole) => Self::Int(whole),
                None => Self::Float(it.as_f64()?),
            },
            Value::String(it) => Self::Text(Cow::Borrowed(it)),
            Value::Array(it) => Self::List(it),
            Value::Object(it) => Self::Object(it),
        })
    }

    fn of_literal(literal: &'a Literal) -> Self {
        match literal {
            Literal::Bool(it) => Self::Bool(*it),
            Literal::Int(it) => Self::Int(*it),
            Literal::Float(it) => Self::Float(*it),
            Literal::Text(it) => Self::Text(Cow::Borrowed(it)),
        }
    }

    /// `None` for what has no order, such as a number that is none.
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            _ => self.float()?.partial_cmp(&other.float()?),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "as everybody compares whole numbers with others"
    )]
    fn float(&self) -> Option<f64> {
        match self {
            Self::Int(it) => Some(*it as f64),
            Self::Float(it) => Some(*it),
            _ => None,
        }
    }

    fn bool(self) -> Option<bool> {
        if let Self::Bool(it) = self { Some(it) } else { None }
    }

    fn text(self) -> Option<Cow<'a, str>> {
        if let Self::Text(it) = self { Some(it) } else { None }
    }
}

impl Node {
    /// Its value, `None` where the event has not what it takes.
    pub(super) fn evaluate<'a>(
        &'a self,
        scope: &'a Scope<'a>,
        element: Option<&'a Value>,
    ) -> Option<Term<'a>> {
        let value = |node: &'a Self| node.evaluate(scope, element);
        let truth = |node: &'a Self| value(node).and_then(Term::bool);
        Some(match self {
            Self::Literal(literal) => Term::of_literal(literal),
            Self::Literals(literals) => Term::Literals(literals),
            Self::Header(header) => scope.header(*header),
            Self::Payload(kind) => return scope.payload(*kind),
            Self::Element => return Term::of(element?),
            Self::Field(object, name) => match value(object)? {
                Term::Object(fields) => return Term::of(fields.get(name)?),
                _ => return None,
            },
            Self::Item(whole, at) => return item(value(whole)?, &value(at)?),
            Self::Has(field) => match &**field {
                Self::Field(object, _) => {
                    value(object)?;
                    Term::Bool(value(field).is_some())
                }
                _ => return None,
            },
            Self::Not(node) => Term::Bool(!truth(node)?),
            Self::And(both) => Term::Bool(and(truth(&both[0]), || truth(&both[1]))?),
            Self::Or(both) => {
                Term::Bool(!and(truth(&both[0]).map(|it| !it), || truth(&both[1]).map(|it| !it))?)
            }
            Self::If(parts) => return value(&parts[if truth(&parts[0])? { 1 } else { 2 }]),
            Self::Compare(comparison, both) => {
                Term::Bool(comparison.holds(value(&both[0])?.compare(&value(&both[1])?)))
            }
            Self::Calculate(how, both) => return how.of(&value(&both[0])?, &value(&both[1])?),
            Self::Negate(node) => match value(node)? {
                Term::Int(it) => Term::Int(it.checked_neg()?),
                Term::Float(it) => Term::Float(-it),
                _ => return None,
            },
            Self::In(both) => Term::Bool(contains(&value(&both[1])?, &value(&both[0])?)),
            Self::Test(test, both) => {
                let (text, part) = (value(&both[0])?.text()?, value(&both[1])?.text()?);
                Term::Bool(match test {
                    TextTest::StartsWith => text.starts_with(&*part),
                    TextTest::EndsWith => text.ends_with(&*part),
                    TextTest::Contains => text.contains(&*part),
                })
            }
            Self::Matches(node, pattern) => Term::Bool(pattern.is_match(&value(node)?.text()?)),
            Self::Size(node) => return size(&value(node)?),
            Self::Each { all, list, condition } => {
                let Term::List(list) = value(list)? else { return None };
                let of = |it: &'a Value| {
                    let truth = condition.evaluate(scope, Some(it)).and_then(Term::bool);
                    truth.map(|truth| truth == *all)
                };
                // `exists` is that not all are false.
                let every = list.iter().try_fold(Some(true), |so_far, it| {
                    let so_far = and(so_far, || of(it));
                    if so_far == Some(false) { Err(()) } else { Ok(so_far) }
                });
                Term::Bool(every.unwrap_or(Some(false))? == *all)
            }
        })
    }
}

/// False beats unknown.
fn and(first: Option<bool>, second: impl FnOnce() -> Option<bool>) -> Option<bool> {
    match first {
        Some(false) => Some(false),
        Some(true) => second(),
        None => second().filter(|it| !it),
    }
}

impl Comparison {
    fn holds(self, order: Option<Ordering>) -> bool {
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::Unequal => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}

impl Arithmetic {
    /// `None` for a result that there is not.
    fn of<'a>(self, a: &Term<'_>, b: &Term<'_>) -> Option<Term<'a>> {
        if let (Term::Int(a), Term::Int(b)) = (a, b) {
            let result = match self {
                Self::Add => a.checked_add(*b),
                Self::Subtract => a.checked_sub(*b),
                Self::Multiply => a.checked_mul(*b),
                Self::Divide => a.checked_div(*b),
                Self::Remainder => a.checked_rem(*b),
            };
            return result.map(Term::Int);
        }
        let (a, b) = (a.float()?, b.float()?);
        Some(Term::Float(match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => a / b,
            Self::Remainder => a % b,
        }))
    }
}

fn item<'a>(whole: Term<'a>, at: &Term<'_>) -> Option<Term<'a>> {
    match (whole, at) {
        (Term::Object(fields), Term::Text(name)) => Term::of(fields.get(&**name)?),
        (Term::List(list), Term::Int(at)) => Term::of(list.get(usize::try_from(*at).ok()?)?),
        _ => None,
    }
}

fn contains(whole: &Term<'_>, part: &Term<'_>) -> bool {
    let equal =
        |it: Option<Term<'_>>| it.is_some_and(|it| it.compare(part) == Some(Ordering::Equal));
    match whole {
        Term::List(list) => list.iter().any(|it| equal(Term::of(it))),
        Term::Literals(list) => list.iter().any(|it| equal(Some(Term::of_literal(it)))),
        Term::Object(fields) => {
            matches!(part, Term::Text(name) if fields.contains_key(&**name))
        }
        _ => false,
    }
}

/// Of text in characters, as CEL counts.
fn size<'a>(whole: &Term<'_>) -> Option<Term<'a>> {
    let size = match whole {
        Term::Text(text) => text.chars().count(),
        Term::List(list) => list.len(),
        Term::Literals(list) => list.len(),
        Term::Object(fields) => fields.len(),
        _ => return None,
    };
    i128::try_from(size).ok().map(Term::Int)
}
