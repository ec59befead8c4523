//! Where events go: standard output in one of the formats, in large writes, and at once when nothing
//! more is waiting.

use crate::{
    output::{Format, note},
    view::event,
};
use anyhow::Context as _;
use kctl_events::view::EventView;
use kctl_proto::agent::v1::{Event, Origin};
use std::{
    io::{self, Write as _},
    time::Duration,
};

/// So many bytes are written together at most, and one event more.
const FULL: usize = 64 << 10;
/// How long a reader that does not read is waited for after Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(1);

/// Standard output.
pub(super) struct Sink {
    format: Format,
    coloured: bool,
    buffer: Vec<u8>,
    /// Something went into the document.
    begun: bool,
    /// The reader went away.
    deserted: bool,
    /// The end of the document is in the buffer or written.
    closed: bool,
}

impl Sink {
    pub(super) fn new(format: Format) -> Self {
        let choice = anstream::AutoStream::choice(&io::stdout());
        let coloured = choice != anstream::ColorChoice::Never;
        Self { format, coloured, buffer: Vec::new(), begun: false, deserted: false, closed: false }
    }

    /// Adds an event.
    pub(super) fn push(&mut self, origin: &Origin, event: &Event) -> anyhow::Result<()> {
        let view = EventView::new(origin, event);
        self.begin();
        let first = !std::mem::replace(&mut self.begun, true);
        match self.format {
            Format::Table | Format::Wide => {
                let line = event::line(&view, self.format == Format::Wide, self.coloured);
                self.buffer.extend_from_slice(line.as_bytes());
            }
            Format::Csv => self.buffer.extend_from_slice(event::row(&view).as_bytes()),
            Format::Yaml => {
                let text = serde_saphyr::to_string(&[view]).context("can't write YAML")?;
                self.buffer.extend_from_slice(text.as_bytes());
                if !text.ends_with('\n') {
                    self.buffer.push(b'\n');
                }
            }
            Format::Json => {
                self.buffer.extend_from_slice(if first { b"\n" } else { b",\n" });
                serde_json::to_writer(&mut self.buffer, &view).context("can't write JSON")?;
            }
            Format::Jsonl => {
                serde_json::to_writer(&mut self.buffer, &view).context("can't write JSON")?;
                self.buffer.push(b'\n');
            }
        }
        Ok(())
    }

    /// Something about the stream: people read it beside the events, scripts as one of them.
    pub(super) fn remark(
        &mut self,
        text: &str,
        (origin, event): (&Origin, Event),
    ) -> anyhow::Result<()> {
        note(text);
        if self.format.for_people() { Ok(()) } else { self.push(origin, &event) }
    }

    /// What comes before the first event.
    fn begin(&mut self) {
        if !self.begun {
            self.buffer.extend_from_slice(match self.format {
                Format::Csv => event::HEADINGS.as_bytes(),
                Format::Json => b"[",
                _ => b"",
            });
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.buffer.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= FULL
    }

    pub(super) fn is_deserted(&self) -> bool {
        self.deserted
    }

    /// Writes what there is. On a thread of its own: a reader that does not read must not keep Ctrl-C
    /// waiting. Once it was polled it is written, also when nobody waits for it any more.
    pub(super) async fn flush(&mut self) -> anyhow::Result<()> {
        if self.buffer.is_empty() || self.deserted {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.buffer);
        let write = move || {
            let mut out = io::stdout().lock();
            let written = out.write_all(&bytes).and_then(|()| out.flush());
            (bytes, written)
        };
        let (mut bytes, written) = tokio::task::spawn_blocking(write).await?;
        bytes.clear();
        self.buffer = bytes;
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.deserted = true;
                Ok(())
            }
            result => result.context("can't write to standard output"),
        }
    }

    /// Whether everything is written.
    pub(super) fn is_finished(&self) -> bool {
        self.closed && (self.buffer.is_empty() || self.deserted)
    }

    /// Writes the rest and closes the document.
    pub(super) async fn finish(&mut self) -> anyhow::Result<()> {
        if !std::mem::replace(&mut self.closed, true) {
            self.begin();
            self.buffer.extend_from_slice(match (self.format, self.begun) {
                (Format::Json, true) => b"\n]\n",
                (Format::Json, false) => b"]\n",
                (Format::Yaml, false) => b"[]\n",
                _ => b"",
            });
        }
        self.flush().await
    }

    /// The same for somebody who waits: a reader that does not read is not waited for.
    pub(super) async fn finish_soon(&mut self) -> anyhow::Result<()> {
        match tokio::time::timeout(PATIENCE, self.finish()).await {
            Ok(result) => result,
            Err(_) => {
                note("standard output takes nothing more: its end is missing");
                Ok(())
            }
        }
    }
}
