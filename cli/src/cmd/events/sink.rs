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
use tokio::task::JoinHandle;

/// So many bytes are written together at most, and one event more.
const FULL: usize = 64 << 10;
/// How long a reader that does not read is waited for after Ctrl-C.
const PATIENCE: Duration = Duration::from_secs(1);

/// The bytes, to be used again, and what became of them.
type Written = (Vec<u8>, io::Result<()>);

/// Standard output.
pub(super) struct Sink {
    format: Format,
    coloured: bool,
    buffer: Vec<u8>,
    /// What is being written, also while nobody waits for it.
    writing: Option<JoinHandle<Written>>,
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
        let (begun, deserted, closed) = (false, false, false);
        Self { format, coloured, buffer: Vec::new(), writing: None, begun, deserted, closed }
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
    /// waiting. Cancel safe: what has begun to be written is waited for the next time.
    pub(super) async fn flush(&mut self) -> anyhow::Result<()> {
        self.written().await?;
        if self.buffer.is_empty() || self.deserted {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.buffer);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let mut out = io::stdout().lock();
            let written = out.write_all(&bytes).and_then(|()| out.flush());
            (bytes, written)
        }));
        self.written().await
    }

    /// Waits for what is being written.
    async fn written(&mut self) -> anyhow::Result<()> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let (mut bytes, written) = writing.await?;
        self.writing = None;
        if self.buffer.is_empty() {
            bytes.clear();
            self.buffer = bytes;
        }
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
        self.deserted || self.closed && self.buffer.is_empty() && self.writing.is_none()
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
