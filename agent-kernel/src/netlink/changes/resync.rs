//! Dumps of some parts of the network, compared with what is known of them, a piece at a time. It must
//! not know why they are wanted.

use super::dump::{Dump, Piece};
use super::picture::Picture;
use super::{NetEvent, Part};
use crate::netlink::request::{Question, raw_dump};
use crate::netlink::{address, neighbour, route};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

/// Dumps of one part that the kernel may interrupt; then it is left for later.
const MAX_ATTEMPTS: u32 = 3;

#[derive(Debug)]
pub(super) struct Resync {
    parts: VecDeque<Part>,
    step: Step,
    attempts: u32,
    failed: Vec<Part>,
    took: Duration,
}

/// Where it is in the first of the parts.
#[derive(Debug)]
enum Step {
    Begin,
    Read(Dump),
    /// Whether the list changed while it was told is to be seen from what waits to be heard.
    Ended,
    /// The dump was whole: what it has not shown is gone.
    Sweep,
}

impl Resync {
    pub(super) fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        Self {
            parts: parts.into_iter().collect(),
            step: Step::Begin,
            attempts: 0,
            failed: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Goes on until about so many events are there. False at the end.
    pub(super) fn go_on(
        &mut self,
        picture: &mut Picture,
        most: usize,
        events: &mut Vec<NetEvent>,
    ) -> io::Result<bool> {
        let begun = Instant::now();
        while let Some(part) = self.parts.front().copied()
            && events.len() < most
            && !self.is_to_settle()
        {
            self.step(part, picture, most, events)?;
        }
        self.took += begun.elapsed();
        Ok(!self.parts.is_empty())
    }

    /// Whether it wants to know what was heard since the dump began.
    pub(super) fn is_to_settle(&self) -> bool {
        matches!(self.step, Step::Ended)
    }

    /// Everything that came since the dump began was heard, and it was about these.
    pub(super) fn settle(&mut self, heard: &BTreeSet<Part>) {
        if let Some(part) = self.parts.front().copied() {
            match heard.contains(&part) {
                true => self.interrupted(part),
                false => self.step = Step::Sweep,
            }
        }
    }

    /// What the kernel could not tell whole, because it changed all the time.
    pub(super) fn failed(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.failed)
    }

    /// The time that it worked.
    pub(super) fn took(&self) -> Duration {
        self.took
    }

    fn step(
        &mut self,
        part: Part,
        picture: &mut Picture,
        most: usize,
        events: &mut Vec<NetEvent>,
    ) -> io::Result<()> {
        match &mut self.step {
            Step::Begin => {
                picture.begin(part);
                self.step = match part {
                    Part::Links => {
                        links(picture, events)?;
                        Step::Sweep
                    }
                    part => Step::Read(Dump::ask(&question(part))?),
                };
            }
            Step::Read(dump) => {
                match dump.piece(|message| picture.see(part, message.payload, events))? {
                    Piece::Part => {}
                    Piece::Last if part.may_skip() => self.step = Step::Ended,
                    Piece::Last => self.step = Step::Sweep,
                    Piece::Interrupted => self.interrupted(part),
                }
            }
            Step::Ended => {}
            Step::Sweep => {
                if !picture.sweep(part, most, events) {
                    self.next();
                }
            }
        }
        Ok(())
    }

    fn interrupted(&mut self, part: Part) {
        self.attempts += 1;
        if self.attempts < MAX_ATTEMPTS {
            self.step = Step::Begin;
        } else {
            self.failed.push(part);
            self.next();
        }
    }

    fn next(&mut self) {
        self.parts.pop_front();
        (self.step, self.attempts) = (Step::Begin, 0);
    }
}

/// Links name each other, so all are asked for before the first is looked at.
fn links(picture: &mut Picture, events: &mut Vec<NetEvent>) -> io::Result<()> {
    let answer = raw_dump(question(Part::Links)).map_err(io::Error::other)?;
    for payload in answer.payloads() {
        picture.name(payload?)?;
    }
    for payload in answer.payloads() {
        picture.see(Part::Links, payload?, events)?;
    }
    Ok(())
}

fn question(part: Part) -> Question {
    let message = match part {
        Part::Links => {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            RouteNetlinkMessage::GetLink(message)
        }
        Part::Addrs(family) => address::dump_request(family, None),
        Part::Routes(family) => route::dump_request(family, None, None),
        Part::Neighbours(family) => neighbour::dump_request(family, None),
    };
    Question::from(&message)
}
