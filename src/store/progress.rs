//! Pull events for people and for programs.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::pull::{How, PullEvent};

/// Between two progress lines for programs: often enough to watch, rare enough to read.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Shows a pull on standard error: a bar on a terminal, one JSON object a line elsewhere.
pub struct Renderer {
    to: To,
}

enum To {
    Terminal(ProgressBar),
    /// When the last progress line was written.
    Lines(Option<Instant>),
}

impl Renderer {
    /// A bar if standard error is a terminal, else NDJSON.
    pub fn for_stderr() -> Renderer {
        if io::stderr().is_terminal() {
            Renderer::bar()
        } else {
            Renderer::lines()
        }
    }

    pub fn bar() -> Renderer {
        Renderer {
            to: To::Terminal(ProgressBar::hidden()),
        }
    }

    pub fn lines() -> Renderer {
        Renderer {
            to: To::Lines(None),
        }
    }

    /// Takes one event. Never fails: a progress display that cannot be written is not worth a pull.
    pub fn show(&mut self, event: &PullEvent) {
        match &mut self.to {
            To::Terminal(bar) => show_bar(bar, event),
            To::Lines(last) => {
                let is_progress = matches!(event, PullEvent::Progress { .. });
                if is_progress && last.is_some_and(|last| last.elapsed() < LINE_INTERVAL) {
                    return;
                }
                if is_progress {
                    *last = Some(Instant::now());
                }
                let _display_only = write_line(&mut io::stderr().lock(), event);
            }
        }
    }
}

/// One event as one line of JSON.
pub fn write_line(to: &mut impl Write, event: &PullEvent) -> io::Result<()> {
    serde_json::to_writer(&mut *to, event)?;
    to.write_all(b"\n")
}

fn show_bar(bar: &mut ProgressBar, event: &PullEvent) {
    match event {
        PullEvent::Waiting => bar.println("waiting: another process is pulling this model"),
        PullEvent::Resolving { source } => {
            *bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(format!("asking for {source}"));
        }
        PullEvent::Started {
            bytes,
            resumed_from,
        } => {
            bar.finish_and_clear();
            // Resumed bytes count as position but not as speed, or the ETA would be a fairy tale.
            *bar = ProgressBar::new(*bytes)
                .with_position(*resumed_from)
                .with_style(bar_style());
            bar.reset_eta();
            if *resumed_from > 0 {
                bar.set_message(format!(
                    "(resumed at {})",
                    indicatif::BinaryBytes(*resumed_from)
                ));
            }
        }
        PullEvent::Progress { done } => bar.set_position(*done),
        PullEvent::Retrying {
            attempt,
            of,
            wait_ms,
            why,
        } => {
            bar.set_message(format!(
                "{why}; attempt {attempt} of {of} in {} s",
                wait_ms.div_ceil(1000)
            ));
        }
        PullEvent::Verifying { bytes } => {
            bar.finish_and_clear();
            *bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(format!("verifying {}", indicatif::BinaryBytes(*bytes)));
        }
        PullEvent::Installed {
            name, bytes, how, ..
        } => {
            bar.finish_and_clear();
            let how = match how {
                How::Downloaded => "pulled and verified",
                How::AlreadyInstalled => "up to date",
                How::FoundInHubCache => "verified in the shared hub cache, nothing to download",
                How::LocalFile => "verified, used where it lies",
            };
            eprintln!("{name}: {how} ({})", indicatif::BinaryBytes(*bytes));
        }
    }
}

fn bar_style() -> ProgressStyle {
    const TEMPLATE: &str = "{bar:32} {percent:>3}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta} {wide_msg}";
    // The template is a constant and has a test; the fallback only spares an unwrap.
    ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_json_with_the_event_first() {
        let mut out = Vec::new();
        write_line(
            &mut out,
            &PullEvent::Started {
                bytes: 7,
                resumed_from: 3,
            },
        )
        .expect("write");
        assert_eq!(
            out,
            b"{\"event\":\"started\",\"bytes\":7,\"resumed_from\":3}\n"
        );
    }

    #[test]
    fn bars_follow_any_order_of_events() {
        let mut renderer = Renderer::bar();
        renderer.show(&PullEvent::Progress { done: 5 });
        renderer.show(&PullEvent::Started {
            bytes: 10,
            resumed_from: 5,
        });
        renderer.show(&PullEvent::Retrying {
            attempt: 2,
            of: 5,
            wait_ms: 10,
            why: "x".into(),
        });
        renderer.show(&PullEvent::Verifying { bytes: 10 });
        assert!(matches!(&renderer.to, To::Terminal(bar) if bar.position() == 0));
    }
}
