//! What can be seen to be wrong with an expression before any event is there: names and fields that
//! nothing has, and values that are something else than is wanted.

use super::{
    node::{Header, Literal, Node},
    place,
};
use crate::{
    Kind, Kinds,
    schema::{FIELDS, Fields, Type},
    view::payload_key,
};
use cel::common::ast::{Expr, IdedExpr, LiteralValue, SourceInfo};
use std::cell::Cell;

/// The whole expression and what it will meet.
pub(super) struct Check<'a> {
    text: &'a str,
    source: &'a SourceInfo,
    kinds: Kinds,
    /// Whether it asks for the arguments of processes.
    arguments: Cell<bool>,
}

/// Inside `exists` and `all`: the name and type of the element.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) name: &'a str,
    pub(super) kind: &'a Type,
}

/// A part with its type.
pub(super) type Typed = (Node, Type);

impl<'a> Check<'a> {
    pub(super) fn new(text: &'a str, source: &'a SourceInfo, kinds: Kinds) -> Self {
        Self { text, source, kinds, arguments: Cell::new(false) }
    }

    /// Whether what was looked at asks for the arguments of processes.
    pub(super) fn asks_for_arguments(&self) -> bool {
        self.arguments.get()
    }

    /// A part that is true or false.
    pub(super) fn condition(&self, tree: &IdedExpr) -> Result<Node, String> {
        self.bool(tree, None)
    }

