//! Functions and operators of an expression: which there are, and what they take.

use super::{
    check::{Check, Element, Typed},
    node::{Arithmetic, Comparison, Header, Literal, Node, TextTest},
};
use crate::{Kind, schema::Type};
use cel::common::ast::{CallExpr, Expr, IdedExpr, operators};
use regex::RegexBuilder;

/// What a compiled pattern may take, bytes.
const MAX_PATTERN_BYTES: usize = 256 << 10;
const FUNCTIONS: &str =
    "has, size, startsWith, endsWith, contains, matches, exists, all and the operators";

impl Check<'_> {
    pub(super) fn call(
        &self,
        tree: &IdedExpr,
        call: &CallExpr,
        element: Option<Element<'_>>,
    ) -> Result<Typed, String> {
        let name = call.func_name.as_str();
        match (&call.target, call.args.as_slice()) {
            (None, [one]) => self.unary(tree, name, one, element),
            (None, [left, right]) => self.binary(tree, name, left, right, element),
            (None, [test, yes, no]) if name == operators::CONDITIONAL => {
                let test = self.bool(test, element)?;
                let (yes, kind) = self.typed(yes, element)?;
                match self.typed(no, element)? {
                    (no, other) if other == kind => Ok((Node::If(Box::new([test, yes, no])), kind)),
                    (_, other) => {
                        Err(self.error(tree, &format!("is {kind} or {other}: must be one")))
                    }
                }
            }
            (Some(target), args) => self.method(tree, name, target, args, element),
            _ => {
                Err(self.error(tree, &format!("unknown function {name:?}; there are {FUNCTIONS}")))
            }
        }
    }

    fn unary(
        &self,
        tree: &IdedExpr,
        name: &str,
        one: &IdedExpr,
        element: Option<Element<'_>>,
    ) -> Result<Typed, String> {
        match name {
            operators::LOGICAL_NOT => {
                Ok((Node::Not(Box::new(self.bool(one, element)?)), Type::Bool))
            }
            operators::NEGATE => {
                Ok((Node::Negate(Box::new(self.number(one, element)?)), Type::Number))
            }
            operators::HAS => match self.typed(one, element)?.0 {
                node @ Node::Field(..) => Ok((Node::Has(Box::new(node)), Type::Bool)),
                _ => Err(self.error(tree, "has(…) wants a field: has(drop.src)")),
            },
            "size" => self.size(one, element),
            _ => {
                Err(self.error(tree, &format!("unknown function {name:?}; there are {FUNCTIONS}")))
            }
        }
    }

    fn size(&self, whole: &IdedExpr, element: Option<Element<'_>>) -> Result<Typed, String> {
        match self.typed(whole, element)? {
            (node, Type::Text | Type::List(_) | Type::Map) => {
                Ok((Node::Size(Box::new(node)), Type::Number))
            }
            (_, other) => Err(self.error(whole, &format!("is {other} and has no size"))),
        }
    }

    fn binary(
        &self,
        tree: &IdedExpr,
        name: &str,
        left: &IdedExpr,
        right: &IdedExpr,
        element: Option<Element<'_>>,
    ) -> Result<Typed, String> {
        let arithmetic = match name {
            operators::ADD => Some(Arithmetic::Add),
            operators::SUBSTRACT => Some(Arithmetic::Subtract),
            operators::MULTIPLY => Some(Arithmetic::Multiply),
            operators::DIVIDE => Some(Arithmetic::Divide),
            operators::MODULO => Some(Arithmetic::Remainder),
            _ => None,
        };
        if let Some(how) = arithmetic {
            let both = [self.number(left, element)?, self.number(right, element)?];
            return Ok((Node::Calculate(how, Box::new(both)), Type::Number));
        }
        let comparison = match name {
            operators::LOGICAL_AND | operators::LOGICAL_OR => {
                let both = Box::new([self.bool(left, element)?, self.bool(right, element)?]);
                let and = name == operators::LOGICAL_AND;
                return Ok((if and { Node::And(both) } else { Node::Or(both) }, Type::Bool));
            }
            operators::IN => return self.within(left, right, element),
            operators::INDEX => return self.item(tree, left, right, element),
            operators::EQUALS => Comparison::Equal,
            operators::NOT_EQUALS => Comparison::Unequal,
            operators::LESS => Comparison::Less,
            operators::LESS_EQUALS => Comparison::LessOrEqual,
            operators::GREATER => Comparison::Greater,
            operators::GREATER_EQUALS => Comparison::GreaterOrEqual,
            _ => {
                let why = format!("unknown function {name:?}; there are {FUNCTIONS}");
                return Err(self.error(tree, &why));
            }
        };
        let ((a, a_kind), (b, b_kind)) = (self.typed(left, element)?, self.typed(right, element)?);
        if a_kind != b_kind {
            return Err(self.error(left, &format!("compares {a_kind} with {b_kind}")));
        }
        match a_kind {
            Type::Number | Type::Text => {}
            Type::Bool if matches!(comparison, Comparison::Equal | Comparison::Unequal) => {}
            other => return Err(self.error(left, &format!("{other} can't be compared so"))),
        }
        self.known_type(right, &a, &b)?;
        self.known_type(left, &b, &a)?;
        Ok((Node::Compare(comparison, Box::new([a, b])), Type::Bool))
    }

    /// A type that is compared with a name which no type has would never match.
    fn known_type(&self, at: &IdedExpr, field: &Node, constant: &Node) -> Result<(), String> {
        let literals = match (field, constant) {
            (Node::Header(Header::Type), Node::Literal(one)) => std::slice::from_ref(one),
            (Node::Header(Header::Type), Node::Literals(many)) => many,
            _ => return Ok(()),
        };
        for literal in literals {
            if let Literal::Text(name) = literal {
                name.parse::<Kind>().map_err(|why| self.error(at, &why.to_string()))?;
            }
        }
        Ok(())
    }

    fn within(
        &self,
        part: &IdedExpr,
        whole: &IdedExpr,
        element: Option<Element<'_>>,
    ) -> Result<Typed, String> {
        let ((a, a_kind), (b, b_kind)) = (self.typed(part, element)?, self.typed(whole, element)?);
        let wanted = match b_kind {
            Type::List(of) => *of,
            Type::Map => Type::Text,
            other => return Err(self.error(whole, &format!("is {other}, not a list"))),
        };
        if a_kind != wanted {
            return Err(self.error(part, &format!("looks for {a_kind} where each is {wanted}")));
        }
        self.known_type(whole, &a, &b)?;
        Ok((Node::In(Box::new([a, b])), Type::Bool))
    }

    fn item(
        &self,
        tree: &IdedExpr,
        whole: &IdedExpr,
        at: &IdedExpr,
        element: Option<Element<'_>>,
    ) -> Result<Typed, String> {
        let (node, of) = self.typed(whole, element)?;
        let (at, kind) = match of {
            Type::List(of) if !matches!(node, Node::Literals(_)) => {
                (self.number(at, element)?, *of)
            }
            Type::Map => (self.text(at, element)?, Type::Text),
            other => return Err(self.error(tree, &format!("{other} has nothing in [ ]"))),
        };
        Ok((Node::Item(Box::new(node), Box::new(at)), kind))
    }

    fn method(
        &self,
        tree: &IdedExpr,
        name: &str,
        target: &IdedExpr,
        args: &[IdedExpr],
        element: Option<Element<'_>>,
    ) -> Result<Typed, String> {
        let test = match name {
            "startsWith" => Some(TextTest::StartsWith),
            "endsWith" => Some(TextTest::EndsWith),
            "contains" => Some(TextTest::Contains),
            _ => None,
        };
        match (test, name, args) {
            (Some(test), _, [part]) => {
                let both = [self.text(target, element)?, self.text(part, element)?];
                Ok((Node::Test(test, Box::new(both)), Type::Bool))
            }
            (None, "matches", [pattern]) => {
                let Node::Literal(Literal::Text(text)) = self.text(pattern, element)? else {
                    return Err(self.error(pattern, "a pattern must be a constant"));
                };
                let compiled = RegexBuilder::new(&text).size_limit(MAX_PATTERN_BYTES).build();
                let compiled = compiled.map_err(|why| {
                    let why = why.to_string();
                    let why = why.lines().last().unwrap_or_default();
                    self.error(pattern, &format!("pattern: {}", why.trim_start_matches("error: ")))
                })?;
                let node = self.text(target, element)?;
                Ok((Node::Matches(Box::new(node), compiled), Type::Bool))
            }
            (None, "size", []) => self.size(target, element),
            (None, operators::EXISTS | operators::ALL, [variable, condition]) => {
                let all = name == operators::ALL;
                self.each(tree, all, target, variable, condition, element)
            }
            (_, "startsWith" | "endsWith" | "contains" | "matches" | "size", args) => {
                Err(self.error(tree, &format!("{name} does not take {} arguments", args.len())))
            }
            _ => {
                Err(self.error(tree, &format!("unknown function {name:?}; there are {FUNCTIONS}")))
            }
        }
    }

    fn each(
        &self,
        tree: &IdedExpr,
        all: bool,
        target: &IdedExpr,
        variable: &IdedExpr,
        condition: &IdedExpr,
        element: Option<Element<'_>>,
    ) -> Result<Typed, String> {
        if element.is_some() {
            return Err(self.error(tree, "exists and all can't be inside each other"));
        }
        let Expr::Ident(name) = &variable.expr else {
            return Err(self.error(variable, "must be a name for the elements"));
        };
        let (list, of) = match self.typed(target, None)? {
            (Node::Literals(_), _) => return Err(self.error(target, "must be a field")),
            (list, Type::List(of)) => (list, of),
            (_, other) => return Err(self.error(target, &format!("is {other}, not a list"))),
        };
        let condition = self.bool(condition, Some(Element { name, kind: &of }))?;
        let (list, condition) = (Box::new(list), Box::new(condition));
        Ok((Node::Each { all, list, condition }, Type::Bool))
    }
}
