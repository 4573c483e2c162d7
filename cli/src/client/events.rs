// SPDX-License-Identifier: Apache-2.0
//! Server-sent events (HTML standard, section 9.2) as a stream.
//!
//! Fed with the pieces of a response's body as they come, wherever they are
//! cut. Comments are dropped, an event without data is none.

use std::collections::VecDeque;

use futures::{Stream, StreamExt, stream::BoxStream};
use reqwest::Response;

/// An event may not grow without end.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its kind; `message` when the service named none.
    pub name: String,
    /// What to resume after.
    pub id: Option<String>,
    /// Its lines.
    pub data: String,
}

/// The events of a response, in order.
pub struct Events {
    body: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    parser: Parser,
}

impl Events {
    /// Reads events from this response.
    pub fn new(response: Response) -> Self {
        Self { body: response.bytes_stream().boxed(), parser: Parser::default() }
    }

    /// The next event; `None` when the stream ended, for whatever reason: the
    /// caller then resumes or asks for the state.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.parser.ready.pop_front() {
                return Some(event);
            }
            let piece = next_piece(&mut self.body).await?;
            if !self.parser.feed(&piece) {
                return None;
            }
        }
    }
}

async fn next_piece(
    body: &mut (impl Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin),
) -> Option<bytes::Bytes> {
    body.next().await?.ok()
}

#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    skip_newline: bool,
    name: String,
    id: Option<String>,
    data: String,
    has_data: bool,
    ready: VecDeque<Event>,
}

impl Parser {
    /// Takes in bytes; false when an event grew beyond all bounds.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            let after_return = std::mem::replace(&mut self.skip_newline, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_line(),
                other => self.line.push(*other),
            }
        }
        self.line.len() + self.data.len() <= EVENT_BYTES_MAX
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            return self.end_event();
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            _ => {}
        }
    }

    fn end_event(&mut self) {
        let name = std::mem::take(&mut self.name);
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            let name = if name.is_empty() { "message".to_owned() } else { name };
            self.ready.push_back(Event { name, id: self.id.clone(), data });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, Option<&str>, &str)]) {
        for cut in [1, 3, text.len().max(1)] {
            let mut parser = Parser::default();
            text.as_bytes().chunks(cut).for_each(|piece| assert!(parser.feed(piece)));
            let found: Vec<_> =
                parser.ready.iter().map(|e| (e.name.as_str(), e.id.as_deref(), e.data.as_str())).collect();
            assert_eq!(found, expected, "{text:?} cut after {cut}");
        }
    }

    #[test]
    fn events_are_read_wherever_they_are_cut() {
        check("event: progress\nid: 7\ndata: {\"a\":1}\n\n", &[("progress", Some("7"), "{\"a\":1}")]);
        check("data: a\r\ndata: b\r\n\r\n", &[("message", None, "a\nb")]);
        check(": keep-alive\n\nevent: x\n\ndata:y\n\n", &[("message", None, "y")]);
        check("id: 1\ndata\n\ndata: z\n\n", &[("message", Some("1"), ""), ("message", Some("1"), "z")]);
        check("data: not ended\n", &[]);
        check("data: ä\r\rdata: b\n\n", &[("message", None, "ä"), ("message", None, "b")]);
    }
}