    /// An error at a part.
    pub(super) fn error(&self, at: &IdedExpr, why: &str) -> String {
        let offset = self.source.offset_for(at.id).map_or(0, |(start, _)| start as usize);
        let before: String = self.text.chars().take(offset).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|it| *it != '\n').count() + 1;
        place(line.try_into().unwrap_or(1), column.try_into().unwrap_or(1), why)
    }

    pub(super) fn bool(
        &self,
        tree: &IdedExpr,
        element: Option<Element<'_>>,
    ) -> Result<Node, String> {
        match self.typed(tree, element)? {
            (node, Type::Bool) => Ok(node),
            (_, other) => Err(self.error(tree, &format!("is {other}, not true or false"))),
        }
    }

    pub(super) fn text(
        &self,
        tree: &IdedExpr,
        element: Option<Element<'_>>,
    ) -> Result<Node, String> {
        match self.typed(tree, element)? {
            (node, Type::Text) => Ok(node),
            (_, other) => Err(self.error(tree, &format!("is {other}, not text"))),
        }
    }

    pub(super) fn number(
        &self,
        tree: &IdedExpr,
        element: Option<Element<'_>>,
    ) -> Result<Node, String> {
        match self.typed(tree, element)? {
            (node, Type::Number) => Ok(node),
            (_, other) => Err(self.error(tree, &format!("is {other}, not a number"))),
        }
    }

    pub(super) fn typed(
        &self,
        tree: &IdedExpr,
        element: Option<Element<'_>>,
    ) -> Result<Typed, String> {
        match &tree.expr {
            Expr::Literal(literal) => {
                let literal = self.literal(tree, literal)?;
                let kind = type_of(&literal);
                Ok((Node::Literal(literal), kind))
            }
            Expr::List(list) => self.list(tree, &list.elements),
            Expr::Ident(name) => self.name(tree, name, element),
            Expr::Select(select) if !select.test => {
                let (object, kind) = self.typed(&select.operand, element)?;
                let kind = self.field(tree, &select.operand, &kind, &select.field)?;
                Ok((Node::Field(Box::new(object), select.field.clone()), kind))
            }
            Expr::Call(call) => self.call(tree, call, element),
            _ => Err(self.error(tree, "can't be used in a filter")),
        }
    }

    fn literal(&self, tree: &IdedExpr, literal: &LiteralValue) -> Result<Literal, String> {
        Ok(match literal {
            LiteralValue::Boolean(it) => Literal::Bool(*it.inner()),
            LiteralValue::Int(it) => Literal::Int((*it.inner()).into()),
            LiteralValue::UInt(it) => Literal::Int((*it.inner()).into()),
            LiteralValue::Double(it) => Literal::Float(*it.inner()),
            LiteralValue::String(it) => Literal::Text(it.inner().to_owned()),
            LiteralValue::Null => {
                return Err(self.error(tree, "null: ask with has(…) whether an event has a field"));
            }
            LiteralValue::Bytes(_) => {
                return Err(self.error(tree, "bytes: no field holds any; leave the b away"));
            }
        })
    }

    /// Constants of one type.
    fn list(&self, tree: &IdedExpr, elements: &[IdedExpr]) -> Result<Typed, String> {
        let mut literals = Vec::with_capacity(elements.len());
        for element in elements {
            match self.typed(element, None)? {
                (Node::Literal(literal), _) => literals.push(literal),
                (Node::Negate(node), _) => match *node {
                    Node::Literal(Literal::Int(it)) => literals.push(Literal::Int(-it)),
                    _ => return Err(self.error(element, "must be a constant")),
                },
                _ => return Err(self.error(element, "must be a constant")),
            }
        }
        let Some(first) = literals.first().map(type_of) else {
            return Err(self.error(tree, "an empty list has nothing"));
        };
        match literals.iter().position(|it| type_of(it) != first) {
            None => Ok((Node::Literals(literals), Type::List(Box::new(first)))),
            Some(at) => Err(self.error(&elements[at], &format!("is not {first} as the first is"))),
        }
    }

    fn name(
        &self,
        tree: &IdedExpr,
        name: &str,
        element: Option<Element<'_>>,
    ) -> Result<Typed, String> {
        if let Some(element) = element.filter(|it| it.name == name) {
            return Ok((Node::Element, element.kind.clone()));
        }
        let header = match name {
            "time" => Some(Header::Time),
            "host" => Some(Header::Host),
            "boot_id" => Some(Header::BootId),
            "seq" => Some(Header::Seq),
            "late" => Some(Header::Late),
            "clock_off" => Some(Header::ClockOff),
            "type" => Some(Header::Type),
            _ => None,
        };
        let kind = Kind::all().find(|kind| payload_key(*kind) == name);
        match (header, kind, FIELDS.get(name)) {
            (Some(header), _, Some(of)) => Ok((Node::Header(header), of.clone())),
            (None, Some(kind), Some(of)) if self.kinds.contains(kind) => {
                Ok((Node::Payload(kind), of.clone()))
            }
            (None, Some(_), Some(_)) => {
                let left: Vec<_> = self.kinds.iter().map(Kind::name).collect();
                let why = format!(
                    "{name}: events of this type are not asked for, only {}",
                    left.join(", ")
                );
                Err(self.error(tree, &why))
            }
            _ => {
                Err(self
                    .error(tree, &format!("unknown name {name:?}; there are {}", names(&FIELDS))))
            }
        }
    }

    fn field(
        &self,
        tree: &IdedExpr,
        operand: &IdedExpr,
        object: &Type,
        name: &str,
    ) -> Result<Type, String> {
        let whole = operand.expr.path();
        self.arguments.set(self.arguments.get() || name.starts_with("argv"));
        match object {
            Type::Object(fields) => fields.get(name).cloned().ok_or_else(|| {
                let why = format!("{whole} has no field {name:?}; there are {}", names(fields));
                self.error(tree, &why)
            }),
            Type::Map => Ok(Type::Text),
            other => {
                let why = format!("{whole} is {other} and has no field {name:?}");
                Err(self.error(tree, &why))
            }
        }
    }
}

fn type_of(literal: &Literal) -> Type {
    match literal {
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) | Literal::Float(_) => Type::Number,
        Literal::Text(_) => Type::Text,
    }
}

fn names(fields: &Fields) -> String {
    fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// How a part is called in an error.
trait Path {
    fn path(&self) -> String;
}

impl Path for Expr {
    fn path(&self) -> String {
        match self {
            Self::Ident(name) => name.clone(),
            Self::Select(select) => format!("{}.{}", select.operand.expr.path(), select.field),
            _ => "this".to_owned(),
        }
    }
}
